"""What persons ask of the log: find, show, export, prove, report, acts. Every answer stands behind `Readers`.

In the recorder's loop; index and tree are asked in their thread. Names and contents are opened here, with keys that the token unwraps.
"""

from __future__ import annotations

import asyncio

import msgspec

from appliance.errors import RefusedError
from appliance.messagelog import record
from appliance.messagelog.checkpoints import Checkpoints, NotCheckpointedError
from appliance.messagelog.damage import Damage
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.disk import Disk
from appliance.messagelog.index import Row
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.log_tree import LogTree
from appliance.messagelog.proof import Proof
from appliance.messagelog.readers import Readers
from appliance.messagelog.reading import AUDITS_MAX, Reader, descriptor_for
from appliance.messagelog.sealing import PARTY, QUERY
from appliance.messagelog.segments import UnknownRecordError
from appliance.messagelog.store import Store
from appliance.messagelog.stream import sealed_bytes
from appliance.messagelog.wire import (
    WAIT_S_MAX,
    AuditRecord,
    ExchangeGroup,
    ListAudits,
    ListRecords,
    ProveRecord,
    ReadRecord,
    RecordContent,
    RecordSummary,
    ReportExchanges,
)
from appliance.net.local_server import Handler, Reply

STAMP_LOOK_S = 0.1
GROUPS_MAX = 10_000
"""In one report: some 2 MB of names."""


class ReportTooLargeError(RefusedError):
    """The report would have more groups than one answer takes."""

    kind = "log.report_too_large"


