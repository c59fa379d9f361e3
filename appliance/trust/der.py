"""A small strict reader and writer of DER, for what no library of ours reads: RFC 3161 messages.

Pure. Definite lengths in their shortest form, single-byte tags, no trailing bytes, bounded sizes. There is no recursion: each level is
opened by the code that knows what stands there, so depth is bounded by the format and not by the sender.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from appliance.clock import to_us
from appliance.errors import UnverifiedError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
GENERALIZED_TIME, SEQUENCE, SET = 0x18, 0x30, 0x31
CHILDREN_MAX = 64
"""Elements in one SEQUENCE or SET: certificates and attributes of a token are fewer than ten."""
INTEGER_BYTES_MAX = 64
"""Serial numbers and nonces: RFC 3161 asks for up to 160 bits."""

_TIME = re.compile(r"(\d{14})(?:\.(\d{1,9}))?Z")


class DerError(UnverifiedError):
    """Not the DER that should be here."""

    kind = "der.malformed"


class Element:
    """One tag-length-value inside `data`; nothing is copied until it is asked for."""

    __slots__ = ("_data", "_end", "_start", "_value", "tag")

    def __init__(self, data: bytes, start: int, limit: int) -> None:
        if limit - start < 2:
            raise DerError("an element is cut off")
        self.tag = data[start]
        if self.tag & 0x1F == 0x1F:
            raise DerError("a tag of several bytes")
        length, value = data[start + 1], start + 2
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or limit - value < count:
                raise DerError("an indefinite or oversized length")
            length = int.from_bytes(data[value : value + count], "big")
            if length < 0x80 or length >> (8 * (count - 1)) == 0:
                raise DerError("a length that is not in its shortest form")
            value += count
        if limit - value < length:
            raise DerError("an element is longer than what holds it")
        self._data, self._start, self._value, self._end = data, start, value, value + length

    @property
    def content(self) -> bytes:
        return self._data[self._value : self._end]

    @property
    def encoded(self) -> bytes:
        return self._data[self._start : self._end]

    @property
    def end(self) -> int:
        return self._end

    def children(self) -> Reader:
        """The elements inside, to be taken in order. Raises DerError for a primitive one."""
        if not self.tag & 0x20:
            raise DerError("a primitive element has no parts")
        parts: list[Element] = []
        at = self._value
        while at < self._end:
            if len(parts) == CHILDREN_MAX:
                raise DerError(f"more than {CHILDREN_MAX} parts")
            parts.append(Element(self._data, at, self._end))
            at = parts[-1].end
        return Reader(parts)

    def integer(self) -> int:
        """Raises DerError for another type, or more than 64 bytes."""
        value = self._of(INTEGER)
        if not 1 <= len(value) <= INTEGER_BYTES_MAX:
            raise DerError("an integer of an unusable size")
        if len(value) > 1 and (value[0] == 0 and value[1] < 0x80 or value[0] == 0xFF and value[1] >= 0x80):
            raise DerError("an integer that is not in its shortest form")
        return int.from_bytes(value, "big", signed=True)

    def octets(self) -> bytes:
        return self._of(OCTET_STRING)

    def oid(self) -> str:
        """Dotted form. Raises DerError."""
        value = self._of(OID)
        if not 1 <= len(value) <= 32 or value[-1] & 0x80:
            raise DerError("not an object identifier")
        return _dotted(value)

    def time_us(self) -> int:
        """A GeneralizedTime in UTC, microseconds since 1970; a finer fraction is cut, a leap second is the next second (:59 + 1 s).

        Raises DerError without `Z`: a local time proves nothing.
        """
        found = _TIME.fullmatch(self._of(GENERALIZED_TIME).decode("latin-1"))
        if found is None or not found[0].isascii():
            raise DerError("a time that is not UTC in the form YYYYMMDDhhmmss[.f]Z")
        digits, fraction = found[1], (found[2] or "").ljust(6, "0")[:6]
        leap = digits.endswith("60")
        try:
            month, day, hour, minute = (int(digits[at : at + 2]) for at in (4, 6, 8, 10))
            moment = datetime(int(digits[:4]), month, day, hour, minute, 59 if leap else int(digits[12:]), tzinfo=UTC)
            return to_us(moment + timedelta(seconds=leap)) + int(fraction)
        except (ValueError, OverflowError):
            raise DerError("a time that does not exist") from None

    def _of(self, tag: int) -> bytes:
        if self.tag != tag:
            raise DerError(f"tag {self.tag:#04x} where {tag:#04x} should be")
        return self.content


@lru_cache(maxsize=256)  # a time stamp alone has a dozen, the same every time
def _dotted(value: bytes) -> str:
    arcs, arc = [], 0
    for byte in value:
        if arc == 0 and byte == 0x80:
            raise DerError("an object identifier with padding")
        arc = arc << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


class Reader:
    """The parts of one element, taken strictly in order."""

    __slots__ = ("_at", "_parts")

    def __init__(self, parts: list[Element]) -> None:
        self._parts, self._at = parts, 0

    def take(self, tag: int | None = None) -> Element:
        """The next part. Raises DerError when there is none, or it has another tag."""
        if self._at == len(self._parts):
            raise DerError("a part is missing")
        part = self._parts[self._at]
        if tag is not None and part.tag != tag:
            raise DerError(f"tag {part.tag:#04x} where {tag:#04x} should be")
        self._at += 1
        return part

    def optional(self, tag: int) -> Element | None:
        """The next part if it has this tag."""
        return self.take() if self._at < len(self._parts) and self._parts[self._at].tag == tag else None

    def rest(self) -> Iterator[Element]:
        while self._at < len(self._parts):
            yield self.take()

    def finish(self) -> None:
        """Raises DerError when a part is left over."""
        if self._at != len(self._parts):
            raise DerError("a part too many")


def parse(data: bytes, bytes_max: int) -> Element:
    """The one element that `data` is. Raises DerError for anything more, less or larger."""
    if len(data) > bytes_max:
        raise DerError(f"{len(data)} bytes, at most {bytes_max}")
    element = Element(data, 0, len(data))
    if element.end != len(data):
        raise DerError("bytes after the end")
    return element


def encode(tag: int, *parts: bytes) -> bytes:
    """One element around its parts."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + content


def encode_integer(value: int) -> bytes:
    bits = (value if value >= 0 else ~value).bit_length()  # without the sign bit, for which one more is needed
    return encode(INTEGER, value.to_bytes(bits // 8 + 1, "big", signed=True))


def encode_oid(dotted: str) -> bytes:
    first, second, *others = map(int, dotted.split("."))
    out = bytearray()
    for arc in (40 * first + second, *others):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        out += bytes(reversed(groups))
    return encode(OID, bytes(out))
