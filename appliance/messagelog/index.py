"""The index of the log: an SQLite file that can be thrown away.

It answers look-ups in well under a millisecond; at start it says which records have no stamp yet and which sealed messages came lately. It
is written in batches, off the hot path and behind the sync; what it missed is read again from the segments, and when it is damaged, of
another format or does not agree with the log it is built anew. The segments alone are the truth. Message ids and parties stand in it as
keyed digests and encrypted (`sealing`), so that it is built, and rebuilt, without any key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.messagelog import custody, notice_table
from appliance.messagelog.custody import Custody
from appliance.messagelog.groups import Written
from appliance.messagelog.record import (
    AuditEntry,
    CheckpointEntry,
    MessageEntry,
    NoticeEntry,
    OutageEntry,
    Position,
    SignatureEntry,
    StampEntry,
    UnconfirmedEntry,
    group_of,
)
from appliance.messagelog.stamping import Waiting
from appliance.messagelog.wire import ListRecords, RecordSummary

FORMAT = 6
WAITING, STAMPED, PROVISIONAL, UNCONFIRMED_STATE = "waiting", "stamped", "provisional", "unconfirmed"
_W, _S, _P, _U = 0, 1, 2, 3
_STATES = (WAITING, STAMPED, PROVISIONAL, UNCONFIRMED_STATE)
REPLAY_BYTES = 8
"""As many as the replay guard keeps of a key."""
LIST_MAX = 1000
"""Records in one answer to `list_records`."""

_TABLES = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS name (id INTEGER PRIMARY KEY, text TEXT UNIQUE);
CREATE TABLE IF NOT EXISTS signature (sequence INTEGER PRIMARY KEY, offset INTEGER, digest BLOB);
CREATE TABLE IF NOT EXISTS stamp (sequence INTEGER PRIMARY KEY, offset INTEGER);
CREATE TABLE IF NOT EXISTS message (
  sequence INTEGER PRIMARY KEY, offset INTEGER, at_us INTEGER, side INTEGER, direction INTEGER, query BLOB, names BLOB,
  key INTEGER, client INTEGER, service INTEGER, represented BLOB, bytes INTEGER, signature INTEGER, ends_us INTEGER,
  replay BLOB, signed_us INTEGER,
  state INTEGER, stamp INTEGER, stamped_at_us INTEGER, until_us INTEGER, begins_us INTEGER);
CREATE INDEX IF NOT EXISTS message_query ON message (query);
CREATE INDEX IF NOT EXISTS message_client ON message (client, at_us);
CREATE INDEX IF NOT EXISTS message_service ON message (service, at_us);
CREATE INDEX IF NOT EXISTS message_at ON message (at_us);
CREATE INDEX IF NOT EXISTS message_represented ON message (represented, at_us) WHERE represented IS NOT NULL;
CREATE INDEX IF NOT EXISTS message_open ON message (sequence) WHERE state IN (0, 2);
"""

_ALL_TABLES = _TABLES + notice_table.TABLES + custody.TABLES
BULK_PAGES, PAGES = 4096, 1000
"""Pages of 4 KiB between two checkpoints of SQLite's write-ahead log: while everything is built anew, and otherwise (its own figure)."""

_INSERT = "INSERT OR REPLACE INTO message VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
_SUMMARY = """SELECT m.sequence, m.at_us, m.side, m.direction, m.names, m.key, c.text, s.text,
m.bytes, m.state, m.stamped_at_us
FROM message m JOIN name c ON c.id = m.client JOIN name s ON s.id = m.service """


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message's parts lie: offsets within the segments of their sequences."""

    offset: int
    signature: int
    signature_offset: int
    stamp: int | None
    stamp_offset: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """A message as the index knows it: `names` are still sealed, under the epoch of `key`."""

    summary: RecordSummary
    names: bytes
    key: int


@dataclass(frozen=True, slots=True)
class OpenWork:
    """What the log says is unfinished, for the start."""

    waiting: list[Waiting]
    provisional: dict[int, int]
    outage_since_us: int | None
    exhausted: bool


@dataclass(frozen=True, slots=True)
class AtStart:
    """Everything that the recorder asks its index for before it serves. `replays`: beginnings of keys with their signing times."""

    replays: list[tuple[bytes, int]]
    records: int
    newest_stamp_us: int | None
    work: OpenWork


