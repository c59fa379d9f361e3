"""What start-up must do about the segments that it finds: go on, cut off a torn tail, or stop.

Pure. A power cut can only touch the last group of the last segment, because every group is synced before the next is written and before
anybody is told. What is torn there was never acknowledged and is cut off. Anything else that does not fit is damage: the log is not
opened, and the first record that does not fit is named (T26, T34).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.messagelog import record
from appliance.messagelog.record import FIRST_OF_GROUP, SEGMENT_HEAD, BrokenLinkError, Buffer, Position, Record


@dataclass(frozen=True, slots=True)
class Checked:
    """A segment that may be used. `good_bytes` end its last whole record; `cut_bytes` after it are a torn tail."""

    first_sequence: int
    mark: int
    good_bytes: int
    cut_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """A record up to which a signed checkpoint was found to hold: start-up follows what comes after it. `offset`: in its segment."""

    sequence: int
    link: bytes
    offset: int


class ChainCheck:
    """Follows the chain through the segments in order. Invariant: `position` is the last record that fits."""

    def __init__(self, position: Position | None = None, *, visit: Callable[[Record], None] | None = None) -> None:
        """`visit`: given every record that is linked to the one before."""
        self.position = position or Position()
        self._visit = visit
        self.links: list[bytes] = []
        """Of the records that fitted in the last segment."""
        self.repaired_bytes = 0
        self._links_wanted: dict[int, bytes | None] = {}

    def watch(self, sequence: int) -> None:
        """Remembers the link of this record when it comes by: the index is believed only if its own agrees."""
        self._links_wanted[sequence] = record.NO_LINK if sequence == 0 else None

    def watched(self, sequence: int) -> bytes | None:
        return self._links_wanted.get(sequence)

    def check(self, first_sequence: int, data: Buffer, *, last: bool, offset: int = SEGMENT_HEAD.size) -> Checked:
        """The next segment, named after its first record. Raises BrokenLinkError with the first record that does not fit.

        `offset`: where the record after `position` begins, in a segment that is not followed from its first record on.
        """
        expected = self.position.sequence + 1
        if first_sequence != expected and offset == SEGMENT_HEAD.size:
            raise BrokenLinkError(first_sequence, 0, expected, f"the segment should begin with {expected}")
        mark = record.mark_of(data)
        if mark is None:  # a segment gets its name only after its head was synced: a bad head is never a torn one
            raise BrokenLinkError(first_sequence, 0, expected, "the segment's head is damaged or of an unknown format")
        good = self._follow(first_sequence, data, mark, offset)
        cut = len(data) - good
        if cut:
            if not last:
                raise BrokenLinkError(first_sequence, good, self.position.sequence + 1, "damaged, and later segments exist")
            self._check_torn(first_sequence, data, mark, good)
            self.repaired_bytes += cut
        return Checked(first_sequence, mark, good, cut)

    def _follow(self, segment: int, data: Buffer, mark: int, offset: int) -> int:
        sequence, link, links = self.position.sequence, self.position.link, self.links
        links.clear()
        try:
            while (found := record.read(data, offset, mark)) is not None:
                if found.sequence != sequence + 1:
                    raise BrokenLinkError(segment, offset, sequence + 1, f"record {found.sequence} stands in its place")
                if found.previous != link:
                    raise BrokenLinkError(segment, offset, found.sequence, "does not name the record before it")
                if not found.fits_content:
                    raise BrokenLinkError(segment, offset, found.sequence, "its content is not the one that was logged")
                sequence, link = found.sequence, found.link
                links.append(link)
                if self._visit is not None:
                    self._visit(found)
                if sequence in self._links_wanted:
                    self._links_wanted[sequence] = link
                offset += found.size
        finally:
            self.position = Position(sequence, link)
        return offset

    def _check_torn(self, segment: int, data: Buffer, mark: int, good: int) -> None:
        """A tail is torn only if no later group begins in it: a later group proves that this one had been synced, hence acknowledged."""
        spelled = mark.to_bytes(4, "big")
        at = data.find(spelled, good + 1)
        while at >= 0:
            later = record.read(data, at, mark)
            if later is not None and later.flags & FIRST_OF_GROUP and later.sequence > self.position.sequence + 1:
                raise BrokenLinkError(segment, good, self.position.sequence + 1, "damaged, and later records are whole")
            at = data.find(spelled, at + 1)
