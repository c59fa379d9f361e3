"""The n-th operation of the disk fails, or the power goes: whatever was acknowledged is there afterwards (T34, T35)."""

from __future__ import annotations

import errno
import random
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.durable import SyncFailedError
from appliance.errors import CorruptStateError, XacbeError
from tests.fakes.disk import Disk
from tests.messagelog.crash_harness import (
    CuttingDisk,
    EagerDisk,
    ForgetfulDisk,
    NamelessDisk,
    PowerCut,
    Promises,
    RetryingDisk,
    broken_promises,
    opened,
    workload,
)
from tests.messagelog.drafts import audit


def operations_of_a_whole_run() -> int:
    disk = Disk()
    workload(opened(disk), disk, Promises())
    return disk.operations


def failures_of(kind: type[Disk], *, code: int = errno.EIO) -> list[str]:
    """For every n and both ways: the process dies at the failure, then the power goes too."""
    found = []
    for n in range(1, operations_of_a_whole_run() + 1):
        for but_persist in (False, True):
            disk = kind(fail_at=n, but_persist=but_persist, code=code)
            promises = Promises()
            try:
                workload(opened(disk), disk, promises)
            except (OSError, CorruptStateError, XacbeError):
                pass
            name = disk.log[n - 1] if n <= len(disk.log) else "-"
            for state in (disk.crashed(random.Random(n), kept=0), disk.crashed(random.Random(n)), disk.restarted()):  # noqa: S311  not for secrets
                found += [f"{n} ({name}, {but_persist}): {broken}" for broken in broken_promises(state, promises)]
    return found


def cut_before(kind: type[CuttingDisk], n: int) -> tuple[CuttingDisk, Promises]:
    """A run that ends before its operation `n`, and what it had promised until then."""
    disk, promises = kind(), Promises()
    disk.cut_at = n
    with suppress(PowerCut):
        workload(opened(disk), disk, promises)
    return disk, promises


def cuts_of(kind: type[CuttingDisk], seed: int, *, states: int = 3) -> list[str]:
    """The power goes before every operation in turn; several random states of what was not synced."""
    found = []
    chance = random.Random(seed)  # noqa: S311  not for secrets
    for n in range(1, operations_of_a_whole_run() + 2):
        disk, promises = cut_before(kind, n)
        for kept in (0.0, 0.5, 0.9)[:states]:
            found += [f"{n} ({kept}): {broken}" for broken in broken_promises(disk.crashed(chance, kept=kept), promises)]
    return found


def kills_then_power_cuts(kind: type[CuttingDisk]) -> list[str]:
    """The process dies before every operation in turn, the next one goes on with what it sees, and then the power goes."""
    found = []
    for n in range(1, operations_of_a_whole_run() + 2):
        disk, promises = cut_before(kind, n)
        again = disk.restarted()
        workload(opened(again), again, promises, rounds=1)
        found += [f"{n}: {broken}" for broken in broken_promises(again.crashed(random.Random(n), kept=0), promises)]  # noqa: S311  not for secrets
    return found


@pytest.mark.case("T34")
def test_after_a_kill_at_any_operation_the_next_process_makes_durable_what_it_builds_on() -> None:
    """A segment whose name was seen and never synced would take with it what the next process acknowledged."""
    assert kills_then_power_cuts(CuttingDisk) == []


@pytest.mark.case("T35")
def test_an_error_at_any_operation_loses_nothing_that_was_acknowledged() -> None:
    assert failures_of(Disk) == []


@pytest.mark.case("T35")
def test_after_a_failed_sync_the_next_process_builds_on_nothing_that_only_the_cache_has() -> None:
    """The cache still shows the group whose sync failed, and calls it clean. Found by the simulation."""
    disk = Disk()
    store, promises = opened(disk), Promises()
    workload(store, disk, promises, rounds=1)
    disk.fail_at = disk.operations + 2
    with pytest.raises(SyncFailedError):
        store.write([audit("box.checked")])
    assert disk.log[-1] == "sync"
    again = disk.restarted()

    workload(opened(again), again, promises, rounds=1)

    assert broken_promises(again.crashed(random.Random(1), kept=0), promises) == []  # noqa: S311  not for secrets


@pytest.mark.case("T46")
def test_a_disk_that_is_full_at_any_operation_loses_nothing_and_gives_no_sequence_twice() -> None:
    assert failures_of(Disk, code=errno.ENOSPC) == []


@pytest.mark.case("T34")
def test_a_power_cut_before_any_operation_loses_nothing_that_was_acknowledged() -> None:
    assert cuts_of(CuttingDisk, seed=1) == []


@pytest.mark.case("T34")
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(1, 120), st.floats(0, 1))
def test_random_crash_states_open_and_hold_every_acknowledged_record(seed: int, cut_at: int, kept: float) -> None:
    chance = random.Random(seed)  # noqa: S311  not for secrets
    disk = CuttingDisk()
    disk.cut_at = cut_at
    promises = Promises()
    for _ in range(3):  # three lives: a repaired log is cut again
        try:
            workload(opened(disk), disk, promises, rounds=chance.randrange(1, 5))
        except PowerCut:
            pass
        after = disk.crashed(chance, kept=kept)
        disk = CuttingDisk()
        disk.directories, disk.cut_at = after.directories, chance.randrange(1, 80)
        copy = Disk()
        copy.directories = disk.crashed(chance).directories  # everything on it is synced: a copy to look at
        assert broken_promises(copy, promises) == []


@pytest.mark.case("T33")
@pytest.mark.parametrize(
    ("bug", "found_by"), [(ForgetfulDisk, cuts_of), (EagerDisk, cuts_of), (NamelessDisk, cuts_of), (RetryingDisk, None)]
)
def test_the_harness_finds_planted_bugs(bug: type[CuttingDisk], found_by: object) -> None:
    found = cuts_of(bug, seed=2, states=1) if found_by is cuts_of else failures_of(bug)

    assert any("is lost" in broken or "does not open" in broken for broken in found)


def test_after_a_failed_sync_the_store_does_nothing_more() -> None:
    disk = Disk()
    store = opened(disk)
    disk.fail_at = disk.operations + 2  # the sync after the next write
    with pytest.raises(CorruptStateError):
        workload(store, disk, Promises())

    with pytest.raises(RuntimeError, match="unknown outcome"):
        workload(store, disk, Promises())
