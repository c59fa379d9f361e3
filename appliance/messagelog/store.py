"""Segments on a disk: one writer, every group of records durable before anybody hears of it.

Called by one thread at a time. The order of a group: body files get their names and the directory is synced, then the records are written,
then the segment is synced; only then does `write` return. A segment gets its name only after its head was synced, and the first records go
in only after that name was. A failed sync leaves nothing known: the store refuses all further work and the process must end (T35).
"""

from __future__ import annotations

import errno
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from appliance.clock import Clock
from appliance.errors import CorruptStateError, XacbeError
from appliance.messagelog import record
from appliance.messagelog.disk import Disk
from appliance.messagelog.groups import Draft, Group, LogFullError, Plan, Room, SignatureKey, plan
from appliance.messagelog.record import SEGMENT_HEAD, BootEntry, Position
from appliance.messagelog.recovery import ChainCheck, Checked, Start
from appliance.messagelog.segments import BODIES, SEGMENTS, Segments, SegmentUnreadableError, body_path, segment_path

LOCK = "lock"
AUDIT_RESERVE, EVIDENCE_RESERVE = "reserve-audit", "reserve-evidence"
"""Half of the reserve each: two files, since what is merely free may be taken by a body that is just being written."""
HEADROOM_BYTES = 1 << 20
"""Kept free beyond what a message needs: file-system metadata, the index, the stamp of what was just logged."""
RECORD_HEADROOM_BYTES = 64 << 10
"""Below this the reserve is given up, first the half for audit records, then the one for stamps and outages."""
SIGNATURES_KNOWN_MAX = 256
"""A batch's messages come within seconds of each other: an older signature is simply stored once more."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class WriteFailedError(CorruptStateError):
    """A write failed otherwise than for want of room: what is on the disk is unknown."""

    kind = "disk.write_failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes: when a segment ends, and what is kept for records that must never be refused."""

    segment_bytes_max: int = 64 << 20
    reserve_bytes: int = 16 << 20


@dataclass(slots=True)
class _Segment:
    """The segment that is written to; `size` is what is durable of it."""

    first_sequence: int
    mark: int
    handle: int
    size: int


Walked = Callable[[int, Sequence[bytes]], None]
"""Told at start: the links of the records from the first one named on, a segment at a time."""


