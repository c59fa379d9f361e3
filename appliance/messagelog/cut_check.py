"""Whether every content that is gone was erased by retention: the audit record `retention.cut` is durable before the first byte goes.

Pure. A message without its content must be covered by such a record (its subsystem, number and time); a signature document may be gone only
with the last message under it. Memory: 16 bytes for each message that was cut.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.messagelog import record
from appliance.messagelog.custody import CUT
from appliance.messagelog.record import AuditEntry, MessageEntry, Record


@dataclass(slots=True)
class _Gone:
    """One subsystem's messages without content, in order, and which of them a record explains."""

    sequences: array[int] = field(default_factory=lambda: array("Q"))
    times_us: array[int] = field(default_factory=lambda: array("q"))
    explained: bytearray = field(default_factory=bytearray)


class CutCheck:
    """Takes the records of a log in order."""

    def __init__(self) -> None:
        self._gone: dict[str, _Gone] = {}
        self._signatures: set[int] = set()
        """Signature documents that are gone."""

    def message(self, found: Record, entry: MessageEntry, *, is_body_there: bool = True) -> str:
        """Why it does not fit; empty where it may. A body whose file is gone needs the same right as a content that is."""
        if not found.is_content_cut and is_body_there:
            return "its signature document is gone, its content is not" if entry.signature in self._signatures else ""
        gone = self._gone.setdefault(record.group_of(entry.side, entry.client, entry.service), _Gone())
        gone.sequences.append(found.sequence)
        gone.times_us.append(found.at_us)
        gone.explained.append(0)
        return ""

    def signature(self, found: Record) -> None:
        if found.is_content_cut:
            self._signatures.add(found.sequence)

    def audit(self, entry: AuditEntry) -> str:
        """As `message`. A record of retention that cannot be read explains nothing, and does not fit."""
        if entry.caller != "recorder" or entry.event != CUT:
            return ""
        try:
            self._explain(entry.facts)
        except (KeyError, ValueError):
            return "a record of retention that cannot be read"
        return ""

    def _explain(self, facts: Mapping[str, str]) -> None:
        first, last, before_us = int(facts["first"]), int(facts["last"]), int(facts["before_us"])
        gone = self._gone.get(facts["subsystem"])
        if gone is None:
            return
        for at in range(bisect_left(gone.sequences, first), bisect_right(gone.sequences, last)):
            if gone.times_us[at] < before_us:
                gone.explained[at] = 1

    def unexplained(self) -> int | None:
        """After the last record: the first message whose content is gone although no record says so."""
        missing = (gone.sequences[at] for gone in self._gone.values() if (at := gone.explained.find(0)) >= 0)
        return min(missing, default=None)
