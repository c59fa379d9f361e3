"""Keeps the index and the tree behind the log: in batches, in a thread of its own, and never in the way of an append.

Whatever fails here fails alone: the index is marked as behind and reads the segments again, or is built anew.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from appliance.errors import UnavailableError
from appliance.journal import event
from appliance.messagelog import record
from appliance.messagelog.groups import Group, Written
from appliance.messagelog.index import Index
from appliance.messagelog.log_tree import LogTree
from appliance.messagelog.record import Position
from appliance.messagelog.segments import SegmentUnreadableError
from appliance.messagelog.store import Store

FLUSH_S = 0.5
"""How far the index may lag; a question brings it up to date first."""
ROWS_MAX = 20_000
"""Rows that wait in memory for a slow disk, some 40 MB with their messages; beyond it they are read from the segments instead."""
CATCH_UP_ROWS = 5_000

Answer = TypeVar("Answer")


class IndexUnavailableError(UnavailableError):
    """The index is being built anew, or its disk is full; appending goes on."""

    kind = "log.index_unavailable"


class IndexFollower:
    """One index and the thread that owns it."""

    def __init__(self, store: Store, index: Index, tree: LogTree, thread: ThreadPoolExecutor, log: logging.Logger) -> None:
        self._store, self._index, self._tree, self._thread, self._log = store, index, tree, thread, log
        self._rows: list[Written] = []
        self._position = Position()
        self._behind = False
        """Rows were dropped in the loop, for want of room in memory."""
        self._lacking = False
        """The thread's own word: the index did not take what it was given; it reads the segments again."""

    def follow(self, group: Group) -> None:
        """Takes note of a durable group."""
        if not group.written:
            return
        self._position = group.position
        if self._behind:
            return
        self._rows += group.written
        if len(self._rows) > ROWS_MAX:
            self._rows, self._behind = [], True

    async def run(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Everything noted so far is in the index afterwards."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._flusher())

    async def ask(self, question: Callable[[Index], Answer], *, whole: bool = False) -> Answer:
        """The answer of an index that knows every durable record, or of one that lacks the newest while its disk is full.

        `whole`: never of one that lacks any, for whoever acts on what is not in it. Raises IndexUnavailableError.
        """
        loop = asyncio.get_running_loop()
        flush = self._flusher()

        def answer() -> Answer:
            flush()
            if whole and self._lacking:
                raise IndexUnavailableError("the index lacks the newest records")
            try:
                return question(self._index)
            except sqlite3.Error as error:
                raise IndexUnavailableError(str(error)) from None

        return await loop.run_in_executor(self._thread, answer)

    async def close(self) -> None:
        await self.flush()
        await asyncio.get_running_loop().run_in_executor(self._thread, self._index.close)

    def _flusher(self) -> Callable[[], None]:
        """What the thread has to do now; the thread does its tasks in the order in which they were noted."""
        rows, position, behind = self._rows, self._position, self._behind
        self._rows, self._behind = [], False

        def flush() -> None:
            if not rows and not behind and not self._lacking:
                return
            self._grow(rows, behind)
            try:
                self._apply(rows, position, behind or self._lacking)
                self._lacking = False
            except SegmentUnreadableError as error:
                event(self._log, logging.WARNING, "log.index_behind", reason=str(error))
                self._lacking = True
            except sqlite3.Error as error:
                # A full disk, or a damaged file: the next question or the next turn tries again from the segments.
                event(self._log, logging.WARNING, "log.index_behind", reason=str(error))
                self._lacking = True
                if not isinstance(error, sqlite3.OperationalError):
                    with suppress(sqlite3.Error):
                        self._index.rebuild()

        return flush

    def _grow(self, rows: list[Written], behind: bool) -> None:
        """The tree needs no index. Without room for its tiles it keeps them for the next time."""
        try:
            if behind:
                self._tree.catch_up(self._store)
            else:
                self._tree.follow(rows, self._store)
        except (OSError, SegmentUnreadableError) as error:
            event(self._log, logging.WARNING, "log.tree_behind", reason=str(error))

    def _apply(self, rows: list[Written], position: Position, behind: bool) -> None:
        done = self._index.position().sequence
        fresh = [row for row in rows if row.sequence > done]  # catching up may have been faster than the notes
        if behind or (fresh and fresh[0].sequence != done + 1):
            self.catch_up()
        elif fresh:
            self._index.apply(fresh, position)

    def start(self) -> None:
        """Brings tree and index up to the log, before the thread starts."""
        self._tree.catch_up(self._store)
        self.catch_up()

    def catch_up(self) -> None:
        """Reads what the index lacks from the segments."""
        done = self._index.position().sequence
        if not done:
            self._index.begin_bulk()
        self._take_in(done)
        if self._index.is_bulk:  # also of an earlier try that a full disk ended
            self._index.end_bulk()

    def _take_in(self, done: int) -> None:
        """Every record behind `done`."""
        rows: list[Written] = []
        position = Position()
        for segment, found in self._store.records_from(done + 1):
            entry = record.decode_entry(found.kind, found.payload)
            position = Position(found.sequence, found.link)
            if entry is not None:
                rows.append(Written(found.kind, found.sequence, found.at_us, entry, segment, found.offset, found.size, found.link))
            if len(rows) >= CATCH_UP_ROWS:
                self._index.apply(rows, position)
                rows = []
        if position.sequence:
            self._index.apply(rows, position)
