"""Operational records at rest: each batch of the relay's is one compressed, encrypted row of an SQLite file, kept a week.

They say who exchanged with whom, and ids that persons chose: nothing of it lies on the disk in clear (T52). The key is derived from the
log's tag key, which the token wraps; under another token older batches are nobody's. Neither durable nor evidence: what a crash takes
with it, some seconds, is missed (the log is the evidence). Bounded in age and bytes; the oldest goes first.
"""

from __future__ import annotations

import gzip
import os
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.errors import UNREADABLE, RefusedError
from appliance.messagelog.operations_wire import FIELDS, FoundOperations, ListOperations, Operation, QueryOperations

FILE = "operations.sqlite"
KEPT_S = 7 * 24 * 3600
"""As long as X-Road keeps them (sheet 8.2)."""
RECORDS_MAX, RAW_ANSWER_BYTES_MAX = 10_000, 4 << 20
"""In one answer, whichever comes first: X-Road's count, and some 4000 usual records, so that a query costs the recorder 20 MB at most.
Records of one second are never split, so that there may be a few more."""
ANSWER_BYTES_MAX = 3 << 20
"""Of the compressed answer: it travels in one frame of 4 MiB."""
RAW_BYTES_MAX = 64 << 20
"""A batch opened: a thousand records of the longest texts are 6 MiB."""
SETTLED_S = 2
"""The newest seconds are not told yet: records of a second are complete when it is over (X-Road waits 60 s)."""
_NONCE_BYTES = 12
_TABLE = """
CREATE TABLE IF NOT EXISTS batch (id INTEGER PRIMARY KEY, at_s INTEGER, records INTEGER, data BLOB);
CREATE INDEX IF NOT EXISTS batch_at ON batch (at_s);
"""
_encode, _decode = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder(list[Operation]).decode


class OperationsRangeError(RefusedError):
    """A period that cannot be asked for, or a field that there is not."""

    kind = "operations.invalid_request"


class OperationsTooLargeError(RefusedError):
    """The records of one second alone do not fit into an answer."""

    kind = "operations.too_large"


class Operations:
    """One file, used by one thread at a time. Raises sqlite3.Error where the disk fails: `Monitoring` then begins anew."""

    def __init__(self, path: Path, key: bytes, bytes_max: int) -> None:
        self._path, self._cipher, self._bytes_max = path, AESGCM(key), bytes_max
        self._connection = self._open()
        ((self._bytes, newest),) = self._connection.execute("SELECT coalesce(sum(length(data)), 0), coalesce(max(at_s), 0) FROM batch")
        self.newest_s: int = newest

    def _open(self) -> sqlite3.Connection:
        try:
            return _connected(self._path)
        except sqlite3.DatabaseError:  # a torn file after a power cut: a week of figures, no evidence
            for file in (self._path, *(self._path.with_name(f"{FILE}{end}") for end in ("-wal", "-shm"))):
                file.unlink(missing_ok=True)
            return _connected(self._path)

    def close(self) -> None:
        self._connection.close()

    def take(self, records: list[Operation], now_s: int) -> int:
        """Keeps a batch; its second. A clock that went back does not make records appear in seconds that were told already."""
        self.newest_s = at_s = max(self.newest_s, now_s)
        for record in records:
            record.monitoring_data_ts = at_s
        nonce = os.urandom(_NONCE_BYTES)
        data = nonce + self._cipher.encrypt(nonce, zlib.compress(_encode(records), 1), b"operations")
        self._connection.execute("INSERT INTO batch (at_s, records, data) VALUES (?,?,?)", (at_s, len(records), data))
        self._bytes += len(data)
        self._drop(at_s - KEPT_S)
        return at_s

    def _drop(self, before_s: int) -> None:
        """What is too old, and the oldest while there is too much; a few at a time, so that no batch waits long."""
        found = self._connection.execute("SELECT id, at_s, length(data) FROM batch ORDER BY at_s, id LIMIT 64").fetchall()
        gone = []
        for number, at_s, size in found:
            if at_s >= before_s and self._bytes <= self._bytes_max:
                break
            gone.append((number,))
            self._bytes -= size
        if gone:
            self._connection.executemany("DELETE FROM batch WHERE id = ?", gone)

    def between(self, from_s: int, to_s: int) -> Iterator[tuple[int, list[Operation], int]]:
        """Batches by second, both ends inclusive: second, records, and how many bytes they were."""
        rows = self._connection.execute("SELECT at_s, data FROM batch WHERE at_s BETWEEN ? AND ? ORDER BY at_s, id", (from_s, to_s))
        for at_s, data in rows:
            plain = self._opened(data)
            try:
                yield at_s, _decode(plain), len(plain)
            except UNREADABLE:
                continue  # of a release with other fields

    def _opened(self, data: bytes) -> bytes:
        """Of no records where another token's key sealed it."""
        try:
            packed = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], b"operations")
            return zlib.decompressobj().decompress(packed, RAW_BYTES_MAX)
        except (InvalidTag, zlib.error, ValueError):
            return _encode([])

    def query(self, wanted: QueryOperations, now_s: int) -> FoundOperations:
        """Raises OperationsRangeError, OperationsTooLargeError."""
        settled_s = max(now_s, self.newest_s) - SETTLED_S
        if not 0 <= wanted.from_s <= wanted.to_s or wanted.from_s > settled_s:
            raise OperationsRangeError("recordsFrom must be in the past, and not after recordsTo")
        unknown = sorted(set(wanted.fields) - FIELDS)
        if unknown:
            raise OperationsRangeError(f"unknown field {unknown[0][:80]}")
        to_s = min(wanted.to_s, settled_s)
        found: list[Operation] = []
        second: list[Operation] = []
        following, at_s = to_s + 1 if to_s < wanted.to_s else None, -1
        raw_bytes = 0
        for batch_s, records, size in self.between(wanted.from_s, to_s):
            if batch_s != at_s and second:
                found += second
                second = []
                if len(found) >= RECORDS_MAX or raw_bytes >= RAW_ANSWER_BYTES_MAX:
                    following = batch_s
                    break
            at_s = batch_s
            wanted_here = [one for one in records if _is_wanted(one, wanted)]
            second += wanted_here
            raw_bytes += size * len(wanted_here) // max(1, len(records))
        found += second
        return _answer(found, following, wanted.fields)

    def listed(self, wanted: ListOperations) -> list[Operation]:
        """The newest `limit` records of the period, oldest first."""
        found: list[Operation] = []
        for _, records, _ in self.between(wanted.from_s, wanted.to_s):
            found += [one for one in records if wanted.client in ("", client_of(one)) and wanted.service in ("", service_of(one))]
            del found[: -wanted.limit]
        return found


