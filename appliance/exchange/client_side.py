"""The client's half of an exchange: information system -> us -> the provider's box -> us -> information system.

Pure over its ports. Order (house rules 2-4): who asks and how they proved it, where to, the whole body, seal, **record durable**, send;
then for the answer: seal verified, **record durable and stamped**, the eight-hour rule, and only then the information system sees a byte
of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.access.rights import HTTP, MUTUAL_TLS, AuthenticationError, Client, ClientUnknownError
from appliance.clock import Clock
from appliance.exchange import dialects, routing
from appliance.exchange.dialects import Request, Response
from appliance.exchange.evidence import check_delivery, verified
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Body, BodySource, Log, Peers, Sealed, Sealer, Trust, sealed_parts
from appliance.exchange.records import record_of
from appliance.messagelog.wire import CLIENT, REQUEST, RESPONSE
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.soap_protocol import SoapFraming, SoapRequest


@dataclass(frozen=True, slots=True)
class Arrival:
    """How the information system reached us: over TLS or not, and with which certificate (DER)."""

    tls: bool
    certificate: bytes | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """A verified, recorded answer that may be given to the information system."""

    response: Response
    body: Body | None
    soap: SoapFraming | None = None


class ClientSide:
    """Carries out exchanges for the information systems of this box."""

    def __init__(self, server: ServerId, clock: Clock, trust: Trust, sealer: Sealer, log: Log, peers: Peers) -> None:
        self._server, self._clock = server, clock
        self._trust, self._sealer, self._log, self._peers = trust, sealer, log, peers

    async def answer(self, request: Request, arrival: Arrival | None, local: Callable[[], LocalView], source: BodySource) -> Delivery:
        """One exchange from a parsed request to an answer that may be delivered. Raises leaves of every family.

        `arrival` None: the box itself asks, for one of its clients (a withdrawal notice). `local` gives this box's own configuration as it
        is now: what may be is asked again after every long wait (II.2.XIV).
        """
        # (1) the client is ours, registered with CEIQROO for this box, and proved itself as its mode asks
        self.check_client(request.client, arrival, local())
        # (2) the provider has a box, or the one that was asked for
        provider = request.service.provider
        routing.servers_for(provider, request.security_server, self._trust.shared(provider.instance))
        # (3) the body is here completely before anything is sealed or sent
        body = await source.receive()
        self.check_client(request.client, arrival, local())
        servers = routing.servers_for(provider, request.security_server, self._trust.shared(provider.instance))
        # (4) sealed with the member's key, (5) durable before anything leaves
        seal = await self._sealer.seal(request.client.member, sealed_parts(request.digest, body))
        sent = Sealed(request.head, body, seal, soap=request.framing if isinstance(request, SoapRequest) else None)
        await self._log.append(record_of(request, sent, side=CLIENT, direction=REQUEST, received=False))
        # (6) the peer answers with a sealed message, or with a fault that is passed on
        answer = await self._peers.exchange(servers, provider, sent, request.request_id)
        # (7) the answer's seal is the provider's, and it answers this very request
        response = dialects.read_answer(request, answer)
        shared = self._trust.shared(provider.instance)  # the answer took its time: what was valid before it may have ended
        answer = verified(answer, response.digest, provider, shared, self._clock.now_us())
        dialects.check_answer(response, request, body)
        # (8) durable and stamped, (9) within the eight-hour rule: now it may be delivered
        appended = await self._log.append(record_of(request, answer, side=CLIENT, direction=RESPONSE, received=True))
        check_delivery(answer.seal, appended)
        self.check_client(request.client, arrival, local())
        return Delivery(response, answer.body, answer.soap)

    def check_client(self, name: ClientId, arrival: Arrival | None, local: LocalView) -> None:
        """The client is ours, registered with CEIQROO for this box, and proved itself as its mode asks. Raises ClientUnknownError,
        AuthenticationError, ConfigurationExpiredError.
        """
        client = local.client(name)
        if client is None or not routing.is_registered(name, self._server, self._trust.shared()):
            raise ClientUnknownError(f"{name} is not a registered client of this box")
        if arrival is not None:
            check_authentication(client, arrival)


def check_authentication(client: Client, arrival: Arrival) -> None:
    """The client's mode against how it came: HTTP takes anything, HTTPS needs TLS, mutual TLS a registered certificate."""
    if client.mode == HTTP:
        return
    if not arrival.tls:
        raise AuthenticationError(f"{client.subsystem} must use HTTPS")
    if client.mode == MUTUAL_TLS and (arrival.certificate is None or arrival.certificate not in client.certificates):
        raise AuthenticationError(f"{client.subsystem} must show a registered certificate")
