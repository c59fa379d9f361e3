"""SOAP through both halves of an exchange: byte for byte, sealed with every attachment, and only the answer to this very request."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from appliance.access.rights import WSDL, Right, Service
from appliance.errors import XacbeError
from appliance.exchange.ports import Attachment, Body, Sealed, SoapAnswer
from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.net.soap_protocol import SoapFraming, SoapRequest, SoapResponseInconsistentError, parse_request
from appliance.net.soap_reader import PeerFault, read_header
from appliance.relay.incoming import PeerFaultError
from appliance.seal.report import VALID
from tests.exchange.institutions import Network
from tests.exchange.two_boxes import TwoBoxes
from tests.fakes.exchange import ReadyBody

SERVICE_FAULT = (
    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>s:Server</faultcode>'
    b"<faultstring>no hay</faultstring><detail><own:code xmlns:own='urn:x'>7</own:code></detail></s:Fault></s:Body></s:Envelope>"
)
PLAIN = SoapFraming(((b"Content-Type", b"text/xml; charset=UTF-8"),), b"text/xml; charset=UTF-8", b'""')
RELATED = replace(PLAIN, content_type=b"multipart/related; boundary=x")


def identifier(name: str, kind: str, parts: tuple[str, ...]) -> str:
    names = {
        "SERVER": ("xRoadInstance", "memberClass", "memberCode", "serverCode"),
        "SERVICE": ("xRoadInstance", "memberClass", "memberCode", "subsystemCode", "serviceCode", "serviceVersion"),
    }.get(kind, ("xRoadInstance", "memberClass", "memberCode", "subsystemCode"))
    content = "".join(f"<id:{tag}>{part}</id:{tag}>" for tag, part in zip(names, parts, strict=False))
    return f'<xrd:{name} id:objectType="{kind}">{content}</xrd:{name}>'


def envelope(client: ClientId, service: ServiceId, *, more: str = "", body: str | None = None, query: str = "q-1") -> bytes:
    header = identifier("client", client.object_type, client.parts) + identifier("service", "SERVICE", service.parts)
    return (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:id="http://x-road.eu/xsd/identifiers"'
        f' xmlns:xrd="http://x-road.eu/xsd/xroad.xsd"><s:Header>{header}<xrd:userId>ágente</xrd:userId><xrd:id>{query}</xrd:id>'
        f"<xrd:protocolVersion>4.0</xrd:protocolVersion>{more}</s:Header>"
        f"<s:Body>{body if body is not None else f'<{service.code}/>'}</s:Body></s:Envelope>"
    ).encode()


def attachments(*contents: bytes) -> Body | None:
    """As the relay makes them: one body, and how it is cut."""
    whole = b"".join(contents)
    cuts = tuple(Attachment(len(one), hashlib.sha512(one).digest(), b"Content-ID: <%d>\r\n" % at) for at, one in enumerate(contents))
    return Body(len(whole), hashlib.sha512(whole).digest(), inline=whole, attachments=cuts) if contents else None


class Soap:
    """A SOAP service `vehiculo` v1 at the provider, which echoes the headers, and answers with its attachments turned around."""

    def __init__(self, network: Network) -> None:
        self.boxes = TwoBoxes(network)
        self.client, self.service = network.asker.client, ServiceId(network.provider.client, "vehiculo", "v1")
        plain = str(ServiceId(network.provider.client, "vehiculo"))
        self.boxes.services.append(Service(plain, "http://127.0.0.1", WSDL, version="v1"))
        self.boxes.rights.append(Right(plain, str(self.client)))
        self.boxes.system.soap = self.answer
        self.turned: Callable[[bytes], bytes] = lambda head: head

    def answer(self, request: Sealed) -> SoapAnswer:
        head = request.head.replace(b"<vehiculo/>", b"<vehiculoResponse>\xc3\xb1</vehiculoResponse>")
        contents = [] if request.body is None else [request.body.inline or b""]
        return SoapAnswer(self.turned(head), RELATED if contents else PLAIN, attachments(*contents))

    def request(self, head: bytes | None = None, framing: SoapFraming = PLAIN) -> SoapRequest:
        return parse_request(head or envelope(self.client, self.service), framing, "r-1")


@pytest.fixture
def soap(network: Network) -> Soap:
    return Soap(network)


@pytest.mark.parametrize("contents", [(), (b"one",), (b"", b"two", bytes(1000))])
def test_a_message_and_its_attachments_arrive_sealed_byte_for_byte_and_every_record_is_evidence(
    soap: Soap, contents: tuple[bytes, ...]
) -> None:
    request = soap.request(framing=RELATED if contents else PLAIN)

    delivery = soap.boxes.ask(request, ReadyBody(attachments(*contents)))

    (seen,) = soap.boxes.system.messages
    assert seen.head == request.head
    assert (seen.body.inline, seen.body.attachments) == (b"".join(contents), attachments(*contents).attachments) if contents else True
    assert read_header(delivery.response.head).request_hash == hashlib.sha512(request.head).digest()
    assert delivery.response.head.replace(_hash_element(delivery.response.head), b"") == soap.answer(seen).head
    for log in (soap.boxes.log, soap.boxes.provider_log):
        assert [soap.boxes.verified(kept).verdict for kept in log.kept] == [VALID, VALID]
        assert [kept.record.attachment_bytes for kept in log.kept] == [
            [len(one) for one in contents],
            [sum(map(len, contents))] if contents else [],
        ]


def _hash_element(head: bytes) -> bytes:
    start, end = head.index(b"<xrd:requestHash"), head.index(b"</xrd:requestHash>") + len(b"</xrd:requestHash>")
    return head[start:end]


def test_one_attachment_changed_on_the_way_is_not_delivered(soap: Soap) -> None:
    soap.boxes.peers.on_the_way = lambda sealed: replace(sealed, body=attachments(b"one", b"twO"))

    with pytest.raises(PeerFaultError, match="signature_verification"):
        soap.boxes.ask(soap.request(framing=RELATED), ReadyBody(attachments(b"one", b"two")))

    assert soap.boxes.saw_nothing()


@pytest.mark.parametrize("contents", [(b"onetwo",), (b"two", b"one"), (b"one", b"two", b"more"), (b"one",), ()])
def test_attachments_that_were_cut_swapped_added_or_taken_away_are_not_delivered(soap: Soap, contents: tuple[bytes, ...]) -> None:
    soap.boxes.peers.on_the_way = lambda sealed: replace(sealed, body=attachments(*contents))

    with pytest.raises(PeerFaultError, match="signature_verification"):
        soap.boxes.ask(soap.request(framing=RELATED), ReadyBody(attachments(b"one", b"two")))

    assert soap.boxes.saw_nothing()


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (b"<xrd:id>q-1</xrd:id>", b"<xrd:id>q-2</xrd:id>"),
        (b"<xrd:userId>\xc3\xa1gente</xrd:userId>", b""),
        (b"<id:serviceVersion>v1</id:serviceVersion>", b""),
        (b"<id:memberCode>1001</id:memberCode>", b"<id:memberCode>1002</id:memberCode>"),
        (b"vehiculoResponse", b"vehiculo"),
        (
            b"</s:Header>",
            b"<r:representedParty xmlns:r='http://x-road.eu/xsd/representation.xsd'><r:partyCode>x</r:partyCode></r:representedParty></s:Header>",
        ),
        (b"<s:Envelope", b"<!DOCTYPE s><s:Envelope"),
        (b"</s:Body>", b"<b/></s:Body>"),
    ],
)
def test_an_answer_of_the_service_to_another_request_is_never_sealed(soap: Soap, was: bytes, becomes: bytes) -> None:
    soap.turned = lambda head: head.replace(was, becomes)

    with pytest.raises(PeerFaultError) as caught:
        soap.boxes.ask(soap.request(), ReadyBody(None))

    assert caught.value.fault.code.startswith("server.serverproxy.service_failed.")
    assert len(soap.boxes.provider_log.kept) == 1


def test_a_hash_that_the_service_sets_itself_is_replaced(soap: Soap) -> None:
    soap.turned = lambda head: head.replace(b"<xrd:id>", b'<xrd:requestHash algorithmId="x">AAAA</xrd:requestHash><xrd:id>')

    delivery = soap.boxes.ask(soap.request(), ReadyBody(None))

    assert delivery.response.head.count(b"requestHash algorithmId") + delivery.response.head.count(b'xroad.xsd" algorithmId') == 1


def test_an_answer_with_another_requests_hash_is_refused_although_its_seal_holds(soap: Soap) -> None:
    """The provider's holder seals whatever he likes: an old answer of the same id is not the answer."""
    one = soap.request()
    other = soap.request(envelope(soap.client, soap.service, body="<vehiculo><placa/></vehiculo>"))
    kept: list[Sealed] = []
    soap.boxes.peers.on_the_way_back = lambda sealed: kept.append(sealed) or sealed  # type: ignore[func-returns-value]
    soap.boxes.ask(one, ReadyBody(None))
    soap.boxes.peers.on_the_way_back = lambda _: kept[0]

    soap.turned = lambda head: head.replace(b"<vehiculo><placa/></vehiculo>", b"<vehiculoResponse/>")
    with pytest.raises(SoapResponseInconsistentError, match="requestHash"):
        soap.boxes.ask(other, ReadyBody(None))


