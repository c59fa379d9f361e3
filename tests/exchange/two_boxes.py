"""Two boxes in one process: the client's and the provider's half of an exchange over working fakes, with every fault at hand."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from appliance.access.rights import HTTP, Client, Right, Service
from appliance.exchange import notices
from appliance.exchange.client_side import Arrival, ClientSide, Delivery
from appliance.exchange.dialects import Request
from appliance.exchange.local_view import LocalView
from appliance.exchange.metadata import Metadata
from appliance.exchange.peer_trust import PeerTrust
from appliance.exchange.ports import Sealed, SystemAnswer, sealed_parts
from appliance.exchange.provider_side import Peer, ProviderSide
from appliance.messagelog.wire import Seal
from appliance.model.identifiers import ClientId, ServiceId
from appliance.net.message_protocol import RestRequest, parse_head, request_from_system
from appliance.net.soap_protocol import SoapRequest
from appliance.seal.container import Contents, write_container
from appliance.seal.report import Report
from appliance.seal.verify import verify_container
from appliance.supervision.wire import LocalConfiguration
from tests.exchange.institutions import Institution, Network, der
from tests.fakes.exchange import (
    DirectPeers,
    Kept,
    MemoryLog,
    ReadyBody,
    ReadyMessage,
    RecordingDesk,
    RecordingSoapSystem,
    SealKey,
    SetClock,
    SetTrust,
    SoftwareSealer,
    Witness,
    body_of,
)
from tests.seal.workshop import HOUR_US, INSTANCE, NOON_US, Known

PLAIN = Arrival(tls=False, certificate=None)


class TwoBoxes:
    """The asker's box and the provider's box of a network, at noon; everything works until it is told not to."""

    def __init__(self, network: Network) -> None:
        self.network, self.clock, self.witness = network, SetClock(NOON_US), Witness()
        self.trust = SetTrust(self.clock, network.shared(), NOON_US + 9 * HOUR_US)
        """Of the asker's box."""
        self.provider_trust = SetTrust(self.clock, self.trust.parameters, self.trust.expires_us)
        asker, provider = network.asker, network.provider
        self.sealer = SoftwareSealer(self.clock, {asker.member: self.key(asker)}, self.witness, "asker")
        self.provider_sealer = SoftwareSealer(self.clock, {provider.member: self.key(provider)}, self.witness, "provider")
        self.log = MemoryLog(self.clock, network.authority.stamp, self.witness, "asker")
        self.provider_log = MemoryLog(self.clock, network.authority.stamp, self.witness, "provider")
        self.system = RecordingSoapSystem(self.witness, SystemAnswer(200, b"OK", [(b"Content-Type", b"text/plain")], body_of(b"an answer")))
        self.local = LocalView(LocalConfiguration(1, [Client(str(asker.client), HTTP)], [], []), {})
        self.rights = [Right(str(network.service), str(asker.client)), Right(str(network.closed_service), str(network.third.client))]
        self.services = [Service(str(network.service), "http://127.0.0.1"), Service(str(network.closed_service), "http://127.0.0.1")]
        self.desk = RecordingDesk()
        self.documents: dict[str, bytes] = {}
        """Descriptions that the provider's box keeps, by digest."""
        self.provider_side = ProviderSide(
            provider.server,
            self.clock,
            self.provider_trust,
            PeerTrust(self.clock),
            self.provider_sealer,
            self.provider_log,
            self.system,
            {**notices.built_in(self.desk), **Metadata(self).built_in()},
        )
        self.shown_by = asker
        """Whose authentication certificate is on the connection."""
        self.peers = DirectPeers(self.provider_side, lambda: self.provider_local, self.connection, self.witness)
        self.client_side = ClientSide(asker.server, self.clock, self.trust, self.sealer, self.log, self.peers)
        self._requests = 0

    @property
    def provider_local(self) -> LocalView:
        return LocalView(LocalConfiguration(1, [], self.services, self.rights), {})

    async def read(self, service: Service) -> bytes:
        """The port `Descriptions`."""
        return self.documents[service.document]

    def key(self, institution: Institution) -> SealKey:
        authority, certificate = self.network.authority, institution.seal
        return SealKey(institution.seal_key, certificate, lambda at_us: authority.confirmation(certificate, at_us))

    def connection(self) -> Peer:
        """What a provider knows of the connection on which the message comes."""
        certificate = self.shown_by.peer
        return Peer(der(certificate), (self.network.authority.confirmation(certificate, self.clock.us),), "envelope-id")

    def request(
        self, method: str = "POST", path: str = "/7?x=1", *, service: ServiceId | None = None, client: ClientId | None = None, **more: str
    ) -> RestRequest:
        """A new request of the asker's information system. `more`: headers, `x_road_...` for `x-road-...`."""
        self._requests += 1
        headers = [(b"X-Road-Client", (client or self.network.asker.client).encoded().encode())]
        headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in more.items()]
        target = f"/r1/{(service or self.network.service).encoded()}{path}".encode()
        number = f"{self._requests:032x}"
        return request_from_system(method.encode(), target, headers, request_id=number, generated_id=f"{INSTANCE}-{number}")

    # -- the whole way

    def ask(self, request: Request | None = None, body: bytes | ReadyBody | None = b"a question", arrival: Arrival = PLAIN) -> Delivery:
        """One exchange through both boxes; raises what the asker's box raises."""
        source = body if isinstance(body, ReadyBody) else ReadyBody(body)

        async def exchange() -> Delivery:
            delivery = await self.client_side.answer(request or self.request(), arrival, lambda: self.local, source)
            self.witness.append("client gets answer")
            return delivery

        return asyncio.run(exchange())

    # -- the provider's half alone, with whatever a peer sends

    def message(
        self,
        request: RestRequest,
        body: bytes | None = b"a question",
        *,
        by: Institution | None = None,
        sealed_at_us: int | None = None,
        confirmations: Sequence[bytes] | None = None,
    ) -> Sealed:
        """A sealed request as the box of `by` would make it, or as its holder forges it."""
        sealed_at_us = self.clock.us if sealed_at_us is None else sealed_at_us
        confirmations = [self.confirmation(by or self.network.asker)] if confirmations is None else confirmations
        parts = [("/message.xml", request.digest)] + ([] if body is None else [("/attachment1", body_of(body).digest)])
        (seal,) = self.key(by or self.network.asker).seal([parts], sealed_at_us, confirmations)
        return Sealed(request.head, None if body is None else body_of(body), seal)

    def confirmation(self, institution: Institution, ago_us: int = 0, revoked_us: int | None = None) -> bytes:
        return self.network.authority.confirmation(institution.seal, self.clock.us - ago_us, revoked_us)

    def provide(self, sealed: Sealed, peer: Peer | None = None, source: ReadyMessage | None = None) -> Sealed:
        """The provider's half; raises what it raises."""
        request = parse_head(sealed.head)
        assert isinstance(request, RestRequest)
        peer, source = peer or self.connection(), source or ReadyMessage(sealed)
        return asyncio.run(self.provider_side.answer(request, peer, lambda: self.provider_local, source))

    def sealed_soap(self, request: SoapRequest) -> Sealed:
        """A SOAP request without attachments, sealed by the asker."""
        (seal,) = self.key(self.network.asker).seal([sealed_parts(request.digest, None)], self.clock.us)
        return Sealed(request.head, None, seal, soap=request.framing)

    def provide_soap(self, request: SoapRequest, sealed: Sealed) -> Sealed:
        return asyncio.run(self.provider_side.answer(request, self.connection(), lambda: self.provider_local, ReadyMessage(sealed)))

    # -- afterwards

    def saw_nothing(self) -> bool:
        """Whether the provider's information system was left alone and its log has no message."""
        return not self.system.calls and not self.provider_log.kept

    def verified(self, kept: Kept) -> Report:
        """The record, exported as a container and judged as a third party would."""
        record, seal = kept.record, kept.record.seal
        contents = Contents(
            message=record.message,
            signature=seal.signature,
            chain_result=seal.chain_result,
            chain=seal.chain,
            stamp_token=kept.stamp,
            stamp_chain_result=None,
            stamp_chain=None,
            attachments=cut(record.body, record.attachment_bytes),
        )
        known = Known(INSTANCE, {INSTANCE: self.network.shared()})
        return verify_container(write_container(contents, self.clock.us), known, None)


def cut(body: bytes | None, sizes: list[int]) -> list[bytes]:
    """The attachments of a record."""
    if body is None:
        return []
    ends = [sum(sizes[:number]) for number in range(len(sizes) + 1)] if sizes else [0, len(body)]
    return [body[start:end] for start, end in pairwise(ends)]


def with_body(sealed: Sealed, data: bytes | None) -> Sealed:
    return replace(sealed, body=None if data is None else body_of(data))


def with_signature(sealed: Sealed, signature: bytes) -> Sealed:
    seal = sealed.seal
    return replace(sealed, seal=Seal(signature, seal.chain_result, seal.chain, 0, 0))
