"""What the recorder acknowledged, told in two places: a sector behind the file system, and the serial line.

The sector is written past all caches, so that in QEMU's log of writes it stands behind all that was on the disk before the acknowledgement:
the replay knows for each moment what had been acknowledged.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

DISK_BYTES, FILE_SYSTEM_BYTES = 48 << 20, 44 << 20
SECTOR_BYTES = 512
MARK_BYTES = 4096
"""A direct write's least size where the disk says 4096; eight sectors."""
MAGIC = b"acknowledged by the recorder\n"
_COUNT, _ONE = struct.Struct("<H"), struct.Struct("<cQI")
MARK_MAX = (MARK_BYTES - len(MAGIC) - _COUNT.size) // _ONE.size

MESSAGE, LARGE, AUDIT, ERASED = b"m", b"l", b"a", b"e"
"""A message, one with a body in a file, an audit record, and "the contents up to this record may be gone from now on"."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """`number`: which one of the load's. `sequence`: of the record; 0 for audits, whose sequence nobody is told."""

    kind: bytes
    number: int
    sequence: int


def query_id(number: int) -> str:
    return f"Q-{number}"


def body_of(number: int, kind: bytes) -> bytes:
    """The body that this message has; large ones lie in a file."""
    return f"body {number} ".encode() * (3 if kind == MESSAGE else 6000)


def encode(acknowledged: list[Acknowledged]) -> bytes:
    if len(acknowledged) > MARK_MAX:
        raise ValueError("more than a mark holds")
    ones = b"".join(_ONE.pack(each.kind, each.number, each.sequence) for each in acknowledged)
    return (MAGIC + _COUNT.pack(len(acknowledged)) + ones).ljust(MARK_BYTES, b"\0")


def decode(data: bytes) -> list[Acknowledged]:
    """Raises ValueError where it is no mark."""
    if not data.startswith(MAGIC):
        raise ValueError("not a mark")
    at = len(MAGIC)
    (count,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    return [Acknowledged(*_ONE.unpack_from(data, at + n * _ONE.size)) for n in range(count)]
