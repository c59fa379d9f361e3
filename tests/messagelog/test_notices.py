"""Withdrawal notices in the recorder: due until told, over restarts; taken only from the other party."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.messagelog.groups import Draft
from appliance.messagelog.notices import LEASE_S, RETRY_S_MIN, NoticeUnknownError
from appliance.messagelog.record import UnconfirmedEntry
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.wire import (
    NOTICE_DELIVERED,
    PEER,
    SYSTEM,
    DueNotice,
    ListNotices,
    NoticeItem,
    NoticesTold,
    NoticeSummary,
    TakeNotices,
)
from tests.messagelog.log_box import LogBox, append_all

CLIENT, PROVIDER = "QROO-TEST/GOV/1001/solomon", "QROO-TEST/GOV/2002/geoportal"
"""Of the messages of `LogBox`, which are those of the provider's side: we are PROVIDER."""


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


def played(box: LogBox, *acts: Any) -> None:
    """Each act in a recorder of its own, over the same log."""

    async def play() -> None:
        for act in acts:
            async with box.opened() as recorder, asyncio.timeout(20):
                await act(recorder)

    asyncio.run(play())


async def withdrawn(box: LogBox, recorder: Recorder, *ids: str) -> list[int]:
    """Received messages that were delivered, and whose stamps never came."""
    sequences = [one.sequence for one in await append_all(recorder, box.appends(ids))]
    await recorder._commit.append(Draft(UnconfirmedEntry(sequences, box.clock.now_us(), sequences), essential=True))
    return sequences


async def due(recorder: Recorder) -> dict[str, DueNotice]:
    return {one.to: one for one in await recorder.notices.due_notices("relay", b"")}


async def tell(recorder: Recorder, notice: DueNotice, word: str = NOTICE_DELIVERED, *, final: bool = True) -> None:
    await recorder.notices.notices_told("relay", msgspec.msgpack.encode(NoticesTold(notice, word, final)))


async def listed(recorder: Recorder) -> list[NoticeSummary]:
    return await recorder.notices.list_notices("console", msgspec.msgpack.encode(ListNotices(1000)))


@pytest.mark.rule("IV.3.VI")
def test_a_withdrawn_message_is_due_to_both_sides_until_each_is_told_and_a_restart_forgets_nothing(box: LogBox) -> None:
    async def one(recorder: Recorder) -> None:
        await withdrawn(box, recorder, "Q-1", "Q-2")
        found = await due(recorder)
        assert {(to, one.ours, one.other) for to, one in found.items()} == {(SYSTEM, PROVIDER, CLIENT), (PEER, PROVIDER, CLIENT)}
        assert [item.query_id for item in found[PEER].items] == ["Q-1", "Q-2"]
        assert {item.origin for item in found[PEER].items} == {"ours"}
        await tell(recorder, found[SYSTEM])

    async def another(recorder: Recorder) -> None:
        found = await due(recorder)
        assert set(found) == {PEER}
        await tell(recorder, found[PEER])
        assert await due(recorder) == {}

    async def last(recorder: Recorder) -> None:
        assert await due(recorder) == {}
        assert {(one.system, one.peer) for one in await listed(recorder)} == {(NOTICE_DELIVERED, NOTICE_DELIVERED)}

    played(box, one, another, last)


def test_what_was_handed_out_is_left_alone_and_a_failure_is_tried_again_after_a_pause(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await withdrawn(box, recorder, "Q-1")
        found = await due(recorder)
        assert await due(recorder) == {}
        await tell(recorder, found[PEER], "peer.unreachable", final=False)
        assert [(one.peer_us, one.peer) for one in await listed(recorder)] == [(None, "peer.unreachable")]
        box.clock.pass_s(RETRY_S_MIN)
        assert set(await due(recorder)) == {PEER}
        box.clock.pass_s(LEASE_S)
        assert set(await due(recorder)) == {SYSTEM, PEER}

    played(box, act)


def test_a_notice_that_is_refused_for_good_is_not_sent_again(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await withdrawn(box, recorder, "Q-1")
        await tell(recorder, (await due(recorder))[PEER], "notice.not_understood")
        box.clock.pass_s(LEASE_S)
        assert set(await due(recorder)) == {SYSTEM}
        assert [one.peer for one in await listed(recorder)] == ["notice.not_understood"]

    played(box, act)


def taken(sender: str, receiver: str, *ids: str) -> bytes:
    service = f"{PROVIDER}/incidents"
    items = [NoticeItem(0, "theirs", one, "", "request", "", CLIENT, service, 0, 0) for one in ids]
    return msgspec.msgpack.encode(TakeNotices(sender, receiver, items))


@pytest.mark.rule("IV.3.VI", "IV.3.I")
def test_only_the_other_party_of_an_exchange_withdraws_it_and_our_system_is_told(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await append_all(recorder, box.appends(["Q-1"]))
        for sender, receiver in (("QROO-TEST/GOV/3003/other", PROVIDER), (PROVIDER, CLIENT), (CLIENT, "QROO-TEST/GOV/2002/else")):
            with pytest.raises(NoticeUnknownError):
                await recorder.notices.take_notices("relay", taken(sender, receiver, "Q-1"))
        with pytest.raises(NoticeUnknownError):
            await recorder.notices.take_notices("relay", taken(CLIENT, PROVIDER, "Q-9"))

        known = await recorder.notices.take_notices("relay", taken(CLIENT, PROVIDER, "Q-1", "Q-9"))
        again = await recorder.notices.take_notices("relay", taken(CLIENT, PROVIDER, "Q-1"))

        assert (known.known, again.known) == (1, 1)
        found = await due(recorder)
        assert set(found) == {SYSTEM}
        assert [(item.query_id, item.origin) for item in found[SYSTEM].items] == [("Q-1", "theirs")]

    played(box, act)
