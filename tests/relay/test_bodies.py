"""Bodies on their way: small ones in memory, large ones in a file of the log, none beyond the limit, no descriptor left behind."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.ports import Body
from appliance.messagelog.stream import KEY_BYTES, BodySealBrokenError
from appliance.messagelog.wire import BodyFile
from appliance.net.http_stream import PeerTimeoutError
from appliance.net.local_client import LocalClient, NeighbourAwayError
from appliance.relay.bodies import CHUNK_BYTES, BodyOversizedError, BodyStore, NextChunk

INLINE, MOST = 1000, 3 * CHUNK_BYTES


class OpenBodies(LocalClient):
    """A recorder that only hands out unnamed files."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.inodes: list[int] = []
        self.away = False

    async def call_for_descriptor(self, operation: str, request: object, answer: type[Any], timeout_s: float = 0) -> tuple[Any, int]:
        if self.away:
            raise NeighbourAwayError("recorder: away")
        assert (operation, answer) == ("open_body", BodyFile)
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
        self.inodes.append(os.fstat(descriptor).st_ino)
        return BodyFile(len(self.inodes), os.urandom(KEY_BYTES)), descriptor

    def open_files(self) -> int:
        """How many of the files that it handed out are still open in this process."""
        gc.collect()
        return sum(_inode(name) in self.inodes for name in os.listdir("/proc/self/fd"))


def _inode(descriptor: str) -> int:
    try:
        return os.fstat(int(descriptor)).st_ino
    except OSError:
        return -1


def chunks(*data: bytes, then: Exception | None = None) -> NextChunk:
    """A sender that gives these pieces, and then ends or fails."""

    async def pieces() -> AsyncIterator[bytes]:
        for piece in data:
            await asyncio.sleep(0)
            yield piece
        if then is not None:
            raise then

    iterator = pieces()

    async def next_chunk() -> bytes | None:
        return await anext(iterator, None)

    return next_chunk


def receive(recorder: OpenBodies, *data: bytes, then: Exception | None = None, expected: int | None = None) -> Body | None:
    return asyncio.run(BodyStore(recorder, INLINE, MOST).receive(chunks(*data, then=then), expected))


def content(body: Body) -> bytes:
    """What a receiver of the body gets."""
    sent: list[bytes] = []

    async def drain() -> None:
        await asyncio.sleep(0)

    asyncio.run(BodyStore(OpenBodies(), INLINE, MOST).send(body, sent.append, drain))
    assert all(len(piece) <= CHUNK_BYTES for piece in sent)
    return b"".join(sent)


@pytest.mark.parametrize(
    ("size", "in_file"), [(1, False), (INLINE, False), (INLINE + 1, True), (CHUNK_BYTES, True), (CHUNK_BYTES + 1, True), (MOST, True)]
)
@pytest.mark.parametrize("piece", [997, 65536, MOST])
def test_a_body_is_the_same_before_and_after_wherever_it_was_kept(size: int, in_file: bool, piece: int) -> None:
    data = os.urandom(size)
    recorder = OpenBodies()

    body = receive(recorder, *(data[at : at + piece] for at in range(0, size, piece)))

    assert body is not None
    assert (body.size, body.digest) == (size, hashlib.sha512(data).digest())
    assert (body.inline is None, len(recorder.inodes), body.file) == (in_file, int(in_file), 1 if in_file else None)
    assert content(body) == data


@given(st.lists(st.binary(max_size=INLINE), max_size=8))
def test_pieces_do_not_matter(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)

    body = receive(OpenBodies(), *pieces)

    if not pieces:
        assert body is None
    else:
        assert body is not None
        assert (body.size, body.digest, content(body)) == (len(whole), hashlib.sha512(whole).digest(), whole)


def test_a_message_without_one_byte_of_body_has_no_body() -> None:
    assert receive(OpenBodies()) is None


@pytest.mark.case("T44")
@pytest.mark.parametrize("pieces", [(b"a" * (MOST + 1),), (b"a" * MOST, b"a")], ids=["at once", "one byte more"])
def test_a_body_beyond_the_limit_is_refused_and_its_file_closed(pieces: tuple[bytes, ...]) -> None:
    recorder = OpenBodies()

    with pytest.raises(BodyOversizedError) as refused:
        receive(recorder, *pieces)

    assert refused.value.kind == "peer.oversized"
    del refused
    assert recorder.open_files() == 0


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes() -> None:
    asked: list[bytes] = []

    async def next_chunk() -> bytes | None:
        asked.append(b"")
        return None

    with pytest.raises(BodyOversizedError):
        asyncio.run(BodyStore(OpenBodies(), INLINE, MOST).receive(next_chunk, MOST + 1))
    assert asked == []


