"""QEMU's log of a disk's writes and flushes (`blklogwrites`, the format of Linux' dm-log-writes), and the crash states that it allows.

A disk with a volatile cache keeps what it wrote before a flush that it confirmed, and of what came later, up to the moment when the power
goes, any part: whole writes or single sectors of 512 bytes, in any order.
"""

from __future__ import annotations

import mmap
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import marks
from tests.crash.marks import FILE_SYSTEM_BYTES, SECTOR_BYTES, Acknowledged

_SUPER, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, FUA, DISCARD = 1, 2, 4


class LogMalformedError(ValueError):
    """Not a log of writes that this reader knows."""


@dataclass(frozen=True, slots=True)
class Write:
    """One entry. `data` is empty for a flush; `acknowledged`: it is a mark, and no write to the file system."""

    offset: int
    data: bytes
    is_flush: bool
    acknowledged: tuple[Acknowledged, ...] = ()


def read(path: Path) -> list[Write]:
    """Every entry in the order in which the disk took them. Raises LogMalformedError."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        magic, version, count, sector = _SUPER.unpack_from(data)
        if (magic, version) != (MAGIC, VERSION):
            raise LogMalformedError(f"magic {magic:x}, version {version}")
        found, at = [], sector
        for _ in range(count):
            first, sectors, flags, _ = _ENTRY.unpack_from(data, at)
            at += sector
            if flags & DISCARD:
                raise LogMalformedError("a discard: the guest's file system should make none")
            size = sectors * sector
            found.append(_write(first * sector, data[at : at + size], flags))
            at += size
        return found


def _write(offset: int, data: bytes, flags: int) -> Write:
    if flags & FUA:
        raise LogMalformedError("a write with FUA: virtio disks have none")
    if offset >= FILE_SYSTEM_BYTES:
        return Write(offset, b"", bool(flags & FLUSH), tuple(marks.decode(data)))
    return Write(offset, data, bool(flags & FLUSH))


@dataclass(slots=True)
class Recording:
    """A log, taken apart at its flushes. `base`: the disk's bytes before the first entry."""

    base: bytes
    writes: list[Write]
    flushes: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flushes = [at for at, write in enumerate(self.writes) if write.is_flush]


@dataclass(frozen=True, slots=True)
class State:
    """The disk's bytes after the power went before entry `cut`, and what had been acknowledged until then."""

    flush: int
    cut: int
    how: str
    seed: int


SUPERBLOCK_HALF = 1536
"""ext4's superblock lies in the two sectors from byte 1024 on, and no kernel mounts one that is half new (its checksum does not fit): the
file system trusts the disk to write it whole, and what it may trust in is not ours to judge. Its other sectors tear."""

HOWS = ("none", "whole", "torn", "prefix")
"""Of what was not flushed: nothing; whole writes by chance; sectors by chance; the writes in order up to one that is torn."""


def states(recording: Recording, count: int, seed: int) -> list[State]:
    """`count` crash states, spread evenly over the flushes, in order."""
    chance = random.Random(seed)  # noqa: S311  not for secrets
    found = []
    last = len(recording.flushes) - 1
    for number in range(count):
        point = number * last // count
        begin, end = recording.flushes[point], recording.flushes[point + 1]
        found.append(State(begin, chance.randint(begin + 1, end), HOWS[number % len(HOWS)], chance.getrandbits(32)))
    return found


class Replay:
    """Walks forward through a recording; `disk` holds everything up to the flush of the last state asked for."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.disk = bytearray(recording.base)
        self._at = 0
        self._marked = 0
        self._acknowledged: list[Acknowledged] = []

    def acknowledged(self, state: State) -> list[Acknowledged]:
        """Everything that had been acknowledged when the power went; states come in order of their flushes."""
        found = [one for write in self._recording.writes[self._at : state.cut] for one in write.acknowledged]
        return self._acknowledged + found

    def advance(self, state: State) -> None:
        while self._at <= state.flush:
            write = self._recording.writes[self._at]
            self.disk[write.offset : write.offset + len(write.data)] = write.data
            self._acknowledged += write.acknowledged
            self._at += 1

    def survivors(self, state: State) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of what of the open window reached the platter."""
        chance = random.Random(state.seed)  # noqa: S311  not for secrets
        window = [write for write in self._recording.writes[state.flush + 1 : state.cut] if write.data]
        if state.how == "none":
            return
        if state.how == "prefix":
            for write in window[:-1]:
                yield write.offset, write.data
            yield from _torn(window[-1:], chance)
            return
        kept = chance.choice((0.1, 0.5, 0.9))
        chance.shuffle(window)
        if state.how == "whole":
            yield from ((write.offset, write.data) for write in window if chance.random() < kept)
        else:
            yield from _torn(window, chance, kept)


def _torn(window: list[Write], chance: random.Random, kept: float = 0.5) -> Iterator[tuple[int, bytes]]:
    for write in window:
        is_kept = False
        for at in range(0, len(write.data), SECTOR_BYTES):
            if write.offset + at != SUPERBLOCK_HALF:
                is_kept = chance.random() < kept
            if is_kept:
                yield write.offset + at, write.data[at : at + SECTOR_BYTES]
