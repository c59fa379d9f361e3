"""Bodies on their way through the relay: small ones in memory, large ones in an unnamed file of the message log.

A body is received completely before it is sent on (store and forward), so a slow sender holds nobody else and nothing unverified is ever
passed on. Memory stays bounded: at most `inline_bytes_max`, or one chunk being written or read. Disk, hash and cipher work on large bodies
is done in worker threads, which release the interpreter. What lies in the file is encrypted under a key that dies with the exchange here
and lives in the log's record only (`messagelog.stream`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable

from appliance.errors import PeerProtocolError, UnavailableError
from appliance.exchange.ports import Body
from appliance.messagelog import stream
from appliance.messagelog.stream import BodyCipher
from appliance.messagelog.wire import BodyFile, DropBody, OpenBody
from appliance.net.local_client import LocalClient

CHUNK_BYTES = 256 << 10
"""One trip to a worker thread (some 30 us) for each quarter MiB: below 1 % of the hash's own time."""

NextChunk = Callable[[], Awaitable[bytes | None]]


class BodyOversizedError(PeerProtocolError):
    """A body is larger than the settings allow."""

    kind = "peer.oversized"


class BodyContent:
    """An open body file. Closes with its last reference, like a file object, but without a warning: that is its way to end.

    `on_closed` is called then, in whatever thread let it go.
    """

    __slots__ = ("_descriptor", "_on_closed", "cipher")

    def __init__(self, descriptor: int, key: bytes, on_closed: Callable[[], None]) -> None:
        self._descriptor, self._on_closed, self.cipher = descriptor, on_closed, BodyCipher(key)

    def fileno(self) -> int:
        return self._descriptor

    def read(self, at: int, count: int, size: int) -> bytes:
        """Bytes `at` to `at + count` of a body of `size` bytes. Raises BodySealBrokenError where the file is not what was written."""
        first, end = at // stream.CHUNK_BYTES, stream.chunks_of(at + count)
        sealed = os.pread(self._descriptor, (end - first) * stream.SEALED_CHUNK_BYTES, first * stream.SEALED_CHUNK_BYTES)
        skipped = at - first * stream.CHUNK_BYTES
        return self.cipher.open(sealed, first, size=size)[skipped : skipped + count]

    def __del__(self) -> None:
        os.close(self._descriptor)
        self._on_closed()


class BodySink:
    """Takes one body, piece by piece: `add` while it comes, then `end` once, or `drop`."""

    def __init__(self, recorder: LocalClient, inline_bytes_max: int, body_bytes_max: int, *, hashing: bool) -> None:
        self._recorder, self._inline_max, self._max = recorder, inline_bytes_max, body_bytes_max
        self._digest = hashlib.sha512() if hashing else None
        self._pending: list[bytes] = []
        self._pending_bytes = self._kept_bytes = 0
        self._file: int | None = None
        self._content: BodyContent | None = None

    async def add(self, data: bytes) -> None:
        """Waits while the disk takes what is more than a chunk: that is the back-pressure. Raises BodyOversizedError, log.full."""
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._kept_bytes + self._pending_bytes > self._max:
            raise BodyOversizedError(f"a body of more than {self._max} bytes")
        if self._content is None and self._pending_bytes > self._inline_max:
            file, descriptor = await self._recorder.call_for_descriptor("open_body", OpenBody(None), BodyFile)
            self._file, self._content = file.body, BodyContent(descriptor, file.key, self._given_up(file.body))
        if self._content is not None and self._pending_bytes > CHUNK_BYTES:
            await self._keep()

    async def end(self, digest: bytes | None = None) -> Body:
        """The complete body; `digest` where the caller has computed it."""
        if self._content is None:
            data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
            return Body(len(data), digest or hashlib.sha512(data).digest(), inline=data)
        await self._keep(last=True)
        found = digest or (self._digest.digest() if self._digest is not None else None)
        if found is None:
            raise RuntimeError("a body without its digest")
        return Body(self._kept_bytes, found, file=self._file, content=self._content)

    def _given_up(self, file: int) -> Callable[[], None]:
        """Tells the recorder that the relay has let go of a body: it frees one that no record claimed, and ignores the others."""
        loop, recorder = asyncio.get_running_loop(), self._recorder

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it the recorder's patience
                loop.call_soon_threadsafe(recorder.tell, "drop_body", DropBody(file))

        return tell

    async def _keep(self, *, last: bool = False) -> None:
        """Whole chunks; what ends the body, or may turn out to, waits for `last`."""
        data = b"".join(self._pending)
        whole = len(data) if last else (len(data) - 1) // stream.CHUNK_BYTES * stream.CHUNK_BYTES
        self._pending, self._pending_bytes = [data[whole:]], len(data) - whole
        data = data[:whole]
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._write, data, last)
        except OSError as error:
            raise UnavailableError(f"the body could not be kept: {error.strerror}", kind="log.full") from None
        self._kept_bytes += len(data)

    def _write(self, data: bytes, last: bool) -> None:
        if self._content is None:
            raise RuntimeError("a body's file is not open")
        if self._digest is not None:
            self._digest.update(data)
        view = memoryview(self._content.cipher.seal(data, self._kept_bytes // stream.CHUNK_BYTES, last=last))
        while view:
            view = view[os.write(self._content.fileno(), view) :]


class BodyStore:
    """Receives and sends bodies for one relay."""

    def __init__(self, recorder: LocalClient, inline_bytes_max: int, body_bytes_max: int) -> None:
        self._recorder, self._inline_max, self._max = recorder, inline_bytes_max, body_bytes_max

    @property
    def body_bytes_max(self) -> int:
        """The largest body: a REST body, or all attachments of a SOAP message."""
        return self._max

    def sink(self, *, hashing: bool = True) -> BodySink:
        return BodySink(self._recorder, self._inline_max, self._max, hashing=hashing)

    async def receive(self, next_chunk: NextChunk, expected: int | None = None) -> Body | None:
        """Everything until `next_chunk` gives None; None where not one byte came (sheet 3.5: then there is no body part)."""
        if expected is not None and expected > self._max:
            raise BodyOversizedError(f"a body of {expected} bytes, at most {self._max}")
        chunk = await next_chunk()
        if chunk is None:
            return None
        sink = self.sink()
        while chunk is not None:
            await sink.add(chunk)
            chunk = await next_chunk()
        return await sink.end()

    async def send(
        self,
        body: Body,
        write: Callable[[bytes], None],
        drain: Callable[[], Awaitable[None]],
        stop: Callable[[], bool] = lambda: False,
        at: int = 0,
        end: int | None = None,
    ) -> None:
        """Writes the body from `at` to `end` (all of it), waiting whenever the other side is slower than the disk; ends early when `stop`
        says so.
        """
        end = body.size if end is None else end
        if body.inline is not None:
            write(body.inline if end - at == body.size else body.inline[at:end])
            await drain()
            return
        if body.content is None:
            raise RuntimeError("a body in a file without its file")
        loop = asyncio.get_running_loop()
        while at < end and not stop():
            chunk = await loop.run_in_executor(None, body.content.read, at, min(CHUNK_BYTES, end - at), body.size)
            if not chunk:
                raise RuntimeError("a body's file is shorter than the body")
            at += len(chunk)
            write(chunk)
            await drain()
