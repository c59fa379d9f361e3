"""Multipart messages as X-Road frames them: an incremental reader that never copies a body twice, and the pieces to write one.

Pure. Sheet 3.7. The first boundary has no line end before it; with every other one the line end in front of it goes away. Bodies are
binary, nothing is decoded. Line ends may be CRLF or LF, as in X-Road's own decoder (its samples of 2013 have LF): a boundary takes one
LF and the CR before it. A nested multipart is the body of a part, read by a second reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import msgspec

from appliance.errors import PeerProtocolError

OUTSIDE_BYTES_MAX = 64
"""Blank bytes before the first and after the last boundary: messages between boxes have at most two line ends there."""
PADDING_BYTES_MAX = 64
"""Spaces and tabs between a boundary and its line end (RFC 2046 allows them, nobody writes them)."""
BOUNDARY_LETTERS = 30
_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LETTER_OF = bytes(_LETTERS[byte % 52] for byte in range(256))
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HEADERS_END = re.compile(rb"\n\r?\n")
_PARAMETER = re.compile(r'\s*([^\s=;"]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;"]*)\s*(?:;|$)', re.DOTALL)

Header = tuple[bytes, bytes]
Hold = Callable[[int], None]
"""Told of every byte that a reader keeps in memory, before it keeps it; may raise."""


class MultipartMalformedError(PeerProtocolError):
    """Not multipart: boundaries, headers of a part, or the bytes outside the parts."""

    kind = "multipart.malformed"


class PartOversizedError(PeerProtocolError):
    """More than we are ready to read. `part` names what was too large."""

    kind = "peer.oversized"

    def __init__(self, part: str, bytes_max: int) -> None:
        super().__init__(f"{part}: more than {bytes_max} bytes")
        self.part = part


class TooManyPartsError(PeerProtocolError):
    """More parts than such a message can have."""

    kind = "multipart.too_many_parts"


class PartBegan(msgspec.Struct, frozen=True):
    """A part: its headers with names as received and values without surrounding blanks; `raw` is the block, to be passed on verbatim."""

    headers: tuple[Header, ...]
    raw: bytes

    @property
    def content_type(self) -> bytes:
        """The Content-Type as received, empty where there is none. Raises MultipartMalformedError when there are two."""
        return content_type_in(self.headers)


class PartData(msgspec.Struct, frozen=True):
    """Some bytes of the part's body, never empty."""

    data: bytes


class PartEnded(msgspec.Struct, frozen=True):
    """The part is complete."""


class Finished(msgspec.Struct, frozen=True):
    """The closing boundary was read; only blank bytes may follow."""


MultipartEvent = PartBegan | PartData | PartEnded | Finished

_PART_ENDED, _FINISHED = PartEnded(), Finished()
_PREAMBLE, _HEADERS, _BODY, _EPILOGUE = range(4)


