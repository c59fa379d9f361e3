"""The provider's half of an exchange: the client's box -> us -> information system -> us -> the client's box.

Pure over its ports. Order: peer, size, access, replay, seal, evidence, **record durable and stamped**, deliver; then for the answer: seal,
**record durable**, send. What is refused never reaches the information system.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from appliance.access.rights import Service
from appliance.clock import Clock
from appliance.errors import PeerProtocolError
from appliance.exchange import built_in, dialects
from appliance.exchange.built_in import Asked, BuiltIn, BuiltIns
from appliance.exchange.dialects import Request
from appliance.exchange.evidence import check_delivery, verified
from appliance.exchange.local_view import LocalView
from appliance.exchange.peer_trust import PeerTrust
from appliance.exchange.ports import Body, Log, Sealed, SealedSource, Sealer, System, SystemAnswer, Trust, sealed_parts
from appliance.exchange.records import record_of
from appliance.exchange.routing import ProviderUnknownError, ServerUnsuitableError, is_registered
from appliance.messagelog.wire import PROVIDER, REQUEST, RESPONSE
from appliance.model.identifiers import IdentifierError, ServerId
from appliance.net import message_protocol, soap_protocol
from appliance.net.message_protocol import RestRequest
from appliance.net.soap_protocol import ServiceAnswerError, SoapFraming, SoapRequest


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is on the other end of the mutual TLS connection: its certificate (DER), and what came along in the envelope."""

    certificate: bytes
    ocsp_responses: tuple[bytes, ...]
    request_id: str
    """x-road-request-id of the envelope, for heads that have none."""


class ProviderSide:
    """Carries out exchanges for the services of this box."""

    def __init__(
        self,
        server: ServerId,
        clock: Clock,
        trust: Trust,
        peers: PeerTrust,
        sealer: Sealer,
        log: Log,
        system: System,
        built_ins: BuiltIns,
    ) -> None:
        self._server, self._clock, self._trust, self._peers = server, clock, trust, peers
        self._sealer, self._log, self._system, self._built_ins = sealer, log, system, built_ins

    async def answer(self, request: Request, peer: Peer, local: Callable[[], LocalView], source: SealedSource) -> Sealed:
        """One exchange from a request's head to a sealed answer that may be sent. Raises leaves of every family.

        `local` gives this box's own configuration as it is now: what may be is asked again after every long wait (II.2.XIV).
        """
        # (1) peer and right, before the body is received
        self._admit(request, peer, local())
        # (2) the whole message, (3) peer and right as they are now, (4) its seal: by the client's member, over head and body as received
        sealed = await source.receive()
        self._admit(request, peer, local())
        sealed = verified(sealed, request.digest, request.client, self._trust.shared(request.client.instance), self._clock.now_us())
        # (5) durable, stamped and not seen before (the recorder's guard against replay); (6) within the eight-hour rule
        appended = await self._log.append(record_of(request, sealed, side=PROVIDER, direction=REQUEST, received=True))
        check_delivery(sealed.seal, appended)
        service = self._admit(request, peer, local())
        # (7) now the information system may see it
        asked = Asked(sealed, local())
        if isinstance(request, SoapRequest):
            head, body, framing = await self._ask_soap(request, service, asked)
        else:
            head, body = await self._ask_rest(request, service, asked, peer.request_id)
            framing = None
        # (8) its answer is sealed, (9) durable, and only then sent
        seal = await self._sealer.seal(request.service.provider.member, sealed_parts(message_protocol.digest_of(head), body))
        answer = Sealed(head, body, seal, soap=framing)
        await self._log.append(record_of(request, answer, side=PROVIDER, direction=RESPONSE, received=False))
        return answer

    def _admit(self, request: Request, peer: Peer, local: LocalView) -> Service | BuiltIn:
        """The service that may be called now, or who answers it in the box itself.

        The connection's certificate is registered for a server of the client, issued by an approved CA and good; the provider is ours; the
        client has the right; the service is switched on.
        """
        foreign_or_own = self._trust.shared(request.client.instance)
        self._peers.check_sender(peer.certificate, peer.ocsp_responses, request.client, foreign_or_own)
        if not is_registered(request.service.provider, self._server, self._trust.shared()):
            raise ProviderUnknownError(f"{request.service.provider} is not a registered client of this box")
        if isinstance(request, SoapRequest) and request.security_server not in (None, self._server):
            raise ServerUnsuitableError(f"the message is for {request.security_server}")  # REST names it to the client's box only
        ours = built_in.find(self._built_ins, request)
        if ours is not None:
            ours.admit(request, local)
            return ours
        return dialects.service_for(request, local)

    async def _ask_rest(self, request: RestRequest, service: Service | BuiltIn, asked: Asked, request_id: str) -> tuple[bytes, Body | None]:
        """The head and body of our system's answer, or of our own."""
        if not isinstance(service, BuiltIn):
            body = asked.sealed.body if message_protocol.forwards_body(request.method) else None
            answered = await self._system.call(service, request.method, request.service_target, request.headers, body)
        elif service.rest is not None:
            answered = await service.rest(request, asked)
        else:
            raise RuntimeError("a built-in service of the other protocol")
        return _rest_answer(request, answered, asked.sealed, request_id)

    async def _ask_soap(self, request: SoapRequest, service: Service | BuiltIn, asked: Asked) -> tuple[bytes, Body | None, SoapFraming]:
        """Our system's answer, or our own, with the request's hash in it. What does not answer this very request is never sealed."""
        if not isinstance(service, BuiltIn):
            answered = await self._system.ask(service, asked.sealed)
        elif service.soap is not None:
            answered = await service.soap(request, asked)
        else:
            raise RuntimeError("a built-in service of the other protocol")
        try:
            soap_protocol.check_response(soap_protocol.parse_response(answered.head), request, hashed=False)
            head = soap_protocol.with_request_hash(answered.head, request)
            soap_protocol.check_response(soap_protocol.parse_response(head), request)
        except (PeerProtocolError, IdentifierError) as error:
            raise ServiceAnswerError(error) from error
        return head, answered.body, answered.framing


def _rest_answer(request: RestRequest, answered: SystemAnswer, asked: Sealed, request_id: str) -> tuple[bytes, Body | None]:
    digest = message_protocol.request_hash(request.digest, asked.body.digest if asked.body else None)
    head = message_protocol.response_head(answered.status, answered.reason, answered.headers, request, digest, request_id=request_id)
    return head, answered.body