class ReadingService:
    """The handlers of one recorder."""

    def __init__(
        self,
        readers: Readers,
        reader: Reader,
        store: Store,
        tree: LogTree,
        follower: IndexFollower,
        checkpoints: Checkpoints,
        keys: DataKeys,
        disk: Disk,
        damage: Damage,
    ) -> None:
        self._readers, self._reader, self._store, self._tree = readers, reader, store, tree
        self._follower, self._checkpoints, self._keys, self._disk, self._damage = follower, checkpoints, keys, disk, damage

    def handlers(self) -> dict[str, Handler]:
        return {
            "list_audits": self.list_audits,
            "list_records": self.list_records,
            "read_record": self.read_record,
            "prove_record": self.prove_record,
            "report_exchanges": self.report_exchanges,
        }

    def for_readers(self, handler: Handler) -> Handler:
        """The same for those with the role only."""

        async def guarded(caller: str, payload: bytes) -> object:
            await self._readers.allow()
            return await handler(caller, payload)

        return guarded

    async def list_audits(self, caller: str, payload: bytes) -> list[AuditRecord]:
        """Acts show no message: the role is asked for, but that they were read is no act of its own."""
        wanted = msgspec.msgpack.decode(payload, type=ListAudits)
        await self._readers.allow()
        limit = max(1, min(wanted.limit, AUDITS_MAX))
        with self._damage.judged(0):
            return await self._follower.ask(lambda _: self._reader.audits(limit))

    async def list_records(self, caller: str, payload: bytes) -> list[RecordSummary]:
        wanted = msgspec.msgpack.decode(payload, type=ListRecords)
        query, party = self._tag(QUERY, wanted.query_id), self._tag(PARTY, wanted.represented_party)
        told = {"client": wanted.client, "service": wanted.service, "sequence": str(wanted.sequence or "")}
        told |= {"query": _hex(query), "represented_party": _hex(party)}
        await self._readers.admit(caller, "find", wanted.reason, {name: value for name, value in told.items() if value})
        rows = await self._follower.ask(lambda index: index.search(wanted, query, party))
        return [await self.named(row) for row in rows]

    def _tag(self, kind: bytes, text: str) -> bytes | None:
        """What stands for a name in the index, and in the audit log, which is not encrypted."""
        return self._keys.tag(kind, text) if text else None

    async def named(self, row: Row) -> RecordSummary:
        """With its names, where they can be had. Raises LogKeyAbsentError."""
        names = await self._keys.names(row.key, row.names)
        if names is None:
            return row.summary
        summary = msgspec.structs.replace(row.summary, query_id=names.query_id, request_id=names.request_id)
        summary.represented_party, summary.end_user = names.represented_party, names.end_user
        return summary

    async def read_record(self, caller: str, payload: bytes) -> Reply:
        """One record whole; who read it and why is durable before anything is read (IV.2.III.B, T31)."""
        wanted = msgspec.msgpack.decode(payload, type=ReadRecord)
        act = "export" if wanted.act == "export" else "show"
        await self._readers.admit(caller, act, wanted.reason, {"record": str(wanted.sequence)})
        await self.stamped(wanted.sequence, min(wanted.wait_s, WAIT_S_MAX))
        return await self.whole(wanted.sequence)

    async def whole(self, sequence: int) -> Reply:
        """The record with its body's descriptor, for whoever was admitted before."""
        content, descriptor = await self.content(sequence)
        return Reply(content, descriptor_for(descriptor))

    async def content(self, sequence: int, *, with_body: bool = True) -> tuple[RecordContent, int | None]:
        """Raises what `Damage.judged` and `Reader.sealed` raise, LogKeyAbsentError."""
        with self._damage.judged(sequence):
            sealed = await self._follower.ask(lambda _: self._reader.sealed(sequence, with_body=with_body))
            try:
                key, epoch = await self._keys.group_key(sealed.message.key), await self._keys.epoch(sealed.signature.epoch)
                return sealed.opened(await self.named(sealed.row), key, epoch), sealed.descriptor
            except BaseException:
                if sealed.descriptor is not None:
                    self._disk.close(sealed.descriptor)
                raise

    async def is_body_whole(self, sequence: int) -> bool:
        """Whether the body's file is the one that was written; True where there is none. Raises what reading raises."""
        sealed = await self._follower.ask(lambda _: self._reader.sealed(sequence))
        if sealed.descriptor is None:
            return True
        descriptor, digest = sealed.descriptor, sealed.message.file_digest
        try:
            if self._disk.size(descriptor) != sealed_bytes(sealed.message.body_bytes):
                return False
            if digest is None:
                return True
            return await asyncio.get_running_loop().run_in_executor(None, self._disk.sha256, descriptor) == digest
        except OSError:
            return False
        finally:
            self._disk.close(descriptor)

    async def stamped(self, sequence: int, wait_s: float) -> None:
        """Returns when the record has its stamp, or after the wait."""
        ends = asyncio.get_running_loop().time() + wait_s
        while asyncio.get_running_loop().time() < ends:
            found = await self._follower.ask(lambda index: index.summary(sequence))
            if found is None or found.summary.stamped_at_us is not None:
                return
            await asyncio.sleep(STAMP_LOOK_S)

    async def prove_record(self, caller: str, payload: bytes) -> bytes:
        """The proof's file. Raises NotCheckpointedError, UnknownRecordError."""
        wanted = msgspec.msgpack.decode(payload, type=ProveRecord)
        await self._readers.admit(caller, "prove", wanted.reason, {"record": str(wanted.sequence)})
        if not 0 < wanted.sequence <= self._store.position.sequence:
            raise UnknownRecordError(f"there is no record {wanted.sequence}")
        await self._checkpoints.covering(wanted.sequence)
        with self._damage.judged(wanted.sequence):
            proof: Proof = await self._follower.ask(lambda index: self._proof(wanted.sequence, index.offset(wanted.sequence)))
        return proof.text

    def _proof(self, sequence: int, offset: int | None) -> Proof:
        noted = self._tree.noted
        if noted is None or noted.size < sequence:
            raise NotCheckpointedError(f"record {sequence} is under no checkpoint yet")
        if offset is not None:
            found = self._store.read(sequence, offset)
        else:  # records that the index does not list, audit records among them: from the beginning of their segment
            found = next(each for _, each in self._store.records_from(sequence))
        path = tuple(self._tree.inclusion(sequence, noted.size))
        return Proof(sequence, record.linked(found), path, self._tree.note, self._tree.certificate)

    async def report_exchanges(self, caller: str, payload: bytes) -> list[ExchangeGroup]:
        """Who asked for whom and how often, without content (IV.6.IV)."""
        wanted = msgspec.msgpack.decode(payload, type=ReportExchanges)
        party = self._tag(PARTY, wanted.represented_party)
        facts = {"since_us": str(wanted.since_us), "until_us": str(wanted.until_us), "represented_party": _hex(party)}
        await self._readers.admit(caller, "report", wanted.reason, {name: value for name, value in facts.items() if value})
        groups: dict[tuple[str | None, str | None, str, str, str], ExchangeGroup] = {}
        after = 0
        while rows := await self._follower.ask(lambda index: index.requests(wanted.since_us, wanted.until_us, party, after)):  # noqa: B023
            after = rows[-1].summary.sequence
            for row in rows:
                _count(groups, await self.named(row))
            await asyncio.sleep(0)  # a page of a thousand takes some 10 ms: appends come in between
        return sorted(groups.values(), key=lambda one: (one.represented_party or "", one.end_user or "", one.client, one.service))


def _hex(tag: bytes | None) -> str:
    return "" if tag is None else tag.hex()


def _count(groups: dict[tuple[str | None, str | None, str, str, str], ExchangeGroup], one: RecordSummary) -> None:
    """Raises ReportTooLargeError."""
    key = (one.represented_party, one.end_user, one.client, one.service, one.side)
    group = groups.get(key)
    if group is None:
        if len(groups) >= GROUPS_MAX:
            raise ReportTooLargeError(f"more than {GROUPS_MAX} groups: ask for a shorter time")
        group = groups[key] = ExchangeGroup(*key, 0, one.at_us, one.at_us)
    group.requests += 1
    group.first_us, group.last_us = min(group.first_us, one.at_us), max(group.last_us, one.at_us)
