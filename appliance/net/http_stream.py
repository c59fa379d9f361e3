"""What server and client connections share: one HTTP/1.1 stream with back-pressure and deadlines.

One task uses a stream at a time. Data that arrive wake it; what it has not taken yet is bounded, then the socket is not read. It waits
with a deadline or not at all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import PeerProtocolError, UnavailableError, XacbeError
from appliance.net.deadlines import NEVER, Deadlines
from appliance.net.http1 import Event, Head, HeadLimits, MalformedError, OversizedError, RequestReader, ResponseReader
from appliance.net.tls_engine import Peer, Transport

BUFFERED_BYTES_MAX = 256 << 10
"""Received and not taken: above it the socket is not read. Also how much may wait to be sent before `drain` waits."""
BUFFERED_BYTES_LOW = 64 << 10
PROGRESS_BYTES = 16 << 10
"""So much of a body renews its time limit. A byte now and then does not (T42)."""


class PeerClosedError(UnavailableError):
    """The other side ended the connection in the middle of a message."""

    kind = "peer.closed"


class PeerTimeoutError(UnavailableError):
    """The other side was too slow: a head, a body, or taking what we send."""

    kind = "peer.timeout"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """Bounds of one connection, in bytes and seconds; the settings of the relay have the same names."""

    head: HeadLimits = field(default_factory=HeadLimits)
    head_s_max: float = 10
    """From the first byte of a request to the end of its head."""
    body_stall_s_max: float = 30
    """Time spent waiting for PROGRESS_BYTES of a body, or for the peer to take what we send."""
    idle_s_max: float = 60
    """Between two requests."""


class HttpStream(asyncio.Protocol):
    """One connection. `deadline` and `expired` belong to Deadlines; `on_lost` tells the owner, once, that the socket is gone."""

    __slots__ = (
        "_buffered", "_chunks", "_closing", "_complete", "_deadlines", "_deaf", "_ended", "_error", "_head", "_limits", "_loop", "_on_lost",
        "_patience_s", "_progress", "_read_paused", "_reader", "_transport", "_waiter", "_write_paused", "deadline", "lost", "peer",
    )  # fmt: skip

    def __init__(
        self,
        reader: RequestReader | ResponseReader,
        peer: Peer,
        limits: StreamLimits,
        deadlines: Deadlines,
        on_lost: Callable[[Any], None],
    ) -> None:
        self.peer = peer
        self._reader, self._limits, self._deadlines, self._on_lost = reader, limits, deadlines, on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: Transport
        self._head: Head | None = None
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = self._ended = self._closing = False
        self._deaf = False
        """What arrives now is not for us: the connection is closing, broken, or idle in a pool."""
        self._read_paused = self._write_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._error: XacbeError | None = None
        self._patience_s = limits.body_stall_s_max
        self._progress = 0
        self.lost = False
        self.deadline = NEVER

    @property
    def idle(self) -> bool:
        """No message is under way whose head has arrived, and the last answer has left: somebody may be slow to take it."""
        return self._head is None and not self._transport.get_write_buffer_size()

    def attach(self, transport: Transport) -> None:
        """Stands on this transport from now on."""
        self._transport = transport
        self._deadlines.add(self)

    # From the transport

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._unwanted(data)
            return
        try:
            events = self._reader.feed(data)
        except PeerProtocolError as error:
            self._fail(error)
            return
        self._progress += len(data)
        if not events:
            self._part_arrived()
        else:
            self._take(events)
            if self._waiter is not None:
                self._wake()
        if self._buffered + self._reader.held_bytes > BUFFERED_BYTES_MAX and not self._read_paused:
            self._read_paused = True
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        """A plain transport's end; it stays open for what we still have to say."""
        self.stream_ended(True)
        return True

    def stream_ended(self, clean: bool) -> None:
        """No more data will come; `clean` is False where TLS was cut instead of closed."""
        self._ended = True
        try:
            events = self._reader.end_of_stream()
        except MalformedError:
            self._fail(PeerClosedError("the connection ended in the middle of a message"))
            return
        if events and not clean:
            self._fail(PeerClosedError("the connection was cut: the body may be incomplete"))
            return
        self._take(events)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = self._ended = True
        self._deadlines.discard(self)
        if self._error is None:
            reason = f": {exc}" if exc is not None else ""
            self._error = exc if isinstance(exc, XacbeError) else PeerClosedError(f"the connection was lost{reason}")
        self._wake()
        self._on_lost(self)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._wake()

    def expired(self) -> None:
        """Whoever waits learns that the peer was too slow; the connection is over."""
        self._fail(PeerTimeoutError("the peer was too slow"))
        self._transport.abort()

    # For the one task that uses the stream

    async def next_chunk(self) -> bytes | None:
        """The next piece of the body, or None at its end. Raises PeerClosedError, PeerTimeoutError, MalformedError."""
        while True:
            if self._chunks:
                data = self._chunks.popleft()
                self._buffered -= len(data)
                if self._read_paused and self._buffered <= BUFFERED_BYTES_LOW:
                    self._resume_reading()
                return data
            if self._complete:
                return None
            if self._error is not None:
                raise self._error
            await self._wait_for_body()

    async def read_body(self, limit: int) -> bytes:
        """The whole body. Raises OversizedError above `limit` bytes, as early as it is known, and what `next_chunk` raises."""
        head = self._head
        if head is not None and head.body_bytes > limit:
            raise OversizedError(f"body of {head.body_bytes} bytes, at most {limit}")
        if self._complete and len(self._chunks) <= 1:  # small bodies come with their head
            body = self._chunks.popleft() if self._chunks else b""
            self._buffered = 0
            if len(body) > limit:
                raise OversizedError(f"body of {len(body)} bytes, at most {limit}")
            return body
        pieces, size = [], 0
        while (piece := await self.next_chunk()) is not None:
            size += len(piece)
            if size > limit:
                raise OversizedError(f"body of more than {limit} bytes")
            pieces.append(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        """Sends, or keeps until it can be sent. On a connection that is gone nothing happens: `drain` and all reads raise."""
        if not self.lost:
            self._transport.write(data)

    async def drain(self) -> None:
        """Waits while more than BUFFERED_BYTES_MAX is unsent. Raises PeerClosedError, PeerTimeoutError."""
        if not self._write_paused and self._error is None:
            return
        until = self._loop.time() + self._limits.body_stall_s_max
        while self._write_paused and self._error is None and not self._answered_early():
            await self._wait(until)
        if self._error is not None and not self._answered_early():
            raise self._error

    def close(self) -> None:
        """Sends what is unsent, says goodbye and closes, within `body_stall_s_max`."""
        if not (self._closing or self.lost):
            self._closing = self._deaf = True
            self.deadline = self._loop.time() + self._limits.body_stall_s_max
            self._transport.close()
        self._wake()

    def abort(self) -> None:
        """Closes at once; what is unsent is lost."""
        self._closing = self._deaf = True
        if not self.lost:
            self._transport.abort()

    # Inside

    def _unwanted(self, data: bytes) -> None:
        """Data while `_deaf`."""

    def _part_arrived(self) -> None:
        """Bytes that complete nothing yet; whoever waits goes on waiting."""

    def _answered_early(self) -> bool:
        return False

    def _take(self, events: list[Event]) -> None:
        for event in events:
            if event is None:
                self._complete = True
            elif isinstance(event, bytes):
                self._chunks.append(event)
                self._buffered += len(event)
            else:
                self._head = event

    def _next_message(self) -> None:
        """Forgets the message that was read to its end."""
        self._head, self._complete = None, False
        self._buffered = self._progress = 0
        self._patience_s = self._limits.body_stall_s_max
        try:
            events = self._reader.next_message()
        except PeerProtocolError as error:
            self._fail(error)
        else:
            if events:
                self._take(events)
        if self._read_paused:
            self._resume_reading()

    def _resume_reading(self) -> None:
        self._read_paused = False
        if not self.lost:
            self._transport.resume_reading()

    def _fail(self, error: XacbeError) -> None:
        if self._error is None:
            self._error, self._deaf = error, True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self, until: float) -> None:
        """Until anything happens, or the deadline, in the loop's time."""
        self.deadline = until
        waiter = self._waiter = self._loop.create_future()
        try:
            await waiter
        finally:
            self._waiter, self.deadline = None, NEVER

    async def _wait_for_body(self) -> None:
        """Only time spent waiting counts: whoever is slow to take the body does not use up the peer's patience."""
        begin = self._loop.time()
        await self._wait(begin + self._patience_s)
        if self._progress >= PROGRESS_BYTES:
            self._patience_s, self._progress = self._limits.body_stall_s_max, 0
        else:
            self._patience_s -= self._loop.time() - begin
