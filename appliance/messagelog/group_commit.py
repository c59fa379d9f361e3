"""Natural group commit: one thread writes and syncs, and whatever waits when it comes back goes into the next group.

The loop collects, the thread writes (`store.Store.write`), the loop answers. There is no window: a lone record is written at once, under
load the groups grow by themselves. A write whose outcome is unknown ends the process through `stop`, before anybody is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Protocol

from appliance.errors import UnavailableError, XacbeError
from appliance.messagelog.groups import Draft, Group, Written
from appliance.worker_thread import StartWorker, WorkerThread

GROUP_RECORDS_MAX = 1024
GROUP_BYTES_MAX = 8 << 20
"""Bounds the memory of one group, and how long one sync may take on a slow card."""
DRAFT_BYTES = 4096
"""What a draft without a body is reckoned at."""

AUDITS_WAITING_MAX = 2048
"""More than the refusals of one relay's exchanges (1024) at once. Beside the settings' bound for messages, so that neither kind keeps the
other out; essential records need none: each follows from a message or a stamp that was let in."""

Done = Callable[[Written | XacbeError], None]


class LogBusyError(UnavailableError):
    """More records wait than the bounds allow: the disk is slower than the traffic."""

    kind = "log.busy"


class Writer(Protocol):
    """What writes a group: the store."""

    def write(self, drafts: list[Draft]) -> Group: ...


class GroupCommit:
    """Invariants: at most one group is being written; every submitted draft is answered exactly once, in order, or the process ends."""

    def __init__(
        self,
        store: Writer,
        waiting_max: int,
        on_group: Callable[[Group], None],
        stop: Callable[[BaseException], None],
        start_worker: StartWorker = WorkerThread,
    ) -> None:
        """`on_group`: called in the loop with each durable group, before its drafts are answered. `stop`: ends the process."""
        self._store, self._waiting_max, self._on_group, self._stop = store, waiting_max, on_group, stop
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[Draft, Done]] = deque()
        self._audits = 0
        self._busy = self._asked = self._closing = False
        self._written: list[Done] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._writer = start_worker("log-writer", self._write)

    @property
    def waiting(self) -> int:
        return len(self._pending) + len(self._written)

    def submit(self, draft: Draft, done: Done) -> None:
        """`done` is called in the loop when the draft is durable, or with the reason why it is not. Raises LogBusyError."""
        if self._closing or self._has_too_many(draft):
            raise LogBusyError(f"{len(self._pending)} records wait for the disk")
        self._pending.append((draft, done))
        self._audits += draft.audit
        if not self._busy and not self._asked:
            self._asked = True
            self._loop.call_soon(self._begin)  # not now: what arrives in the same turn of the loop shares the group

    def _has_too_many(self, draft: Draft) -> bool:
        if draft.essential:
            return False
        if draft.audit:
            return self._audits >= AUDITS_WAITING_MAX
        return len(self._pending) - self._audits >= self._waiting_max

    async def append(self, draft: Draft) -> Written:
        """Waits until the draft is durable. Raises LogFullError, LogBusyError."""
        future: asyncio.Future[Written] = self._loop.create_future()

        def done(result: Written | XacbeError) -> None:
            if future.done():
                return
            if isinstance(result, XacbeError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(draft, done)
        return await future

    async def close(self) -> None:
        """Writes what was submitted, then ends the thread."""
        self._closing = True
        if self._pending or self._busy:
            self._idle.clear()
            await self._idle.wait()
        self._writer.end()

    def _begin(self) -> None:
        self._asked = False
        if self._busy or not self._pending:
            return
        drafts: list[Draft] = []
        self._written, size = [], 0
        while self._pending and len(drafts) < GROUP_RECORDS_MAX and size < GROUP_BYTES_MAX:
            draft, done = self._pending.popleft()
            drafts.append(draft)
            self._audits -= draft.audit
            self._written.append(done)
            size += DRAFT_BYTES + len(draft.content)
        self._busy = True
        self._writer.give(drafts)

    def _write(self, drafts: list[Draft]) -> None:
        """In the writer's thread. After a failure nothing more is given: the group stays unanswered."""
        try:
            group = self._store.write(drafts)
        except BaseException as error:
            # The outcome is unknown (T35): nobody is answered, nothing is tried again, the process ends here and now.
            self._stop(error)
            return
        with contextlib.suppress(RuntimeError):  # the loop ended without close(): the group is durable, there is nobody to tell
            self._loop.call_soon_threadsafe(self._finished, group)

    def _finished(self, group: Group) -> None:
        answered, self._written = self._written, []
        self._busy = False
        self._begin()  # the disk goes on while we answer
        self._on_group(group)
        for done, result in zip(answered, group.results, strict=True):
            done(result)
        if self._closing and not self._busy and not self._pending:
            self._idle.set()