@pytest.mark.parametrize("begun", [(), (b"a" * 10,), (b"a" * (INLINE + 1),), (b"a" * CHUNK_BYTES, b"b")], ids=len)
def test_a_sender_that_stalls_or_leaves_takes_its_file_with_it(begun: tuple[bytes, ...]) -> None:
    recorder = OpenBodies()

    with pytest.raises(XacbeError) as refused:
        receive(recorder, *begun, then=PeerTimeoutError("the sender stalls"))

    assert refused.value.kind == "peer.timeout"
    del refused
    assert recorder.open_files() == 0


def test_a_body_s_file_stays_open_as_long_as_somebody_holds_the_body_and_no_longer() -> None:
    recorder = OpenBodies()
    body = receive(recorder, b"a" * CHUNK_BYTES)

    assert recorder.open_files() == 1
    del body
    assert recorder.open_files() == 0


def test_a_cancelled_exchange_leaves_no_descriptor() -> None:
    recorder = OpenBodies()

    async def main() -> None:
        sink = BodyStore(recorder, INLINE, MOST).sink()
        await sink.add(b"a" * (INLINE + 1))
        keeping = asyncio.ensure_future(sink.add(b"b" * CHUNK_BYTES))
        await asyncio.sleep(0)
        keeping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await keeping

    asyncio.run(main())
    assert recorder.open_files() == 0


def _away(recorder: OpenBodies) -> None:
    recorder.away = True


def test_without_the_recorder_small_bodies_pass_and_large_ones_wait_for_it() -> None:
    recorder = OpenBodies()
    _away(recorder)

    assert receive(recorder, b"a" * INLINE) is not None
    with pytest.raises(UnavailableError) as refused:
        receive(recorder, b"a" * (INLINE + 1))
    assert refused.value.kind == "process.away"


def test_a_full_disk_is_a_full_log() -> None:
    class FullDisk(OpenBodies):
        async def call_for_descriptor(self, operation: str, request: object, answer: type[Any], timeout_s: float = 0) -> tuple[Any, int]:
            return BodyFile(1, os.urandom(KEY_BYTES)), os.open("/dev/full", os.O_RDWR)

    with pytest.raises(UnavailableError) as refused:
        receive(FullDisk(), b"a" * (CHUNK_BYTES + 1))
    assert refused.value.kind == "log.full"


def test_a_receiver_that_has_heard_enough_is_sent_no_more() -> None:
    body = receive(OpenBodies(), b"a" * MOST)
    assert body is not None
    sent: list[bytes] = []

    async def drain() -> None:
        await asyncio.sleep(0)

    asyncio.run(BodyStore(OpenBodies(), INLINE, MOST).send(body, sent.append, drain, lambda: len(sent) == 1))

    assert len(sent) == 1


@pytest.mark.parametrize("left", [0, 10, 65552, 2 * 65552])
def test_a_file_shorter_than_its_body_stops_the_exchange(left: int) -> None:
    body = receive(OpenBodies(), b"a" * CHUNK_BYTES)
    assert body is not None
    assert body.content is not None
    os.ftruncate(body.content.fileno(), left)

    with pytest.raises((RuntimeError, BodySealBrokenError), match="shorter|does not open"):
        content(body)


@pytest.mark.case("T52")
def test_no_byte_of_a_large_body_is_in_its_file_in_clear_and_none_that_was_changed_is_sent_on() -> None:
    body = receive(OpenBodies(), b"victim's name " * 30_000)
    assert body is not None
    assert body.content is not None
    lies = os.pread(body.content.fileno(), 1 << 20, 0)
    assert b"victim" not in lies
    os.pwrite(body.content.fileno(), bytes([lies[70_000] ^ 1]), 70_000)

    with pytest.raises(BodySealBrokenError):
        content(body)


def test_the_reader_s_digest_is_taken_where_it_has_one() -> None:
    async def main(hashing: bool, size: int, digest: bytes | None) -> Body:
        sink = BodyStore(OpenBodies(), INLINE, MOST).sink(hashing=hashing)
        await sink.add(b"a" * size)
        return await sink.end(digest)

    given_digest = hashlib.sha512(b"a" * (INLINE + 1)).digest()
    assert asyncio.run(main(False, INLINE + 1, given_digest)).digest == given_digest
    with pytest.raises(RuntimeError, match="without its digest"):
        asyncio.run(main(False, INLINE + 1, None))


@pytest.fixture(autouse=True, scope="module")
def no_descriptor_is_left() -> Iterator[None]:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    yield
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before