class Index:
    """One connection, used by one thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names: dict[str, int] = {}
        self._connection = self._opened()

    # -- life

    def _opened(self) -> sqlite3.Connection:
        try:
            connection = self._connect()
            found = connection.execute("SELECT value FROM state WHERE key = 'format'").fetchone()
            if found is not None and found[0] != FORMAT:
                raise sqlite3.DatabaseError("another format")
            names = connection.execute("SELECT id, text FROM name").fetchall()
        except sqlite3.DatabaseError:  # damaged, or not ours: it is only an index
            self.discard()
            connection, names = self._connect(), []
        connection.execute("INSERT OR IGNORE INTO state VALUES ('format', ?)", (FORMAT,))
        connection.commit()
        self._names = {text: number for number, text in names}
        self.custody = Custody(connection)
        self.is_bulk = False
        """Whether trees are still to be built (`begin_bulk`)."""
        return connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)  # the recorder's index thread, then its successor
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # NORMAL: after a power cut it is older, never inconsistent; with OFF it could silently lack rows
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute("PRAGMA cache_size = -8192")
            connection.executescript(_ALL_TABLES)
        except sqlite3.DatabaseError:
            connection.close()
            raise
        return connection

    def discard(self) -> None:
        """Deletes the files."""
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def rebuild(self) -> None:
        """Begins anew, empty."""
        self._connection.close()
        self.discard()
        self._connection = self._opened()

    def close(self) -> None:
        self._connection.close()

    # -- following the log

    def position(self) -> Position:
        """The last record that is in the index, with its link: believed only if the log agrees."""
        found: dict[str, Any] = dict(self._connection.execute("SELECT key, value FROM state WHERE key IN ('sequence', 'link')"))
        return Position(found["sequence"], found["link"]) if len(found) == 2 else Position()

    def begin_bulk(self) -> None:
        """Before everything is taken in: trees that are sorted at the end take a third of the time off. A process that ends meanwhile
        finds them missing at its next start and makes them (`_ALL_TABLES`)."""
        names = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        for (name,) in names:
            self._connection.execute(f'DROP INDEX "{name}"')
        self.is_bulk = True
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {BULK_PAGES}")

    def end_bulk(self) -> None:
        self._connection.executescript(_ALL_TABLES)
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {PAGES}")
        self.is_bulk = False

    def apply(self, records: Iterable[Written], position: Position) -> None:
        """Takes in durable records in order, up to `position`, in one transaction."""
        messages: dict[int, list[Any]] = {}
        with self._connection as connection:
            for written in records:
                self._take(connection, written, messages)
            connection.executemany(_INSERT, messages.values())
            connection.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", [("sequence", position.sequence), ("link", position.link)])

    def _take(self, connection: sqlite3.Connection, written: Written, messages: dict[int, list[Any]]) -> None:
        entry = written.entry
        if isinstance(entry, MessageEntry):
            messages[written.sequence] = self._row(connection, written, entry)
            group = self._name(connection, group_of(entry.side, entry.client, entry.service))
            self.custody.message(written.sequence, written.at_us, entry, group)
        elif isinstance(entry, AuditEntry):
            self.custody.audit(entry)
        elif isinstance(entry, SignatureEntry | CheckpointEntry):  # a checkpoint is a leaf of the stamps as well
            connection.execute("INSERT OR REPLACE INTO signature VALUES (?,?,?)", (written.sequence, written.offset, entry.digest))
        elif isinstance(entry, StampEntry):
            connection.execute("INSERT OR REPLACE INTO stamp VALUES (?,?)", (written.sequence, written.offset))
            change: list[tuple[Any, ...]] = [(_S, written.sequence, entry.gen_time_us, None, each) for each in entry.messages]
            self._change(connection, messages, change)
            self.custody.settled(entry.messages, custody.STAMPED, entry.gen_time_us)
        elif isinstance(entry, OutageEntry):
            connection.execute("INSERT OR REPLACE INTO state VALUES ('outage', ?)", (entry.started_us if entry.ended_us is None else None,))
            self._change(connection, messages, [(_P, None, None, until, sequence) for sequence, until in entry.provisional])
        elif isinstance(entry, UnconfirmedEntry):
            self._change(connection, messages, [(_U, None, None, None, sequence) for sequence in entry.messages])
            self.custody.settled(entry.messages, custody.UNCONFIRMED)
            notice_table.withdrawn(connection, entry, written.at_us)
        elif isinstance(entry, NoticeEntry):
            notice_table.noted(connection, entry, written.at_us)

    def _change(self, connection: sqlite3.Connection, messages: dict[int, list[Any]], changes: list[tuple[Any, ...]]) -> None:
        """(state, stamp, stamped_at, until, sequence): in the rows of this batch where they are, else in the table."""
        elsewhere = []
        for change in changes:
            row = messages.get(change[4])
            if row is None:
                elsewhere.append(change)
            else:
                row[16:20] = change[:4]
        if elsewhere:
            connection.executemany("UPDATE message SET state = ?, stamp = ?, stamped_at_us = ?, until_us = ? WHERE sequence = ?", elsewhere)

    def _row(self, connection: sqlite3.Connection, written: Written, entry: MessageEntry) -> list[Any]:
        return [
            written.sequence,
            written.offset,
            written.at_us,
            int(entry.side == "provider"),
            int(entry.direction == "response"),
            entry.query_tag,
            entry.names,
            entry.key,
            self._name(connection, entry.client),
            self._name(connection, entry.service),
            entry.represented_tag,
            entry.message_bytes + entry.body_bytes,
            entry.signature,
            entry.ends_us,
            None if entry.replay_key is None else entry.replay_key[:REPLAY_BYTES],
            entry.signed_at_us,
            _W,
            None,
            None,
            None,
            entry.begins_us,
        ]

    def _name(self, connection: sqlite3.Connection, text: str) -> int:
        """Names of clients and services are few: numbers keep the rows small."""
        number = self._names.get(text)
        if number is None:
            connection.execute("INSERT OR IGNORE INTO name (text) VALUES (?)", (text,))
            number = int(connection.execute("SELECT id FROM name WHERE text = ?", (text,)).fetchone()[0])
            self._names[text] = number
        return number

    def moved(self, offsets: Iterable[tuple[int, int]]) -> None:
        """(sequence, offset) of every record of a segment that was written anew. Durable when it returns: links do not tell that offsets
        are of before, so that an index without them would be believed at the next start."""
        places = [(offset, sequence) for sequence, offset in offsets]
        with self._connection as connection:
            for table in ("message", "signature", "stamp"):
                connection.executemany(f"UPDATE {table} SET offset = ? WHERE sequence = ?", places)  # noqa: S608  # nosec B608
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()  # syncs both files; a commit alone does not (NORMAL)

    # -- questions

    def open_work(self) -> OpenWork:
        """Every message without a stamp that may still get one."""
        rows = self._connection.execute(
            "SELECT m.sequence, m.signature, s.digest, m.ends_us, m.at_us, m.begins_us, m.replay IS NULL, m.until_us"
            " FROM message m JOIN signature s ON s.sequence = m.signature WHERE m.state IN (0, 2) ORDER BY m.sequence"
        ).fetchall()
        waiting = [Waiting(row[0], row[1], row[2], row[3], row[4], row[5], bool(row[6])) for row in rows]
        provisional = {row[0]: row[7] for row in rows if row[7] is not None}
        outage = self._connection.execute("SELECT value FROM state WHERE key = 'outage'").fetchone()
        since_us = outage[0] if outage else None
        return OpenWork(waiting, provisional, since_us, since_us is not None and self._missed_since(since_us))

    def _missed_since(self, since_us: int) -> bool:
        """Whether a record that was acknowledged could no longer be stamped, since the outage began."""
        query = "SELECT 1 FROM notice n JOIN message m ON m.sequence = n.message WHERE n.theirs = 0 AND m.ends_us >= ? LIMIT 1"
        return self._connection.execute(query, (since_us,)).fetchone() is not None

    def notices(self) -> notice_table.NoticeTable:
        """What the log says of withdrawal notices."""
        return notice_table.NoticeTable(self._connection)

    def replay_keys(self, signed_after_us: int) -> Iterator[tuple[bytes, int]]:
        """(beginning of the key, signing time) of received messages that were sealed later."""
        yield from self._connection.execute(
            "SELECT replay, signed_us FROM message WHERE signed_us > ? AND replay IS NOT NULL", (signed_after_us,)
        )

    def search(self, wanted: ListRecords, query_tag: bytes | None = None, party_tag: bytes | None = None) -> list[Row]:
        """Newest first, at most LIST_MAX. The tags stand for the message id and the represented party that are wanted."""
        conditions: list[str] = []
        values: list[object] = []
        tags = (("m.query", query_tag), ("m.represented", party_tag))
        for column, value in (*tags, ("c.text", wanted.client), ("s.text", wanted.service)):
            if value:
                conditions.append(f"{column} = ?")
                values.append(value)
        span: list[object] = list(values)
        if wanted.sequence:
            conditions.append("m.sequence = ?")
            span.append(wanted.sequence)
        if wanted.state in _STATES:
            conditions.append("m.state = ?")
            span.append(_STATES.index(wanted.state))
        if wanted.since_us:
            conditions.append("m.at_us >= ?")
            span.append(wanted.since_us)
        if wanted.until_us and wanted.before:
            conditions.append("(m.at_us < ? OR (m.at_us = ? AND m.sequence < ?))")
            span += [wanted.until_us, wanted.until_us, wanted.before]
        elif wanted.until_us:
            conditions.append("m.at_us <= ?")
            span.append(wanted.until_us)
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        order = "ORDER BY m.at_us DESC, m.sequence DESC LIMIT ?"
        rows = self._connection.execute(_SUMMARY + where + order, [*span, min(max(wanted.limit, 1), LIST_MAX)])
        return [_row(row) for row in rows]

    def own(self, subsystem: str, query_tag: bytes, limit: int) -> list[Row]:
        """Messages under an id in which `subsystem` is our side, oldest first."""
        prefix = f"{subsystem}/"
        where = "WHERE m.query = ? AND ((m.side = 0 AND c.text = ?) OR (m.side = 1 AND substr(s.text, 1, ?) = ?)) "
        values = (query_tag, subsystem, len(prefix), prefix, limit)
        return [_row(row) for row in self._connection.execute(_SUMMARY + where + "ORDER BY m.sequence LIMIT ?", values)]

    def requests(self, since_us: int, until_us: int, party_tag: bytes | None, after: int) -> list[Row]:
        """Requests of a time behind record `after`, oldest number first, at most LIST_MAX: for the report (IV.6.IV)."""
        party = "" if party_tag is None else "AND m.represented = ? "
        values = [after, since_us, until_us or 1 << 62, *([] if party_tag is None else [party_tag]), LIST_MAX]
        where = f"WHERE m.sequence > ? AND m.direction = 0 AND m.at_us BETWEEN ? AND ? {party}"
        return [_row(row) for row in self._connection.execute(_SUMMARY + where + "ORDER BY m.sequence LIMIT ?", values)]

    def summary(self, sequence: int) -> Row | None:
        row = self._connection.execute(_SUMMARY + "WHERE m.sequence = ?", (sequence,)).fetchone()
        return None if row is None else _row(row)

    def place(self, sequence: int) -> Place | None:
        """Where message `sequence`, its signature and its stamp lie."""
        row = self._connection.execute(
            "SELECT m.offset, m.signature, s.offset, m.stamp, t.offset FROM message m JOIN signature s ON s.sequence = m.signature"
            " LEFT JOIN stamp t ON t.sequence = m.stamp WHERE m.sequence = ?",
            (sequence,),
        ).fetchone()
        return None if row is None else Place(*row)

    def offset(self, sequence: int) -> int | None:
        """Where a message or a signature lies in its segment; None for other records."""
        for table in ("message", "signature"):
            row = self._connection.execute(f"SELECT offset FROM {table} WHERE sequence = ?", (sequence,)).fetchone()  # noqa: S608  # nosec B608
            if row is not None:
                return int(row[0])
        return None

    def signature_offset(self, sequence: int) -> int | None:
        row = self._connection.execute("SELECT offset FROM signature WHERE sequence = ?", (sequence,)).fetchone()
        return None if row is None else int(row[0])

    def digests(self, signatures: list[int]) -> list[bytes]:
        """SHA-512 of each signature document, in order."""
        select = "SELECT digest FROM signature WHERE sequence = ?"
        return [bytes(self._connection.execute(select, (sequence,)).fetchone()[0]) for sequence in signatures]

    def at_start(self, signed_after_us: int) -> AtStart:
        """Raises sqlite3.DatabaseError where a page is damaged that nobody had read before."""
        records, newest_stamp_us = self.counts()
        return AtStart(list(self.replay_keys(signed_after_us)), records, newest_stamp_us, self.open_work())

    def counts(self) -> tuple[int, int | None]:
        """Messages, and the newest stamp's time."""
        newest = "SELECT stamped_at_us FROM message WHERE stamp = (SELECT max(sequence) FROM stamp) LIMIT 1"
        row = self._connection.execute(newest).fetchone()
        return int(self._connection.execute("SELECT count(*) FROM message").fetchone()[0]), row[0] if row else None


def _row(row: tuple[Any, ...]) -> Row:
    """The columns of _SUMMARY."""
    sequence, at_us, side, direction, names, key, client, service, size, state, stamped_at_us = row
    side, direction = "provider" if side else "client", "response" if direction else "request"
    summary = RecordSummary(sequence, at_us, side, direction, "", "", client, service, size, _STATES[state], stamped_at_us, None)
    return Row(summary, names, key)
