"""Port 5500: other boxes ask, over mutual TLS. One multipart message in, one out."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import Counter
from collections.abc import Callable

from appliance.errors import CorruptStateError, XacbeError
from appliance.exchange.dialects import Request
from appliance.exchange.foreign import ForeignProfileError, ForeignServers
from appliance.exchange.local_view import LocalView
from appliance.exchange.peer_trust import PeerNotRegisteredError, PeerTrust
from appliance.exchange.ports import Sealed, Trust
from appliance.exchange.provider_side import Peer, ProviderSide
from appliance.messagelog.operations_wire import PRODUCER
from appliance.net import faults, http1, transport_envelope, transport_protocol
from appliance.net.connection import ServerConnection
from appliance.net.http1 import RequestHead
from appliance.net.message_protocol import RestRequest, parse_head
from appliance.net.soap_protocol import SoapFraming, parse_request
from appliance.net.transport_parts import REST_REQUEST, REST_RESPONSE, SOAP, HeadPart, TransportLimits, UnexpectedPartError
from appliance.net.transport_protocol import TransportReader
from appliance.relay import monitoring
from appliance.relay.bodies import BodyStore
from appliance.relay.gates import Gates, Passage
from appliance.relay.incoming import IncomingMessage
from appliance.relay.monitoring import Course, Monitoring
from appliance.relay.outgoing import Outgoing
from appliance.relay.refusals import Refusals, let_go


class _Incoming:
    """The SealedSource of the message that is being read."""

    def __init__(self, message: IncomingMessage, passage: Passage) -> None:
        self._message, self._passage, self.received = message, passage, False

    async def head(self) -> HeadPart:
        return await self._message.head()

    def framing(self, head: HeadPart) -> SoapFraming:
        return self._message.framing(head)

    async def receive(self) -> Sealed:
        sealed = await self._message.rest()
        monitoring.took(sealed.body)
        self.received = True
        self._passage.complete()
        return sealed


class PeerFront:
    """Serves the connections of other boxes."""

    def __init__(
        self,
        side: ProviderSide,
        trust: Trust,
        peers: PeerTrust,
        store: BodyStore,
        local: Callable[[], LocalView],
        refusals: Refusals,
        gates: Gates,
        counters: Counter[str],
        monitor: Monitoring,
        body_bytes_max: int,
        foreign: ForeignServers,
    ) -> None:
        self._foreign = foreign
        self._side, self._trust, self._peers, self._store, self._local = side, trust, peers, store, local
        self._refusals, self._gates, self._counters, self._monitor = refusals, gates, counters, monitor
        self._limits = TransportLimits(body_bytes_max=body_bytes_max)

    async def serve(self, connection: ServerConnection) -> None:
        """A box that CEIQROO did not register is turned away with a fault; a registered one is answered message after message."""
        certificate = connection.peer.certificate or b""
        theirs = ""
        try:
            server = self._peers.check_registered(certificate, *self._trust.instances())
            theirs = server.address
            self._foreign.check(server, connection.peer.protocol)
        except XacbeError as error:
            if isinstance(error, PeerNotRegisteredError | ForeignProfileError):
                await self._turn_away(connection, error, certificate)
                return  # otherwise there is no valid configuration: each message is told so
        while (head := await connection.request()) is not None:
            if not await self._answer(connection, head, certificate, theirs) or not head.keep_alive:
                connection.close()
                return

    async def _turn_away(self, connection: ServerConnection, error: XacbeError, certificate: bytes) -> None:
        """The one thing that a stranger with a certificate of ours is told, before a byte of its message is read."""
        self._counters[error.kind] += 1
        digest = hashlib.sha256(certificate).hexdigest()
        address = connection.peer.address
        self._refusals.strangers_event("peer.refused", error.kind, address, digest)
        await self._refusals.stranger("peer.refused", error.kind, address, f"certificate {digest}")
        if await connection.request() is not None:
            fault = faults.fault_of(error, faults.PROVIDER_SIDE, detail=str(uuid.uuid4()))
            _write_fault(connection, faults.soap_fault(fault), keep=False)
            await connection.drain()
        connection.close()

    async def _answer(self, connection: ServerConnection, head: RequestHead, certificate: bytes, theirs: str) -> bool:
        address = connection.peer.address
        facts = {"from": address}
        passage: Passage | None = None
        source: _Incoming | None = None
        begun, soap = False, False
        course = self._monitor.begin()
        course.other_address = theirs
        try:
            passage = await self._gates.arrive(theirs or address)
            envelope = transport_envelope.check_request(head.method, head.headers)
            course.request_id = envelope.request_id
            soap = not envelope.rest
            reader = TransportReader(envelope.boundary, frozenset({SOAP if soap else REST_REQUEST}), self._limits, passage.hold)
            content_type, action = envelope.original_content_type, envelope.original_soap_action
            source = _Incoming(IncomingMessage(connection.next_chunk, reader, self._store, content_type, action), passage)
            sealed = await self._exchange(source, passage, certificate, course, facts)
            course.answers(sealed.head, sealed.body)
            self._counters["exchange.provided"] += 1
            begun = True
            await self._send(connection, sealed)
            return True
        except CorruptStateError:
            raise
        except Exception as error:  # a bug of ours costs this connection, never the others' (net/README.md)
            if begun:
                connection.abort()
                let_go(error)
                return False
            read = source is not None and source.received
            return await self._refuse(connection, error, course, facts, read=read, soap=soap)
        finally:
            if passage is not None:
                passage.leave()  # before anything else: what is not left stays counted for ever
            self._monitor.end(course, PRODUCER)

    async def _exchange(self, source: _Incoming, passage: Passage, certificate: bytes, course: Course, facts: dict[str, str]) -> Sealed:
        first, request_id = await source.head(), course.request_id
        request = course.request = self._request(first, source, request_id)
        service = self._local().service(request.service)
        course.service_type = service.kind if service is not None else ""
        passage.service = str(request.service)
        facts |= {"client": str(request.client), "service": passage.service, "query_id": request.query_id}
        return await self._side.answer(request, Peer(certificate, first.ocsp, request_id), self._local, source)

    def _request(self, first: HeadPart, source: _Incoming, request_id: str) -> Request:
        if first.kind == SOAP:
            return parse_request(first.data, source.framing(first), request_id)
        request = parse_head(first.data)
        if not isinstance(request, RestRequest):
            raise UnexpectedPartError("an answer came as a request")
        return request

    async def _send(self, connection: ServerConnection, sealed: Sealed) -> None:
        boundary = transport_protocol.message_boundary(os.urandom(30))
        message = Outgoing.between_boxes(boundary, REST_RESPONSE, sealed)
        original = sealed.soap.content_type if sealed.soap else None
        headers = [*transport_envelope.response_headers(boundary, original), (b"Content-Length", b"%d" % message.size)]
        head = http1.response_head(200, headers)
        whole = message.whole
        if whole is not None:
            connection.write(head + whole)
        else:
            connection.write(head + message.frames[0])
            connection.write(await message.send_body(self._store, connection.write, connection.drain))
        await connection.drain()

    async def _refuse(
        self, connection: ServerConnection, error: Exception, course: Course, facts: dict[str, str], *, read: bool, soap: bool
    ) -> bool:
        course.fault = await self._refusals.fault(error, faults.PROVIDER_SIDE, course.request_id, facts, soap=soap)
        fault = faults.soap_fault(course.fault)
        _write_fault(connection, fault, keep=read)
        await connection.drain()
        return read


def _write_fault(connection: ServerConnection, fault: bytes, *, keep: bool) -> None:
    headers = [*transport_envelope.fault_headers(), (b"Content-Length", b"%d" % len(fault))]
    if not keep:
        headers.append((b"Connection", b"close"))
    connection.write(http1.response_head(200, headers) + fault)


def malformed(error: XacbeError, status: int) -> bytes:
    """What a peer gets whose bytes are not HTTP: a fault, as for every other error (sheet 3.7)."""
    fault = faults.soap_fault(faults.fault_of(error, faults.PROVIDER_SIDE, detail=str(uuid.uuid4())))
    headers = [*transport_envelope.fault_headers(), (b"Content-Length", b"%d" % len(fault)), (b"Connection", b"close")]
    return http1.response_head(200, headers) + fault
