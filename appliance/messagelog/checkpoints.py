"""When a checkpoint is made, and how: tiles durable, count of the TPM, signature of the box's log key, linked record, time stamp.

In the recorder's loop; the tree belongs to the index's thread. Nothing here is on an append's way, and nobody waits for it but who asks for
a proof: while the token is away or locked, checkpoints wait and the log goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from appliance.clock import Clock
from appliance.errors import UnavailableError, XacbeError
from appliance.hsm.wire import CheckpointReply, CheckpointRequest
from appliance.journal import event
from appliance.messagelog import audit
from appliance.messagelog.checkpoint import check, key_of
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft, Written
from appliance.messagelog.log_tree import Frozen, LogTree
from appliance.messagelog.record import AuditEntry, CheckpointEntry, MessageEntry, OutageEntry, StampEntry, UnconfirmedEntry

LOOK_S = 0.5
RETRY_S = 10.0
"""After a failed attempt: a token that is away for long is asked six times a minute."""
SIGN_CALL_S_MAX = 15.0
COUNT_INTERVAL_S = 3600.0
"""How often the TPM's counter goes up: its memory is made for some hundred thousand writes, 88,000 are ten years."""
COUNT_AHEAD_MAX = 1
"""One count may be lost with the checkpoint that would have carried it; the next is only taken when the last is durable in the log."""
NO_COUNTER = "token.mechanism_missing"


class NotCheckpointedError(UnavailableError):
    """There is no signed checkpoint over this record yet: the token is away, or was when it was asked."""

    kind = "log.not_checkpointed"


class Signer(Protocol):
    """The way to the signer: `local_client.LocalClient`."""

    async def call(self, operation: str, request: Any = None, answer: Any = None, timeout_s: float = SIGN_CALL_S_MAX) -> Any: ...


Frozener = Callable[[Callable[[LogTree], Any]], Awaitable[Any]]
"""Does something with the tree in its thread, once it has every durable record."""


def is_news(entry: object) -> bool:
    """Whether a record is worth a checkpoint of its own. Not what checkpoints themselves cause: their stamps, the count of their key's
    uses; nor start and end. Else an idle box would sign, stamp and write for ever."""
    if isinstance(entry, StampEntry):
        return entry.messages != entry.signatures  # a checkpoint is its own leaf
    if isinstance(entry, AuditEntry):
        return entry.event != audit.KEY_USED
    return isinstance(entry, MessageEntry | OutageEntry | UnconfirmedEntry)


class Checkpoints:
    """The shell around one tree. Invariant: a count that was taken is durable in a checkpoint before the next is taken."""

    def __init__(
        self,
        tree: LogTree,
        in_thread: Frozener,
        commit: GroupCommit,
        signer: Signer,
        clock: Clock,
        log: logging.Logger,
        *,
        interval_s: float,
        records_max: int,
        on_written: Callable[[Written, CheckpointEntry], None],
        on_rolled_back: Callable[[dict[str, str]], None],
        has_news: bool,
    ) -> None:
        """`has_news`: records that are worth a checkpoint were written before this start, and none covers them.

        `on_written`: a checkpoint is durable and waits for its stamp. `on_rolled_back`: the TPM counted further than the log tells.
        """
        self._tree, self._in_thread, self._commit, self._signer = tree, in_thread, commit, signer
        self._clock, self._log = clock, log
        self._interval_s, self._records_max = interval_s, records_max
        self._on_written, self._on_rolled_back = on_written, on_rolled_back
        self._news = int(has_news)
        self._due_s = clock.monotonic_s() + interval_s
        self._not_before_s = float("-inf")
        self._turn = asyncio.Lock()
        self._certificate = tree.certificate
        self._counter = None if tree.noted is None else tree.noted.counter
        self._counts = True
        self._compared = False
        self._counted_s = float("-inf")
        self.made = self.failed = 0

    @property
    def size(self) -> int:
        """How many records the newest checkpoint covers."""
        return 0 if self._tree.noted is None else self._tree.noted.size

    def take(self, written: list[Written]) -> None:
        """Durable records: the first news begins the interval."""
        fresh = sum(is_news(each.entry) for each in written)
        if fresh and not self._news:
            self._due_s = self._clock.monotonic_s() + self._interval_s
        self._news += fresh

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            now_s = self._clock.monotonic_s()
            is_due = self._news and (now_s >= self._due_s or self._news >= self._records_max)
            if is_due and now_s >= self._not_before_s:
                try:
                    await self.make()
                except (XacbeError, OSError) as error:
                    self._not_before_s = now_s + RETRY_S
                    self.failed += 1
                    event(self._log, logging.INFO, "log.checkpoint_delayed", kind=getattr(error, "kind", str(error)), records=self._news)

    async def covering(self, sequence: int) -> None:
        """Sees to it that the newest checkpoint covers this record. Raises NotCheckpointedError."""
        if self.size >= sequence:
            return
        try:
            await self.make()
        except (XacbeError, OSError) as error:
            raise NotCheckpointedError(f"record {sequence} is not under a checkpoint yet: {error}") from None

    async def make(self) -> None:
        """One checkpoint over everything that is durable. Raises XacbeError leaves, OSError."""
        async with self._turn:
            news = self._news
            frozen: Frozen = await self._in_thread(lambda tree: tree.freeze())
            if frozen.size == self.size:
                return
            counter = await self._count()
            request = CheckpointRequest(frozen.size, frozen.root, self._clock.now_us(), counter)
            reply: CheckpointReply = await self._signer.call("sign_checkpoint", request, CheckpointReply, SIGN_CALL_S_MAX)
            made = check(reply.note, [key_of(reply.certificate)])
            if (made.size, made.root) != (frozen.size, frozen.root):
                raise RuntimeError("the signer signed another checkpoint than it was asked for")
            certificate = None if reply.certificate == self._certificate else reply.certificate
            digest = hashlib.sha512(reply.note).digest()
            entry = CheckpointEntry(frozen.size, reply.note, digest, certificate, frozen.offset)
            written = await self._commit.append(Draft(entry, essential=True))
            # Commit point: the checkpoint is linked and durable. Losing the files below costs the next start a longer walk, no more.
            self._news, self._counter, self._certificate = self._news - news, counter, reply.certificate
            self._due_s = self._clock.monotonic_s() + self._interval_s
            self.made += 1
            await self._in_thread(lambda tree: tree.signed(reply.note, reply.certificate, frozen))
            self._on_written(written, entry)

    async def _count(self) -> int | None:
        """The TPM's count for the next checkpoint; None where the token does not count, or cannot just now."""
        if not self._counts:
            return None
        try:
            if not self._compared:
                return self._compare(int(await self._signer.call("read_counter", None, int, SIGN_CALL_S_MAX)))
            is_durable = self._tree.noted is not None and self._tree.noted.counter == self._counter
            if is_durable and self._clock.monotonic_s() - self._counted_s >= COUNT_INTERVAL_S:
                self._counted_s = self._clock.monotonic_s()
                return int(await self._signer.call("advance_counter", None, int, SIGN_CALL_S_MAX))
        except XacbeError as error:
            self._counts = error.kind != NO_COUNTER
        return self._counter

    def _compare(self, found: int) -> int:
        """The first count since the start, against the newest one that the log tells (T26)."""
        self._compared = True
        told = self._counter
        if told is not None and not told <= found <= told + COUNT_AHEAD_MAX:
            facts = {"counter": str(found), "told": str(told), "records": str(self.size)}
            event(self._log, logging.CRITICAL, audit.ROLLED_BACK, **facts)
            self._on_rolled_back(facts)
        return found
