"""Keeps contents as long as their terms and archives want, erases them then, and hands final messages to the archivist.

Erasing a segment's due contents, each step after the one before it is durable:

    0  the segment is whole: what is written anew must not lack what a damaged record hides
    1  `retention.json` names the segment         a start, or turn, that finds it does steps 3 to 6 again
    2  audit records say what is cut, and why     (custody follows them)
    3  the segment is written anew and put in place; the index learns the new offsets for good
    4  files of bodies are removed
    5  group keys that nothing is under any more are erased
    6  `retention.json` goes

Only contents that the audit records of confirmed archives cover are ever due (`custody`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from appliance import durable
from appliance.access import roles
from appliance.errors import CorruptStateError, RefusedError, XacbeError
from appliance.journal import event
from appliance.messagelog import audit, cutting
from appliance.messagelog.archive_wire import (
    Archivable,
    ChangeTerm,
    ConfirmArchive,
    Erased,
    ListArchivable,
    MissingRecord,
    ReadArchivable,
    SubsystemTerm,
)
from appliance.messagelog.custody import BODILESS, CONFIRMED, CUT, PENDING, Due
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft, LogFullError
from appliance.messagelog.index import Index, Row
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.readers import Accounts
from appliance.messagelog.reading import descriptor_for
from appliance.messagelog.record import MESSAGE, SIGNATURE, AuditEntry, BrokenLinkError, Record
from appliance.messagelog.segments import SegmentUnreadableError
from appliance.messagelog.store import Store
from appliance.messagelog.terms import Term, Terms
from appliance.messagelog.wire import RecordContent, RecordSummary
from appliance.net.local_server import Handler, Reply, caller_uid, caller_user

LOOK_S = 3600.0
"""How often contents whose term has ended are looked for."""
DAMAGED = "retention.segment_damaged"
"""Audit event: contents of this segment are due, but it is not whole any more, so that it stays as it is."""
RECORDS_MAX = 5000
"""Messages in one archive: their summaries fit into one frame of 4 MiB."""
SEGMENT_PAUSE_S = 0.2
"""Between two segments: messages go first."""


class ArchiveGapError(RefusedError):
    """The archive does not hold exactly what comes next in its group."""

    kind = "archive.gap"


class Reads(Protocol):
    """What the recorder lends."""

    async def named(self, row: Row) -> RecordSummary: ...

    async def content(self, sequence: int, *, with_body: bool = True) -> tuple[RecordContent, int | None]: ...


class Custodian:
    """The part of the recorder that looks after old contents."""

    def __init__(
        self,
        root: Path,
        store: Store,
        follower: IndexFollower,
        commit: GroupCommit,
        keys: DataKeys,
        reads: Reads,
        accounts: Accounts,
        reached_us: Callable[[], int],
        log: logging.Logger,
    ) -> None:
        """`reached_us`: a moment that has certainly come (`signed_time.reached_us`): terms end by it, never by the wall clock alone.

        Raises TermsCorruptError.
        """
        self._pending = root / PENDING
        self._store, self._follower, self._commit, self._keys, self._reads = store, follower, commit, keys, reads
        self._accounts, self._reached_us, self._log, self._disk = accounts, reached_us, log, OsDisk(root)
        self.terms = Terms(root)
        self._erasing = asyncio.Lock()
        self._damaged: set[int] = set()
        """Segments of which the audit log says since this start that they stay as they are."""

    def handlers(self) -> dict[str, Handler]:
        return {
            "archive_groups": self.archive_groups,
            "list_archivable": self.list_archivable,
            "read_archivable": self.read_archivable,
            "confirm_archive": self.confirm_archive,
            "list_terms": self.list_terms,
            "change_term": self.change_term,
            "erase_due": self.erase_due,
        }

    async def run(self) -> None:
        """For ever. CorruptStateError ends the process: a sync failed, or a write with unknown outcome."""
        while True:
            try:
                await self._erase()
            except CorruptStateError:
                raise
            except (XacbeError, OSError) as error:
                event(self._log, logging.WARNING, "retention.put_off", kind=getattr(error, "kind", "disk"), reason=str(error))
            await asyncio.sleep(LOOK_S)

    # -- archives

    async def archive_groups(self, caller: str, payload: bytes) -> list[str]:
        """Our subsystems that messages are kept of."""
        return sorted(await self._follower.ask(lambda index: index.custody.subsystems(), whole=True))

    async def list_archivable(self, caller: str, payload: bytes) -> Archivable:
        """Says in the audit log that these are about to be read."""
        wanted = msgspec.msgpack.decode(payload, type=ListArchivable)
        limit = max(1, min(wanted.limit, RECORDS_MAX))

        def question(index: Index) -> tuple[list[Row], int, tuple[str, str], list[MissingRecord]]:
            found, covered = index.custody.archivable(wanted.group, 0, limit)
            before = index.custody.chain_end(wanted.group)
            rows: list[Row] = []
            size = 0
            for at, sequence in enumerate(found):
                row = index.summary(sequence)
                if row is None or (rows and size + row.summary.bytes > wanted.bytes_max):
                    covered = found[at - 1]
                    break
                rows.append(row)
                size += row.summary.bytes
            return rows, covered, before, [MissingRecord(*each) for each in index.custody.missing(wanted.group, covered)]

        rows, last, before, missing = await self._follower.ask(question, whole=True)
        if rows:
            facts = {"group": wanted.group, "first": str(rows[0].summary.sequence), "last": str(last), "records": str(len(rows))}
            await self._commit.append(Draft(AuditEntry("archive.begun", caller, facts), audit=True))
        return Archivable([await self._reads.named(row) for row in rows], last, *before, missing)

    async def read_archivable(self, caller: str, payload: bytes) -> Reply:
        sequence = msgspec.msgpack.decode(payload, type=ReadArchivable).sequence
        final = await self._follower.ask(lambda index: index.custody.final(sequence))
        content, descriptor = await self._reads.content(sequence, with_body=final != BODILESS)
        return Reply(content, descriptor_for(descriptor))

    async def confirm_archive(self, caller: str, payload: bytes) -> None:
        """Durable when answered. Raises ArchiveGapError where the archive leaves a message out, or holds one that is not next."""
        told = msgspec.msgpack.decode(payload, type=ConfirmArchive)

        def question(index: Index) -> list[int]:
            return index.custody.archivable(told.group, 0, len(told.records) + 1, until=told.last)[0]

        expected = await self._follower.ask(question, whole=True)
        if not expected:
            return  # confirmed before: the answer was lost
        if expected != told.records:
            raise ArchiveGapError(f"the archive of {told.group or 'all'} holds {len(told.records)} messages, {len(expected)} come next")
        facts = {"group": told.group, "file": told.file, "sha256": told.sha256, "digest": told.digest, "last": str(told.last)}
        facts |= {"first": str(told.records[0]), "records": str(len(told.records)), "targets": audit.cut(" ".join(told.targets))}
        await self._commit.append(Draft(AuditEntry(CONFIRMED, "recorder", facts), audit=True))

    # -- terms

    async def list_terms(self, caller: str, payload: bytes) -> list[SubsystemTerm]:
        counts = await self._follower.ask(lambda index: index.custody.counts())
        through = await self._follower.ask(lambda index: index.custody.subsystems())
        found = []
        for name in sorted({*counts, *through, *self.terms.terms, ""}):
            term, (kept, oldest_us) = self.terms.of(name), counts.get(name, (0, None))
            is_own = name in self.terms.terms
            found.append(SubsystemTerm(name, term.days, term.bodies, is_own, kept, oldest_us, through.get(name, 0)))
        return found

    async def change_term(self, caller: str, payload: bytes) -> None:
        """By root or an administrator; audited before it is in force. Raises RoleMissingError, TermsMalformedError, log.full."""
        wanted = msgspec.msgpack.decode(payload, type=ChangeTerm)
        roles.check_change(caller_user(), caller_uid(), await self._accounts())
        term = None if wanted.days is None else Term(wanted.days, wanted.bodies)
        self.terms.check(wanted.subsystem, term)
        facts = {"by": caller_user(), "subsystem": wanted.subsystem, "days": str(wanted.days), "bodies": str(wanted.bodies)}
        await self._commit.append(Draft(AuditEntry("retention.changed", caller, facts), audit=True))
        self.terms.put(wanted.subsystem, term)

    async def erase_due(self, caller: str, payload: bytes) -> Erased:
        return await self._erase()

    # -- erasing

    async def _erase(self) -> Erased:
        async with self._erasing:
            done = Erased(0, 0, 0, 0)
            erasable = self._keys.erasable()
            await self._follower.ask(
                lambda index: self.finish_pending(index, erasable), whole=True
            )  # of a turn that had no room; its audit record is durable already
            now_us = self._reached_us()
            limits = {
                name: self.terms.erased_before_us(name, now_us)
                for name in await self._follower.ask(lambda i: i.custody.subsystems(), whole=True)
            }
            limits = {name: limit for name, limit in limits.items() if limit}
            if limits and await self._due(limits, self._store.segments[-1]):
                self._store.roll()  # with the next record; its segment's turn comes then
                await self._commit.append(Draft(AuditEntry("retention.segment_closed", "recorder", {}), audit=True))
            for first in self._store.closed:
                due = await self._due(limits, first)
                if due:
                    await self._erase_in(first, due, done)
                    await asyncio.sleep(SEGMENT_PAUSE_S)
            return done

    async def _due(self, limits: dict[str, int], first: int) -> list[Due]:
        last = self._store.last_of(first)

        def question(index: Index) -> list[Due]:
            return [due for name, limit in limits.items() if (due := index.custody.due(name, limit, first, last)).sequences]

        return await self._follower.ask(question, whole=True)

    async def _erase_in(self, first: int, due: list[Due], done: Erased) -> None:
        if not await self._is_whole(first):
            return
        durable.write_file(self._pending, msgspec.json.encode(first))
        for one in due:
            facts = {"subsystem": one.subsystem, "first": str(one.sequences[0]), "last": str(one.sequences[-1])}
            facts |= {"before_us": str(one.before_us), "contents": str(len(one.sequences))}
            await self._commit.append(Draft(AuditEntry(CUT, "recorder", facts), audit=True))
        erasable = self._keys.erasable()
        erased = await self._follower.ask(lambda index: self.finish(index, first, erasable), whole=True)
        done.contents += sum(len(one.sequences) for one in due)
        done.bodies += erased.bodies
        done.keys += erased.keys
        done.bytes += erased.bytes
        event(self._log, logging.INFO, "retention.erased", segment=first, contents=sum(len(one.sequences) for one in due))

    async def _is_whole(self, first: int) -> bool:
        """Nothing is erased in a damaged segment: it may be all that is left of its records. The others' turns come nevertheless."""
        try:
            await self._follower.ask(lambda _: cutting.check_whole(self._disk, first, self._store.last_of(first)))
        except (BrokenLinkError, SegmentUnreadableError) as error:
            if first in self._damaged:
                return False
            self._damaged.add(first)
            event(self._log, logging.ERROR, DAMAGED, segment=first, kind=error.kind, reason=str(error))
            facts = {"segment": str(first), "reason": audit.cut(str(error))}
            await self._commit.append(Draft(AuditEntry(DAMAGED, "recorder", facts), audit=True))
            return False
        return True

    def start(self, index: Index) -> None:
        """Before anybody reads: a run that was cut off is carried out to its end. Without room it waits for the next turn."""
        try:
            self.finish_pending(index, self._keys.erasable())
        except LogFullError as error:
            event(self._log, logging.WARNING, "retention.put_off", kind=error.kind, reason=str(error))

    def finish_pending(self, index: Index, erasable: list[int]) -> None:
        """Carries a run that was cut off out to its end. Raises LogFullError, and what `finish` raises."""
        try:
            first = msgspec.json.decode(self._pending.read_bytes(), type=int)
        except FileNotFoundError:
            return
        try:
            if first in self._store.closed:  # else this is a log that was put back; what is written to must never be replaced
                self.finish(index, first, erasable)
        except (BrokenLinkError, SegmentUnreadableError) as error:  # damaged since: it stays as it is; `xacbe log audit` names the record
            event(self._log, logging.ERROR, DAMAGED, segment=first, kind=error.kind, reason=str(error))
        self._done()

    def finish(self, index: Index, first: int, erasable: list[int]) -> Erased:
        """Steps 3 to 6, in the index's thread: nobody looks a record up meanwhile. The same at the second time.

        The index is whole: what it does not know would be cut. `erasable`: group keys that no message on its way was under when this was
        noted (`DataKeys.erasable`); whatever was sealed under them is in this index.
        """
        last, custody = self._store.last_of(first), index.custody
        kept, signatures = custody.kept(first, last), custody.signatures_kept(first, last)

        def keeps(found: Record) -> bool:
            return not (
                (found.kind == MESSAGE and found.sequence not in kept) or (found.kind == SIGNATURE and found.sequence not in signatures)
            )

        anew = cutting.write_anew(self._disk, first, last, self._store.mark_of(first), keeps)
        cutting.put_in_place(self._disk, anew)
        self._store.replaced(first, anew.saved_bytes)
        index.moved(anew.offsets)
        bodies = cutting.remove_bodies(self._disk, first, last, kept)
        keys = [number for number in erasable if not custody.is_used(number)]
        for number in keys:
            self._keys.erase(number)
        self._done()
        return Erased(anew.cut, bodies, len(keys), anew.saved_bytes)

    def _done(self) -> None:
        self._pending.unlink(missing_ok=True)
        durable.sync_directory(self._pending.parent)
