"""What the index knows about archives and erased contents: which messages may be archived next, and which contents are due.

A message is final when it is stamped, or can never be (such a one is in no archive, so its content is never erased). A subsystem's messages
are archived in order, up to the first that is not final; what was confirmed, and what was cut, stands in audit records, so that it is known
again when the index is built anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.messagelog.audit import MISSING as MISSED
from appliance.messagelog.record import AuditEntry, MessageEntry

TABLES = """
CREATE TABLE IF NOT EXISTS archived (grp INTEGER PRIMARY KEY, through INTEGER);
CREATE TABLE IF NOT EXISTS chain (grp TEXT PRIMARY KEY, digest TEXT, file TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS custody (
  sequence INTEGER PRIMARY KEY, grp INTEGER, key INTEGER, signature INTEGER, at_us INTEGER, final INTEGER);
CREATE INDEX IF NOT EXISTS custody_group ON custody (grp, sequence);
CREATE INDEX IF NOT EXISTS custody_key ON custody (key);
CREATE INDEX IF NOT EXISTS custody_signature ON custody (signature);
"""
"""`custody` has a row for each message whose content is still here; it goes when the content goes. Its `at_us` is when the message was
logged or, if that was later, stamped: a clock that was behind makes no message older. `chain`: each group's newest archive."""

CONFIRMED, CUT = "archive.confirmed", "retention.cut"
"""Audit events, beside `audit.MISSING`. CONFIRMED: `group`, `last`; CUT: `subsystem`, `first`, `last`, `before_us`: what was logged earlier
was cut."""
PENDING = "retention.json"
"""Names the segment whose contents are being erased (`custodian`)."""
OPEN, STAMPED, UNCONFIRMED, MISSING, BODILESS = 0, 1, 2, 3, 4
"""The last two by the audit record of `missing`: it cannot be read, or its body cannot. Archives go on without; what is left of it is in no
archive whole, so it is never erased."""


@dataclass(frozen=True, slots=True)
class Due:
    """Contents of one subsystem whose term has ended, in one segment."""

    subsystem: str
    sequences: list[int]
    before_us: int


def is_of(subsystem: str, group: str) -> bool:
    """Whether an archive group (all, a member, a subsystem) takes in this subsystem."""
    return not group or subsystem == group or subsystem.startswith(group + "/")


class Custody:
    """Questions and notes over the index's connection, in its thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # -- following the log

    def message(self, sequence: int, at_us: int, entry: MessageEntry, group: int) -> None:
        row = (sequence, group, entry.key, entry.signature, at_us, OPEN)
        self._connection.execute("INSERT OR REPLACE INTO custody VALUES (?,?,?,?,?,?)", row)

    def settled(self, messages: Iterable[int], final: int, signed_us: int = 0) -> None:
        """These were stamped at `signed_us`, or never can be."""
        update = "UPDATE custody SET final = ?, at_us = max(at_us, ?) WHERE sequence = ?"
        self._connection.executemany(update, [(final, signed_us, each) for each in messages])

    def audit(self, entry: AuditEntry) -> None:
        facts = entry.facts
        if entry.caller == "recorder" and entry.event == CONFIRMED:
            for number, _ in self._groups(facts["group"]):
                last = int(facts["last"])
                insert = "INSERT INTO archived VALUES (?,?) ON CONFLICT DO UPDATE SET through = max(through, ?)"
                self._connection.execute(insert, (number, last, last))
            self._connection.execute("INSERT OR REPLACE INTO chain VALUES (?,?,?)", (facts["group"], facts["digest"], facts["file"]))
        elif entry.caller == "recorder" and entry.event == MISSED:
            final = BODILESS if facts["missing"] == "body" else MISSING
            update = "UPDATE custody SET final = ? WHERE sequence = ? AND final IN (?, ?)"
            self._connection.execute(update, (final, int(facts["record"]), STAMPED, BODILESS))
        elif entry.caller == "recorder" and entry.event == CUT:
            cut = (int(facts["first"]), int(facts["last"]), int(facts["before_us"]))
            for number, text in self._groups(facts["subsystem"]):
                if text == facts["subsystem"]:
                    delete = "DELETE FROM custody WHERE grp = ? AND sequence BETWEEN ? AND ? AND at_us < ? AND final = 1"
                    self._connection.execute(delete, (number, *cut))

    def _groups(self, group: str) -> list[tuple[int, str]]:
        return [(number, text) for number, text in self._connection.execute("SELECT id, text FROM name") if is_of(text, group)]

    # -- archives

    def subsystems(self) -> dict[str, int]:
        """Ours that messages were kept of, each with the last record that is archived (0: none)."""
        rows = self._connection.execute(
            "SELECT n.text, coalesce(a.through, 0) FROM (SELECT DISTINCT grp FROM custody UNION SELECT grp FROM archived) g"
            " JOIN name n ON n.id = g.grp LEFT JOIN archived a ON a.grp = g.grp"
        )
        return {text: through for text, through in rows if text.count("/") == 3}

    def archivable(self, group: str, after: int, limit: int, until: int | None = None) -> tuple[list[int], int]:
        """(messages of the group that an archive should hold next, in order; the last record that it then covers).

        Unconfirmed messages are covered but prove nothing: they are passed over. Ends before the first message that is not final.
        """
        found: list[int] = []
        covered = after
        groups = {number: through for number, through in self._through(group)}
        begin = max(after, min(groups.values(), default=0))
        marks = ",".join("?" * len(groups))
        rows = self._connection.execute(
            f"SELECT sequence, grp, final FROM custody WHERE sequence > ? AND grp IN ({marks}) ORDER BY sequence",  # noqa: S608  # nosec B608
            (begin, *groups),
        )
        for sequence, number, final in rows:
            if final == OPEN or len(found) >= limit or (until is not None and sequence > until):
                break
            covered = sequence
            if final in (STAMPED, BODILESS) and sequence > groups[number]:
                found.append(sequence)
        return found, covered

    def missing(self, group: str, last: int) -> list[tuple[int, int, bool]]:
        """(message, when it was logged, whether its body alone cannot be read) of what no archive had so far, up to record `last`."""
        rows = [
            (sequence, at_us, final == BODILESS)
            for number, through in self._through(group)
            for sequence, at_us, final in self._connection.execute(
                "SELECT sequence, at_us, final FROM custody WHERE grp = ? AND sequence > ? AND sequence <= ? AND final IN (3, 4)",
                (number, through, last),
            )
        ]
        return sorted(rows)

    def next_unarchived(self, after: int) -> int | None:
        """The next stamped message that is in no archive, of whatever subsystem."""
        found = self._connection.execute(
            "SELECT c.sequence FROM custody c LEFT JOIN archived a ON a.grp = c.grp"
            " WHERE c.sequence > ? AND c.final = 1 AND c.sequence > coalesce(a.through, 0) ORDER BY c.sequence LIMIT 1",
            (after,),
        ).fetchone()
        return None if found is None else int(found[0])

    def final(self, sequence: int) -> int | None:
        """What is known of a message whose content is here; None of any other."""
        found = self._connection.execute("SELECT final FROM custody WHERE sequence = ?", (sequence,)).fetchone()
        return None if found is None else int(found[0])

    def chain_end(self, group: str) -> tuple[str, str]:
        """(last digest, file) of the group's newest archive; both empty: none was confirmed."""
        return self._connection.execute("SELECT digest, file FROM chain WHERE grp = ?", (group,)).fetchone() or ("", "")

    def _through(self, group: str) -> list[tuple[int, int]]:
        ours = self.subsystems()
        return [(number, ours[text]) for number, text in self._groups(group) if text in ours]

    # -- retention

    def due(self, subsystem: str, before_us: int, first: int, last: int) -> Due:
        """Archived contents in the records `first` to `last` whose term ended at `before_us`."""
        rows = self._connection.execute(
            "SELECT c.sequence FROM custody c JOIN name n ON n.id = c.grp JOIN archived a ON a.grp = c.grp"
            " WHERE n.text = ? AND c.at_us < ? AND c.sequence BETWEEN ? AND ? AND c.sequence <= a.through AND c.final = 1"
            " ORDER BY c.sequence",
            (subsystem, before_us, first, last),
        )
        return Due(subsystem, [row[0] for row in rows], before_us)

    def kept(self, first: int, last: int) -> set[int]:
        """Messages between these whose content is here."""
        return {row[0] for row in self._connection.execute("SELECT sequence FROM custody WHERE sequence BETWEEN ? AND ?", (first, last))}

    def signatures_kept(self, first: int, last: int) -> set[int]:
        """Signatures between these that a kept message is under."""
        select = "SELECT DISTINCT signature FROM custody WHERE signature BETWEEN ? AND ?"
        return {row[0] for row in self._connection.execute(select, (first, last))}

    def is_used(self, key: int) -> bool:
        """Whether any content is still under this group key."""
        return self._connection.execute("SELECT 1 FROM custody WHERE key = ? LIMIT 1", (key,)).fetchone() is not None

    def counts(self) -> dict[str, tuple[int, int | None]]:
        """(contents kept, when the oldest was logged) by subsystem."""
        rows = self._connection.execute("SELECT n.text, count(*), min(c.at_us) FROM custody c JOIN name n ON n.id = c.grp GROUP BY c.grp")
        return {text: (count, oldest) for text, count, oldest in rows}