@pytest.mark.rule("I.4.III")
def test_rights_are_for_the_code_whatever_the_version_and_services_are_called_in_their_own_protocol(soap: Soap) -> None:
    plain = str(ServiceId(soap.service.provider, "vehiculo"))
    soap.boxes.services.append(Service(plain, "http://127.0.0.1", WSDL, version="v2"))
    second = ServiceId(soap.service.provider, "vehiculo", "v2")
    soap.boxes.ask(soap.request(envelope(soap.client, second)), ReadyBody(None))

    for service, code in [
        (ServiceId(soap.service.provider, "vehiculo"), "unknown_service"),
        (ServiceId(soap.service.provider, "vehiculo", "v3"), "unknown_service"),
        (soap.boxes.network.service, "service_type"),
    ]:
        with pytest.raises(PeerFaultError) as caught:
            soap.boxes.ask(soap.request(envelope(soap.client, service)), ReadyBody(None))
        assert caught.value.fault.code == f"server.serverproxy.{code}"
    soap.boxes.services.append(Service(plain, "http://127.0.0.1", WSDL))
    with pytest.raises(PeerFaultError, match="service_type"):
        soap.boxes.ask(soap.boxes.request(service=ServiceId(soap.service.provider, "vehiculo")))
    soap.boxes.rights[:] = [Right(plain, str(soap.client), "GET", "/x")]
    with pytest.raises(PeerFaultError, match="access_denied"):
        soap.boxes.ask(soap.request(), ReadyBody(None))


