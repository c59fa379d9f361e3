"""Port 5500: other boxes ask, over mutual TLS. One multipart message in, one out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable

from appliance.errors import XacbeError
from appliance.exchange.local_view import LocalView
from appliance.exchange.peer_trust import PeerNotRegisteredError, PeerTrust
from appliance.exchange.ports import Sealed, Trust
from appliance.exchange.provider_side import Peer, ProviderSide
from appliance.net import faults, http1, transport_envelope, transport_protocol
from appliance.net.connection import ServerConnection
from appliance.net.http1 import RequestHead
from appliance.net.message_protocol import RestRequest, parse_head
from appliance.net.transport_parts import REST_REQUEST, REST_RESPONSE, TransportLimits, UnexpectedPartError
from appliance.net.transport_protocol import TransportReader
from appliance.relay.bodies import BodyStore
from appliance.relay.client_front import ExchangeGate
from appliance.relay.incoming import IncomingMessage
from appliance.relay.refusals import Refusals


class _Incoming:
    """The SealedSource of the message that is being read."""

    def __init__(self, message: IncomingMessage) -> None:
        self._message, self.received = message, False

    async def receive(self) -> Sealed:
        sealed = await self._message.rest()
        self.received = True
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
        gate: ExchangeGate,
        counters: Counter[str],
        body_bytes_max: int,
    ) -> None:
        self._side, self._trust, self._peers, self._store, self._local = side, trust, peers, store, local
        self._refusals, self._gate, self._counters = refusals, gate, counters
        self._limits = TransportLimits(body_bytes_max=body_bytes_max)

    async def serve(self, connection: ServerConnection) -> None:
        """A box that CEIQROO did not register gets no HTTP at all; a registered one is answered message after message."""
        certificate = connection.peer.certificate or b""
        try:
            self._peers.check_registered(certificate, self._trust.shared())
        except XacbeError as error:
            self._counters[error.kind] += 1
            await self._refusals.audit("peer.refused", {"kind": error.kind, "from": connection.peer.address})
            if isinstance(error, PeerNotRegisteredError):
                connection.abort()
                return
        while (head := await connection.request()) is not None:
            if not await self._answer(connection, head, certificate) or not head.keep_alive:
                connection.close()
                return

    async def _answer(self, connection: ServerConnection, head: RequestHead, certificate: bytes) -> bool:
        source: _Incoming | None = None
        sealed: Sealed | None = None
        request_id = ""
        facts = {"from": connection.peer.address}
        try:
            with self._gate:
                envelope = transport_envelope.check_request(head.method, head.headers)
                request_id = envelope.request_id
                reader = TransportReader(envelope.boundary, frozenset({REST_REQUEST}), self._limits)
                message = IncomingMessage(connection.next_chunk, reader, self._store)
                source = _Incoming(message)
                first = await message.head()
                request = parse_head(first.data)
                if not isinstance(request, RestRequest):
                    raise UnexpectedPartError("an answer came as a request")
                facts |= {"client": str(request.client), "service": str(request.service), "query_id": request.query_id}
                peer = Peer(certificate, first.ocsp, request_id)
                sealed = await self._side.answer(request, peer, self._local(), source)
                self._counters["exchange.provided"] += 1
                await self._send(connection, sealed)
            return True
        except XacbeError as caught:
            error = caught
        if sealed is not None:  # the answer had begun
            connection.abort()
            return False
        return await self._refuse(connection, error, request_id, facts, read=source is not None and source.received)

    async def _send(self, connection: ServerConnection, sealed: Sealed) -> None:
        boundary = transport_protocol.message_boundary(os.urandom(30))
        body, seal = sealed.body, sealed.seal
        begin = transport_protocol.prologue(boundary, REST_RESPONSE, sealed.head, with_body=body is not None)
        end = transport_protocol.epilogue(boundary, seal.signature, seal.chain_result, seal.chain)
        size = len(begin) + (body.size if body else 0) + len(end)
        headers = [*transport_envelope.response_headers(boundary), (b"Content-Length", b"%d" % size)]
        head = http1.response_head(200, headers)
        if body is None or body.inline is not None:
            connection.write(b"".join((head, begin, (body.inline if body else None) or b"", end)))
        else:
            connection.write(head + begin)
            await self._store.send(body, connection.write, connection.drain)
            connection.write(end)
        await connection.drain()

    async def _refuse(self, connection: ServerConnection, error: XacbeError, request_id: str, facts: dict[str, str], *, read: bool) -> bool:
        fault = faults.soap_fault(await self._refusals.fault(error, faults.PROVIDER_SIDE, request_id, facts))
        headers = [*transport_envelope.fault_headers(), (b"Content-Length", b"%d" % len(fault))]
        if not read:
            headers.append((b"Connection", b"close"))
        connection.write(http1.response_head(200, headers) + fault)
        await connection.drain()
        return read