class MultipartReader:
    """Cuts a byte stream into parts. Invariant: any cut of the same bytes gives the same events, but for where PartData is cut.

    Holds back at most one block of part headers, or the bytes that may be the beginning of a boundary. After an error it is of no more use.
    """

    def __init__(self, boundary: bytes, *, part_header_bytes_max: int = 8192, parts_max: int = 16, text_bytes_max: int = 0) -> None:
        """`text_bytes_max`: so much before the first and after the last boundary is passed over (RFC 2046, 5.1.1). Raises
        MultipartMalformedError."""
        if not _BOUNDARY.fullmatch(boundary):
            raise MultipartMalformedError("not a boundary")
        self._dash = b"--" + boundary
        self._delimiter = b"\n--" + boundary
        self._part_header_bytes_max, self._parts_max = part_header_bytes_max, parts_max
        self._held = b""
        self._state = _PREAMBLE
        self._fresh = False
        """No byte of this body was given out yet, and the unread bytes begin with the line end of the part's headers."""
        self._parts = self._outside = 0
        self._outside_max = max(OUTSIDE_BYTES_MAX, text_bytes_max)
        self._text_may_come = text_bytes_max > 0
        self._in_text = False

    def whole(self, data: bytes) -> list[tuple[PartBegan, bytes]] | None:
        """Instead of the first `feed`: every part with its body, where all of a message is in `data`, with the line ends that boxes write.

        None: nothing was read; `feed` does it step by step, and finds what is wrong. Else the stream is at its end.
        """
        first, *pieces = data.split(self._delimiter)
        if not pieces or pieces.pop() != b"--\r\n" or not first.startswith(self._dash) or len(pieces) >= self._parts_max:
            return None
        parts = []
        for piece in (first[len(self._dash) :], *pieces):
            end = _HEADERS_END.search(piece, 1)
            if end is None or piece[:2] != b"\r\n" or piece[-1] != 13 or end.start() - 1 > self._part_header_bytes_max:
                return None
            raw = piece[2 : end.start() + 1]
            parts.append((PartBegan(parse_headers(raw), raw), piece[end.end() : -1]))
        self._state, self._parts, self._outside = _EPILOGUE, len(parts), 2
        return parts

    def feed(self, data: bytes) -> list[MultipartEvent]:
        """The events that are certain now. Raises MultipartMalformedError, PartOversizedError, TooManyPartsError."""
        data = self._held + data if self._held else data
        events: list[MultipartEvent] = []
        at, moved = 0, True
        while moved:
            before, state = at, self._state
            if state == _BODY:
                at = self._body(data, at, events)
            elif state == _HEADERS:
                at = self._headers(data, at, events)
            elif state == _PREAMBLE:
                at = self._preamble(data, at)
            elif self._text_may_come:
                at = self._pass_over(at, len(data))
            else:
                at = self._blank(data, at)
                if at < len(data):
                    raise MultipartMalformedError("bytes after the closing boundary")
            moved = at != before or self._state != state
        self._held = data[at:]
        return events

    def end(self) -> None:
        """The stream has ended. Raises MultipartMalformedError unless the closing boundary was there."""
        if self._state != _EPILOGUE:
            raise MultipartMalformedError("the message ends before its closing boundary")

    def _preamble(self, data: bytes, at: int) -> int:
        if self._in_text:
            found = data.find(self._delimiter, at)
            if found < 0:
                return self._pass_over(at, max(at, len(data) - len(self._delimiter) + 1))
            self._in_text = False
            return self._pass_over(at, found + 1)
        at = self._blank(data, at)
        if not data.startswith(self._dash, at):
            if self._dash.startswith(data[at : at + len(self._dash)]):
                return at
            if not self._text_may_come:
                raise MultipartMalformedError("does not begin with its boundary")
            self._in_text = True
            return self._preamble(data, at)
        follows = self._follows(data, at + len(self._dash))
        if follows == _UNDECIDED:
            return at
        if follows in (_NOT_ONE, _CLOSING):
            raise MultipartMalformedError("does not begin with a part")
        self._begin_part()
        return follows

    def _blank(self, data: bytes, at: int) -> int:
        rest = data[at : at + OUTSIDE_BYTES_MAX + 1]
        blank = len(rest) - len(rest.lstrip(b"\r\n" if self._state == _PREAMBLE else b"\r\n \t"))
        return self._pass_over(at, at + blank)

    def _pass_over(self, at: int, end: int) -> int:
        self._outside += end - at
        if self._outside > self._outside_max:
            raise MultipartMalformedError("too many bytes outside the parts")
        return end

    def _follows(self, data: bytes, at: int) -> int:
        """What stands behind a boundary: _CLOSING, _NOT_ONE, _UNDECIDED, or where the line feed of its line is (the first is 0 or more)."""
        if data.startswith(b"--", at):
            return _CLOSING
        if data.startswith(b"\r\n", at):
            return at + 1
        end = at
        while data[end : end + 1] in (b" ", b"\t"):
            end += 1
            if end - at > PADDING_BYTES_MAX:
                return _NOT_ONE
        if data.startswith(b"\n", end):
            return end
        if data.startswith(b"\r\n", end):
            return end + 1
        rest = data[end : end + 2]
        return _UNDECIDED if rest in (b"", b"\r") or (rest == b"-" and end == at) else _NOT_ONE

    def _begin_part(self) -> None:
        self._parts += 1
        if self._parts > self._parts_max:
            raise TooManyPartsError(f"more than {self._parts_max} parts")
        self._outside = 0
        self._state = _HEADERS

    def _headers(self, data: bytes, at: int, events: list[MultipartEvent]) -> int:
        """`at` is the line feed of the boundary's line, so that a part without headers needs no rule of its own."""
        end = _HEADERS_END.search(data, at)
        size = (end.start() if end else len(data) - 2) - at
        if size > self._part_header_bytes_max:
            raise PartOversizedError("headers of a part", self._part_header_bytes_max)
        if end is None:
            return at
        raw = data[at + 1 : end.start() + 1]
        events.append(PartBegan(parse_headers(raw), raw))
        self._state, self._fresh = _BODY, True
        return end.end() - 1

    def _body(self, data: bytes, at: int, events: list[MultipartEvent]) -> int:
        start = at + 1 if self._fresh else at
        found = data.find(self._delimiter, at)
        while found >= 0:
            follows = self._follows(data, found + len(self._delimiter))
            if follows == _UNDECIDED:
                return self._give_out(data, at, found - 1, events)
            if follows != _NOT_ONE:
                end = found - 1 if found > start and data[found - 1] == 13 else found
                self._give_out(data, at, end, events)
                events.append(_PART_ENDED)
                if follows == _CLOSING:
                    events.append(_FINISHED)
                    self._state = _EPILOGUE
                    return found + len(self._delimiter) + 2
                self._begin_part()
                return follows
            found = data.find(self._delimiter, found + 1)
        return self._give_out(data, at, len(data) - len(self._delimiter), events)

    def _give_out(self, data: bytes, at: int, end: int, events: list[MultipartEvent]) -> int:
        """Gives out the body up to `end`; answers from where on the bytes are still held."""
        start = at + 1 if self._fresh else at
        if end <= start:
            return at
        events.append(PartData(data[start:end]))
        self._fresh = False
        return end


