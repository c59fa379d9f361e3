"""A closed segment written once more without the contents whose term has ended: same records, same links, same salt, other offsets."""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from appliance.messagelog import record
from appliance.messagelog.disk import Disk
from appliance.messagelog.groups import LogFullError
from appliance.messagelog.record import SEGMENT_HEAD, BrokenLinkError, Buffer, Record
from appliance.messagelog.segments import BODIES, SEGMENTS, SegmentUnreadableError, body_path, segment_path
from appliance.messagelog.store import WriteFailedError

WRITE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(slots=True)
class Anew:
    """A segment beside the one that it will replace. `offsets`: (sequence, offset) of each record in it."""

    first: int
    path: str
    offsets: list[tuple[int, int]] = field(default_factory=list)
    saved_bytes: int = 0
    cut: int = 0


def check_whole(disk: Disk, first: int, last: int) -> Buffer:
    """The segment's bytes, when they are its records `first` to `last`, linked, and nothing else.

    Raises BrokenLinkError, SegmentUnreadableError.
    What is written anew replaces what was there: a record that a damaged one hides would be gone for ever.
    """
    try:
        data = disk.view(segment_path(first))
    except OSError as error:
        raise SegmentUnreadableError(first, str(error.strerror)) from None
    mark = record.mark_of(data)
    expected, offset, link = first, SEGMENT_HEAD.size, b""
    for found in () if mark is None else record.records(data, mark):
        if found.sequence != expected or (link and found.previous != link) or not found.fits_content:
            break
        expected, offset, link = expected + 1, offset + found.size, found.link
    if expected != last + 1 or offset != len(data):
        raise BrokenLinkError(first, offset, expected, "damaged: its segment stays as it is")
    return data


def write_anew(disk: Disk, first: int, last: int, mark: int, keeps: Callable[[Record], bool]) -> Anew:
    """Durable when it returns, still without its name.

    Raises BrokenLinkError, SegmentUnreadableError, LogFullError, OSError, SyncFailedError.
    """
    anew = Anew(first, f"{SEGMENTS}/{first:020d}.new")
    data = check_whole(disk, first, last)
    disk.remove(anew.path)
    handle = disk.create(anew.path)
    try:
        pending, size = [data[: SEGMENT_HEAD.size]], SEGMENT_HEAD.size
        for found in record.records(data, mark):
            whole = not found.content or keeps(found)
            piece = data[found.offset : found.offset + found.size] if whole else record.without_content(found, mark)
            anew.offsets.append((found.sequence, size))
            anew.cut += not whole
            size += len(piece)
            pending.append(piece)
            if len(pending) > WRITE_BYTES // 4096:
                _write(disk, handle, b"".join(pending))
                pending = []
        _write(disk, handle, b"".join(pending))
        disk.sync(handle)
    except OSError as error:
        if error.errno not in _FULL:
            raise
        disk.remove(anew.path)
        raise LogFullError("no room to write a segment anew") from None
    finally:
        disk.close(handle)
    anew.saved_bytes = len(data) - size
    return anew


def put_in_place(disk: Disk, anew: Anew) -> None:
    """From here on the segment is the new one; a cut at any point leaves one of them whole. Raises WriteFailedError, SyncFailedError."""
    try:
        disk.rename(anew.path, f"{SEGMENTS}/{anew.first:020d}.log")
    except OSError as error:
        raise WriteFailedError(f"putting segment {anew.first} in place: {error.strerror}") from error
    disk.sync_directory(SEGMENTS)


def remove_bodies(disk: Disk, first: int, last: int, kept: Collection[int]) -> int:
    """Files of the bodies of the records `first` to `last`, but for those of `kept`; how many there were."""
    found = [int(name[:-5]) for name in disk.names(BODIES) if name[:-5].isdecimal()]
    gone = [sequence for sequence in found if first <= sequence <= last and sequence not in kept]
    for sequence in gone:
        disk.remove(body_path(sequence))
    if gone:
        disk.sync_directory(BODIES)
    return len(gone)


def _write(disk: Disk, handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[disk.write(handle, bytes(view)) :]
