"""Withdrawal notices in the index: which message, whose record, who has been told. Derived from UNCONFIRMED and NOTICE records alone.

A message has one row, however often it is withdrawn. A row that a peer's notice made needs no notice back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from appliance.messagelog.record import OURS, THEIRS, NoticeEntry, UnconfirmedEntry
from appliance.messagelog.wire import NOTICE_CODE, PEER, SYSTEM, NoticeItem, NoticeSummary
from appliance.model.identifiers import ServiceId

TABLES = """
CREATE TABLE IF NOT EXISTS notice (
  message INTEGER PRIMARY KEY, theirs INTEGER, since_us INTEGER, system_us INTEGER, system TEXT, peer_us INTEGER, peer TEXT);
CREATE INDEX IF NOT EXISTS notice_system ON notice (message) WHERE system_us IS NULL;
CREATE INDEX IF NOT EXISTS notice_peer ON notice (message) WHERE peer_us IS NULL;
"""
GROUPS_MAX = 1000
"""Client and service together: pairs that one outage can touch."""
_ITEM = "n.message, n.theirs, m.names, m.key, m.direction, m.side, c.text, s.text, m.at_us, n.since_us"
_JOINED = (
    "FROM notice n JOIN message m ON m.sequence = n.message JOIN name c ON c.id = m.client "
    f"JOIN name s ON s.id = m.service AND s.text NOT LIKE '%/{NOTICE_CODE}' "
)
"""A notice that could not be confirmed is not withdrawn by another one: it is sent again until one was."""
_UNTOLD = {SYSTEM: "n.system_us IS NULL", PEER: "n.peer_us IS NULL"}
_TOLD = {
    SYSTEM: "UPDATE notice SET system_us = ?, system = ? WHERE message = ?",
    PEER: "UPDATE notice SET peer_us = ?, peer = ? WHERE message = ?",
}


def withdrawn(connection: sqlite3.Connection, entry: UnconfirmedEntry, at_us: int) -> None:
    """Our own records of these messages missed their stamp."""
    rows = [(message, at_us) for message in entry.withdrawn]
    connection.executemany("INSERT OR IGNORE INTO notice VALUES (?, 0, ?, NULL, NULL, NULL, NULL)", rows)


def noted(connection: sqlite3.Connection, entry: NoticeEntry, at_us: int) -> None:
    """Somebody was told, or a peer told us."""
    if entry.to in _TOLD:
        connection.executemany(_TOLD[entry.to], [(at_us, entry.word, message) for message in entry.messages])
    else:
        rows = [(message, at_us, at_us, entry.word) for message in entry.messages]
        connection.executemany("INSERT OR IGNORE INTO notice VALUES (?, 1, ?, NULL, NULL, ?, ?)", rows)


@dataclass(frozen=True, slots=True)
class NoticeGroup:
    """The notices of one receiver about one client and one service."""

    to: str
    side: str
    client: str
    service: str

    @property
    def parties(self) -> tuple[str, str]:
        """(our subsystem, the other side's)."""
        provider = str(ServiceId.parse(self.service).provider)
        return (self.client, provider) if self.side == "client" else (provider, self.client)


@dataclass(frozen=True, slots=True)
class SealedItem:
    """One message of a notice; its ids are still encrypted, under the epoch of `key`."""

    item: NoticeItem
    names: bytes
    key: int


class NoticeTable:
    """Questions, in the index's thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute: Callable[..., sqlite3.Cursor] = connection.execute

    def groups(self) -> list[NoticeGroup]:
        """Every receiver that still has to be told something."""
        found = []
        for to, untold in _UNTOLD.items():
            query = f"SELECT m.side, c.text, s.text {_JOINED} WHERE {untold} GROUP BY m.side, m.client, m.service LIMIT ?"  # nosec B608
            found += [NoticeGroup(to, _side(row[0]), row[1], row[2]) for row in self._execute(query, (GROUPS_MAX,))]
        return found

    def items(self, group: NoticeGroup, limit: int) -> list[SealedItem]:
        """What it has to be told, oldest first."""
        query = (
            f"SELECT {_ITEM} {_JOINED} WHERE {_UNTOLD[group.to]} AND m.side = ? AND c.text = ? AND s.text = ? "  # nosec B608
            "ORDER BY n.message LIMIT ?"
        )
        return [_item(row) for row in self._execute(query, (int(group.side == "provider"), group.client, group.service, limit))]

    def due(self) -> int:
        """Messages of which somebody has not been told."""
        return int(self._execute(f"SELECT count(*) {_JOINED} WHERE n.system_us IS NULL OR n.peer_us IS NULL").fetchone()[0])

    def newest(self, limit: int) -> list[tuple[SealedItem, NoticeSummary]]:
        query = f"SELECT {_ITEM}, n.system_us, n.system, n.peer_us, n.peer {_JOINED} ORDER BY n.message DESC LIMIT ?"  # nosec B608
        found = [(_item(row), row) for row in self._execute(query, (limit,))]
        return [(item, NoticeSummary(item.item, row[10], row[11] or "", row[12], row[13] or "")) for item, row in found]

    def named(self, item: NoticeItem, query_tag: bytes) -> list[tuple[int, str]]:
        """(sequence, side) of our records of the message that a peer names; `query_tag` stands for its id."""
        query = (
            "SELECT m.sequence, m.side FROM message m JOIN name c ON c.id = m.client JOIN name s ON s.id = m.service "
            "WHERE m.query = ? AND m.direction = ? AND c.text = ? AND s.text = ?"
        )
        found = self._execute(query, (query_tag, int(item.direction == "response"), item.client, item.service))
        return [(row[0], _side(row[1])) for row in found]


def _side(number: int) -> str:
    return "provider" if number else "client"


def _item(row: tuple[Any, ...]) -> SealedItem:
    message, theirs, names, key, direction, side, client, service, at_us, since_us = row[:10]
    item = NoticeItem(
        message=int(str(message)),
        origin=THEIRS if theirs else OURS,
        query_id="",
        request_id="",
        direction="response" if direction else "request",
        side=_side(int(str(side))),
        client=str(client),
        service=str(service),
        at_us=int(str(at_us)),
        since_us=int(str(since_us)),
    )
    return SealedItem(item, names, key)
