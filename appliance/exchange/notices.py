"""Withdrawal notices between boxes and to information systems: what they say, and how a peer's is read.

Pure. IV.3.VI: a message that could not be confirmed in time is withdrawn on both sides. A notice is an ordinary sealed message to the other
party's `xacbeNotice`, so that it is proved, logged and stamped like any other; who sent it is told by its seal. An information system gets
the same document by POST at the address that its client row names. A box that is not ours does not know the service and refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from appliance.clock import iso
from appliance.errors import UNREADABLE, PeerProtocolError, RefusedError
from appliance.exchange.built_in import Asked, BuiltIn, BuiltIns, rest_answer
from appliance.exchange.ports import Body, SystemAnswer
from appliance.messagelog.wire import NOTICE_CODE, NoticeItem
from appliance.model.identifiers import ClientId
from appliance.net.message_protocol import METHODS, RestRequest

WITHDRAWAL, REASON, RULE = "withdrawal", "seal.unconfirmed", "IV.3.VI"
CONTENT_TYPE = (b"Content-Type", b"application/json")
MESSAGES_MAX = 1000
UNKNOWN = 404
"""Status of the answer where none of the messages is known: for good, there is nothing to withdraw."""


class NoticeMalformedError(PeerProtocolError):
    """Not a withdrawal notice."""

    kind = "notice.malformed"


class _Message(msgspec.Struct, rename="camel"):
    """One withdrawn message. `unconfirmed`: whose record of it could not be confirmed, `ours` or `theirs` as the receiver sees it."""

    id: str
    request_id: str
    direction: str
    client: str
    service: str
    logged_at: str
    unconfirmed: str
    unconfirmed_since: str


class _Notice(msgspec.Struct):
    notice: str
    reason: str
    rule: str
    subsystem: str
    messages: list[_Message]


class NoticeDesk(Protocol):
    """Takes what a peer withdraws (the recorder, in the end)."""

    async def take(self, sender: ClientId, receiver: ClientId, items: list[NoticeItem]) -> int:
        """How many of the messages are known. Raises notice.unknown_message."""
        ...


def document(subsystem: str, items: Sequence[NoticeItem], *, for_peer: bool) -> bytes:
    """The notice as JSON, for the party `subsystem`. Whose record it is changes its name with the side that reads it."""
    names = {"ours": "theirs", "theirs": "ours"} if for_peer else {"ours": "ours", "theirs": "theirs"}
    messages = [
        _Message(
            id=item.query_id,
            request_id=item.request_id,
            direction=item.direction,
            client=item.client,
            service=item.service,
            logged_at=iso(item.at_us),
            unconfirmed=names[item.origin],
            unconfirmed_since=iso(item.since_us),
        )
        for item in items
    ]
    return msgspec.json.encode(_Notice(WITHDRAWAL, REASON, RULE, subsystem, messages))


def read(body: Body | None) -> list[NoticeItem]:
    """What a peer withdraws. Raises NoticeMalformedError. Times and sequences of the other log say nothing here and are left out."""
    if body is None or body.inline is None:
        raise NoticeMalformedError("a notice has a body, and a small one")
    try:
        notice = msgspec.json.decode(body.inline, type=_Notice)
    except UNREADABLE as error:
        raise NoticeMalformedError(str(error)) from None
    if notice.notice != WITHDRAWAL or not 1 <= len(notice.messages) <= MESSAGES_MAX:
        raise NoticeMalformedError(f"a {notice.notice[:20]!r} of {len(notice.messages)} messages")
    return [NoticeItem(0, "theirs", one.id, one.request_id, one.direction, "", one.client, one.service, 0, 0) for one in notice.messages]


def built_in(desk: NoticeDesk) -> BuiltIns:
    """The service that takes notices. Any registered party may ask: it can withdraw its own messages only, by the seal of the notice."""

    async def take(request: RestRequest, asked: Asked) -> SystemAnswer:
        return await answered(request.client, request.service.provider, asked.sealed.body, desk)

    return {NOTICE_CODE: BuiltIn(rest=take, methods=METHODS)}


async def answered(sender: ClientId, receiver: ClientId, body: Body | None, desk: NoticeDesk) -> SystemAnswer:
    """What the box itself answers to a notice: how many of the messages it knows, in JSON. Raises UnavailableError leaves."""
    try:
        known = await desk.take(sender, receiver, read(body))
    except NoticeMalformedError as error:
        return _answer(400, b"Bad Request", {"kind": error.kind})
    except RefusedError as error:
        return _answer(UNKNOWN, b"Not Found", {"kind": error.kind})
    return _answer(200, b"OK", {"known": known})


def _answer(status: int, reason: bytes, said: dict[str, str | int]) -> SystemAnswer:
    return rest_answer(msgspec.json.encode(said), CONTENT_TYPE[1], status, reason)
