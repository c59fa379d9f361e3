"""listClients, listMethods and getOpenAPI in X-Road's form."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from appliance.access import catalogue
from appliance.access.catalogue import DescriptionError
from appliance.access.rights import OPENAPI3, Service
from appliance.model.identifiers import ClientId

MEMBERS = {
    ClientId("QROO", "EST", "SSP"): "Seguridad <Pública>",
    ClientId("QROO", "EST", "SSP", "SOLOMON"): "Seguridad <Pública>",
    ClientId("OTHER", "EST", "X"): "elsewhere",
}


def test_list_clients_is_x_roads_json_and_xml() -> None:
    listed = json.loads(catalogue.client_list_json(MEMBERS, "QROO"))["member"]
    ssp = {"xroad_instance": "QROO", "member_class": "EST", "member_code": "SSP"}
    assert listed == [
        {"id": {"object_type": "MEMBER", **ssp}, "name": "Seguridad <Pública>"},
        {"id": {"object_type": "SUBSYSTEM", **ssp, "subsystem_code": "SOLOMON"}, "name": "Seguridad <Pública>"},
    ]
    root = etree.fromstring(catalogue.client_list_xml(MEMBERS, "QROO"))
    names = {"x": "http://x-road.eu/xsd/xroad.xsd", "id": "http://x-road.eu/xsd/identifiers"}
    assert root.xpath("x:member/x:id/@id:objectType", namespaces=names) == ["MEMBER", "SUBSYSTEM"]
    assert root.xpath("string(x:member[2]/x:name)", namespaces=names) == "Seguridad <Pública>"


def test_list_methods_tells_endpoints_and_leaves_nulls_out() -> None:
    services = [
        Service("QROO/EST/SSP/SOLOMON/a", "http://x/", OPENAPI3, endpoints=(("GET", "/incidentes/*"),)),
        Service("QROO/EST/SSP/SOLOMON/b", "http://x/"),
    ]
    first, second = json.loads(catalogue.method_list_json(services))["service"]
    assert first == {
        "object_type": "SERVICE", "xroad_instance": "QROO", "member_class": "EST", "member_code": "SSP", "subsystem_code": "SOLOMON",
        "service_code": "a", "service_type": "OPENAPI", "endpoint_list": [{"method": "GET", "path": "/incidentes/*"}],
    }  # fmt: skip
    assert (second["service_type"], second["endpoint_list"]) == ("REST", [])


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://10.1.2.3:8443/api/v1", "/api/v1"),
        ("http://internal", ""),
        ("/relative", "/relative"),
        ("https://{host}/x", "https://{host}/x"),
    ],
)
def test_a_description_tells_no_internal_address(url: str, told: str) -> None:
    document = json.dumps({"openapi": "3.1.0", "paths": {}, "servers": [{"url": url}, 7]}).encode()
    assert json.loads(catalogue.rewritten_description(document))["servers"][0] == {"url": told}


OBJECTS = st.recursive(
    st.none() | st.text(max_size=5), lambda inner: st.dictionaries(st.sampled_from(["openapi", "paths", "servers", "/a"]), inner)
)


@given(st.binary(max_size=80) | OBJECTS.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_description_or_one_named_error(document: bytes) -> None:
    try:
        catalogue.endpoints_of(document)
        catalogue.rewritten_description(document)
    except DescriptionError:
        pass
