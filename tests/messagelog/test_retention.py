"""Contents go when their term has ended and their archive is confirmed, and not before; links, names and proofs stay."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path

import msgspec
import pytest

from appliance.access.roles import RoleMissingError
from appliance.errors import RefusedError, XacbeError
from appliance.messagelog import custodian, cutting, data_keys
from appliance.messagelog.archive_wire import Archivable, ChangeTerm, ConfirmArchive, ListArchivable
from appliance.messagelog.custodian import ArchiveGapError
from appliance.messagelog.custody import CUT, PENDING
from appliance.messagelog.data_keys import EPOCH_S
from appliance.messagelog.groups import Draft, LogFullError, Written
from appliance.messagelog.index import Index
from appliance.messagelog.index_follower import IndexUnavailableError
from appliance.messagelog.record import MESSAGE, AuditEntry, mark_of, records
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.terms import Terms, TermsMalformedError
from appliance.messagelog.wire import AuditRecord, BodyFile, ListRecords, OpenBody
from appliance.net.local_server import called_by
from appliance.trust.signed_time import NOTHING_SIGNED, SignedMoment, SignedTime, monotonic_us
from tests.messagelog.drafts import StillClock
from tests.messagelog.log_box import SUBSYSTEMS, LogBox, append, listed, played, read, until_stamped, written
from tests.messagelog.test_sealing import disk

DAY_S = 86_400
OURS, PROVIDER = SUBSYSTEMS


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_keys, "RETRY_S", 0.02)
    monkeypatch.setattr(custodian, "SEGMENT_PAUSE_S", 0.0)


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


async def next_archive(recorder: Recorder, group: str = "", limit: int = 1000) -> Archivable:
    return await recorder.custodian.list_archivable("archivist", msgspec.msgpack.encode(ListArchivable(group, limit, 1 << 30)))


async def confirm(recorder: Recorder, found: Archivable, group: str = "") -> None:
    told = ConfirmArchive(group, "mlog.zip.age", "00" * 32, "11" * 64, [one.sequence for one in found.records], found.last, ["directory"])
    await recorder.custodian.confirm_archive("archivist", msgspec.msgpack.encode(told))


async def change(recorder: Recorder, subsystem: str, days: int | None, bodies: bool = True) -> None:
    with called_by(0):
        await recorder.custodian.change_term("console", msgspec.msgpack.encode(ChangeTerm(subsystem, days, bodies)))


async def confirmed(recorder: Recorder) -> list[AuditRecord]:
    """What the audit log says of archives, newest first."""
    with called_by(os.getuid()):
        found = await recorder.reading.list_audits("console", msgspec.msgpack.encode([99]))
    return [one for one in found if one.event == "archive.confirmed"]


async def large(recorder: Recorder, box: LogBox, query_id: str, body: bytes) -> int:
    request = box.appends([query_id], body=body)[0]
    reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
    assert isinstance(reply.value, BodyFile)
    with os.fdopen(reply.descriptor, "wb") as file:
        file.write(written(reply.value, body))
    request.body, request.body_file = None, reply.value.body
    return (await append(recorder, request)).sequence


async def erase(recorder: Recorder) -> int:
    return (await recorder.custodian.erase_due("console", b"")).contents


@pytest.mark.case("T30")
@pytest.mark.rule("IV.5.IV")
def test_what_is_archived_and_old_enough_loses_its_content_and_keeps_name_link_and_proof(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        small = (await append(recorder, box.appends(["Q-1"], body=b"said")[0])).sequence
        big = await large(recorder, box, "Q-2", b"SAID-AT-LENGTH" * 10_000)
        sizes = disk(box.root).count(b"QROO-TEST")
        box.clock.pass_s(31 * DAY_S)
        assert await erase(recorder) == 0  # no archive has them
        await confirm(recorder, await next_archive(recorder))
        erased = await recorder.custodian.erase_due("console", b"")
        assert (erased.contents, erased.bodies) == (2, 1)
        assert erased.bytes > 500
        assert (await next_archive(recorder)).records == []
        for sequence in (small, big):
            with pytest.raises(RefusedError):
                await read(recorder, sequence)
        assert [one.query_id for one in await listed(recorder, ListRecords(query_id="Q-1"))] == ["Q-1"]
        assert os.listdir(box.root / "bodies") == []
        assert sizes
        fresh = (await append(recorder, box.appends(["Q-3"], body=b"new")[0])).sequence
        assert (await read(recorder, fresh))[0].body == b"new"

    played(box, act)
    played(box, lambda recorder: _still(recorder, ["Q-3", "Q-2", "Q-1"]))  # every link still follows
    (box.root / "index.sqlite").unlink()
    played(box, lambda recorder: _still(recorder, ["Q-3", "Q-2", "Q-1"]))


async def _still(recorder: Recorder, ids: list[str]) -> None:
    found = await listed(recorder)
    assert [one.query_id for one in found] == ids
    assert (await read(recorder, found[0].sequence))[0].body == b"new"
    assert await erase(recorder) == 0


def test_terms_differ_by_subsystem_and_the_key_of_what_is_gone_goes_with_it(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await change(recorder, OURS, 5)
        await change(recorder, PROVIDER, 50)
        await append(recorder, box.appends(["Q-ours"], received=False, body=b"ours")[0])
        await until_stamped(recorder)
        await append(recorder, box.appends(["Q-theirs"], body=b"theirs")[0])
        box.clock.pass_s(6 * DAY_S)
        await asyncio.sleep(0.1)  # the next day's key: today's never goes
        await confirm(recorder, await next_archive(recorder))
        keys = len(list((box.root / "keys").glob("*.key")))
        erased = await recorder.custodian.erase_due("console", b"")
        assert (erased.contents, erased.keys) == (1, 1)
        assert len(list((box.root / "keys").glob("*.key"))) == keys - 1
        kept = (await listed(recorder, ListRecords(query_id="Q-theirs")))[0]
        assert (await read(recorder, kept.sequence))[0].body == b"theirs"
        terms = {one.subsystem: one for one in await recorder.custodian.list_terms("console", b"")}
        assert (terms[OURS].days, terms[OURS].kept, terms[PROVIDER].days, terms[PROVIDER].kept) == (5, 0, 50, 1)

    assert EPOCH_S == DAY_S
    played(box, act)


def test_nothing_goes_whose_term_is_for_ever_or_that_no_stamp_confirms(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await change(recorder, "", 0)
        await append(recorder, box.appends(["Q-1"])[0])
        box.clock.pass_s(1000 * DAY_S)
        await confirm(recorder, await next_archive(recorder))
        assert await erase(recorder) == 0
        box.authority.silent = True
        await append(recorder, box.appends(["Q-2"], received=False)[0])
        await append(recorder, box.appends(["Q-3"], received=False)[0])
        assert (await next_archive(recorder)).records == []

    played(box, act)


def test_an_archive_that_leaves_a_message_out_or_comes_out_of_turn_is_not_confirmed(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        for number in range(4):
            await append(recorder, box.appends([f"Q-{number}"])[0])
        found = await next_archive(recorder)
        for wrong in (found.records[1:], found.records[:1] + found.records[2:], [*found.records, found.records[0]]):
            with pytest.raises(ArchiveGapError):
                await confirm(recorder, Archivable(wrong, found.last))
        await confirm(recorder, found)
        await confirm(recorder, found)  # asked again: the answer was lost
        audits = await confirmed(recorder)
        assert [one.facts["records"] for one in audits] == ["4"]
        assert (await next_archive(recorder)).records == []

    played(box, act)


@pytest.mark.case("T30", "T40")
def test_a_wall_clock_that_is_ahead_ends_no_term_before_signed_time_does(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        box.clock.us -= 2 * DAY_S * 1_000_000  # 29 days have passed by signed time
        heard = SignedTime(SignedMoment(box.clock.us, monotonic_us(box.clock)), box.clock.us)
        recorder.stamper.signed = heard
        box.clock.us += 300 * DAY_S * 1_000_000
        assert await erase(recorder) == 0
        assert len(os.listdir(box.root / "bodies")) == 1
        recorder.stamper.signed = NOTHING_SIGNED  # nor by the newest stamp, where this boot has heard nothing yet
        assert await erase(recorder) == 0
        box.clock.us -= 300 * DAY_S * 1_000_000
        recorder.stamper.signed = heard
        box.clock.pass_s(3 * DAY_S)
        assert await erase(recorder) == 2

    played(box, act)


@pytest.mark.case("T30", "T40")
def test_an_authority_that_is_ahead_ends_no_term_before_the_wall_clock_does(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"], body=b"said")[0])
        await confirm(recorder, await next_archive(recorder))
        ahead_us = box.clock.us + 300 * DAY_S * 1_000_000
        recorder.stamper.signed = SignedTime(SignedMoment(ahead_us, monotonic_us(box.clock)), ahead_us)
        assert await erase(recorder) == 0

    played(box, act)


@pytest.mark.case("T30", "T40")
def test_a_message_that_was_logged_while_the_clock_was_behind_is_as_old_as_its_stamp(box: LogBox) -> None:
    """By rebuilding the index too: the clock stood 40 days back when it was logged, the authority's did not."""

    async def act(recorder: Recorder) -> None:
        true_us = box.clock.us
        box.clock.us -= 40 * DAY_S * 1_000_000
        box.authority.clock = StillClock(true_us)
        request = box.appends(["Q-1"], body=b"said", received=False)[0]
        request.seal.ocsp_produced_at_us = request.seal.ocsp_this_update_us = true_us
        await append(recorder, request)
        await until_stamped(recorder)
        box.clock.us = true_us
        await confirm(recorder, await next_archive(recorder))
        assert await erase(recorder) == 0

    async def later(recorder: Recorder) -> None:
        assert await erase(recorder) == 0
        box.clock.pass_s(31 * DAY_S)
        assert await erase(recorder) == 1

    played(box, act)
    (box.root / "index.sqlite").unlink()
    played(box, later)


