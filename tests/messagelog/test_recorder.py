"""The recorder over real files: durable, stamped, guarded against replay, found again, exported."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from appliance.commands.log import container_of
from appliance.durable import SyncFailedError
from appliance.messagelog import record
from appliance.messagelog.bodies import UNCLAIMED_S_MAX, UnknownBodyError
from appliance.messagelog.disk import LogLockedError, OsDisk
from appliance.messagelog.record import AuditEntry, BrokenLinkError
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.replay import MessageReplayedError, ReplayGuard, ReplayGuardFullError
from appliance.messagelog.segments import UnknownRecordError
from appliance.messagelog.stamping import NotStampedError, TrustAgentAwayError
from appliance.messagelog.wire import Append, Audit, BodyFile, ListRecords, OpenBody
from appliance.seal.verify import verify_container
from tests.messagelog.drafts import EPOCH, HOUR_US
from tests.messagelog.log_box import OWN_USER, LogBox, append, append_all, listed, read, until_stamped, written
from tests.seal.workshop import NOON_US, known

GRACE_US = 4 * HOUR_US
WHO = {"by": OWN_USER, "uid": str(os.getuid())}


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


def played(box: LogBox, *acts: Callable[[Recorder], Awaitable[None]]) -> None:
    """Each act in a recorder of its own, one after the other over the same log."""

    async def play() -> None:
        for act in acts:
            async with box.opened() as recorder:
                async with asyncio.timeout(20):
                    await act(recorder)

    asyncio.run(play())


def verdict(box: LogBox, container: bytes) -> str:
    report = verify_container(container, known(box.workshop), None)
    return f"{report.verdict} {report.reason or ''}".strip()


@pytest.mark.rule("IV.3.VI")
def test_a_received_message_is_answered_with_its_stamp(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        appended = await append(recorder, box.appends(["Q-1"])[0])
        assert appended.stamped_at_us == NOON_US
        assert appended.provisional_until_us is None
        assert appended.accuracy_us == 100_000

    played(box, act)


def test_our_own_message_is_answered_when_durable_and_stamped_later(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        box.authority.delay_s = 0.1
        appended = await append(recorder, box.appends(["Q-1"], received=False)[0])
        assert appended.stamped_at_us is None
        assert [each.state for each in await listed(recorder)] == ["waiting"]
        await until_stamped(recorder)
        assert [(each.state, each.stamped_at_us) for each in await listed(recorder)] == [("stamped", NOON_US)]

    played(box, act)


@pytest.mark.rule("I.4.XV")
@pytest.mark.parametrize("body", [None, b'{"incidents": []}'])
def test_a_record_stamped_alone_is_a_valid_container(box: LogBox, body: bytes | None) -> None:
    async def act(recorder: Recorder) -> None:
        appended = await append(recorder, box.appends(["Q-1"], body=body)[0])
        content, _ = await read(recorder, appended.sequence)
        assert content.ts_chain_result is None
        assert verdict(box, container_of(content, content.body)) == "valid"

    played(box, act)


@pytest.mark.rule("I.4.XV")
def test_records_stamped_together_are_valid_containers_each_with_its_own_chain(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        requests = [box.appends([f"Q-{n}"])[0] for n in range(7)] + box.appends(["B-1", "B-2", "B-3"])
        answers = await append_all(recorder, requests)
        assert len(box.authority.imprints) == 1
        assert [each.sequence for each in answers] == sorted(each.sequence for each in answers)
        for answer in answers:
            content, _ = await read(recorder, answer.sequence)
            assert content.ts_chain_result is not None
            assert verdict(box, container_of(content, content.body)) == "valid"

    played(box, act)


def test_everything_that_waits_while_the_authority_is_asked_shares_the_next_stamp(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        box.authority.delay_s = 0.15
        requests = [box.appends([f"Q-{n}"])[0] for n in range(12)]
        first = asyncio.ensure_future(append(recorder, requests[0]))
        await asyncio.sleep(0.05)
        await append_all(recorder, requests[1:])
        await first
        assert len(box.authority.imprints) == 2

    played(box, act)


def test_the_signature_of_a_batch_is_stored_once(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        for request in box.appends([f"B-{n}" for n in range(5)]):
            await append(recorder, request)
        kinds = [found.kind for _, found in recorder.store.records_from(1)]
        assert kinds.count(record.SIGNATURE) == 1
        assert kinds.count(record.MESSAGE) == 5

    played(box, act)


def test_containers_are_the_same_bytes_after_a_restart(box: LogBox) -> None:
    made: list[bytes] = []

    async def write(recorder: Recorder) -> None:
        await append_all(recorder, [box.appends([f"Q-{n}"])[0] for n in range(3)])
        await export(recorder)

    async def export(recorder: Recorder) -> None:
        content, _ = await read(recorder, (await listed(recorder))[0].sequence)
        made.append(container_of(content, content.body))

    played(box, write, export)
    assert made[0] == made[1]


# -- replay


@pytest.mark.case("T13")
def test_the_same_sealed_message_is_refused_also_after_a_restart_and_a_lost_index(box: LogBox) -> None:
    request = box.appends(["Q-1"])[0]

    async def first(recorder: Recorder) -> None:
        await append(recorder, request)
        with pytest.raises(MessageReplayedError):
            await append(recorder, request)

    async def again(recorder: Recorder) -> None:
        with pytest.raises(MessageReplayedError):
            await append(recorder, request)

    played(box, first, again)
    (box.root / "index.sqlite").unlink()
    played(box, again)


@pytest.mark.case("T13")
def test_a_clients_retry_is_a_new_seal_and_passes(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"])[0])
        await append(recorder, box.appends(["Q-1"])[0])

    played(box, act)


@pytest.mark.case("T13")
def test_our_own_messages_are_not_guarded(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        request = box.appends(["Q-1"], received=False)[0]
        await append(recorder, request)
        await append(recorder, request)

    played(box, act)


def test_two_at_the_same_moment_are_one_and_a_replay(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        request = box.appends(["Q-1"])[0]
        results = await asyncio.gather(append(recorder, request), append(recorder, request), return_exceptions=True)
        assert sorted(type(each).__name__ for each in results) == ["Appended", "MessageReplayedError"]

    played(box, act)


@pytest.mark.case("T13")
def test_a_key_is_remembered_for_eight_hours_and_then_forgotten() -> None:
    guard = ReplayGuard()
    keys = [hashlib.sha512(bytes([n])).digest() for n in range(200)]
    for key in keys:
        guard.claim(key, NOON_US, NOON_US)
    assert guard.size == 200

    with pytest.raises(MessageReplayedError):
        guard.claim(keys[7], NOON_US, NOON_US + 8 * HOUR_US)
    guard.claim(b"x" * 64, NOON_US + 9 * HOUR_US + 1, NOON_US + 9 * HOUR_US + 1)
    assert guard.size == 1


def test_a_full_guard_refuses_and_forgets_nothing() -> None:
    guard = ReplayGuard(keys_max=3)
    for n in range(3):
        guard.claim(bytes([n]) * 64, NOON_US, NOON_US)

    with pytest.raises(ReplayGuardFullError):
        guard.claim(b"x" * 64, NOON_US, NOON_US)
    with pytest.raises(MessageReplayedError):
        guard.claim(bytes(64), NOON_US, NOON_US)
    guard.release(bytes(64), NOON_US)
    guard.claim(b"x" * 64, NOON_US, NOON_US)


# -- silence of the authorities


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_without_a_grace_nothing_is_delivered_and_the_record_stays(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        box.authority.silent = True
        waiting = asyncio.ensure_future(append(recorder, box.appends(["Q-1"])[0]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        box.clock.pass_s(10)
        with pytest.raises(NotStampedError) as caught:
            await waiting
        assert caught.value.kind == "tsa.unreachable"
        assert [each.state for each in await listed(recorder)] == ["waiting"]

    played(box, act)


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_a_trust_agent_that_does_not_answer_grants_no_grace(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        recorder.stamper.grace(GRACE_US)
        box.authority.away = True
        waiting = asyncio.ensure_future(append(recorder, box.appends(["Q-1"])[0]))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        box.clock.pass_s(10)
        with pytest.raises(TrustAgentAwayError) as caught:
            await waiting
        assert caught.value.kind == "process.away"
        assert [each.state for each in await listed(recorder)] == ["waiting"]

    played(box, act)


def test_a_trust_agent_that_is_back_after_three_seconds_costs_no_message(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        box.authority.away = True
        waiting = asyncio.ensure_future(append_all(recorder, [box.appends([f"Q-{n}"])[0] for n in range(3)]))
        for _ in range(3):
            await asyncio.sleep(0.3)
            box.clock.pass_s(1)
        box.authority.away = False
        await asyncio.sleep(0.3)
        box.clock.pass_s(1)
        assert all(each.stamped_at_us for each in await waiting)

    played(box, act)


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_a_provisional_message_keeps_its_deadline_over_restarts_and_is_withdrawn_when_it_passes(box: LogBox) -> None:
    box.hears_time = False  # then the wall clock, which stands still here, is all there is

    async def silence(recorder: Recorder) -> None:
        recorder.stamper.grace(GRACE_US)
        box.authority.silent = True
        waiting = asyncio.ensure_future(append(recorder, box.appends(["Q-1"])[0]))
        await asyncio.sleep(0.1)
        box.clock.pass_s(10)
        answer = await waiting
        assert answer.stamped_at_us is None
        assert answer.provisional_until_us == NOON_US + GRACE_US

    async def provisional(recorder: Recorder) -> None:
        recorder.stamper.grace(GRACE_US)
        assert [each.state for each in await listed(recorder)] == ["provisional"]
        await asyncio.sleep(0.4)
        assert not box.unconfirmed

    async def too_late(recorder: Recorder) -> None:
        await asyncio.sleep(0.5)
        assert [each.state for each in await listed(recorder)] == ["unconfirmed"]
        assert [each.delivered for each in box.unconfirmed] == [each.messages for each in box.unconfirmed]
        audits = [record.decode_entry(r.kind, r.payload) for _, r in recorder.store.records_from(1) if r.kind == record.AUDIT]
        assert [each.event for each in audits if isinstance(each, AuditEntry) and each.event != "log.read"] == ["seal.unconfirmed"]

    played(box, silence, provisional)
    box.clock.pass_s(4 * 3600)
    played(box, too_late)


def test_when_the_authority_is_back_what_was_provisional_is_stamped(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        recorder.stamper.grace(GRACE_US)
        box.authority.silent = True
        waiting = asyncio.ensure_future(append_all(recorder, [box.appends([f"Q-{n}"])[0] for n in range(3)]))
        await asyncio.sleep(0.1)
        box.clock.pass_s(10)
        answers = await waiting
        assert all(each.provisional_until_us for each in answers)
        box.authority.silent = False
        box.clock.pass_s(30)
        await until_stamped(recorder)
        assert {each.state for each in await listed(recorder)} == {"stamped"}
        content, _ = await read(recorder, answers[0].sequence)
        assert verdict(box, container_of(content, content.body)) == "valid"

    played(box, act)


def test_what_waits_at_the_end_is_stamped_after_the_start(box: LogBox) -> None:
    async def before(recorder: Recorder) -> None:
        box.authority.silent = True
        await append_all(recorder, [box.appends([f"Q-{n}"], received=False)[0] for n in range(3)])

    async def after(recorder: Recorder) -> None:
        box.authority.silent = False
        await until_stamped(recorder)
        assert {each.state for each in await listed(recorder)} == {"stamped"}

    played(box, before, after)


# -- bodies


def test_a_large_body_is_written_by_the_relay_and_read_back_whole(box: LogBox) -> None:
    body = os.urandom(300_000)

    async def act(recorder: Recorder) -> None:
        request = box.appends(["Q-1"], body=body)[0]
        reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(len(body))))
        assert isinstance(reply.value, BodyFile)
        with os.fdopen(reply.descriptor, "wb") as file:
            file.write(written(reply.value, body))
        request.body, request.body_file = None, reply.value.body
        appended = await append(recorder, request)
        content, read_back = await read(recorder, appended.sequence)
        assert content.body_in_descriptor
        assert read_back == body
        assert verdict(box, container_of(content, read_back)) == "valid"
        assert os.listdir(box.root / "bodies") == [f"{appended.sequence:020d}.body"]

    played(box, act)


def test_a_body_that_is_not_what_the_record_says_is_refused_and_leaves_nothing(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        request = box.appends(["Q-1"], body=b"x" * 100)[0]
        reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
        os.close(reply.descriptor)
        assert isinstance(reply.value, BodyFile)
        request.body, request.body_file = None, reply.value.body
        with pytest.raises(UnknownBodyError):
            await append(recorder, request)
        assert os.listdir(box.root / "bodies") == []
        request.body, request.body_file = b"x" * 100, None  # its replay key was given back
        await append(recorder, request)

    played(box, act)


def test_a_body_that_nobody_claims_is_given_up_after_a_quarter_of_an_hour(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        first = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
        box.clock.pass_s(UNCLAIMED_S_MAX + 1)
        second = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
        for reply in (first, second):
            os.close(reply.descriptor)
        assert isinstance(first.value, BodyFile)
        request = box.appends(["Q-1"])[0]
        request.body_file = first.value.body
        with pytest.raises(UnknownBodyError):
            await append(recorder, request)

    played(box, act)


# -- index, audit, start


def test_look_ups_by_every_key_and_nothing_else_is_found(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        requests = [box.appends([f"Q-{n}"])[0] for n in range(4)]
        requests[2].client = "QROO-TEST/GOV/1001/other"
        await append_all(recorder, requests)
        box.clock.pass_s(60)
        later = await append(recorder, box.appends(["Q-9"], direction="response")[0])

        async def ids(wanted: ListRecords) -> list[str]:
            return [each.query_id for each in await listed(recorder, wanted)]

        assert await ids(ListRecords()) == ["Q-9", "Q-3", "Q-2", "Q-1", "Q-0"]
        assert await ids(ListRecords(limit=2)) == ["Q-9", "Q-3"]
        assert await ids(ListRecords(query_id="Q-1")) == ["Q-1"]
        assert await ids(ListRecords(client="QROO-TEST/GOV/1001/other")) == ["Q-2"]
        assert await ids(ListRecords(service="QROO-TEST/GOV/2002/geoportal/incidents", until_us=NOON_US)) == ["Q-3", "Q-2", "Q-1", "Q-0"]
        assert await ids(ListRecords(since_us=NOON_US + 1)) == ["Q-9"]
        assert await ids(ListRecords(sequence=later.sequence)) == ["Q-9"]
        assert await ids(ListRecords(service="none")) == []

    played(box, act)


@pytest.mark.parametrize("harm", ["deleted", "damaged", "damaged inside", "of another log", "behind"])
def test_the_index_can_be_thrown_away(box: LogBox, harm: str) -> None:
    before: list[object] = []

    async def write(recorder: Recorder) -> None:
        await append_all(recorder, [box.appends([f"Q-{n}"])[0] for n in range(5)])
        before.append(await listed(recorder))

    async def look(recorder: Recorder) -> None:
        assert await listed(recorder) == before[0]

    played(box, write)
    index = box.root / "index.sqlite"
    match harm:
        case "deleted":
            index.unlink()
        case "damaged":
            index.write_bytes(b"no database " * 1000)
        case "damaged inside":  # found by the simulation: it opens, and what it is asked next fails
            with sqlite3.connect(index) as connection:
                (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'message'").fetchone()
                (size,) = connection.execute("PRAGMA page_size").fetchone()
            connection.close()
            data = index.read_bytes()
            index.write_bytes(data[: (page - 1) * size] + b"\xff" * size + data[page * size :])
        case "of another log":
            with sqlite3.connect(index) as connection:
                connection.execute("UPDATE state SET value = ? WHERE key = 'link'", (bytes(32),))
                connection.execute("DELETE FROM message")
            connection.close()
        case _:
            with sqlite3.connect(index) as connection:
                link = next(r.link for r in _records(box) if r.sequence == 4)
                connection.execute("DELETE FROM message WHERE sequence > 4")
                connection.execute("UPDATE state SET value = 4 WHERE key = 'sequence'")
                connection.execute("UPDATE state SET value = ? WHERE key = 'link'", (link,))
            connection.close()
    played(box, look)


def _records(box: LogBox) -> list[record.Record]:
    data = next((box.root / "segments").iterdir()).read_bytes()
    return list(record.records(data, record.mark_of(data) or 0))


@pytest.mark.case("T31")
@pytest.mark.rule("IV.2.III.B")
def test_every_read_leaves_who_when_what_and_why(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        appended = await append(recorder, box.appends(["Q-1"])[0])
        await read(recorder, appended.sequence, "case 7/2026")
        with pytest.raises(UnknownRecordError):
            await read(recorder, 999, "curiosity")
        audits = [record.decode_entry(r.kind, r.payload) for _, r in recorder.store.records_from(1) if r.kind == record.AUDIT]
        assert audits == [
            AuditEntry("log.read", "console", {"act": "show", **WHO, "reason": "case 7/2026", "record": str(appended.sequence)}),
            AuditEntry("log.read", "console", {"act": "show", **WHO, "reason": "curiosity", "record": "999"}),
        ]

    played(box, act)


def test_an_act_is_linked_under_the_channel_it_came_by(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await recorder.audit("signer", msgspec.msgpack.encode(Audit("key.generated", {"by": "console", "long": "x" * 5000})))
        found = [record.decode_entry(r.kind, r.payload) for _, r in recorder.store.records_from(1) if r.kind == record.AUDIT]
        assert isinstance(found[0], AuditEntry)
        assert (found[0].event, found[0].caller) == ("key.generated", "signer")
        assert len(found[0].facts["long"]) == 1024

    played(box, act)


@pytest.mark.case("T28")
def test_a_second_writer_is_refused(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        with pytest.raises(LogLockedError):
            async with box.opened():
                pass

    played(box, act)


@pytest.mark.case("T26")
def test_a_changed_byte_stops_the_start_and_names_the_record(box: LogBox) -> None:
    async def write(recorder: Recorder) -> None:
        for n in range(3):
            await append(recorder, box.appends([f"Q-{n}"])[0])

    played(box, write)
    segment = next((box.root / "segments").iterdir())
    data = bytearray(segment.read_bytes())
    target = _records(box)[4]
    data[target.offset + target.size // 2] ^= 1
    segment.write_bytes(data)

    with pytest.raises(BrokenLinkError) as caught:
        played(box, write)
    assert caught.value.sequence == target.sequence


def test_a_signature_that_left_memory_is_read_from_the_log_for_its_stamp(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        box.authority.silent = True
        request: Append = box.appends(["Q-1"], received=False)[0]
        await append(recorder, request)
        filler = request.seal
        for n in range(300):
            filler = msgspec.structs.replace(filler, signature=f"<{n}/>".encode())
            recorder._signatures.entry(filler, EPOCH)
        box.authority.silent = False
        box.clock.pass_s(30)
        await until_stamped(recorder)
        content, _ = await read(recorder, (await listed(recorder))[0].sequence)
        assert verdict(box, container_of(content, content.body)) == "valid"

    played(box, act)


@pytest.mark.case("T35")
def test_a_failed_sync_of_a_body_stops_the_process(box: LogBox) -> None:
    class FailingDisk(OsDisk):
        def sync(self, handle: int) -> None:
            raise SyncFailedError("fdatasync: EIO")

    async def act(recorder: Recorder) -> None:
        recorder._bodies._disk = FailingDisk(box.root)
        request = box.appends(["Q-1"], body=b"x" * 100)[0]
        reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
        assert isinstance(reply.value, BodyFile)
        with os.fdopen(reply.descriptor, "wb") as file:
            file.write(written(reply.value, b"x" * 100))
        request.body, request.body_file = None, reply.value.body
        with pytest.raises(SyncFailedError):
            await append(recorder, request)
        assert [type(each) for each in box.stopped] == [SyncFailedError]
        assert await listed(recorder) == []

    played(box, act)


def test_a_log_whose_segment_ended_after_its_newest_checkpoint_opens(box: LogBox) -> None:
    async def fill(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"])[0])
        async with asyncio.timeout(5):
            while recorder.tree.noted is None:
                box.clock.pass_s(61)
                await asyncio.sleep(0.05)
        recorder.store.roll()
        await append(recorder, box.appends(["Q-2"])[0])

    async def again(recorder: Recorder) -> None:
        assert [one.query_id for one in await listed(recorder)] == ["Q-2", "Q-1"]

    played(box, fill)
    for _ in range(2):
        played(box, again)
