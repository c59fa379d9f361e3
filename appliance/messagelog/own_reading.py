"""What the relay may read of the log, for the information system whose messages they are (sheet 2.8), and for nobody else.

Other reads are a person's, with a role and a reason (`readers`). This one is the owner's: of one subsystem, under one message id that is
named exactly. Each document leaves an audit record that is durable before it is opened.
"""

from __future__ import annotations

import asyncio
import hashlib

import msgspec

from appliance.errors import RefusedError
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.index import Row
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.readers import Readers
from appliance.messagelog.reading_service import ReadingService
from appliance.messagelog.record import group_of
from appliance.messagelog.sealing import QUERY
from appliance.messagelog.segments import UnknownRecordError
from appliance.messagelog.wire import OWN_MAX, WAIT_S_MAX, FindOwn, ReadOwn, RecordSummary
from appliance.net.local_server import Handler, Reply


class DownloadsOffError(RefusedError):
    """The settings say that information systems fetch nothing from the log."""

    kind = "log.downloads_off"


class TooManyDocumentsError(RefusedError):
    """More messages than one download takes bear this id."""

    kind = "log.too_many_documents"


class OwnReading:
    """The handlers of one recorder. Invariant: nothing is opened but what a subsystem of ours named by its id, after the audit record."""

    def __init__(self, reading: ReadingService, readers: Readers, follower: IndexFollower, keys: DataKeys, *, offered: bool) -> None:
        self._reading, self._readers, self._follower, self._keys, self._offered = reading, readers, follower, keys, offered

    def handlers(self) -> dict[str, Handler]:
        return {"find_own": self.find_own, "read_own": self.read_own}

    async def find_own(self, caller: str, payload: bytes) -> list[RecordSummary]:
        """Oldest first, without names: who asks knows them. Raises DownloadsOffError, TooManyDocumentsError, LogKeyAbsentError."""
        wanted = msgspec.msgpack.decode(payload, type=FindOwn)
        found = await self._own(wanted.subsystem, wanted.query_id, wanted.direction)
        if wanted.wait_s > 0:
            loop = asyncio.get_running_loop()
            ends = loop.time() + min(wanted.wait_s, WAIT_S_MAX)
            for row in found:
                await self._reading.stamped(row.summary.sequence, ends - loop.time())
            found = await self._own(wanted.subsystem, wanted.query_id, wanted.direction)
        return [row.summary for row in found]

    async def read_own(self, caller: str, payload: bytes) -> Reply:
        """One record whole. Raises what `find_own` raises, UnknownRecordError for another's, and what reading raises."""
        wanted = msgspec.msgpack.decode(payload, type=ReadOwn)
        rows = await self._own(wanted.subsystem, wanted.query_id, "")
        if all(row.summary.sequence != wanted.sequence for row in rows):
            raise UnknownRecordError(f"record {wanted.sequence} is not of {wanted.subsystem}")
        query = self._keys.tag(QUERY, wanted.query_id).hex()
        certificate = hashlib.sha256(wanted.certificate).hexdigest() if wanted.certificate else ""
        facts = {"by": wanted.subsystem, "from": wanted.address, "certificate": certificate, "query": query}
        await self._readers.note_own(caller, {**facts, "record": str(wanted.sequence)})
        return await self._reading.whole(wanted.sequence)

    async def _own(self, subsystem: str, query_id: str, direction: str) -> list[Row]:
        if not self._offered:
            raise DownloadsOffError("this box gives no signed documents to information systems")
        tag = self._keys.tag(QUERY, query_id)
        rows = await self._follower.ask(lambda index: index.own(subsystem, tag, OWN_MAX + 1))
        if len(rows) > OWN_MAX:
            raise TooManyDocumentsError(f"more than {OWN_MAX} messages bear this id")
        return [row for row in rows if _is_of(row.summary, subsystem) and direction in ("", row.summary.direction)]


def _is_of(one: RecordSummary, subsystem: str) -> bool:
    return group_of(one.side, one.client, one.service) == subsystem