@pytest.mark.rule("IV.2.III.C")
def test_a_subsystem_may_keep_no_bodies_then_only_digests_are_logged(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await change(recorder, PROVIDER, 30, bodies=False)
        one = (await append(recorder, box.appends(["Q-1"], body=b"unkept")[0])).sequence
        two = await large(recorder, box, "Q-2", b"UNKEPT" * 30_000)
        for sequence in (one, two):
            content, lies = await read(recorder, sequence)
            assert (content.body, content.body_in_descriptor, lies) == (None, False, b"")
        assert os.listdir(box.root / "bodies") == []

    played(box, act)


def test_terms_are_changed_by_root_or_an_administrator_only(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        with called_by(12345), pytest.raises(RoleMissingError):
            await recorder.custodian.change_term("console", msgspec.msgpack.encode(ChangeTerm("", 1)))
        assert Terms(box.root).terms == {}

    played(box, act)


@pytest.mark.parametrize(("subsystem", "days"), [("nonsense", 3), (OURS, -1), (OURS, 40_000)])
def test_terms_that_are_none_are_refused(box: LogBox, subsystem: str, days: int) -> None:
    async def act(recorder: Recorder) -> None:
        with pytest.raises(TermsMalformedError):
            await change(recorder, subsystem, days)
        assert Terms(box.root).terms == {}

    played(box, act)


class Cut(BaseException):
    """The machine stops here."""


STEPS = ["write_file", "commit", "write_anew", "put_in_place", "moved", "remove_bodies", "erase", "done"]


@pytest.mark.case("T30")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_an_erasure_that_is_cut_off_at_any_step_loses_nothing_and_is_ended_by_the_next_start(
    box: LogBox, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cutting_off(place: object, name: str) -> None:
        real = getattr(place, name)

        def cut(*values: object, **named: object) -> object:
            done = real(*values, **named) if after else None
            raise Cut(f"{name}: {done}")

        monkeypatch.setattr(place, name, cut)

    async def act(recorder: Recorder) -> None:
        await change(recorder, OURS, 5)
        await append(recorder, box.appends(["Q-ours"], received=False, body=b"ours")[0])
        await until_stamped(recorder)
        await large(recorder, box, "Q-theirs", b"theirs" * 20_000)
        box.clock.pass_s(6 * DAY_S)
        await asyncio.sleep(0.1)
        await confirm(recorder, await next_archive(recorder))
        match step:
            case "write_file":
                cutting_off(custodian.durable, "write_file")
            case "commit":
                real = recorder._commit.append

                async def cut(draft: Draft) -> Written:
                    if not isinstance(draft.entry, AuditEntry):  # a checkpoint's own turn
                        return await real(draft)
                    if after:
                        await real(draft)
                    raise Cut("append")

                monkeypatch.setattr(recorder._commit, "append", cut)
            case "moved":
                cutting_off(recorder._follower._index, "moved")
            case "erase":
                cutting_off(recorder.keys, "erase")
            case "done":
                cutting_off(recorder.custodian, "_done")
            case _:
                cutting_off(cutting, step)
        try:
            await erase(recorder)
        except Cut:
            pass
        monkeypatch.undo()

    async def later(recorder: Recorder) -> None:
        found = {one.query_id: one.sequence for one in await listed(recorder)}
        assert set(found) == {"Q-ours", "Q-theirs"}
        assert (await read(recorder, found["Q-theirs"]))[1] == b"theirs" * 20_000
        try:
            assert (await read(recorder, found["Q-ours"]))[0].body == b"ours"
            assert await erase(recorder) == 1
        except XacbeError:
            assert await erase(recorder) == 0
        with pytest.raises(RefusedError):
            await read(recorder, found["Q-ours"])
        assert (await read(recorder, found["Q-theirs"]))[1] == b"theirs" * 20_000
        assert not (box.root / PENDING).exists()

    played(box, act)
    played(box, later)
    (box.root / "index.sqlite").unlink()
    played(box, later)


async def two_old(recorder: Recorder, box: LogBox) -> None:
    """Two archived messages whose term has ended."""
    await append(recorder, box.appends(["Q-1"], body=b"said")[0])
    await large(recorder, box, "Q-2", b"at length" * 20_000)
    box.clock.pass_s(31 * DAY_S)
    await confirm(recorder, await next_archive(recorder))


@pytest.mark.case("T30", "T34")
def test_a_segment_that_is_not_whole_any_more_is_not_written_anew_so_that_nothing_behind_the_damage_is_lost(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        recorder.store.roll()
        await append(recorder, box.appends(["Q-3"])[0])
        segment = box.root / "segments" / f"{1:020d}.log"
        data = bytearray(segment.read_bytes())
        data[len(data) // 2] ^= 1
        segment.write_bytes(data)
        assert await erase(recorder) == 0
        assert segment.read_bytes() == data
        assert len(os.listdir(box.root / "bodies")) == 1
        with called_by(os.getuid()):
            found = await recorder.reading.list_audits("console", msgspec.msgpack.encode([99]))
        assert [one.facts["segment"] for one in found if one.event == custodian.DAMAGED] == ["1"]
        assert not box.stopped

    played(box, act)


@pytest.mark.case("T30")
@pytest.mark.parametrize("restart", [False, True])
def test_an_erasure_that_found_no_room_is_ended_by_the_next_turn_and_does_not_stop_a_start(
    box: LogBox, restart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise LogFullError("no room to write a segment anew")

    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        monkeypatch.setattr(cutting, "write_anew", no_room)
        with pytest.raises(LogFullError):
            await erase(recorder)
        if not restart:
            await ends(recorder)

    async def ends(recorder: Recorder) -> None:
        assert len(os.listdir(box.root / "bodies")) == 1
        monkeypatch.undo()
        await erase(recorder)
        assert os.listdir(box.root / "bodies") == []
        assert not (box.root / PENDING).exists()
        held = (box.root / "segments" / f"{1:020d}.log").read_bytes()
        marks = [one.is_content_cut for one in records(held, mark_of(held) or 0) if one.kind == MESSAGE]
        assert marks == [True, True]

    played(box, act)
    if restart:
        played(box, ends)


@pytest.mark.case("T30")
def test_new_offsets_survive_the_loss_of_everything_that_the_index_had_not_synced(box: LogBox, tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        await erase(recorder)
        synced = tmp_path / "index.sqlite"
        synced.write_bytes((box.root / "index.sqlite").read_bytes())  # its -wal is what a power cut takes
        there, lost = recorder._follower._index, Index(synced)
        assert [lost.offset(each) for each in (2, 3, 4, 5)] == [there.offset(each) for each in (2, 3, 4, 5)]
        assert any(there.offset(each) for each in (2, 3, 4, 5))
        lost.close()

    played(box, act)


class Held:
    """A disk that is slow for bodies: what was claimed waits until it is let go."""

    def __init__(self, recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.released = asyncio.Event(), asyncio.Event()
        real = recorder._bodies.claim

        async def claim(number: int, size: int) -> object:
            self.reached.set()
            await self.released.wait()
            return await real(number, size)

        monkeypatch.setattr(recorder._bodies, "claim", claim)


@pytest.mark.case("T30")
@pytest.mark.parametrize("let_go", ["before the turn", "after the turn"])
def test_a_days_key_is_not_erased_while_a_message_under_it_is_on_its_way(box: LogBox, monkeypatch: pytest.MonkeyPatch, let_go: str) -> None:
    """It took the key of the day that was ending; everything else of that day falls due before it is written."""
    body = b"in flight" * 20_000
    monkeypatch.setattr(data_keys, "EPOCH_S", 3600.0)  # a short day: what is on its way for longer than eight hours is not stamped

    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        held = Held(recorder, monkeypatch)
        flying = asyncio.ensure_future(large(recorder, box, "Q-flying", body))
        await held.reached.wait()
        sealed_under = set(recorder.keys._sealing)
        assert sealed_under
        box.clock.pass_s(3700)
        async with asyncio.timeout(10):
            while recorder.keys._current is None or recorder.keys._current.number in {one >> 16 for one in sealed_under}:
                await asyncio.sleep(0.02)  # the next day's keys
        if let_go == "before the turn":
            held.released.set()
            await asyncio.sleep(0)
        erasing = asyncio.ensure_future(erase(recorder))
        await asyncio.sleep(0.2)
        held.released.set()
        assert await erasing >= 2
        sequence = await flying
        assert (await read(recorder, sequence))[1] == body
        assert not recorder.keys._sealing

    async def later(recorder: Recorder) -> None:
        (found,) = await listed(recorder, ListRecords(query_id="Q-flying"))
        assert (await read(recorder, found.sequence))[1] == body

    played(box, act)
    played(box, later)


@pytest.mark.case("T30", "T34")
def test_an_index_that_was_lost_between_two_steps_of_an_erasure_loses_no_content(box: LogBox, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the index does not know would be cut: it says that it lacks something, and the turn is put off."""

    async def act(recorder: Recorder) -> None:
        await two_old(recorder, box)
        kept = (await append(recorder, box.appends(["Q-kept"], body=b"kept")[0])).sequence  # in the same segment, not due
        index = recorder._follower._index
        real = recorder._commit.append

        async def then_damaged(draft: Draft) -> Written:
            done = await real(draft)
            if isinstance(draft.entry, AuditEntry) and draft.entry.event == CUT:
                monkeypatch.setattr(index, "apply", damaged)
            return done

        def damaged(*_: object) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(recorder._commit, "append", then_damaged)
        with pytest.raises(IndexUnavailableError):
            await erase(recorder)
        monkeypatch.undo()
        assert len(os.listdir(box.root / "bodies")) == 1
        assert (await read(recorder, kept))[0].body == b"kept"
        await erase(recorder)
        assert os.listdir(box.root / "bodies") == []
        assert (await read(recorder, kept))[0].body == b"kept"

    played(box, act)
