"""The ports for information systems (8080, 8443): an HTTP request becomes an exchange, its outcome an HTTP answer.

There is no limit on an exchange as a whole, which would cut a large body on a slow line: every wait inside it has one.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator

from appliance.errors import CorruptStateError, PeerProtocolError, XacbeError
from appliance.exchange.client_side import Arrival, ClientSide, Delivery
from appliance.exchange.dialects import BODILESS, Request
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Body, BodySource
from appliance.messagelog.operations_wire import CONSUMER
from appliance.model.identifiers import IdentifierError
from appliance.net import faults, http1, transport_envelope
from appliance.net.connection import ServerConnection
from appliance.net.faults import Fault
from appliance.net.http1 import RequestHead
from appliance.net.message_protocol import RestResponse, headers_for_system, request_from_system
from appliance.net.multipart import make_boundary
from appliance.net.soap_mime import SoapReader, related
from appliance.net.soap_protocol import SoapContentTypeError, SoapFraming, SoapRequest, parse_request
from appliance.net.transport_parts import TransportLimits
from appliance.relay import monitoring
from appliance.relay.bodies import BodyStore
from appliance.relay.gates import Gates, Passage
from appliance.relay.incoming import IncomingSoap
from appliance.relay.local_services import LocalServices
from appliance.relay.monitoring import Course, Monitoring
from appliance.relay.outgoing import Outgoing
from appliance.relay.refusals import Refusals, let_go

_REST = re.compile(rb"/r[0-9]+(?:/|$)")
"""Of every version, so that an unknown one is told so; what is not REST is SOAP (sheet 2.1)."""


class SoapMethodError(PeerProtocolError):
    """What is not REST is SOAP, and SOAP is a POST (sheet 2.1)."""

    kind = "soap.method"


class _SoapSource:
    """The SOAP message that is being read. `where`: whose fault an error is until all of it was read."""

    def __init__(
        self, connection: ServerConnection, head: RequestHead, store: BodyStore, passage: Passage, limits: TransportLimits
    ) -> None:
        self._passage, self.received = passage, False
        if head.method != b"POST":
            raise SoapMethodError("a SOAP message is a POST")
        reader = SoapReader(_only(head, b"content-type"), limits, _only(head, b"soapaction"), passage.hold)
        self._message = IncomingSoap(connection.next_chunk, reader, store)

    async def request(self, request_id: str) -> SoapRequest:
        part = await self._message.head()
        return parse_request(part.data, part.framing, request_id)

    async def receive(self) -> Body | None:
        with _at_fault():
            body = await self._message.rest()
        monitoring.took(body)
        self.received = True
        self._passage.complete()
        return body


class _SoapRequestError(Exception):
    """The information system's own message is at fault: `error` says how."""

    def __init__(self, error: PeerProtocolError | IdentifierError) -> None:
        super().__init__(str(error))
        self.error = error


def _only(head: RequestHead, name: bytes) -> bytes | None:
    """A header that decides how the message is read: twice with different values it is none."""
    found = {value for header, value in head.headers if header.lower() == name}
    if len(found) > 1:
        raise SoapContentTypeError(f"{name.decode()} is there with different values")
    return found.pop() if found else None


class _Source:
    """The body of the request that is being read; asked for once, after the checks that need only the head."""

    def __init__(self, connection: ServerConnection, head: RequestHead, store: BodyStore, passage: Passage) -> None:
        self._connection, self._head, self._store, self._passage = connection, head, store, passage
        self.received = head.body_bytes == 0

    async def receive(self) -> Body | None:
        body = None
        if not self.received:
            expected = self._head.body_bytes if self._head.body_bytes > 0 else None
            body = await self._store.receive(self._connection.next_chunk, expected)
            self.received = True
        monitoring.took(body)
        self._passage.complete()
        return body


