"""Delivers withdrawal notices that the recorder holds due: to our information systems and to the other side's box (IV.3.VI).

One after the other, without haste: after an outage there may be many, and exchanges come first. What was delivered, or is refused for good,
the recorder writes down; everything else it gives out again later.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import uuid
from collections.abc import Callable

from appliance.access.rights import Service
from appliance.errors import CorruptStateError, UnavailableError, XacbeError
from appliance.exchange import notices
from appliance.exchange.client_side import ClientSide
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Body
from appliance.journal import event
from appliance.messagelog.wire import (
    NOTICE_CODE,
    NOTICE_DELIVERED,
    SYSTEM,
    DueNotice,
    NoticeItem,
    NoticesKnown,
    NoticesTold,
    TakeNotices,
)
from appliance.model.identifiers import ClientId
from appliance.net.local_client import LocalClient
from appliance.net.message_protocol import RestResponse, request_from_system
from appliance.relay.incoming import PeerFaultError
from appliance.relay.system_call import SystemCaller

LOOK_S = 5.0
ASK_S_MAX = 20.0
SYSTEM_S_MAX = 30
NO_SERVICE = "unknown_service"
"""End of the fault code of a box that does not know withdrawal notices: X-Road's own."""


class NoAddressError(UnavailableError):
    """The information system has no address for notices: `xacbe client set-notices`."""

    kind = "notice.no_address"


class NotTakenError(UnavailableError):
    """The receiver answered, but not that it has the notice."""

    kind = "notice.not_taken"


class Desk:
    """The port `NoticeDesk`: the recorder over its local socket."""

    def __init__(self, recorder: LocalClient) -> None:
        self._recorder = recorder

    async def take(self, sender: ClientId, receiver: ClientId, items: list[NoticeItem]) -> int:
        taken: NoticesKnown = await self._recorder.call(
            "take_notices", TakeNotices(str(sender), str(receiver), items), NoticesKnown, timeout_s=ASK_S_MAX
        )
        return taken.known


class _Own:
    """The body of a message that the box itself makes."""

    def __init__(self, body: Body) -> None:
        self._body = body

    async def receive(self) -> Body:
        return self._body


class NoticeCourier:
    """Carries notices for one relay. Several relays share the work: what one was given, the others are not."""

    def __init__(
        self,
        instance: str,
        recorder: LocalClient,
        client_side: ClientSide,
        system: SystemCaller,
        local: Callable[[], LocalView],
        log: logging.Logger,
    ) -> None:
        self._instance, self._recorder, self._client_side = instance, recorder, client_side
        self._system, self._local, self._log = system, local, log

    async def run(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                due: list[DueNotice] = await self._recorder.call("due_notices", None, list[DueNotice], timeout_s=ASK_S_MAX)
                for notice in due:
                    await self._carry(notice)
            except CorruptStateError:
                raise
            except XacbeError:
                continue  # the recorder is away: what was not written down as told is due again

    async def _carry(self, notice: DueNotice) -> None:
        word, final = NOTICE_DELIVERED, True
        try:
            if notice.to == SYSTEM:
                await self._to_system(notice)
            elif not await self._to_peer(notice):
                word = "notice.unknown_message"  # the message never reached the other side: nothing is withdrawn there
        except PeerFaultError as error:
            word, final = "notice.not_understood", error.fault.code.endswith(NO_SERVICE)
        except CorruptStateError:
            raise
        except XacbeError as error:
            event(self._log, logging.INFO, "notice.failed", to=notice.to, kind=error.kind, reason=str(error))
            word, final = error.kind, False
        await self._recorder.call("notices_told", NoticesTold(notice, word, final), timeout_s=ASK_S_MAX)

    async def _to_system(self, notice: DueNotice) -> None:
        """POST at the client's own address. Raises NoAddressError, NotTakenError, service.* leaves."""
        client = self._local().client(ClientId.parse(notice.ours))
        if client is None or not client.notices:
            raise NoAddressError(f"{notice.ours} has no address for notices")
        service = Service(f"{notice.ours}/{NOTICE_CODE}", client.notices, timeout_s=SYSTEM_S_MAX, certificates=client.certificates)
        content = notices.document(notice.ours, notice.items, for_peer=False)
        answer = await self._system.call(service, "POST", "", [notices.CONTENT_TYPE], _body(content))
        if not 200 <= answer.status < 300:
            raise NotTakenError(f"the information system answered {answer.status}")

    async def _to_peer(self, notice: DueNotice) -> bool:
        """A sealed exchange of our subsystem with the other side's; False where it knows none of the messages."""
        content = notices.document(notice.other, notice.items, for_peer=True)
        request = request_from_system(
            b"POST",
            f"/r1/{ClientId.parse(notice.other).encoded()}/{NOTICE_CODE}".encode(),
            [(b"X-Road-Client", ClientId.parse(notice.ours).encoded().encode()), notices.CONTENT_TYPE],
            request_id=str(uuid.uuid4()),
            generated_id=f"{self._instance}-{uuid.uuid4()}",
        )
        delivery = await self._client_side.answer(request, None, self._local, _Own(_body(content)))
        response = delivery.response
        status = response.status if isinstance(response, RestResponse) else 0
        if not 200 <= status < 300 and status != notices.UNKNOWN:
            raise NotTakenError(f"the other box answered {status}")
        return status != notices.UNKNOWN


def _body(content: bytes) -> Body:
    return Body(len(content), hashlib.sha512(content).digest(), inline=content)
