"""Metadata services through both halves of an exchange: sealed and logged like any message, answered by the provider's box alone."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest
from lxml import etree

from appliance.access.rights import OPENAPI3, REST, WSDL, Right, Service
from appliance.access.wsdl import PUBLIC_ADDRESS
from appliance.exchange.client_side import Delivery
from appliance.model.identifiers import ServiceId
from appliance.net.message_protocol import RestResponse
from appliance.net.soap_protocol import parse_request
from appliance.net.soap_reader import read_header
from appliance.relay.incoming import PeerFaultError
from appliance.seal.report import VALID
from provisioning.reference.vehiculos import WSDL_FILE
from tests.exchange.test_soap import PLAIN, envelope
from tests.exchange.two_boxes import TwoBoxes
from tests.fakes.exchange import ReadyBody

XML = {"x": "http://x-road.eu/xsd/xroad.xsd", "id": "http://x-road.eu/xsd/identifiers"}
OPENAPI = json.dumps({"openapi": "3.0.3", "paths": {"/folios/{folio}": {"get": {}}}, "servers": [{"url": "https://10.1.2.3/api"}]}).encode()
ENDPOINTS = (("GET", "/folios/*"), ("POST", "/folios"))


@pytest.fixture
def offering(boxes: TwoBoxes) -> TwoBoxes:
    """The provider offers one service of each kind, two of which the asker may use, and another subsystem's that nobody asked about."""
    own = str(boxes.network.provider.client)
    documents = {"openapi": OPENAPI, "wsdl": WSDL_FILE.read_bytes()}
    digests = {name: hashlib.sha256(one).hexdigest() for name, one in documents.items()}
    boxes.documents = {digests[name]: one for name, one in documents.items()}
    boxes.services = [
        Service(f"{own}/folios", "http://10.1.2.3/", OPENAPI3, document=digests["openapi"], endpoints=ENDPOINTS),
        Service(f"{own}/simple", "http://10.1.2.3/", REST),
        Service(f"{own}/consultaVehiculo", "http://10.1.2.3/", WSDL, document=digests["wsdl"], version="v1"),
        Service(f"{own}/recuperaDocumento", "http://10.1.2.3/", WSDL, document=digests["wsdl"], version="v1"),
        Service(f"{own}2/ajeno", "http://10.1.2.3/", REST),
    ]
    asker = str(boxes.network.asker.client)
    boxes.rights = [Right(f"{own}/folios", asker, "GET", "/folios/*"), Right(f"{own}/recuperaDocumento", asker)]
    return boxes


def rest(boxes: TwoBoxes, code: str, query: str = "", method: str = "GET", body: bytes | None = None) -> Delivery:
    return boxes.ask(boxes.request(method, query, service=ServiceId(boxes.network.provider.client, code)), ReadyBody(body))


def soap(boxes: TwoBoxes, code: str, content: str = "", version: str | None = None) -> Delivery:
    head = envelope(
        boxes.network.asker.client,
        ServiceId(boxes.network.provider.client, code, version),
        body=f'<xrd:{code} xmlns:xrd="http://x-road.eu/xsd/xroad.xsd">{content}</xrd:{code}>',
    )
    return boxes.ask(parse_request(head, PLAIN, "r-1"), ReadyBody(None))


def listed(delivery: Delivery) -> list[dict[str, Any]]:
    assert isinstance(delivery.response, RestResponse)
    assert dict(delivery.response.headers)[b"Content-Type"] == b"application/json"
    assert delivery.body is not None
    return list(json.loads(delivery.body.inline or b"")["service"])


def named(delivery: Delivery) -> list[tuple[str, ...]]:
    found = etree.fromstring(delivery.response.head).xpath("//x:service[not(ancestor::*[local-name()='Header'])]", namespaces=XML)
    return [tuple(part.text for part in one) for one in found]


def test_list_methods_tells_every_client_what_the_subsystem_offers_and_no_system_sees_it(offering: TwoBoxes) -> None:
    folios, simple = listed(rest(offering, "listMethods"))

    assert (folios["service_code"], folios["service_type"]) == ("folios", "OPENAPI")
    assert folios["endpoint_list"] == [{"method": method, "path": path} for method, path in ENDPOINTS]
    assert (simple["service_code"], simple["service_type"], simple["object_type"]) == ("simple", "REST", "SERVICE")
    assert not offering.system.calls
    for log in (offering.log, offering.provider_log):
        assert [offering.verified(kept).verdict for kept in log.kept] == [VALID, VALID]


@pytest.mark.rule("I.4.III")
def test_allowed_methods_tells_only_what_the_client_may_use(offering: TwoBoxes) -> None:
    (folios,) = listed(rest(offering, "allowedMethods"))
    assert (folios["service_code"], folios["endpoint_list"]) == ("folios", [{"method": "GET", "path": "/folios/*"}])

    offering.rights = [Right(f"{offering.network.provider.client}/folios", str(offering.network.asker.client))]
    (folios,) = listed(rest(offering, "allowedMethods"))
    assert len(folios["endpoint_list"]) == 2

    offering.rights = []
    assert listed(rest(offering, "allowedMethods")) == []


def test_a_right_to_an_endpoint_that_no_description_names_is_listed(offering: TwoBoxes) -> None:
    offering.rights = [Right(f"{offering.network.provider.client}/simple", str(offering.network.asker.client), "GET", "/a")]

    (simple,) = listed(rest(offering, "allowedMethods"))

    assert simple["endpoint_list"] == [{"method": "GET", "path": "/a"}]


