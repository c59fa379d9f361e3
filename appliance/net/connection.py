"""HTTP/1.1 connections as a task sees them: a server's and a client's.

A server answers pipelined requests one after the other: the next one is not even parsed before `request` is called again. A client learns
that the answer has begun while it still sends, so that it can stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from appliance.net import http1
from appliance.net.deadlines import NEVER, Deadlines
from appliance.net.http1 import RequestHead, RequestReader, ResponseHead, ResponseReader
from appliance.net.http_stream import BUFFERED_BYTES_MAX, HttpStream, PeerClosedError, PeerTimeoutError, StreamLimits
from appliance.net.tls_engine import Peer, Transport

__all__ = ["ClientConnection", "PeerClosedError", "PeerTimeoutError", "ServerConnection", "StreamLimits"]

DISCARDED_BYTES_MAX = 256 << 10
"""Of a body that the handler did not want; the connection of a longer one is closed instead."""
LINGER_S = 2.0
"""For the peer to read an answer that came before its request ended; closing at once would make the kernel drop the answer."""
LINGER_BYTES_MAX = 4 << 20


class ServerConnection(HttpStream):
    """A connection that somebody made to us. The handler calls `request` until it gives None, and answers each before the next."""

    __slots__ = ("_answering", "_continue_due", "_discarded", "_given", "_head_begun", "_lingering", "_stopping")

    def __init__(self, peer: Peer, limits: StreamLimits, deadlines: Deadlines, on_lost: Callable[[ServerConnection], None]) -> None:
        super().__init__(RequestReader(limits.head), peer, limits, deadlines, on_lost)
        self._given: RequestHead | None = None
        self._answering = self._continue_due = self._head_begun = self._lingering = self._stopping = False
        self._discarded = 0

    @property
    def stopping(self) -> bool:
        """No further request will be taken: the answer should say `Connection: close`."""
        return self._stopping

    async def request(self) -> RequestHead | None:
        """The next request, or None when there will be none. What the handler left of the previous body is skipped.

        Raises MalformedError, OversizedError, PeerClosedError, PeerTimeoutError (kinds http.malformed, peer.oversized, peer.closed,
        peer.timeout); the peer's silence between requests is None.
        """
        if self._given is not None and not (self._go_on() or await self._skip_and_go_on()):
            return None
        self._head_begun = False
        while self._head is None:
            if self._stopping or self._closing or (self._ended and self._reader.between_messages):
                return None
            if self._error is not None:
                raise self._error
            idle = self._reader.between_messages
            await self._wait(self._loop.time() + (self._limits.idle_s_max if idle else self._limits.head_s_max))
        head = self._head
        if not isinstance(head, RequestHead):
            raise RuntimeError("a response on a server's connection")
        self._given = head
        self._continue_due = head.expects_continue and not self._complete
        return head

    async def next_chunk(self) -> bytes | None:
        if self._continue_due:
            self._continue_due = False
            self._transport.write(http1.CONTINUE)
        return await super().next_chunk()

    def write(self, data: bytes) -> None:
        self._answering = True
        if not self.lost:
            self._transport.write(data)

    def refuse(self, answer: bytes) -> None:
        """Sends a whole answer that says `Connection: close`, unless another has begun, and closes."""
        if not self._answering:
            self.write(answer)
        self.close()

    def stop(self) -> None:
        """Takes no further request; one that runs may end."""
        self._stopping = True
        self._wake()

    def close(self) -> None:
        """Sends what is unsent and closes; while the peer still sends a request, only after it had time to read the answer."""
        unread = self._error is not None or (self._given is not None and not self._complete)
        if self._closing or self.lost or self._ended or not unread:
            super().close()
            return
        self._closing = self._deaf = self._lingering = True
        self._transport.write_eof()
        self._resume_reading()
        self._chunks.clear()
        self.deadline = self._loop.time() + LINGER_S

    def _unwanted(self, data: bytes) -> None:
        if self._lingering:
            self._discarded += len(data)
            if self._discarded > LINGER_BYTES_MAX:
                self._transport.abort()

    def _part_arrived(self) -> None:
        if self._head is None and not self._head_begun and self._waiter is not None:
            # From its first byte a head has a limit of its own; later bytes do not move it (T42).
            self._head_begun = True
            self.deadline = self._loop.time() + self._limits.head_s_max

    def stream_ended(self, clean: bool) -> None:
        if self._closing:
            self._transport.close()
        else:
            super().stream_ended(clean)

    def expired(self) -> None:
        if self._closing or (self._head is None and self._reader.between_messages):
            self._closing = self._deaf = True  # idle, or not taking our goodbye: nothing to report
            self._transport.abort()
            self._wake()
        else:
            super().expired()

    def _go_on(self) -> bool:
        """To the next request, where the previous one was read to its end and the connection is kept."""
        given = self._given
        if not self._complete or self._chunks or self._stopping or given is None or not given.keep_alive:
            return False
        self._given, self._answering = None, False
        self._next_message()
        return True

    async def _skip_and_go_on(self) -> bool:
        """The same after skipping what is left of the previous request's body. False where the connection cannot go on."""
        if self._given is None or not self._given.keep_alive or self._continue_due or self._stopping:
            return False
        skipped = 0
        while (piece := await self.next_chunk()) is not None:
            skipped += len(piece)
            if skipped > DISCARDED_BYTES_MAX:
                return False
        return self._go_on()