def test_a_message_for_another_server_is_refused_by_both_boxes(soap: Soap) -> None:
    other = ServerId(soap.service.provider.member, "SS9")
    named = identifier("securityServer", "SERVER", (*other.owner.parts, other.code))
    request = soap.request(envelope(soap.client, soap.service, more=named))

    with pytest.raises(XacbeError, match="does not serve"):
        soap.boxes.ask(request, ReadyBody(None))

    sealed = soap.boxes.sealed_soap(request)
    with pytest.raises(XacbeError, match="is for"):
        soap.boxes.provide_soap(request, sealed)
    assert soap.boxes.saw_nothing()


def test_a_fault_of_the_service_passes_as_it_is(soap: Soap) -> None:
    document = SERVICE_FAULT

    def fault(_: Sealed) -> SoapAnswer:
        raise PeerFaultError(PeerFault("s:Server", "no hay", "7", document))

    soap.boxes.system.soap = fault
    with pytest.raises(PeerFaultError) as caught:
        soap.boxes.ask(soap.request(), ReadyBody(None))

    assert caught.value.fault.document == document


def test_an_answer_in_the_other_protocol_is_refused(soap: Soap) -> None:
    soap.boxes.peers.on_the_way_back = lambda sealed: replace(sealed, soap=None)

    with pytest.raises(XacbeError, match="SOAP with REST"):
        soap.boxes.ask(soap.request(), ReadyBody(None))
