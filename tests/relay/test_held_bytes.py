"""How much of messages may lie in a relay's memory, whoever sent it, and that nothing stays counted."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.messagelog.wire import CLIENT, REQUEST, Append, Appended, Seal
from appliance.net.soap_mime import SoapReader
from appliance.net.transport_parts import SOAP, TransportLimits
from appliance.net.transport_protocol import TransportReader
from appliance.processes.relay import APPEND_S_MAX, LARGE_AT_ONCE, LARGE_BYTES, RecorderLog
from appliance.relay import gates
from appliance.relay.gates import BusyError, Gates, Passage

HALF = 1000
pytestmark = pytest.mark.case("T44")


def arrived(gates: Gates, caller: str) -> Passage:
    """A message that nothing keeps waiting, in this very context."""
    coroutine = gates.arrive(caller)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    passage = ended.value.value
    assert isinstance(passage, Passage)
    return passage


def test_one_address_may_hold_half_of_the_memory_and_another_the_rest() -> None:
    shared = Gates(16, held_bytes_max=2 * HALF)
    first, second = arrived(shared, "a"), arrived(shared, "b")

    first.hold(HALF)
    with pytest.raises(BusyError):
        first.hold(1)
    second.hold(HALF)
    with pytest.raises(BusyError):
        arrived(shared, "c").hold(1)

    first.leave()
    assert shared.held_bytes == HALF
    arrived(shared, "a").hold(HALF)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 700), st.booleans()), max_size=30))
def test_whatever_was_held_is_let_go_with_its_message(steps: list[tuple[str, int, bool]]) -> None:
    shared = Gates(256, held_bytes_max=2 * HALF)
    passages = []
    for address, size, completes in steps:
        passage = arrived(shared, address)
        passages.append(passage)
        with suppress(BusyError):
            passage.hold(size)
        if completes:
            passage.complete()
        assert shared.held_bytes <= 2 * HALF

    for passage in passages:
        passage.leave()
    assert (shared.held_bytes, shared.arriving, shared.running) == (0, 0, 0)


def test_soap_parts_heads_and_seals_are_held_and_bodies_are_not() -> None:
    told: list[int] = []
    plain = SoapReader(b"text/xml", TransportLimits(), hold=told.append)
    plain.feed(b"<a>")
    plain.feed(b"</a>")
    assert told == [3, 4]

    told.clear()
    related = SoapReader(b"multipart/related; boundary=B", TransportLimits(), hold=told.append)
    related.feed(b"--B\r\nContent-Type: text/xml\r\n\r\n<a/>\r\n--B\r\n\r\n" + bytes(5000) + b"\r\n--B--\r\n")
    assert sum(told) == 4

    told.clear()
    reader = TransportReader(b"B", frozenset({SOAP}), hold=told.append)
    reader.feed(b"--B\r\ncontent-type: application/ocsp-response\r\n\r\n0\x01\x00\r\n--B\r\ncontent-type: text/xml\r\n\r\n<unfinished")
    begun = sum(told)
    assert 3 <= begun <= 14  # some bytes may be the beginning of a boundary: they are not given out yet
    reader.feed(b" " * 4000)
    assert sum(told) - begun == 4000


def test_a_reader_that_may_not_hold_more_reads_no_further() -> None:
    passage = arrived(Gates(16, held_bytes_max=2 * HALF), "a")
    reader = SoapReader(b"text/xml", TransportLimits(), hold=passage.hold)
    reader.feed(bytes(HALF))

    with pytest.raises(BusyError):
        reader.feed(b" ")


def test_answers_count_for_the_message_under_way() -> None:
    shared = Gates(16, held_bytes_max=2 * HALF)
    passage = arrived(shared, "a")

    gates.hold(HALF)
    assert shared.held_bytes == HALF
    with pytest.raises(BusyError) as refused:
        gates.hold(1)
    assert refused.value.retry_after_s is None, "it was done already: nobody is asked to send it again"
    passage.leave()
    assert shared.held_bytes == 0


def record(message: bytes) -> Append:
    return Append(
        side=CLIENT, direction=REQUEST, received=False, query_id="q", request_id="r", client="c", service="s", represented_party=None,
        message=message, body=None, body_file=None, body_bytes=0, body_digest=None, seal=Seal(b"", None, None, 0, 0), stamp_first=False,
    )  # fmt: skip


def test_a_large_body_has_time_to_be_synced_and_read_back() -> None:
    given_s: list[float] = []

    class Recorder:
        async def call(self, operation: str, record: Append, answer: type[Appended], timeout_s: float) -> Appended:
            given_s.append(timeout_s)
            return Appended(1, 1, None, None)

    async def main() -> None:
        log = RecorderLog(Recorder())  # type: ignore[arg-type]  # its one method
        small, large = record(b"small"), record(b"large")
        large.body_file, large.body_bytes = 1, 1 << 30
        await log.append(small)
        await log.append(large)

    asyncio.run(main())
    assert given_s == [APPEND_S_MAX, pytest.approx(APPEND_S_MAX + 51.2)]


def test_large_messages_go_to_the_recorder_three_at_a_time_and_small_ones_pass_them() -> None:
    class Recorder:
        running = most = answered = 0

        async def call(self, operation: str, record: Append, answer: type[Appended], timeout_s: float) -> Appended:
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.sleep(0.01 if len(record.message) > LARGE_BYTES else 0)
            self.running -= 1
            self.answered += 1
            return Appended(1, 1, None, None)

    async def main() -> None:
        recorder = Recorder()
        log = RecorderLog(recorder)  # type: ignore[arg-type]  # its one method
        large = record(bytes(LARGE_BYTES + 1))
        async with asyncio.TaskGroup() as group:
            for _ in range(12):
                group.create_task(log.append(large))
            await asyncio.sleep(0)
            await log.append(record(b"small"))
            assert recorder.answered == 1
        assert (recorder.answered, recorder.most) == (13, LARGE_AT_ONCE + 1)

    asyncio.run(main())
