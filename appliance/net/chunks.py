"""Chunked bodies of HTTP/1.1, both ways.

Pure. Our own decoder, not llhttp's: llhttp does not tell where a body ended, and whoever serves pipelined requests must know to the byte.
Strict (T03): CRLF only, hexadecimal digits only, extensions and trailers bounded and dropped.
"""

from __future__ import annotations

import re

from appliance.errors import PeerProtocolError

EXTENSION_BYTES_MAX = 128
"""Of one chunk line. Nobody we know sends extensions; a long one is an attack on whoever buffers it."""
TRAILER_BYTES_MAX = 8 << 10
SMALL_CHUNKS_MAX = 4096
CHUNK_BYTES_AVERAGE_MIN = 32
"""Past SMALL_CHUNKS_MAX chunks their average size must reach this: a megabyte of one-byte chunks would hold up the loop for 0.2 s."""

LAST_CHUNK = b"0\r\n\r\n"

_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]{0,16};[\t\x20-\x7e]{0,%d})?\r\n" % EXTENSION_BYTES_MAX)
_LINE_BYTES_MAX = 15 + 16 + 1 + EXTENSION_BYTES_MAX + 2
_TRAILER = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n)+\r\n")


class MalformedError(PeerProtocolError):
    """Bytes that are not HTTP/1.1 as we accept it. `status` is what a server answers before it closes."""

    kind = "http.malformed"

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


def chunk(data: bytes) -> bytes:
    """One whole chunk; copies `data`. Nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


class ChunkReader:
    """Takes the chunks apart. Invariant: any cut of the same bytes gives the same body and the same end."""

    __slots__ = ("_body_bytes", "_chunks", "_held", "_in_trailer", "_left")

    def __init__(self) -> None:
        self._held = b""
        self._left = 0
        """Of the current chunk, CRLF included: 2 means that the data are complete and CRLF is due."""
        self._in_trailer = False
        self._chunks = self._body_bytes = 0

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """The body's bytes in `data`, and what follows the body, or None while it goes on. Raises MalformedError."""
        if self._left - 2 >= len(data) and not self._held:  # the middle of a large chunk: no copy
            self._left -= len(data)
            return data, None
        data, self._held = self._held + data, b""
        if self._in_trailer:
            return b"", self._trailer(data, 0)
        return self._chunks_in(data)

    def _chunks_in(self, data: bytes) -> tuple[bytes, bytes | None]:
        pieces: list[bytes] = []
        at, size, rest = 0, len(data), None
        while True:
            if self._left:
                at = self._chunk_data(data, at, pieces)
                if self._left:
                    break
            line = _LINE.match(data, at)
            if line is None:
                self._hold_line(data[at:])
                break
            at = line.end()
            count = int(line[1], 16)
            if not count:
                self._in_trailer = True
                rest = self._trailer(data, at)
                break
            self._left = count + 2
            self._check_average(count)
            if at == size:
                break
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), rest

    def _chunk_data(self, data: bytes, at: int, pieces: list[bytes]) -> int:
        """Takes the current chunk's data and its CRLF; where it stopped. `_left` is 0 once both are complete."""
        available = len(data) - at
        if self._left > 2:
            wanted = self._left - 2
            taken = min(wanted, available)
            if taken:
                pieces.append(data[at : at + taken])
            self._left -= taken
            at += taken
            available -= taken
            if taken < wanted:
                return at
        ending = data[at : at + 2]
        if ending == b"\r\n":
            self._left = 0
            return at + 2
        if ending not in (b"", b"\r"):
            raise MalformedError("no CRLF after a chunk")
        self._held = ending
        return at + available

    def _check_average(self, count: int) -> None:
        self._chunks += 1
        self._body_bytes += count
        if self._chunks > SMALL_CHUNKS_MAX and self._body_bytes < self._chunks * CHUNK_BYTES_AVERAGE_MIN:
            raise MalformedError(f"{self._chunks} chunks for {self._body_bytes} bytes")

    def _hold_line(self, rest: bytes) -> None:
        if b"\n" in rest or len(rest) >= _LINE_BYTES_MAX:
            raise MalformedError("not a chunk line")
        self._held = rest

    def _trailer(self, data: bytes, at: int) -> bytes | None:
        """What follows the trailer that begins at `at`, or None while it is incomplete. Its fields are dropped: nobody asked for them."""
        if data.startswith(b"\r\n", at):
            return data[at + 2 :]
        end = data.find(b"\r\n\r\n", at, at + TRAILER_BYTES_MAX)
        if end >= 0:
            if _TRAILER.fullmatch(data, at, end + 4) is None:
                raise MalformedError("not a trailer")
            return data[end + 4 :]
        held = data[at : at + TRAILER_BYTES_MAX]
        if len(held) == TRAILER_BYTES_MAX or held.count(b"\n") != held.count(b"\r\n"):
            raise MalformedError("not a trailer, or too long")
        self._held = held
        return None
