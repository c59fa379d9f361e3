"""An answer that the box gives to an information system by itself: whole, or as a stream of unknown length.

A stream is written by worker threads (compression, decryption) through `Pipe`, which holds them back whenever the reader is slower.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from appliance.net import http1
from appliance.net.connection import ServerConnection
from appliance.net.http1 import RequestHead

CHUNK_BYTES = 256 << 10
SEND_S_MAX = 90.0
"""For one piece; the connection's own limit for a reader that stalls ends it long before."""


class LocalAnswer:
    """The answer to one request. Once `begun`, only its own end or the end of the connection can follow."""

    def __init__(self, connection: ServerConnection, head: RequestHead) -> None:
        self._connection = connection
        self._chunked = head.http_minor >= 1
        self.keep = head.keep_alive and head.body_bytes == 0
        """The connection can be used again: nothing of the request is unread."""
        self.begun = False

    def give(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """A whole answer."""
        self._begin(status, [*headers, (b"Content-Length", b"%d" % len(body))])
        self._connection.write(body)

    def open(self, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Status 200 and a stream: in chunks, or for HTTP/1.0 until the connection's end."""
        if not self._chunked:
            self.keep = False
        self._begin(200, [*headers, *([(b"Transfer-Encoding", b"chunked")] if self._chunked else [])])

    async def send(self, data: bytes) -> None:
        """A piece of the stream; waits for a slow reader. Raises PeerClosedError, PeerTimeoutError."""
        if data:
            self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
            await self._connection.drain()

    async def close(self) -> None:
        """The stream was sent whole; without this the reader knows that it was not."""
        if self._chunked:
            self._connection.write(b"0\r\n\r\n")
        await self._connection.drain()

    def _begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.begun = True
        if not self.keep:
            headers.append((b"Connection", b"close"))
        self._connection.write(http1.response_head(status, headers))


class Pipe:
    """A file to write to, for threads; what is written goes out in pieces. Cannot seek or tell, as a ZIP writer finds out by itself."""

    def __init__(self, answer: LocalAnswer) -> None:
        self._answer, self._loop = answer, asyncio.get_running_loop()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._over = False

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        """What a ZIP writer wants to write when it is let go after a failure goes nowhere: it would do so in the loop's own thread."""
        self._over = True

    def write(self, data: bytes) -> int:
        """Raises PeerClosedError, PeerTimeoutError, TimeoutError."""
        if self._over:
            return len(data)
        self._held.append(bytes(data))
        self._held_bytes += len(data)
        if self._held_bytes >= CHUNK_BYTES:
            self.push()
        return len(data)

    def flush(self) -> None:
        """ZIP writers ask for it behind every entry: small entries share a piece all the same."""

    def push(self) -> None:
        """What is held goes out; from a thread."""
        data, self._held, self._held_bytes = b"".join(self._held), [], 0
        asyncio.run_coroutine_threadsafe(self._answer.send(data), self._loop).result(SEND_S_MAX)
