"""Reading the segments beside whoever writes them: safe, since what is durable never changes.

A disk that fails where a segment lies (EIO), or gives other bytes than were written, takes that part of the log away and no more: whoever
reads it is told, what is appended needs none of it. What went wrong first in each segment is kept for whoever tells people (`troubles`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from appliance.errors import RefusedError, UnavailableError, XacbeError
from appliance.messagelog import record
from appliance.messagelog.disk import Disk
from appliance.messagelog.record import SEGMENT_HEAD, BrokenLinkError, Buffer, Position, Record
from appliance.messagelog.recovery import Start

SEGMENTS, BODIES = "segments", "bodies"


class UnknownRecordError(RefusedError):
    """There is no such record."""

    kind = "log.unknown_record"


class BodyUnreadableError(UnavailableError):
    """A body's file cannot be opened: of another owner, or the disk fails. That ends this look at it, and no process."""

    kind = "record.body_unreadable"


class SegmentUnreadableError(UnavailableError):
    """The disk fails where a segment lies. It may come back (a cable, a controller); until then its records are not to be had."""

    kind = "log.segment_unreadable"

    def __init__(self, segment: int, why: str) -> None:
        super().__init__(f"segment {segment:020d}: {why}")
        self.segment = segment


def segment_path(first_sequence: int) -> str:
    return f"{SEGMENTS}/{first_sequence:020d}.log"


def body_path(sequence: int) -> str:
    return f"{BODIES}/{sequence:020d}.body"


class Segments:
    """The segments as their readers see them; `Store` adds the one writer."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._marks: dict[int, int | None] = {}
        """By first sequence; None: the disk failed at its head, which is tried again when somebody reads it."""
        self._start: Start | None = None
        self.position = Position()
        self.troubles: dict[int, XacbeError] = {}
        """Segment -> what its first failed read raised."""

    @property
    def segments(self) -> list[int]:
        return sorted(self._marks)

    @property
    def closed(self) -> list[int]:
        """First sequences of the segments that nobody writes to any more."""
        return self.segments[:-1]

    def last_of(self, first: int) -> int:
        """The last record of the segment that begins with this one."""
        return min((other for other in list(self._marks) if other > first), default=self.position.sequence + 1) - 1

    def segment_of(self, sequence: int) -> int:
        """First sequence of the segment that holds the record."""
        return max((first for first in list(self._marks) if first <= sequence), default=0)

    def mark_of(self, first: int) -> int:
        """Raises SegmentUnreadableError, BrokenLinkError."""
        known = self._marks[first]
        if known is None:
            with self.reading(first):
                known = self._marks[first] = self._mark_in(first, self._disk.read(segment_path(first), 0, SEGMENT_HEAD.size))
        return known

    def _mark_in(self, first: int, head: Buffer) -> int:
        mark = record.mark_of(head)
        if mark is None:
            raise BrokenLinkError(first, 0, first, "the segment's head is damaged or of an unknown format")
        return mark

    @contextmanager
    def reading(self, first: int) -> Iterator[None]:
        """Whatever goes wrong inside is this segment's. Raises SegmentUnreadableError for the disk's own errors."""
        try:
            yield
        except OSError as error:
            unreadable = SegmentUnreadableError(first, str(error.strerror))
            self.troubles.setdefault(first, unreadable)
            raise unreadable from None
        except (BrokenLinkError, SegmentUnreadableError) as error:
            self.troubles.setdefault(first, error)
            raise

    def read(self, sequence: int, offset: int) -> Record:
        """One record, checked. Raises UnknownRecordError, SegmentUnreadableError; BrokenLinkError where the bytes changed under us."""
        if not 0 < sequence <= self.position.sequence:
            raise UnknownRecordError(f"there is no record {sequence}")
        first = self.segment_of(sequence)
        path = segment_path(first)
        with self.reading(first):
            head = self._disk.read(path, offset, record.HEAD.size)
            if len(head) == record.HEAD.size:
                size = min(record.size_of(head), record.PAYLOAD_BYTES_MAX * 3)
                found = record.read(self._disk.read(path, offset, size), 0, self.mark_of(first))
                if found is not None and found.sequence == sequence and found.fits_content:
                    return found
            raise BrokenLinkError(first, offset, sequence, "not at its place any more")

    def records_from(self, sequence: int, offset: int | None = None) -> Iterator[tuple[int, Record]]:
        """(segment, record) from `sequence` on, up to the last durable one; `offset`: where that record lies, if known.

        Raises SegmentUnreadableError; BrokenLinkError where a record that was durable is none any more.
        """
        last, reached = self.position.sequence, sequence - 1
        begins, begin = self.segment_of(sequence), self._start
        if offset is None and begin is not None and begin.sequence <= sequence and self.segment_of(begin.sequence) == begins:
            offset = begin.offset
        for first in [first for first in self.segments if first >= begins]:
            start = offset if offset is not None and first == begins else SEGMENT_HEAD.size
            with self.reading(first):
                data, mark = self._disk.view(segment_path(first), start), self.mark_of(first)
            for found in record.records(data, mark, start):
                if found.sequence > last:
                    return
                if found.sequence >= sequence:
                    reached = found.sequence
                    yield first, found
        if reached < last:
            with self.reading(self.segment_of(reached + 1)):
                raise BrokenLinkError(self.segment_of(reached + 1), 0, reached + 1, "damaged, or not followed from an undamaged record")

    def open_body(self, sequence: int) -> int:
        """The descriptor of a body's file, for reading only: it goes to other processes. Raises UnknownRecordError, BodyUnreadableError."""
        try:
            return self._disk.open_to_read(body_path(sequence))
        except FileNotFoundError:
            raise UnknownRecordError(f"the body of record {sequence} is not kept any more") from None
        except OSError as error:
            raise BodyUnreadableError(f"the body of record {sequence}: {error.strerror}") from None
