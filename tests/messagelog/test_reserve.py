"""A disk that fills up: messages go first, then audit records; stamps, outages and unconfirmed records always find room (T46)."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading

import pytest

from appliance.errors import XacbeError
from appliance.messagelog import group_commit
from appliance.messagelog.group_commit import GroupCommit, LogBusyError
from appliance.messagelog.groups import Draft, Group, LogFullError, Written
from appliance.messagelog.record import AuditEntry, OutageEntry, StampEntry, UnconfirmedEntry
from appliance.messagelog.store import AUDIT_RESERVE, EVIDENCE_RESERVE, Limits, Store
from tests.fakes.disk import Disk
from tests.messagelog.drafts import NOW_US, StillClock, audit, message

RESERVE_BYTES = 1 << 20
LIMITS = Limits(segment_bytes_max=1 << 20, reserve_bytes=RESERVE_BYTES)
FREE_BYTES = 3 << 20


def opened(disk: Disk) -> Store:
    salt = itertools.count()
    store = Store(disk, LIMITS, StillClock(), lambda: next(salt).to_bytes(16, "big"))
    store.open()
    return store


def wordy() -> Draft:
    return Draft(AuditEntry("access.refused", "relay", {f"fact {n}": "x" * 1024 for n in range(32)}), audit=True)


def flooded(store: Store, draft: Draft | None = None) -> int:
    """Audit records until they are refused; how many were written."""
    for count in range(10_000):
        if not was_written(store, draft or wordy()):
            return count
    raise AssertionError("audit records never end")


def was_written(store: Store, draft: Draft) -> bool:
    (result,) = store.write([draft]).results
    assert isinstance(result, Written | LogFullError)
    return isinstance(result, Written)


def decisions() -> list[Draft]:
    return [
        Draft(StampEntry(b"t" * 6000, NOW_US, 1, "TSA", [1], [2], None), essential=True),
        Draft(OutageEntry(NOW_US, None, [(2, NOW_US)]), essential=True),
        Draft(UnconfirmedEntry([2], NOW_US), essential=True),
    ]


@pytest.mark.case("T46")
@pytest.mark.rule("IV.3.VI")
@pytest.mark.parametrize("restarted", [False, True])
def test_after_any_flood_of_audit_records_there_is_room_for_stamps_and_outages(*, restarted: bool) -> None:
    disk = Disk(capacity=FREE_BYTES)
    store = opened(disk)
    assert was_written(store, message("1"))

    assert flooded(store) > 30
    if restarted:
        disk = disk.restarted()
        store = opened(disk)
    assert not was_written(store, message("2"))
    assert not was_written(store, wordy())
    for _ in range(20):
        assert all(isinstance(result, Written) for result in store.write(decisions()).results)
    assert not was_written(store, wordy())


@pytest.mark.case("T46")
def test_what_is_kept_for_stamps_is_not_there_for_a_body_that_is_just_being_written() -> None:
    disk = Disk(capacity=FREE_BYTES)
    store = opened(disk)
    body = disk.create("body")
    disk.write(body, bytes(FREE_BYTES))  # somebody takes everything that is free, to the last byte

    assert flooded(store) > 5
    if left := disk.free_bytes():
        disk.write(body, bytes(left))
    assert disk.free_bytes() == 0
    for _ in range(20):
        assert all(isinstance(result, Written) for result in store.write(decisions()).results)


@pytest.mark.case("T46")
def test_audit_records_and_decisions_in_one_group_are_told_apart() -> None:
    disk = Disk(capacity=FREE_BYTES)
    store = opened(disk)
    flooded(store)

    results = store.write([wordy(), *decisions(), wordy(), message("1")]).results

    assert [isinstance(result, Written) for result in results] == [False, True, True, True, False, False]


@pytest.mark.case("T46")
def test_the_reserve_is_kept_again_when_there_is_room() -> None:
    disk = Disk(capacity=FREE_BYTES)
    store = opened(disk)
    flooded(store)
    assert AUDIT_RESERVE not in disk.names("")
    assert EVIDENCE_RESERVE in disk.names("")

    disk.capacity *= 2

    assert was_written(store, audit("access.refused"))
    assert was_written(store, message("1"))
    assert {AUDIT_RESERVE, EVIDENCE_RESERVE} <= set(disk.names(""))


@pytest.mark.case("T46")
def test_a_disk_fuller_than_it_says_keeps_the_order_too() -> None:
    class Boasting(Disk):
        """A file system that promises more than it gives, as one with quotas or copy on write."""

        def free_bytes(self) -> int:
            return super().free_bytes() + (100 << 10)

    disk = Boasting(capacity=FREE_BYTES)
    store = opened(disk)
    flooded(store)

    for _ in range(5):
        assert all(isinstance(result, Written) for result in store.write(decisions()).results)
    after = disk.crashed(random.Random(1), kept=0)  # noqa: S311  not for secrets
    assert opened(after).position.sequence > store.position.sequence


# -- the queue before the disk


class StuckStore:
    """A disk that answers when it is told to."""

    def __init__(self) -> None:
        self.may_go_on = threading.Event()
        self.groups: list[int] = []

    def write(self, drafts: list[Draft]) -> Group:
        self.may_go_on.wait(10)
        self.groups.append(len(drafts))
        return Group([Written(0, 0, 0, draft.entry) for draft in drafts])


def test_audit_records_that_wait_are_bounded_and_keep_nobody_else_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_commit, "AUDITS_WAITING_MAX", 5)

    async def play() -> None:
        store = StuckStore()
        answers: list[Written | BaseException] = []

        def stop(error: BaseException) -> None:
            answers.append(error)

        commit = GroupCommit(store, 3, lambda group: None, stop)

        def submitted(draft: Draft, most: int) -> int:
            for count in range(most):
                try:
                    commit.submit(draft, answers.append)
                except LogBusyError:
                    return count
            return most

        submitted(audit("access.refused"), 1)
        await asyncio.sleep(0.05)  # it is with the disk now
        assert submitted(audit("access.refused"), 100) == 5
        assert submitted(message("1"), 100) == 3
        assert submitted(decisions()[0], 100) == 100
        store.may_go_on.set()
        await asyncio.sleep(0.1)
        assert submitted(audit("access.refused"), 100) == 5
        await commit.close()
        assert len(answers) == 1 + 5 + 3 + 100 + 5
        assert not any(isinstance(answer, XacbeError) for answer in answers)

    asyncio.run(play())
