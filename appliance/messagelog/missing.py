"""Messages that no archive can have, because they cannot be read: named, so that the archives behind them go on.

Situation, options and price: README, "What cannot be read". The archivist says which message it could make no container of; this looks for
itself, and again for PATIENCE_S, since a disk may come back. Then an audit record says what is missing: custody follows it, archives pass
over the message or take it without its body, and say so inside; what is left of it is never erased.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol

import msgspec

from appliance.clock import Clock
from appliance.errors import UnverifiedError, XacbeError
from appliance.journal import event
from appliance.messagelog import audit, damage
from appliance.messagelog.archive_wire import ReadArchivable
from appliance.messagelog.custody import BODILESS, MISSING, STAMPED
from appliance.messagelog.damage import OnDamage
from appliance.messagelog.data_keys import ContentErasedError
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.index import Index
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.segments import BodyUnreadableError, SegmentUnreadableError, UnknownRecordError
from appliance.messagelog.stream import BodySealBrokenError
from appliance.messagelog.wire import RecordContent

PATIENCE_S = 3600.0
"""From the first look that failed, in this process, to the verdict: a cable, a controller, a file system that a person mounts again. The
archivist asks every five minutes; looks that are further apart than twice this begin anew."""
AT_ONCE_MAX = 1000
"""Messages named in one call: a segment that is gone has thousands."""
GONE = (SegmentUnreadableError, BodyUnreadableError, UnknownRecordError, ContentErasedError, UnverifiedError)
"""What is the log's own; a token that is away, or an index that is being made, says nothing about a message."""
BODY, MESSAGE = "body", "message"


class Reads(Protocol):
    """What the recorder lends."""

    async def content(self, sequence: int, *, with_body: bool = True) -> tuple[RecordContent, int | None]: ...

    async def is_body_whole(self, sequence: int) -> bool: ...


class Missing:
    """The judge of one recorder."""

    def __init__(
        self,
        reads: Reads,
        follower: IndexFollower,
        commit: GroupCommit,
        close: Callable[[int], None],
        clock: Clock,
        log: logging.Logger,
        on_damage: OnDamage,
    ) -> None:
        self._reads, self._follower, self._commit, self._close, self._clock = reads, follower, commit, close, clock
        self._log, self._on_damage = log, on_damage
        self._began_s: float | None = None
        self._failed_s = 0.0
        """When the looks began to fail, and the last one that did."""

    async def archive_unreadable(self, caller: str, payload: bytes) -> bool:
        """True: the log says by now what is missing of this message. Raises IndexUnavailableError, LogKeyAbsentError."""
        sequence: int | None = msgspec.msgpack.decode(payload, type=ReadArchivable).sequence
        named = 0
        while sequence is not None and named < AT_ONCE_MAX and await self._is_named(sequence, first=not named):
            named += 1  # where one is lost, others behind it are: whoever asks need not come for each
            sequence = await self._follower.ask(partial(_next, after=sequence), whole=True)
        return named > 0

    async def _is_named(self, sequence: int, *, first: bool) -> bool:
        known = await self._follower.ask(lambda index: index.custody.final(sequence), whole=True)
        if known not in (STAMPED, BODILESS):
            return known == MISSING
        lost = await self._lost(sequence, bodiless=known == BODILESS)
        if lost is not None:
            return await self._named(sequence, *lost)
        if first:  # it is back
            self._began_s = None
        return False

    async def _named(self, sequence: int, missing: str, why: str) -> bool:
        """Whether the log says now that it is missing: after PATIENCE_S in which whatever was asked for could not be read."""
        now_s = self._clock.monotonic_s()
        if self._began_s is None or now_s - self._failed_s > 2 * PATIENCE_S:
            self._began_s = now_s
        self._failed_s = now_s
        if now_s - self._began_s < PATIENCE_S:
            event(self._log, logging.WARNING, "archive.unreadable", record=sequence, missing=missing, reason=why)
            return False
        facts = {"record": str(sequence), "missing": missing, "reason": audit.cut(why)}
        event(self._log, logging.ERROR, audit.MISSING, **facts)
        return await damage.tell(self._commit.append, audit.MISSING, facts, self._on_damage)

    async def _lost(self, sequence: int, *, bodiless: bool) -> tuple[str, str] | None:
        """(what cannot be read, why); None where all of it can, apart from a body that is known to be missing."""
        try:
            await self._read(sequence, with_body=not bodiless)
            if bodiless or await self._reads.is_body_whole(sequence):
                return None
            why: XacbeError = BodySealBrokenError("the body's file is not the one that was written")
        except GONE as error:
            why = error
        try:
            await self._read(sequence, with_body=False)
        except GONE as error:
            return MESSAGE, f"{error.kind}: {error}"
        return BODY, f"{why.kind}: {why}"

    async def _read(self, sequence: int, *, with_body: bool) -> None:
        _, descriptor = await self._reads.content(sequence, with_body=with_body)
        if descriptor is not None:
            self._close(descriptor)


def _next(index: Index, after: int) -> int | None:
    return index.custody.next_unarchived(after)