class Store(Segments):
    """The log's files. Invariant: `position` is the last durable record, and every record up to it is linked."""

    def __init__(self, disk: Disk, limits: Limits, clock: Clock, new_salt: Callable[[], bytes]) -> None:
        super().__init__(disk)
        self._limits, self._clock, self._new_salt = limits, clock, new_salt
        self._current: _Segment | None = None
        self._known: OrderedDict[SignatureKey, int] = OrderedDict()
        self._unusable = self._locked = self._roll_asked = False
        self._held: set[str] = set()
        """The halves of the reserve that occupy their room."""
        self.repaired_bytes = 0
        self.bytes = 0

    # -- start and end

    def lock(self) -> None:
        """Makes sure that nobody else writes here: before anything is touched. Raises LogLockedError."""
        if self._locked:
            return
        for directory in (SEGMENTS, BODIES):
            self._disk.make_directory(directory)
        self._disk.lock(LOCK)
        self._locked = True

    def open(
        self,
        watch: Sequence[int] = (),
        *,
        start: Start | None = None,
        walked: Walked | None = None,
        at_end: Callable[[], None] | None = None,
    ) -> ChainCheck:
        """Locks, checks every record, cuts a torn tail off, removes what no record names, and writes the BOOT record.

        Raises LogLockedError, BrokenLinkError, SegmentUnreadableError, SyncFailedError, LogFullError. The check remembers the links of the
        watched sequences.
        `start`: only what comes after it is followed, if that record is still there; `walked` tells from which record on.
        `at_end`: called when every record fitted and nothing was changed yet; raises what ends the start.
        """
        self.lock()
        firsts = self._segments_found()
        if firsts:
            with self.reading(firsts[-1]):
                self._disk.reload(segment_path(firsts[-1]))  # the last one alone may have bytes whose sync failed
            self._disk.sync_directory(SEGMENTS)  # and a name that a killed process gave and had no time to sync
        begin = self._begin(start, firsts)
        self._start = None if begin is None else start
        check = ChainCheck(None if start is None or begin is None else Position(start.sequence, start.link))
        for sequence in watch:
            check.watch(sequence)
        for first in firsts:
            if begin is not None and first < begin[0]:
                self._skip(first)
                continue
            before, last = check.position.sequence, first == firsts[-1]
            offset = begin[1] if begin is not None and first == begin[0] else SEGMENT_HEAD.size
            with self.reading(first):  # without it nobody knows where the log ends, or who asked for a replay: the start fails
                data = self._disk.view(segment_path(first), offset)
            checked = check.check(first, data, last=last, offset=offset)
            if walked is not None:
                walked(before + 1, check.links)
            if last and at_end is not None:
                at_end()
            self._take(checked, last=last)
        if not firsts and at_end is not None:
            at_end()
        self.position, self.repaired_bytes = check.position, check.repaired_bytes
        self._remove_orphans()
        self._hold([name for name in self._disk.names("") if name in (AUDIT_RESERVE, EVIDENCE_RESERVE)])
        boot = self.write([Draft(BootEntry(self.repaired_bytes), essential=True)]).results[0]
        if isinstance(boot, XacbeError):
            raise boot
        return check

    def close(self) -> None:
        if self._current is not None:
            self._disk.close(self._current.handle)
            self._current = None
        self._disk.release()
        self._locked = False

    def _segments_found(self) -> list[int]:
        found = []
        for name in self._disk.names(SEGMENTS):
            if name.endswith(".new"):  # a segment that never got its name
                self._disk.remove(f"{SEGMENTS}/{name}")
            elif name.endswith(".log") and name[:-4].isdecimal():
                found.append(int(name[:-4]))
        return sorted(found)

    def _begin(self, start: Start | None, firsts: list[int]) -> tuple[int, int] | None:
        """(segment, offset) behind the record to start from; None where it is not there as it was: then all is followed."""
        segment = max((first for first in firsts if start is not None and first <= start.sequence), default=None)
        if start is None or segment is None:
            return None
        with self.reading(segment):
            data = self._disk.view(segment_path(segment), start.offset)
        mark = record.mark_of(data)
        found = None if mark is None or start.offset >= len(data) else record.read(data, start.offset, mark)
        if found is None or (found.sequence, found.link) != (start.sequence, start.link):
            return None
        return segment, start.offset + found.size

    def _skip(self, first: int) -> None:
        """A segment that lies wholly before the start: only its head is looked at. Raises BrokenLinkError where it has none.

        One that the disk does not give is told and passed over: the signed checkpoint behind it holds.
        """
        self._marks[first] = None
        with suppress(SegmentUnreadableError):
            self.mark_of(first)
            with self.reading(first):
                self.bytes += self._bytes_of(first)

    def _bytes_of(self, first: int) -> int:
        handle = self._disk.open_to_read(segment_path(first))
        try:
            return self._disk.size(handle)
        finally:
            self._disk.close(handle)

    def _take(self, checked: Checked, *, last: bool) -> None:
        """A segment that fits; from the last one a torn tail is cut off."""
        first, path = checked.first_sequence, segment_path(checked.first_sequence)
        self._marks[first] = checked.mark
        self.bytes += checked.good_bytes
        if last:
            handle = self._disk.open(path)
            if checked.cut_bytes:
                self._disk.truncate(handle, checked.good_bytes)
                self._disk.sync(handle)
            self._current = _Segment(first, checked.mark, handle, checked.good_bytes)

    def _remove_orphans(self) -> None:
        """Bodies whose record was not written before the end came, and passing files of file systems without unnamed ones."""
        last = self.position.sequence
        orphans = [name for name in self._disk.names(BODIES) if not (name[:-5].isdecimal() and int(name[:-5]) <= last)]
        for name in orphans:
            self._disk.remove(f"{BODIES}/{name}")
        if orphans:
            self._disk.sync_directory(BODIES)

    # -- room

    def _keep_reserve(self) -> None:
        """Occupies the reserve again as soon as there is twice its size."""
        if not self._is_reserved and self._disk.free_bytes() >= 2 * self._limits.reserve_bytes:
            self._hold([EVIDENCE_RESERVE, AUDIT_RESERVE])

    def _hold(self, names: Sequence[str]) -> None:
        with suppress(OSError):  # for want of room, or a file system that cannot: then messages wait, and the rest has all there is
            for name in names:
                self._disk.allocate(name, self._limits.reserve_bytes // 2)
                self._held.add(name)

    def _release(self, name: str) -> None:
        with suppress(OSError):
            self._disk.remove(name)
        self._held.discard(name)

    @property
    def _is_reserved(self) -> bool:
        return len(self._held) == 2

    def free_bytes(self) -> int:
        return self._disk.free_bytes()

    def room(self) -> int:
        """Bytes that messages may still use: none while the reserve is in use."""
        return max(0, self._disk.free_bytes() - HEADROOM_BYTES) if self._is_reserved else 0

    def _audit_room(self) -> int:
        """Bytes that audit records may still use: never the half that is kept for stamps and outages."""
        half = self._limits.reserve_bytes // 2
        spare = half if AUDIT_RESERVE in self._held else 0
        kept = 0 if EVIDENCE_RESERVE in self._held else half
        return max(0, self._disk.free_bytes() + spare - kept - RECORD_HEADROOM_BYTES)

    # -- writing

    def write(self, drafts: Sequence[Draft]) -> Group:
        """Makes the drafts durable as one group. What there is no room for has LogFullError as its result.

        Raises SyncFailedError or WriteFailedError: then nothing is known, and nothing more may be done with this store.
        """
        if self._unusable:
            raise RuntimeError("the log was used after a write with unknown outcome")
        self._unusable = True  # until this group's outcome is known
        self._keep_reserve()
        group = self._attempt(drafts, Room(self.room(), self._audit_room()))
        if group is None:  # the disk was fuller than it said: once more, only with what may use the reserve
            self._release(AUDIT_RESERVE)
            group = self._attempt(drafts, Room(0, self._audit_room()))
        if group is None:
            if any(draft.essential for draft in drafts):
                self._release(EVIDENCE_RESERVE)
            group = self._attempt(drafts, Room(0, 0))
        if group is None:
            group = Group([LogFullError("the disk is full, and so is the reserve") for _ in drafts])
        self._unusable = False
        return group

    def _attempt(self, drafts: Sequence[Draft], room: Room) -> Group | None:
        """None where the disk was full after all; then everything is as before."""
        planned = plan(drafts, self.position, self._clock.now_us(), self._known, room)
        if not planned.payloads:
            return planned.group
        self._release_for(planned.size, is_essential=any(draft.essential for draft in drafts))
        named: list[int] = []
        try:
            segment = self._segment_for(planned.size)
            self._name_bodies(planned, named)
            data, position = planned.encode(segment.first_sequence, segment.mark, segment.size)
            self._write_whole(segment, data)
        except OSError as error:
            if error.errno not in _FULL:
                raise WriteFailedError(str(error.strerror)) from error
            self._undo(named)
            return None
        self._disk.sync(segment.handle)
        # Commit point: the group is durable, its numbers are taken. Nobody was told before this line.
        self.position = planned.group.position = position
        segment.size += len(data)
        self.bytes += len(data)
        self._remember(planned)
        return planned.group

    def _release_for(self, size: int, *, is_essential: bool) -> None:
        for name in (AUDIT_RESERVE, EVIDENCE_RESERVE) if is_essential else (AUDIT_RESERVE,):
            if name in self._held and self._disk.free_bytes() < size + RECORD_HEADROOM_BYTES:
                self._release(name)

    def _segment_for(self, size: int) -> _Segment:
        current = self._current
        fits = current is not None and current.size + size <= self._limits.segment_bytes_max and not self._roll_asked
        if current is not None and (fits or current.size == SEGMENT_HEAD.size):
            return current
        first = self.position.sequence + 1
        path, passing = segment_path(first), f"{SEGMENTS}/{first:020d}.new"
        self._disk.remove(passing)  # of an attempt that found the disk full
        head = record.segment_head(self._new_salt())
        handle = self._disk.create(passing)
        try:
            if self._disk.write(handle, head) != len(head):
                raise OSError(errno.ENOSPC, "no room for a segment's head")
            self._disk.sync(handle)
            self._give_name(passing, path)
        except BaseException:
            self._disk.close(handle)
            raise
        if current is not None:
            self._disk.close(current.handle)
        mark = record.mark_of(head)
        if mark is None:
            raise RuntimeError("our own segment head is not one")
        self._marks[first] = mark
        self.bytes += len(head)
        self._current = _Segment(first, mark, handle, len(head))
        self._roll_asked = False
        return self._current

    def _give_name(self, passing: str, path: str) -> None:
        try:
            self._disk.rename(passing, path)
        except OSError as error:  # even for want of room: it may have happened, and then two segments claim the same place
            raise WriteFailedError(f"naming {path}: {error.strerror}") from error
        self._disk.sync_directory(SEGMENTS)

    def _name_bodies(self, planned: Plan, named: list[int]) -> None:
        """Gives bodies their names; their bytes were synced by whoever claimed them."""
        for handle, sequence in planned.bodies:
            named.append(sequence)  # before: a link that reports failure may have happened
            self._disk.link(handle, body_path(sequence))
        if named:
            self._disk.sync_directory(BODIES)

    def _write_whole(self, segment: _Segment, data: bytes) -> None:
        view = data
        while view:
            view = view[self._disk.write(segment.handle, view) :]

    def _undo(self, named: list[int]) -> None:
        """Back to the last commit point. That this works is part of the outcome: if it fails, the process ends."""
        try:
            if self._current is not None:
                self._disk.truncate(self._current.handle, self._current.size)
            for sequence in named:
                self._disk.remove(body_path(sequence))
        except OSError as error:
            raise WriteFailedError(f"taking back a partial write: {error.strerror}") from error

    def _remember(self, planned: Plan) -> None:
        self._known.update(planned.signatures)
        while len(self._known) > SIGNATURES_KNOWN_MAX:
            self._known.popitem(last=False)

    # -- for the custodian

    def roll(self) -> None:
        """The next group begins a segment: the one before it is closed then."""
        self._roll_asked = True

    def replaced(self, first: int, saved_bytes: int) -> None:
        """A closed segment was written anew: offsets in it that were noted at start are of no use any more."""
        self.bytes -= saved_bytes
        if self._start is not None and self.segment_of(self._start.sequence) == first:
            self._start = None
