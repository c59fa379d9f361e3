"""The way to other boxes: a believed connection, one multipart message out, one back."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Sequence

from appliance.clock import Clock
from appliance.errors import UnverifiedError, XacbeError
from appliance.exchange.foreign import ForeignServers
from appliance.exchange.peer_trust import PeerTrust
from appliance.exchange.ports import Sealed
from appliance.model.identifiers import ClientId
from appliance.net import fetch, http1, transport_envelope, transport_protocol
from appliance.net.connection import ClientConnection, PeerClosedError
from appliance.net.dialer import Dialer
from appliance.net.fetch import FetchLimits
from appliance.net.multipart import MultipartReader, PartData, PartEnded, boundary_of
from appliance.net.soap_protocol import SoapFraming
from appliance.net.soap_reader import read_fault
from appliance.net.tls_engine import Peer
from appliance.net.transport_envelope import EnvelopeTypeError
from appliance.net.transport_parts import REST_REQUEST, REST_RESPONSE, SOAP, HeadMissingError, TransportLimits
from appliance.net.transport_protocol import TransportReader
from appliance.relay import gates, monitoring
from appliance.relay.bodies import BodyStore
from appliance.relay.contexts import Contexts
from appliance.relay.incoming import IncomingMessage, PeerFaultError
from appliance.relay.outgoing import Outgoing
from appliance.relay.trust_view import TrustView
from appliance.trust.global_configuration import SecurityServer, SharedParameters

TRIES = 3
"""Kept connections that turn out to be closed before a byte was sent."""
REFETCH_S = 600.0
"""A peer's OCSP response is asked for again after ten minutes: half of the time in which peers refresh theirs."""
RESPONSES_MAX = 4096
FAULT_BYTES_MAX = 64 << 10
_FETCH_LIMITS = FetchLimits(connect_s_max=5, read_s_max=10, bytes_max=256 << 10)