_CLOSING, _NOT_ONE, _UNDECIDED = -1, -2, -3


@lru_cache(maxsize=64)  # every message has the same six blocks; each is at most part_header_bytes_max
def parse_headers(raw: bytes) -> tuple[Header, ...]:
    """The headers of a part: `name:value` lines, any case, with or without a blank after the colon, folded lines joined.

    Raises MultipartMalformedError.
    """
    headers: list[Header] = []
    for line in raw.split(b"\n")[:-1]:
        line = line.removesuffix(b"\r")
        if _CONTROL.search(line):
            raise MultipartMalformedError("a control character in the headers of a part")
        if line[:1] in (b" ", b"\t"):
            if not headers:
                raise MultipartMalformedError("the headers of a part begin with a blank")
            headers[-1] = (headers[-1][0], headers[-1][1] + b" " + line.strip(b" \t"))
            continue
        name, colon, value = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name):
            raise MultipartMalformedError("a part header that is not name:value")
        headers.append((name, value.strip(b" \t")))
    return tuple(headers)


@lru_cache(maxsize=64)
def content_type_in(headers: tuple[Header, ...]) -> bytes:
    """The Content-Type as received, empty where there is none. Raises MultipartMalformedError when there are two."""
    found = [value for name, value in headers if name.lower() == b"content-type"]
    if len(found) > 1:
        raise MultipartMalformedError("a part with two content types")
    return found[0] if found else b""


@lru_cache(maxsize=64)
def media_type(value: bytes) -> str:
    """The type of a Content-Type without its parameters, in lower case; empty where it is not ASCII."""
    return value.partition(b";")[0].strip(b" \t").decode("ascii", "replace").lower()


def parameter(value: bytes, name: str) -> bytes | None:
    """One parameter of a Content-Type, unquoted; None where it is absent. Raises MultipartMalformedError."""
    rest = value.partition(b";")[2].decode("latin-1")
    found: str | None = None
    at = 0
    while rest[at:].strip(" \t;"):
        match = _PARAMETER.match(rest, at)
        if match is None:
            raise MultipartMalformedError("parameters of a content type")
        at = match.end()
        if match[1].lower() != name:
            continue
        if found is not None:
            raise MultipartMalformedError(f"two parameters {name}")
        found = match[2]
    if found is None:
        return None
    if found.startswith('"'):
        found = re.sub(r"\\(.)", r"\1", found[1:-1], flags=re.DOTALL)
    return found.encode("latin-1")


def boundary_of(content_type: bytes) -> bytes:
    """The boundary of a multipart Content-Type. Raises MultipartMalformedError where it has none or a wrong one."""
    boundary = parameter(content_type, "boundary")
    if boundary is None or not _BOUNDARY.fullmatch(boundary):
        raise MultipartMalformedError("a multipart content type without a boundary")
    return boundary


def free(size: int) -> None:
    """A `Hold` for one message at a time."""


def make_boundary(prefix: bytes, random: bytes) -> bytes:
    """`prefix` and 30 letters from 30 random bytes: nobody can have put it into a body beforehand."""
    if len(random) != BOUNDARY_LETTERS:
        raise RuntimeError("a boundary takes 30 random bytes")
    return prefix + random.translate(_LETTER_OF)


def content_type_of(boundary: bytes) -> bytes:
    """The Content-Type of a message, and of the part that carries attachments."""
    return b"multipart/mixed; charset=UTF-8; boundary=" + boundary


def part_begin(boundary: bytes, content_type: bytes, raw_headers: bytes = b"", *, first: bool = False) -> bytes:
    """Everything in front of a part's body. `raw_headers`: further header lines, each with its line end."""
    line_end = b"" if first else b"\r\n"
    return b"%b--%b\r\ncontent-type: %b\r\n%b\r\n" % (line_end, boundary, content_type, raw_headers)


def closing(boundary: bytes) -> bytes:
    """The end of a message, behind the last part's body."""
    return b"\r\n--%b--\r\n" % boundary
