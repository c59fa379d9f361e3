"""What a read does when it meets a part of the log that the disk does not give, or that is not what was written.

The rule is that of a start (README, "The tree, and what start-up follows"): what lies under the newest signed checkpoint cannot change
unseen, so damage there takes away what is damaged and no more; damage behind it ends the process, as it would end the next start. Bytes
that the disk does not give at all are refused wherever they lie: the log's end is in memory, what is appended needs none of them.
Whatever is refused is told once for each segment and start: an audit record, an incident.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from appliance.errors import CorruptStateError, UnverifiedError, XacbeError
from appliance.messagelog import audit
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft
from appliance.messagelog.record import AuditEntry, BrokenLinkError
from appliance.messagelog.segments import Segments

LOOK_S = 1.0
"""How soon a trouble that some thread met is told."""

OnDamage = Callable[[str, dict[str, str]], None]
"""An incident for CEIQROO: its kind and facts."""


class Damage:
    """The judge of one recorder's reads. In its loop."""

    def __init__(
        self,
        segments: Segments,
        covered: Callable[[], int],
        commit: GroupCommit,
        stop: Callable[[BaseException], None],
        on_damage: OnDamage,
    ) -> None:
        """`covered`: how many records the newest checkpoint covers."""
        self._segments, self._covered, self._commit, self._stop, self._on_damage = segments, covered, commit, stop, on_damage
        self._told: set[int] = set()
        self._telling = asyncio.Lock()

    @contextmanager
    def judged(self, sequence: int) -> Iterator[None]:
        """Around a read of this record. Raises UnverifiedError, of the damage's kind, where the log goes on without what is damaged."""
        try:
            yield
        except CorruptStateError as error:
            at = error.sequence if isinstance(error, BrokenLinkError) else sequence
            if at > self._covered():
                self._stop(error)
                raise
            self._segments.troubles.setdefault(self._segments.segment_of(at), error)
            raise UnverifiedError(str(error), kind=error.kind) from None

    async def run(self) -> None:
        """For ever: tells what was met."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self.tell()

    async def tell(self) -> None:
        """Each segment once: what went wrong there first. Kept for the next look while the log takes no record."""
        async with self._telling:
            for first, error in list(self._segments.troubles.items()):
                if first in self._told:
                    continue
                facts = {"segment": str(first), "kind": error.kind, "reason": audit.cut(str(error))}
                if await tell(self._commit.append, audit.DAMAGED, facts, self._on_damage):
                    self._told.add(first)


async def tell(append: Callable[[Draft], Awaitable[object]], event: str, facts: dict[str, str], on_damage: OnDamage) -> bool:
    """An audit record and, once that is durable, an incident. False where the log did not take it."""
    try:
        await append(Draft(AuditEntry(event, "recorder", facts), audit=True))
    except XacbeError:
        return False
    on_damage(event, facts)
    return True