class PeerLink:
    """The port `Peers` of the client side."""

    def __init__(
        self,
        clock: Clock,
        dialer: Dialer,
        contexts: Contexts,
        trust: TrustView,
        peers: PeerTrust,
        store: BodyStore,
        *,
        peer_port: int,
        ocsp_port: int,
        answer_s_max: float,
        body_bytes_max: int,
        foreign: ForeignServers,
    ) -> None:
        self._foreign = foreign
        self._clock, self._dialer, self._contexts, self._trust, self._peers = clock, dialer, contexts, trust, peers
        self._store, self._peer_port, self._ocsp_port, self._answer_s_max = store, peer_port, ocsp_port, answer_s_max
        self._limits = TransportLimits(body_bytes_max=body_bytes_max)
        self._responses: dict[bytes, tuple[float, tuple[bytes, ...]]] = {}

    async def exchange(self, servers: Sequence[SecurityServer], provider: ClientId, request: Sealed, request_id: str) -> Sealed:
        """One message to the first server that answers and is believed. Nothing is retried once a byte was sent (sheet 10.1.5)."""
        shared = self._trust.shared(provider.instance)
        connection = await self._sent(servers, provider, shared, request, request_id)
        try:
            monitoring.left(self._peers.check_registered(connection.peer.certificate or b"", shared).address)
            return await self._answer(connection, REST_RESPONSE if request.soap is None else SOAP)
        finally:
            self._dialer.release(connection)

    async def _sent(
        self, servers: Sequence[SecurityServer], provider: ClientId, shared: SharedParameters, request: Sealed, request_id: str
    ) -> ClientConnection:
        boundary = transport_protocol.message_boundary(os.urandom(30))
        foreign = self._foreign.among(servers)
        # of one moment: the proof is of what the context shows
        context, ocsp = self._contexts.peer_client_context(foreign=foreign), self._own_evidence()
        message = Outgoing.between_boxes(boundary, REST_REQUEST, request, ocsp)
        whole = message.whole
        for _ in range(TRIES):
            connection = await self._believed(servers, provider, shared, context, "foreign" if foreign else "peer")
            head = _envelope(connection, boundary, request_id, request.soap, message.size)
            try:
                if whole is not None:
                    connection.start(b"POST", head + whole)
                    return connection
                connection.start(b"POST", head + message.frames[0], more=True)
            except PeerClosedError:
                self._dialer.release(connection)
                continue
            await self._send_large(connection, message)
            return connection
        raise PeerClosedError("every kept connection to the peer was closed")

    async def _send_large(self, connection: ClientConnection, message: Outgoing) -> None:
        try:
            end = await message.send_body(self._store, connection.write, connection.drain, lambda: connection.response_started)
            if not connection.response_started:
                connection.finish(end)
                await connection.drain()
        except XacbeError:
            if not connection.response_started:  # else the peer answered before it had read everything: its answer counts
                self._dialer.release(connection)
                raise
        except BaseException:
            self._dialer.release(connection)
            raise

    async def _answer(self, connection: ClientConnection, expected: str) -> Sealed:
        response = await connection.response(self._answer_s_max)
        monitoring.came_back()
        envelope = transport_envelope.check_response(response.status, response.headers)
        if envelope.boundary is None:
            raise await _fault(connection)
        reader = TransportReader(envelope.boundary, frozenset({expected}), self._limits, gates.hold)
        message = IncomingMessage(connection.next_chunk, reader, self._store, envelope.original_content_type)
        await message.head()
        return await message.rest()

    # Whom we talk to

    async def _believed(
        self, servers: Sequence[SecurityServer], provider: ClientId, shared: SharedParameters, context: ssl.SSLContext, purpose: str
    ) -> ClientConnection:
        """A connection whose other end has passed the three-part check now, kept or fresh."""
        addresses = [(server.address, self._peer_port) for server in servers if server.address]

        async def check(peer: Peer) -> None:
            await self._check(peer, provider, shared)

        connection = await self._dialer.acquire(addresses, purpose, context=context, check=check)
        try:
            await self._check(connection.peer, provider, shared)
        except BaseException:
            connection.abort()
            self._dialer.release(connection)
            raise
        return connection

    async def _check(self, peer: Peer, provider: ClientId, shared: SharedParameters) -> None:
        certificate = peer.certificate or b""
        self._foreign.check(self._peers.check_registered(certificate, shared), peer.protocol)
        if self._peers.known(certificate, shared):
            self._peers.check_provider(certificate, (), provider, shared)
            return
        server = self._peers.check_registered(certificate, shared)
        responses, fresh = await self._ocsp_responses(server, certificate)
        try:
            self._peers.check_provider(certificate, responses, provider, shared)
        except UnverifiedError:
            if fresh:
                raise
            self._responses.pop(hashlib.sha256(certificate).digest(), None)
            responses, _ = await self._ocsp_responses(server, certificate)
            self._peers.check_provider(certificate, responses, provider, shared)

    async def _ocsp_responses(self, server: SecurityServer, certificate: bytes) -> tuple[tuple[bytes, ...], bool]:
        """From the peer's port 5577, or as asked less than ten minutes ago (sheet 3.3); whether they were asked for now."""
        key = hashlib.sha256(certificate).digest()
        kept = self._responses.get(key)
        if kept is not None and self._clock.monotonic_s() - kept[0] < REFETCH_S:
            return kept[1], False
        sha1 = hashlib.sha1(certificate, usedforsecurity=False).hexdigest()  # the protocol's own look-up key
        url = f"http://{server.address}:{self._ocsp_port}/?cert={sha1}&cert_hash={key.hex()}"
        answer = await fetch.get(url, _FETCH_LIMITS)
        responses = _parts(answer.content_type, answer.body) if answer.status == 200 else ()
        if len(self._responses) >= RESPONSES_MAX:
            self._responses.clear()
        self._responses[key] = (self._clock.monotonic_s(), responses)
        return responses, True

    def _own_evidence(self) -> tuple[bytes, ...]:
        """The OCSP response of our own authentication certificate: the provider checks it for each message."""
        certificate = self._contexts.own_certificate()
        evidence = self._trust.evidence(hashlib.sha256(certificate).digest()) if certificate else None
        return (evidence.response,) if evidence else ()


def _envelope(connection: ClientConnection, boundary: bytes, request_id: str, soap: SoapFraming | None, size: int) -> bytes:
    headers = [
        (b"Host", connection.peer.address.encode()),
        *transport_envelope.request_headers(boundary, request_id, soap.content_type if soap else b"", rest=soap is None),
        (b"Content-Length", b"%d" % size),
    ]
    if soap is not None:
        headers.append((b"x-original-soapaction", soap.action or b""))
    return http1.request_head(b"POST", b"/", headers)


def _parts(content_type: str, body: bytes) -> tuple[bytes, ...]:
    """The parts of a multipart/related answer of port 5577. A broken one has none."""
    found: list[bytes] = []
    held: list[bytes] = []
    try:
        reader = MultipartReader(boundary_of(content_type.encode()), parts_max=8)
        for event in reader.feed(body):
            if isinstance(event, PartData):
                held.append(event.data)
            elif isinstance(event, PartEnded):
                found.append(b"".join(held))
                held = []
    except XacbeError:
        return ()
    return tuple(found)


async def _fault(connection: ClientConnection) -> XacbeError:
    """What the peer said instead of a message."""
    data = b""
    while (chunk := await connection.next_chunk()) is not None:
        data += chunk
        if len(data) > FAULT_BYTES_MAX:
            raise EnvelopeTypeError("a fault of unreasonable size")
    fault = read_fault(data)
    return PeerFaultError(fault) if fault is not None else HeadMissingError("an answer that is neither a message nor a fault")