def test_get_open_api_gives_the_accepted_description_without_internal_addresses(offering: TwoBoxes) -> None:
    delivery = rest(offering, "getOpenAPI", "?serviceCode=folios")

    assert delivery.body is not None
    told = json.loads(delivery.body.inline or b"")
    assert told["servers"] == [{"url": "/api"}]
    assert told["paths"] == json.loads(OPENAPI)["paths"]


@pytest.mark.parametrize(
    ("code", "query", "method", "fault"),
    [
        ("getOpenAPI", "", "GET", "invalid_request"),
        ("getOpenAPI", "?serviceCode=", "GET", "invalid_request"),
        ("getOpenAPI", "?serviceCode=folios&serviceCode=simple", "GET", "invalid_request"),
        ("getOpenAPI", "?" + "a=1&" * 50 + "serviceCode=folios", "GET", "invalid_request"),
        ("getOpenAPI", "?serviceCode=nada", "GET", "unknown_service"),
        ("getOpenAPI", "?serviceCode=ajeno", "GET", "unknown_service"),
        ("getOpenAPI", "?serviceCode=consultaVehiculo", "GET", "unknown_service"),
        ("getOpenAPI", "?serviceCode=simple", "GET", "internal_error"),
        ("listMethods", "", "POST", "unknown_service"),
        ("getWsdl", "", "GET", "unknown_service"),
    ],
)
def test_a_question_that_cannot_be_answered_gets_its_fault_and_nothing_is_sealed(
    offering: TwoBoxes, code: str, query: str, method: str, fault: str
) -> None:
    with pytest.raises(PeerFaultError) as caught:
        rest(offering, code, query, method)

    assert caught.value.fault.code == f"server.serverproxy.{fault}"
    assert not offering.system.calls
    assert all(kept.record.direction == "request" for kept in offering.provider_log.kept)


def test_soap_lists_its_own_services_with_their_versions(offering: TwoBoxes) -> None:
    own = offering.network.provider.client.parts

    assert named(soap(offering, "listMethods")) == [(*own, "consultaVehiculo", "v1"), (*own, "recuperaDocumento", "v1")]
    assert named(soap(offering, "allowedMethods", version="v1")) == [(*own, "recuperaDocumento", "v1")]


@pytest.mark.parametrize("version", ["", "<xrd:serviceVersion>v1</xrd:serviceVersion>"])
def test_get_wsdl_answers_with_the_description_as_a_sealed_attachment(offering: TwoBoxes, version: str) -> None:
    delivery = soap(offering, "getWsdl", f"<xrd:serviceCode>consultaVehiculo</xrd:serviceCode>{version}", "v1")

    assert read_header(delivery.response.head).body_name == "getWsdlResponse"
    assert delivery.body is not None
    assert delivery.soap is not None
    (attached,) = delivery.body.attachments
    begin = rb"Content-Type: text/xml\r\nContent-Transfer-Encoding: binary\r\nContent-ID: <wsdl=[0-9a-f]{32}@x-road\.eu>\r\n"
    assert re.fullmatch(begin, attached.headers)
    document = etree.fromstring(delivery.body.inline or b"")
    assert document.xpath("//*[local-name()='address']/@location") == [PUBLIC_ADDRESS]
    assert offering.verified(offering.log.kept[-1]).verdict == VALID


@pytest.mark.parametrize(
    ("code", "content", "fault"),
    [
        ("getWsdl", "", "invalid_request"),
        ("getWsdl", "<xrd:serviceCode/>", "invalid_request"),
        ("getWsdl", "<xrd:serviceCode>a</xrd:serviceCode><xrd:serviceCode>b</xrd:serviceCode>", "invalid_request"),
        ("getWsdl", "<xrd:serviceCode>folios</xrd:serviceCode>", "unknown_service"),
        (
            "getWsdl",
            "<xrd:serviceCode>consultaVehiculo</xrd:serviceCode><xrd:serviceVersion>v2</xrd:serviceVersion>",
            "unknown_service",
        ),
        ("getOpenAPI", "", "unknown_service"),
    ],
)
def test_a_soap_question_that_cannot_be_answered_gets_its_fault(offering: TwoBoxes, code: str, content: str, fault: str) -> None:
    with pytest.raises(PeerFaultError) as caught:
        soap(offering, code, content)

    assert caught.value.fault.code == f"server.serverproxy.{fault}"


def test_versions_in_several_wsdls_must_be_told_apart(offering: TwoBoxes) -> None:
    other = WSDL_FILE.read_bytes().replace(b">v1<", b">v2<")
    digest = hashlib.sha256(other).hexdigest()
    offering.documents[digest] = other
    offering.services.append(
        Service(f"{offering.network.provider.client}/consultaVehiculo", "http://x/", WSDL, document=digest, version="v2")
    )
    with pytest.raises(PeerFaultError):
        soap(offering, "getWsdl", "<xrd:serviceCode>consultaVehiculo</xrd:serviceCode>")

    delivery = soap(offering, "getWsdl", "<xrd:serviceCode>consultaVehiculo</xrd:serviceCode><xrd:serviceVersion>v2</xrd:serviceVersion>")

    assert delivery.body is not None
    assert b">v2<" in (delivery.body.inline or b"")


@pytest.mark.rule("I.4.III")
@pytest.mark.parametrize("code", ["listMethods", "getOpenAPI"])
def test_a_connection_that_is_not_the_clients_gets_no_answer(offering: TwoBoxes, code: str) -> None:
    offering.shown_by = offering.network.third

    with pytest.raises(PeerFaultError):
        rest(offering, code, "?serviceCode=folios")

    assert offering.saw_nothing()
