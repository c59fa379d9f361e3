"""Withdrawal notices: who must still be told that a message could not be confirmed, and when to try again (IV.3.VI).

A message whose stamp missed its deadline was acknowledged, so somebody acted on it. Its UNCONFIRMED record is the notice's place in the
outbox: it is durable, and a notice is due until a NOTICE record says that its receiver has it. The relay delivers (it has the network), the
recorder remembers. Receivers of each message: our own information system, by the address that its client row names, and the other side's
box, by a sealed message to its `xacbeNotice`; that box tells its own information system in the same way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import msgspec

from appliance.clock import Clock
from appliance.errors import RefusedError, XacbeError
from appliance.journal import event
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft
from appliance.messagelog.index import Index
from appliance.messagelog.index_follower import IndexFollower
from appliance.messagelog.notice_table import NoticeGroup, SealedItem
from appliance.messagelog.record import NoticeEntry
from appliance.messagelog.sealing import QUERY
from appliance.messagelog.wire import (
    NOTICE_DELIVERED,
    PEER,
    DueNotice,
    ListNotices,
    NoticeItem,
    NoticesKnown,
    NoticesTold,
    NoticeSummary,
    TakeNotices,
)
from appliance.net.local_server import Handler

ITEMS_MAX = 100
"""Messages in one notice: some 40 KiB."""
NOTICES_MAX = 8
"""Handed out at once: the relay delivers them one after the other."""
LEASE_S = 120.0
"""How long a notice that was handed out is left alone: a relay that died is not waited for longer."""
RETRY_S_MIN, RETRY_S_MAX = 5.0, 600.0
LIST_MAX = 1000


class NoticeUnknownError(RefusedError):
    """None of the messages that the notice names is in our log, or its sender had no part in them."""

    kind = "notice.unknown_message"


@dataclass(slots=True)
class _Tries:
    failures: int = 0
    next_s: float = 0.0
    word: str = ""


class Notices:
    """The recorder's part. Times of trying are in memory: after a restart everything that is due is tried at once."""

    def __init__(self, commit: GroupCommit, follower: IndexFollower, keys: DataKeys, clock: Clock, log: logging.Logger) -> None:
        self._commit, self._follower, self._keys, self._clock, self._log = commit, follower, keys, clock, log
        self._tries: dict[NoticeGroup, _Tries] = {}
        self.due = 0

    def handlers(self) -> dict[str, Handler]:
        return {
            "due_notices": self.due_notices,
            "notices_told": self.notices_told,
            "take_notices": self.take_notices,
            "list_notices": self.list_notices,
        }

    async def due_notices(self, caller: str, payload: bytes) -> list[DueNotice]:
        """What should be tried now; each is left alone for LEASE_S, or until `notices_told`."""
        now_s = self._clock.monotonic_s()
        groups, self.due = await self._follower.ask(lambda index: (index.notices().groups(), index.notices().due()))
        self._tries = {group: self._tries.get(group, _Tries()) for group in groups}
        ready = [group for group in groups if self._tries[group].next_s <= now_s][:NOTICES_MAX]
        for group in ready:
            self._tries[group].next_s = now_s + LEASE_S

        def read(index: Index) -> list[list[SealedItem]]:
            return [index.notices().items(group, ITEMS_MAX) for group in ready]

        found = await self._follower.ask(read) if ready else []
        return [DueNotice(g.to, *g.parties, [await self._opened(one) for one in items]) for g, items in zip(ready, found, strict=True)]

    async def _opened(self, sealed: SealedItem) -> NoticeItem:
        """With the message's ids. Raises LogKeyAbsentError."""
        names = await self._keys.names(sealed.key, sealed.names)
        if names is None:
            return sealed.item
        return msgspec.structs.replace(sealed.item, query_id=names.query_id, request_id=names.request_id)

    async def notices_told(self, caller: str, payload: bytes) -> None:
        """Durable when answered, where it is final."""
        told = msgspec.msgpack.decode(payload, type=NoticesTold)
        notice = told.notice
        first = notice.items[0]
        tries = self._tries.setdefault(NoticeGroup(notice.to, first.side, first.client, first.service), _Tries())
        facts = {"to": notice.to, "word": told.word, "messages": len(notice.items), "first": first.message}
        if not told.final:
            tries.failures, tries.word = tries.failures + 1, told.word
            tries.next_s = self._clock.monotonic_s() + min(RETRY_S_MIN * 2.0 ** min(tries.failures - 1, 10), RETRY_S_MAX)
            event(self._log, logging.WARNING, "notice.not_delivered", **facts)
            return
        messages = [item.message for item in notice.items]
        await self._commit.append(Draft(NoticeEntry(messages, notice.to, told.word), essential=True))
        tries.failures, tries.next_s, tries.word = 0, 0.0, ""  # more of the same may wait
        event(self._log, logging.WARNING, "notice.told", **facts)

    async def take_notices(self, caller: str, payload: bytes) -> NoticesKnown:
        """A peer withdraws messages that it exchanged with us; durable when answered. Raises NoticeUnknownError.

        Only the other party of an exchange may withdraw it: the sender's seal says who it is.
        """
        taken = msgspec.msgpack.decode(payload, type=TakeNotices)

        tags = [self._keys.tag(QUERY, item.query_id) for item in taken.items]

        def known(index: Index) -> list[int]:
            return [sequence for item, tag in zip(taken.items, tags, strict=True) for sequence in _ours(index, item, tag, taken)]

        messages = await self._follower.ask(known, whole=True)
        if not messages:
            raise NoticeUnknownError(f"no message that {taken.sender} exchanged with {taken.receiver}")
        await self._commit.append(Draft(NoticeEntry(messages, "", NOTICE_DELIVERED), essential=True))
        event(self._log, logging.WARNING, "notice.received", sender=taken.sender, messages=len(messages))
        return NoticesKnown(len(messages))

    async def list_notices(self, caller: str, payload: bytes) -> list[NoticeSummary]:
        """Newest first; a notice that waits carries the word of its last failure."""
        limit = max(1, min(msgspec.msgpack.decode(payload, type=ListNotices).limit, LIST_MAX))
        found = await self._follower.ask(lambda index: index.notices().newest(limit))
        opened = [msgspec.structs.replace(summary, item=await self._opened(sealed)) for sealed, summary in found]
        return [self._with_words(one) for one in opened]

    def _with_words(self, summary: NoticeSummary) -> NoticeSummary:
        item = summary.item
        system, peer = (self._tries.get(NoticeGroup(to, item.side, item.client, item.service), _Tries()).word for to in ("system", PEER))
        return msgspec.structs.replace(summary, system=summary.system or system, peer=summary.peer or peer)

    async def count(self) -> None:
        """Brings `due` up to date, at start."""
        try:
            self.due = await self._follower.ask(lambda index: index.notices().due())
        except XacbeError:
            return  # counted again when the relay asks


def _ours(index: Index, item: NoticeItem, tag: bytes, taken: TakeNotices) -> list[int]:
    """Our records of one named message, where sender and receiver are its two parties."""
    found = []
    for sequence, side in index.notices().named(item, tag):
        ours, other = NoticeGroup("", side, item.client, item.service).parties
        if (other, ours) == (taken.sender, taken.receiver):
            found.append(sequence)
    return found