class ClientFront:
    """Serves the connections of information systems."""

    def __init__(
        self,
        instance: str,
        side: ClientSide,
        store: BodyStore,
        local: Callable[[], LocalView],
        refusals: Refusals,
        gates: Gates,
        counters: Counter[str],
        monitor: Monitoring,
        services: LocalServices,
    ) -> None:
        self._limits, self._monitor = TransportLimits(body_bytes_max=store.body_bytes_max), monitor
        self._instance, self._side, self._store, self._local = instance, side, store, local
        self._refusals, self._gates, self._counters, self._services = refusals, gates, counters, services

    async def serve(self, connection: ServerConnection) -> None:
        """Answers request after request until the information system or an error ends the connection."""
        while (head := await connection.request()) is not None:
            answer = self._services.serve if self._services.takes(head) else self._answer
            if not await answer(connection, head) or not head.keep_alive:
                connection.close()
                return

    async def _answer(self, connection: ServerConnection, head: RequestHead) -> bool:
        """Answers one request; False where the connection cannot be used again."""
        request_id = str(uuid.uuid4())
        address = connection.peer.address
        facts = {"from": address}
        passage: Passage | None = None
        source: _Source | _SoapSource | None = None
        begun = False
        course = self._monitor.begin()
        course.request_id = request_id
        rest = _REST.match(head.target) is not None
        try:
            passage = await self._gates.arrive(address)
            if rest:
                source = _Source(connection, head, self._store, passage)
                delivery = await self._exchange(connection, head, source, passage, course, facts)
            else:
                with _at_fault():
                    source = _SoapSource(connection, head, self._store, passage, self._limits)
                    request = await source.request(request_id)
                delivery = await self._ask(connection, request, source, passage, course, facts)
            course.answers(delivery.response.head, delivery.body)
            self._counters["exchange.answered"] += 1
            begun = True
            await self._deliver(connection, head, delivery)
            return True
        except CorruptStateError:
            raise
        except Exception as error:  # a bug of ours costs this connection, never the others' (net/README.md)
            if begun:  # what follows a written head cannot be told from the body
                connection.abort()
                let_go(error)
                return False
            keep = source is not None and source.received and head.keep_alive
            if rest:
                return await self._refuse(connection, head, error, course, facts, keep=keep)
            return await self._refuse_soap(connection, error, course, facts, keep=keep)
        finally:
            if passage is not None:
                passage.leave()  # before anything else: what is not left stays counted for ever
            self._monitor.end(course, CONSUMER)

    async def _exchange(
        self, connection: ServerConnection, head: RequestHead, source: _Source, passage: Passage, course: Course, facts: dict[str, str]
    ) -> Delivery:
        generated_id = f"{self._instance}-{uuid.uuid4()}"
        request = request_from_system(head.method, head.target, head.headers, request_id=course.request_id, generated_id=generated_id)
        return await self._ask(connection, request, source, passage, course, facts)

    async def _ask(
        self, connection: ServerConnection, request: Request, source: BodySource, passage: Passage, course: Course, facts: dict[str, str]
    ) -> Delivery:
        course.request = request
        passage.service = str(request.service)
        facts |= {"client": str(request.client), "service": passage.service, "query_id": request.query_id}
        arrival = Arrival(connection.peer.tls, connection.peer.certificate)
        return await self._side.answer(request, arrival, self._local, source)

    async def _deliver_soap(self, connection: ServerConnection, head: RequestHead, delivery: Delivery, framing: SoapFraming) -> None:
        body = delivery.body
        boundary = make_boundary(b"xmime", os.urandom(30))
        content_type, frames = related(framing, delivery.response.head, [one.headers for one in body.attachments] if body else [], boundary)
        message = Outgoing(frames, body)
        headers = [(b"Content-Type", content_type), (b"Content-Length", b"%d" % message.size)]
        if not head.keep_alive:
            headers.append((b"Connection", b"close"))
        begin = http1.response_head(200, headers)
        whole = message.whole
        if whole is not None:
            connection.write(begin + whole)
        else:
            connection.write(begin + frames[0])
            connection.write(await message.send_body(self._store, connection.write, connection.drain))
        await connection.drain()

    async def _deliver(self, connection: ServerConnection, head: RequestHead, delivery: Delivery) -> None:
        response, body = delivery.response, delivery.body
        if delivery.soap is not None:
            await self._deliver_soap(connection, head, delivery, delivery.soap)
            return
        if not isinstance(response, RestResponse):
            raise RuntimeError("an answer without its protocol")
        headers = headers_for_system(response)
        if response.status not in BODILESS and not (head.method == b"HEAD" and body is None):
            headers.append((b"Content-Length", b"%d" % (body.size if body else 0)))
        if not head.keep_alive:
            headers.append((b"Connection", b"close"))
        begin = http1.response_head(response.status, headers, response.reason or None)
        if body is None or head.method == b"HEAD":
            connection.write(begin)
        elif body.inline is not None:
            connection.write(begin + body.inline)
        else:
            connection.write(begin)
            await self._store.send(body, connection.write, connection.drain)
        await connection.drain()

    async def _refuse(
        self, connection: ServerConnection, head: RequestHead, error: Exception, course: Course, facts: dict[str, str], *, keep: bool
    ) -> bool:
        fault = course.fault = await self._refusals.fault(error, faults.CLIENT_SIDE, course.request_id, facts)
        _write_fault(connection, head, fault, keep)
        await connection.drain()
        return keep

    async def _refuse_soap(
        self, connection: ServerConnection, error: Exception, course: Course, facts: dict[str, str], *, keep: bool
    ) -> bool:
        """Status 200 whatever happened (sheet 2.6)."""
        where = faults.CLIENT_SIDE
        if isinstance(error, _SoapRequestError):
            let_go(error)
            where, error = faults.SOAP_REQUEST, error.error
        course.fault = await self._refusals.fault(error, where, course.request_id, facts, soap=True)
        fault = faults.soap_fault(course.fault)
        headers = [*transport_envelope.fault_headers(), (b"Content-Length", b"%d" % len(fault))]
        if not keep:
            headers.append((b"Connection", b"close"))
        connection.write(http1.response_head(200, headers) + fault)
        await connection.drain()
        return keep


@contextlib.contextmanager
def _at_fault() -> Iterator[None]:
    """What is wrong with the information system's own SOAP message is told as the client's fault."""
    try:
        yield
    except (PeerProtocolError, IdentifierError) as error:
        raise _SoapRequestError(error) from error


def malformed(error: XacbeError, status: int) -> bytes:
    """What an information system gets whose bytes are not HTTP as we take it: the protocol's error, under HTTP's own status."""
    headers, body = faults.rest_error(faults.fault_of(error, faults.CLIENT_SIDE, detail=str(uuid.uuid4())), [])
    headers += [(b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")]
    return http1.response_head(status, headers) + body


def _write_fault(connection: ServerConnection, head: RequestHead, fault: Fault, keep: bool) -> None:
    accept = [value for name, value in head.headers if name.lower() == b"accept"]
    headers, body = faults.rest_error(fault, accept)
    headers.append((b"Content-Length", b"%d" % len(body)))
    if not keep:
        headers.append((b"Connection", b"close"))  # the body was not read: the next request could not be found
    connection.write(http1.response_head(fault.status, headers) + (b"" if head.method == b"HEAD" else body))