def client_of(one: Operation) -> str:
    """The plain name of who asked; empty where the request did not get so far."""
    return _plain(one.client_x_road_instance, one.client_member_class, one.client_member_code, one.client_subsystem_code)


def service_of(one: Operation) -> str:
    return _plain(
        one.service_x_road_instance,
        one.service_member_class,
        one.service_member_code,
        one.service_subsystem_code,
        one.service_code,
        one.service_version,
    )


def _plain(*parts: str | None) -> str:
    return "/".join(part for part in parts if part is not None)


def _is_wanted(one: Operation, wanted: QueryOperations) -> bool:
    if wanted.provider is not None and not one.is_of_provider(wanted.provider):
        return False
    return wanted.seen_by is None or one.is_of_client(wanted.seen_by) or one.is_of_provider(wanted.seen_by)


def _answer(found: list[Operation], following: int | None, fields: list[str]) -> FoundOperations:
    """Fewer whole seconds where all of them do not fit into one answer."""
    while True:
        packed = gzip.compress(msgspec.json.encode({"records": _with_fields(found, fields)}), 6, mtime=0)
        if len(packed) <= ANSWER_BYTES_MAX:
            return FoundOperations(len(found), packed, following)
        middle = found[len(found) // 2].monitoring_data_ts
        following = middle if middle > found[0].monitoring_data_ts else found[-1].monitoring_data_ts
        if following == found[0].monitoring_data_ts:
            raise OperationsTooLargeError("the records of one second do not fit into an answer")
        found = [one for one in found if one.monitoring_data_ts < following]


def _with_fields(found: list[Operation], fields: list[str]) -> object:
    if not fields:
        return found
    wanted = set(fields)
    return [{name: value for name, value in msgspec.to_builtins(one).items() if name in wanted} for one in found]


def _connected(path: Path) -> sqlite3.Connection:
    """Without a sync for each batch: after a power cut the last ones are missed, and SQLite's log keeps the file whole."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA cache_size=-512")
        connection.executescript(_TABLE)
    except sqlite3.Error:
        connection.close()
        raise
    os.chmod(path, 0o600)
    return connection