class ClientConnection(HttpStream):
    """A connection that we made. One exchange at a time: `start`, `write` and `drain` ... `finish`, `response`, the body, `release`."""

    __slots__ = ("_in_exchange", "_responses", "_sent", "context", "key", "session_kept")

    def __init__(
        self,
        peer: Peer,
        limits: StreamLimits,
        deadlines: Deadlines,
        on_lost: Callable[[ClientConnection], None],
        key: Any = None,
        context: Any = None,
    ) -> None:
        """`key` and `context` belong to whoever made the connection."""
        self._responses = ResponseReader(limits.head)
        super().__init__(self._responses, peer, limits, deadlines, on_lost)
        self._deaf = True
        self.key, self.context = key, context
        self.session_kept = False
        self._in_exchange = False
        self._sent = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Of a connection without TLS: stands on the transport before its first event, which may be its end."""
        raw: Any = transport
        raw.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
        self.attach(raw)

    @property
    def transport(self) -> Transport:
        return self._transport

    @property
    def exchange_over(self) -> bool:
        """The request was sent and the answer received, each to its end."""
        return not self._in_exchange or (self._sent and self._complete)

    @property
    def reusable(self) -> bool:
        """The exchange is over on both sides and the peer keeps the connection open, as far as we know."""
        if self.lost or self._ended or self._closing or self._error is not None:
            return False
        if not self._in_exchange:
            return True
        if self._reader.held_bytes:  # an answer to nothing
            return False
        return self._sent and self._complete and not self._chunks and self._head is not None and self._head.keep_alive

    @property
    def response_started(self) -> bool:
        """The answer's head is here: whoever still sends a request may stop."""
        return self._head is not None

    def start(self, method: bytes, data: bytes, *, more: bool = False) -> None:
        """Sends the beginning of a request (head, perhaps all of it); with `more` until `finish`.

        Raises PeerClosedError where the peer has gone meanwhile: no byte was sent then, another connection may be tried.
        """
        if self._in_exchange and not (self.exchange_over or self.lost):
            raise RuntimeError("the previous exchange is not over")
        if not self.reusable:
            raise PeerClosedError("the connection was closed while it was idle")
        if self._in_exchange:
            self._next_message()
        self._in_exchange, self._sent, self._deaf = True, not more, False
        self.deadline = NEVER
        self._responses.expect_answer_to(method)
        self.write(data)

    def finish(self, data: bytes = b"") -> None:
        """The request's last bytes."""
        if data:
            self.write(data)
        self._sent = True

    async def response(self, timeout_s: float) -> ResponseHead:
        """The answer's head, within `timeout_s`. Raises PeerTimeoutError, PeerClosedError, TlsRejectedError, MalformedError."""
        if self._head is None:
            until = self._loop.time() + timeout_s
            while self._head is None:
                if self._error is not None:
                    raise self._error
                if self._ended:
                    raise PeerClosedError("the connection ended before the answer")
                await self._wait(until)
        head = self._head
        if not isinstance(head, ResponseHead):
            raise RuntimeError("a request on a client's connection")
        return head

    def rest(self, until: float) -> None:
        """Idle in a pool until then (the loop's time), or until the peer says anything at all."""
        if self._in_exchange:
            self._in_exchange = False
            self._next_message()
        self._deaf = True
        self.deadline = until

    def _unwanted(self, data: bytes) -> None:
        if not self._in_exchange:
            self.abort()  # an answer to nothing

    def stream_ended(self, clean: bool) -> None:
        super().stream_ended(clean)
        if not self._in_exchange:
            self.close()

    def expired(self) -> None:
        if self._in_exchange and not self._closing:
            super().expired()
        else:
            self.abort()

    def _answered_early(self) -> bool:
        return self._head is not None
