"""The part of the recorder that keeps operational records: a thread and a file of its own, away from the log's.

Never in the way of a message: the relay sends batches when it likes, and what cannot be kept (no key yet, disk full, file broken) is
counted and dropped.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from appliance.clock import Clock
from appliance.errors import UnavailableError
from appliance.journal import event
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.operations import FILE, Operations, OperationsRangeError
from appliance.messagelog.operations_health import ServicesSeen
from appliance.messagelog.operations_wire import (
    PERSONAL,
    TAKE_MAX,
    AskHealth,
    FoundOperations,
    ListOperations,
    Operation,
    OperationsHealth,
    QueryOperations,
)
from appliance.net.local_server import Handler

KEY_PURPOSE = b"xacbe operational records 1"
ROOM_BYTES_MIN = 64 << 20
"""With less room on the disk the log needs it."""
LIST_MAX = 3000
"""Records for a person at once: within one frame."""
_HIDDEN = {field.name: None for field in msgspec.structs.fields(Operation) if field.encode_name in PERSONAL}
_take = msgspec.msgpack.Decoder(list[Operation])

Answer = TypeVar("Answer")


class OperationsAwayError(UnavailableError):
    """Operational records cannot be read now: no key yet, or the disk fails."""

    kind = "operations.away"


class Monitoring:
    """The handlers of one recorder. `room` says how many bytes the log may still take."""

    def __init__(self, root: Path, bytes_max: int, keys: DataKeys, clock: Clock, room: Callable[[], int], log: logging.Logger) -> None:
        self._path, self._bytes_max, self._keys, self._clock, self._room, self._log = root / FILE, bytes_max, keys, clock, room, log
        self._thread = ThreadPoolExecutor(1, "operations")
        self._operations: Operations | None = None
        self._seen = ServicesSeen(clock.now_us() // 1000)
        self.taken = self.dropped = 0

    def handlers(self) -> dict[str, Handler]:
        return {
            "take_operations": self.take_operations,
            "query_operations": self.query_operations,
            "operations_health": self.operations_health,
            "list_operations": self.list_operations,
        }

    def close(self) -> None:
        self._thread.shutdown()
        if self._operations is not None:
            self._operations.close()

    async def take_operations(self, caller: str, payload: bytes) -> None:
        """Always answered: a record that cannot be kept is not worth keeping the relay busy with."""
        records = _take.decode(payload)[:TAKE_MAX]
        for record in records:
            self._seen.saw(record)
        if self._room() < ROOM_BYTES_MIN:
            self.dropped += len(records)
            return
        now_s = self._now_s()
        try:
            await self._ask(lambda operations: operations.take(records, now_s))
            self.taken += len(records)
        except OperationsAwayError:
            self.dropped += len(records)

    async def query_operations(self, caller: str, payload: bytes) -> FoundOperations:
        wanted = msgspec.msgpack.decode(payload, type=QueryOperations)
        now_s = self._now_s()
        return await self._ask(lambda operations: operations.query(wanted, now_s))

    async def operations_health(self, caller: str, payload: bytes) -> OperationsHealth:
        wanted = msgspec.msgpack.decode(payload, type=AskHealth)
        now_s = self._now_s()
        return await self._ask(lambda operations: self._seen.health(operations, now_s, wanted.provider))

    async def list_operations(self, caller: str, payload: bytes) -> list[Operation]:
        """Figures and parties; what may name persons stays away: for that there is the log, with a role and a reason."""
        wanted = msgspec.msgpack.decode(payload, type=ListOperations)
        if wanted.from_s > wanted.to_s or not 1 <= wanted.limit <= LIST_MAX:
            raise OperationsRangeError(f"from must not be after to, and at most {LIST_MAX} records are shown")
        found = await self._ask(lambda operations: operations.listed(wanted))
        return [msgspec.structs.replace(one, **_HIDDEN) for one in found]

    async def _ask(self, question: Callable[[Operations], Answer]) -> Answer:
        """In the thread. Raises OperationsAwayError, operations.* leaves."""
        if not self._keys.ready:
            raise OperationsAwayError("the log's keys wait for the token")
        key = self._keys.derived(KEY_PURPOSE)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answered, key, question)

    def _answered(self, key: bytes, question: Callable[[Operations], Answer]) -> Answer:
        try:
            if self._operations is None:
                self._operations = Operations(self._path, key, self._bytes_max)
            return question(self._operations)
        except (sqlite3.Error, OSError) as error:
            event(self._log, logging.ERROR, "operations.failed", reason=str(error))
            if self._operations is not None:
                self._operations.close()
                self._operations = None  # opened anew at the next question, or begun anew
            raise OperationsAwayError("the file of operational records fails") from None

    def _now_s(self) -> int:
        return self._clock.now_us() // 1_000_000
