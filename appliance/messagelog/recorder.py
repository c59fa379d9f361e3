"""The message log at work: takes sealed messages and audit records, answers when they are durable (and stamped), gives them back.

Everything here happens in the recorder's event loop; the writer thread owns the segments, one more thread owns the index, one syncs
bodies, one keys.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance.clock import Clock
from appliance.errors import CorruptStateError, PeerProtocolError, XacbeError
from appliance.journal import event
from appliance.messagelog import audit, growth, record
from appliance.messagelog.bodies import Bodies, Claimed
from appliance.messagelog.checkpoints import Checkpoints, Signer, is_news
from appliance.messagelog.custodian import Custodian
from appliance.messagelog.damage import Damage, OnDamage
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.disk import Disk, OsDisk
from appliance.messagelog.entries import entry_of
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft, Group, Signature, Written
from appliance.messagelog.growth import Growth
from appliance.messagelog.index import AtStart, Index, OpenWork
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.log_tree import LogTree
from appliance.messagelog.missing import Missing
from appliance.messagelog.monitoring import Monitoring
from appliance.messagelog.notices import Notices
from appliance.messagelog.own_reading import OwnReading
from appliance.messagelog.readers import Accounts, Readers
from appliance.messagelog.reading import Reader
from appliance.messagelog.reading_service import ReadingService
from appliance.messagelog.record import SALT_BYTES, AuditEntry, CheckpointEntry, CloseEntry, MessageContent, group_of
from appliance.messagelog.replay import ReplayGuard
from appliance.messagelog.sealing import Epoch, GroupKey
from appliance.messagelog.signatures import RecentSignatures
from appliance.messagelog.stamper import Stamper, TrustAgent
from appliance.messagelog.stamping import StampQueue, Waiting, WriteUnconfirmed
from appliance.messagelog.store import Limits, Store
from appliance.messagelog.tiles import TileFiles
from appliance.messagelog.wire import (
    CLIENT,
    PROVIDER,
    REQUEST,
    RESPONSE,
    Append,
    Appended,
    Audit,
    BodyFile,
    DropBody,
    LogStatus,
    OpenBody,
)
from appliance.net.local_server import Handler, Reply
from appliance.settings import RecorderSettings
from appliance.trust.autonomy import EVIDENCE_GAP_MAX_US
from appliance.worker_thread import StartWorker, WorkerThread

INDEX_FILE, TILES = "index.sqlite", "tiles"
NO_DEADLINE_US = 1 << 62
BODIES_LOOK_S = 1.0
"""How often bodies that nobody claimed are looked for: a thousand comparisons."""

Result = TypeVar("Result")

_append = msgspec.msgpack.Decoder(Append)


class AppendMalformedError(PeerProtocolError):
    """A neighbour asked for a record that cannot be."""

    kind = "append.malformed"


class Recorder:
    """One open log. Made by `opened` inside a running loop."""

    def __init__(
        self,
        root: Path,
        settings: RecorderSettings,
        clock: Clock,
        trust: TrustAgent,
        signer: Signer,
        log: logging.Logger,
        stop: Callable[[BaseException], None],
        on_unconfirmed: Callable[[WriteUnconfirmed], None],
        on_rolled_back: Callable[[dict[str, str]], None],
        accounts: Accounts,
        *,
        on_damage: OnDamage = lambda kind, facts: None,
        disk: Disk | None = None,
        start_worker: StartWorker = WorkerThread,
    ) -> None:
        """Checks the log from the newest checkpoint on and brings index and tree up to it: blocking, some seconds where all is followed.

        Raises LogLockedError, BrokenLinkError, SegmentUnreadableError, CheckpointContradictedError, SyncFailedError, LogFullError. `stop`
        ends the process: the outcome of a write is unknown, or the log contradicts itself; it may be called in any thread and does not
        return, except in tests. `on_damage`: a part of the log cannot be read, and the log goes on.
        """
        self._clock, self._log, self._stop = clock, log, stop
        self._disk = disk or OsDisk(root)
        limits = Limits(segment_bytes_max=settings.segment_bytes_max, reserve_bytes=settings.reserve_bytes)
        self.store = Store(self._disk, limits, clock, lambda: secrets.token_bytes(SALT_BYTES))
        self.store.lock()
        index = Index(root / INDEX_FILE)
        indexed = index.position()
        self.tree = LogTree(TileFiles(root / TILES))
        start = self.tree.load()
        check = self.store.open([indexed.sequence], start=start, walked=self.tree.follow_check, at_end=self.tree.check_complete)
        if check.watched(indexed.sequence) != indexed.link:
            event(log, logging.WARNING, "log.index_rebuilt", sequence=indexed.sequence)
            index.rebuild()
        self._index_thread = ThreadPoolExecutor(1, "log-index")
        self._bodies_thread, self._keys_thread = ThreadPoolExecutor(1, "log-bodies"), ThreadPoolExecutor(1, "log-keys")
        self._follower = IndexFollower(self.store, index, self.tree, self._index_thread, log)
        found = self._followed(index)
        self._reader = Reader(self.store, index)
        self._guard = ReplayGuard()
        self._recall_replays(found.replays)
        self._signatures = RecentSignatures()
        self.keys = DataKeys(root, signer, clock, self._keys_thread, log)  # not behind a body of a GiB
        self._bodies = Bodies(self._disk, clock, self.store.room, self._bodies_thread)
        self._commit = GroupCommit(self.store, settings.waiting_max, self._group_written, stop, start_worker)
        self._records = found.records
        self.stamper = self._stamper(found.work, trust, on_unconfirmed)
        self.checkpoints = Checkpoints(
            self.tree,
            self._with_tree,
            self._commit,
            signer,
            clock,
            log,
            interval_s=settings.checkpoint_s,
            records_max=settings.checkpoint_records,
            on_written=self._checkpoint_written,
            on_rolled_back=self._rolled_back,
            has_news=self._has_news(),
        )
        self._on_rolled_back = on_rolled_back
        readers = Readers(accounts, self._commit.append)
        self.damage = Damage(self.store, lambda: self.checkpoints.size, self._commit, stop, on_damage)
        self.reading = ReadingService(
            readers, self._reader, self.store, self.tree, self._follower, self.checkpoints, self.keys, self._disk, self.damage
        )
        self.own_reading = OwnReading(self.reading, readers, self._follower, self.keys, offered=settings.signed_documents)
        lent = (self.store, self._follower, self._commit, self.keys, self.reading, accounts, self.stamper.reached_us, log)
        self.custodian = Custodian(root, *lent)
        self.custodian.start(index)
        self.missing = Missing(self.reading, self._follower, self._commit, self._disk.close, clock, log, on_damage)
        self.notices = Notices(self._commit, self._follower, self.keys, clock, log)
        self.monitoring = Monitoring(root, settings.operations_bytes_max, self.keys, clock, self.store.room, log)
        self.growth = Growth()
        self.stamper.last_stamp_us = found.newest_stamp_us
        self.appended = self.refused = 0

    def _has_news(self) -> bool:
        """Whether the log goes on behind its newest checkpoint with what is worth another: that must not wait for the next message."""
        noted = self.tree.noted
        if noted is None:
            return True
        behind = (each for _, each in self.store.records_from(noted.size + 1))
        return any(is_news(record.decode_entry(each.kind, each.payload)) for each in behind)

    def _followed(self, index: Index) -> AtStart:
        """Index and tree up to the log's end, and what the index says then. A damaged one is made anew: the log has all that it knows."""
        signed_after_us = self._clock.now_us() - EVIDENCE_GAP_MAX_US
        try:
            self._follower.start()
            return index.at_start(signed_after_us)
        except sqlite3.OperationalError:  # a disk without room, which a new index would not have either
            raise
        except sqlite3.DatabaseError as error:
            event(self._log, logging.WARNING, "log.index_rebuilt", reason=str(error))
            index.rebuild()
            self._follower.start()
            return index.at_start(signed_after_us)

    def _recall_replays(self, replays: list[tuple[bytes, int]]) -> None:
        now_us = self._clock.now_us()
        for key, signed_at_us in replays:
            with suppress(XacbeError):  # the same key twice: a message that was logged and then refused for another reason
                self._guard.claim(key, signed_at_us, now_us)

    def _stamper(self, work: OpenWork, trust: TrustAgent, on_unconfirmed: Callable[[WriteUnconfirmed], None]) -> Stamper:
        moment = self._clock.monotonic_s()
        stamps = StampQueue(
            work.waiting,
            outage_since_us=work.outage_since_us,
            provisional=work.provisional,
            exhausted=work.exhausted,
            now_s=moment,
        )
        return Stamper(stamps, self._commit, trust, self._signature_document, self._clock, self._log, on_unconfirmed)

    # -- life

    def handlers(self) -> dict[str, Handler]:
        notices = self.notices.handlers()
        notices["list_notices"] = self.reading.for_readers(notices["list_notices"])
        return {
            "open_body": self.open_body,
            "drop_body": self.drop_body,
            "append": self.append,
            "audit": self.audit,
            "log_status": self.log_status,
            **self.reading.handlers(),
            **self.own_reading.handlers(),
            **notices,
            **self.custodian.handlers(),
            "archive_unreadable": self.missing.archive_unreadable,
            **self.monitoring.handlers(),
        }

    async def run(self) -> None:
        """For ever: stamps, deadlines, the index, bodies that nobody claims."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.stamper.run())
            group.create_task(self.stamper.tick())
            group.create_task(self._follower.run())
            group.create_task(self._drop_old_bodies())
            group.create_task(self.checkpoints.run())
            group.create_task(self._watch_growth())
            group.create_task(self.notices.count())
            group.create_task(self.damage.run())
            group.create_task(self._or_stop(self.keys.run()))
            group.create_task(self._or_stop(self.custodian.run()))

    async def _drop_old_bodies(self) -> None:
        while True:
            await asyncio.sleep(BODIES_LOOK_S)
            self._bodies.drop_old()

    async def _watch_growth(self) -> None:
        while True:
            self.growth.seen(self._clock.monotonic_s(), self.store.room())
            await asyncio.sleep(growth.LOOK_S)

    async def _or_stop(self, work: Coroutine[Any, Any, Result]) -> Result:
        try:
            return await work
        except CorruptStateError as error:  # a sync or a name failed: what is on the disk is unknown (T35)
            self._stop(error)
            raise

    async def close(self) -> None:
        """Writes what was accepted and the CLOSE record, and lets go of everything."""
        with suppress(XacbeError):
            await self._commit.append(Draft(CloseEntry(), essential=True))
        await self._commit.close()
        await self._follower.close()
        for executor in (self._index_thread, self._bodies_thread, self._keys_thread):
            executor.shutdown()
        self.monitoring.close()
        self._bodies.close()
        self.store.close()

    def _group_written(self, group: Group) -> None:
        self._follower.follow(group)
        self.checkpoints.take(group.written)

    async def _with_tree(self, act: Callable[[LogTree], Any]) -> Any:
        return await self._follower.ask(lambda _: act(self.tree))

    def _checkpoint_written(self, written: Written, entry: CheckpointEntry) -> None:
        """It shares the next request for a stamp; nobody waits for it, and no deadline of a seal binds it."""
        waiting = Waiting(written.sequence, written.sequence, entry.digest, NO_DEADLINE_US, written.at_us)
        self.stamper.logged(written, waiting, None)

    def _rolled_back(self, facts: dict[str, str]) -> None:
        """Durable, and told to CEIQROO. The log goes on: what is missing does not come back by stopping."""
        with suppress(XacbeError):
            self._commit.submit(Draft(AuditEntry(audit.ROLLED_BACK, "recorder", facts), essential=True), lambda _: None)
        self._on_rolled_back(facts)

    # -- operations

    async def open_body(self, caller: str, payload: bytes) -> Reply:
        request = msgspec.msgpack.decode(payload, type=OpenBody)
        number, key, descriptor = self._bodies.open(request.bytes_expected)
        return Reply(BodyFile(number, key), descriptor)

    async def drop_body(self, caller: str, payload: bytes) -> None:
        """The relay gave a body up; again, or after its append, changes nothing."""
        self._bodies.drop(msgspec.msgpack.decode(payload, type=DropBody).body)

    async def append(self, caller: str, payload: bytes) -> Appended:
        """Durable, guarded against replay, and stamped where asked. The body file of a record that was not written is given up.

        Raises MessageReplayedError, ReplayGuardFullError, LogFullError, LogBusyError, StampsOverdueError, UnknownBodyError,
        NotStampedError, TrustAgentAwayError, LogKeyAbsentError.
        """
        request = _append.decode(payload)
        try:
            answer = await self._accept(request)
        except BaseException:
            if request.body_file is not None:
                self._bodies.drop(request.body_file)
            raise
        return await answer

    def append_at_once(self, caller: str, payload: bytes) -> asyncio.Future[Appended] | None:
        """`append` where nothing need be waited for before the writer has it, as nearly always: without the cost of a task.

        None: there is something, and nothing was done yet. Raises what `append` raises.
        """
        request = _append.decode(payload)
        if request.body_file is not None:
            return None
        self._check(request)
        group = group_of(request.side, request.client, request.service)
        held = self.keys.at_hand(group)
        if held is None:
            return None
        epoch, group_key = held
        key = None
        try:
            signature = self._signatures.entry(request.seal, epoch)
            key = self._claim(request)
            self._leave_body_out(request, group)
            return self._submit(request, signature, key, epoch, group_key)
        except BaseException:
            self._given_up(request, key, group_key)
            raise

    async def _accept(self, request: Append) -> asyncio.Future[Appended]:
        """Checks, and hands over to the writer. Nothing of it is durable when this raises."""
        self._check(request)
        group = group_of(request.side, request.client, request.service)
        epoch, group_key = await self._or_stop(self.keys.sealing_with(group))
        key = None
        try:
            signature = self._signatures.entry(request.seal, epoch)
            key = self._claim(request)
            self._leave_body_out(request, group)
            claimed = None if request.body_file is None else await self._bodies.claim(request.body_file, request.body_bytes)
            return self._submit(request, signature, key, epoch, group_key, claimed)
        except CorruptStateError as error:  # a body's sync failed: nothing is known any more (T35)
            self._stop(error)
            raise
        except BaseException:
            self._given_up(request, key, group_key)
            raise

    def _given_up(self, request: Append, key: bytes | None, group_key: GroupKey) -> None:
        """It is no record, and will be none: it may come again."""
        if key is not None:
            self._guard.release(key, request.signed_at_us)
        self.keys.sealed(group_key)

    def _check(self, request: Append) -> None:
        if request.side not in (CLIENT, PROVIDER) or request.direction not in (REQUEST, RESPONSE):
            raise AppendMalformedError("neither request nor response of a side of ours")
        if request.attachment_bytes and (sum(request.attachment_bytes) != request.body_bytes or min(request.attachment_bytes) < 0):
            raise AppendMalformedError("attachments that are not the body")
        self.stamper.stamps.check_room()

    def _claim(self, request: Append) -> bytes | None:
        if not request.received:
            return None
        if request.replay_key is None:
            raise AppendMalformedError("a received message without its replay key")
        self._guard.claim(request.replay_key, request.signed_at_us, self._clock.now_us())
        return request.replay_key

    def _submit(
        self,
        request: Append,
        signature: Signature,
        key: bytes | None,
        epoch: Epoch,
        group_key: GroupKey,
        claimed: Claimed | None = None,
    ) -> asyncio.Future[Appended]:
        """Hands the record to the writer; the future is the answer. Nothing of it is durable when this raises."""
        answer: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        body, body_key, digest = (None, None, None) if claimed is None else (claimed.handle, claimed.key, claimed.digest)
        entry = entry_of(request, key, self.keys, epoch, group_key, digest)
        said = MessageContent(request.message, request.body, request.seal.chain, body_key)
        content = epoch.seal_message(group_key, said, signature.entry.digest)

        def done(result: Written | XacbeError) -> None:
            self.keys.sealed(group_key)  # a record by now, and noted for the index (`_group_written`)
            if body is not None:
                self._disk.close(body)
            if isinstance(result, XacbeError):
                self._not_written(result, request, answer)
                return
            self.appended += 1
            waiting = Waiting(
                result.sequence,
                entry.signature,
                signature.entry.digest,
                entry.ends_us,
                result.at_us,
                entry.begins_us,
                own=not request.received,
            )
            if request.stamp_first:
                self.stamper.logged(result, waiting, answer)
                return
            self.stamper.logged(result, waiting, None)
            if not answer.done():
                answer.set_result(Appended(result.sequence, result.at_us, None, None))

        try:
            self._commit.submit(Draft(entry, signature, body, content), done)
        except BaseException:
            if body is not None:
                self._disk.close(body)
            raise
        return answer

    def _leave_body_out(self, request: Append, group: str) -> None:
        """Where the subsystem's terms keep no bodies: only the digest is logged. The relay still has the file until it has delivered."""
        if self.custodian.terms.of(group).bodies:
            return
        if request.body_file is not None:
            self._bodies.drop(request.body_file)
        request.body = request.body_file = None

    def _not_written(self, error: XacbeError, request: Append, answer: asyncio.Future[Appended]) -> None:
        self.refused += 1
        if request.received and request.replay_key is not None:
            self._guard.release(request.replay_key, request.signed_at_us)
        if not answer.done():
            answer.set_exception(error)

    async def audit(self, caller: str, payload: bytes) -> None:
        """Durable when answered. Raises AuditMalformedError, LogFullError, LogBusyError."""
        entry = audit.entry_of(caller, msgspec.msgpack.decode(payload, type=Audit))
        await self._commit.append(Draft(entry, audit=True))

    async def log_status(self, caller: str, payload: bytes) -> LogStatus:
        return self.status()

    # -- what is shown

    def status(self) -> LogStatus:
        """From memory and one statvfs."""
        store, stamps, now = self.store, self.stamper.stamps, self.stamper.now()
        room = store.room()
        return LogStatus(
            records=self._records + self.appended,
            last_sequence=store.position.sequence,
            segments=len(store.segments),
            bytes=store.bytes,
            free_bytes=store.free_bytes(),
            waiting_for_stamp=stamps.waiting,
            oldest_waiting_us=stamps.oldest_at_us,
            last_stamp_us=self.stamper.last_stamp_us,
            repaired_bytes=store.repaired_bytes,
            state="open" if room else "full",
            checkpoint=self.tree.note.decode(),
            checkpoint_proof=self.tree.proof,
            outage_since_us=stamps.outage_since_us,
            grace_ends_us=stamps.grace_ends_us(now.us),
            full_us=self.growth.full_us(now, room),
            notices_due=self.notices.due,
        )

    async def _signature_document(self, sequence: int, digest: bytes) -> bytes:
        found = self._signatures.document(digest)
        if found is not None:
            return found
        entry, content = await self._follower.ask(lambda _: self._reader.signature(sequence))
        if isinstance(entry, CheckpointEntry):
            return entry.note
        return (await self.keys.epoch(entry.epoch)).open_signature(content, entry.digest).signature
