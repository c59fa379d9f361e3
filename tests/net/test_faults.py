"""Errors as the outside sees them: every kind has its X-Road code, nothing of the inside is told, peers' faults are passed on."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

import appliance
from appliance.errors import RefusedError, UnavailableError, UnverifiedError, XacbeError
from appliance.net import faults
from appliance.net.faults import (
    CLIENT_SIDE,
    PROVIDER_SIDE,
    SPELLING_77,
    Fault,
    fault_of,
    fault_of_bug,
    has_code,
    passed_on,
    rest_error,
    same_code,
    soap_fault,
    spelled,
)
from appliance.net.soap_reader import PeerFault, read_fault

PACKAGE = Path(appliance.__file__).parent


def leaves(of: type[XacbeError]) -> list[type[XacbeError]]:
    return [found for child in of.__subclasses__() for found in (child, *leaves(child))]


def kinds_in_source() -> set[str]:
    """Kinds that are given where an error is raised: `SomeError(..., kind="x.y")`."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")).endswith("Error"):
                given = [word.value for word in node.keywords if word.arg == "kind"]
                found |= {value.value for value in given if isinstance(value, ast.Constant)}
    return found


def kinds_of_leaves() -> set[str]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "appliance."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {leaf.kind for leaf in leaves(XacbeError) if leaf.__module__.startswith("appliance.")}


def test_every_kind_of_the_box_has_a_code_of_its_own() -> None:
    kinds = kinds_of_leaves() | kinds_in_source()

    assert {"rest.malformed_head", "peer.oversized", "log.full"} <= kinds
    assert sorted(kind for kind in kinds if not has_code(kind)) == []


@pytest.mark.parametrize(
    ("error", "where", "code"),
    [
        (RefusedError("x", kind="access.no_right"), PROVIDER_SIDE, "server.serverproxy.access_denied"),
        (RefusedError("x", kind="access.authentication"), CLIENT_SIDE, "server.clientproxy.ssl_authentication_failed"),
        (RefusedError("x", kind="exchange.unknown_member"), CLIENT_SIDE, "server.clientproxy.unknown_member"),
        (RefusedError("x", kind="rest.invalid_client"), CLIENT_SIDE, "server.clientproxy.invalid_client_identifier"),
        (RefusedError("x", kind="rest.malformed_target"), CLIENT_SIDE, "server.clientproxy.internal_error"),
        (RefusedError("x", kind="rest.inconsistent_response"), CLIENT_SIDE, "server.clientproxy.service_failed.inconsistent_response"),
        (RefusedError("x", kind="transport.missing_signature"), CLIENT_SIDE, "server.clientproxy.service_failed.missing_signature"),
        (RefusedError("x", kind="transport.missing_signature"), PROVIDER_SIDE, "server.serverproxy.missing_signature"),
        (
            UnverifiedError("x", kind="seal.chain_reference"),
            PROVIDER_SIDE,
            "server.serverproxy.signature_verification.malformed_signature.invalid_hash_chain_ref",
        ),
        (
            UnverifiedError("x", kind="ocsp.revoked"),
            PROVIDER_SIDE,
            "server.serverproxy.signature_verification.invalid_cert_path.cert_validation",
        ),
        (UnavailableError("x", kind="configuration.expired"), CLIENT_SIDE, "server.clientproxy.global_conf_outdated"),
        (UnavailableError("x", kind="log.full"), PROVIDER_SIDE, "server.serverproxy.logging_failed"),
    ],
)
def test_kinds_become_the_codes_of_the_protocol(error: XacbeError, where: str, code: str) -> None:
    fault = fault_of(error, where, detail="request-1")

    assert (fault.code, fault.status, fault.detail, fault.kind) == (code, 500, "request-1", error.kind)


def test_a_certificate_of_the_connection_fails_authentication_and_one_of_a_seal_verification() -> None:
    connection = fault_of(UnverifiedError("expired", kind="peer.certificate_refused"), PROVIDER_SIDE)

    assert connection.code == "server.serverproxy.ssl_authentication_failed"
    assert "expired" not in connection.message
    assert fault_of(UnverifiedError("x", kind="chain.expired"), PROVIDER_SIDE).code.startswith(
        "server.serverproxy.signature_verification.cannot_create"
    )


@pytest.mark.parametrize(
    "kind", ["seal.signature_value", "token.absent", "disk.sync_failed", "process.away", "no.such_kind", "tsa.unreachable"]
)
def test_nothing_of_the_inside_is_told(kind: str) -> None:
    fault = fault_of(UnavailableError("secret /var/lib/xacbe serial 0815", kind=kind), PROVIDER_SIDE)

    assert "secret" not in fault.message
    assert fault.message
    assert fault.kind == kind


def test_the_askers_own_mistake_is_told_in_bounds() -> None:
    assert (
        fault_of(RefusedError("the path does not name a service", kind="rest.malformed_target"), CLIENT_SIDE).message
        == "the path does not name a service"
    )
    assert len(fault_of(RefusedError("x" * 9000, kind="rest.malformed_target"), CLIENT_SIDE).message) == 1000


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ("server.serverproxy.access_denied", "Server.ServerProxy.AccessDenied"),
        ("server.clientproxy.service_failed.inconsistent_response", "Server.ClientProxy.ServiceFailed.InconsistentResponse"),
        ("server.serverproxy.io_error", "Server.ServerProxy.IOError"),
        ("server.clientproxy.global_conf_outdated", "Server.ClientProxy.OutdatedGlobalConf"),
        ("server.serverproxy.hsm_non_operational", "Server.ServerProxy.HSMNonOperational"),
        ("x.hashchain_unused_inputs", "X.HashChainUnusedInputs"),
        ("x.service_type", "X.ServiceType"),
    ],
)
def test_both_spellings_are_written_and_recognised(new: str, old: str) -> None:
    assert spelled(new, SPELLING_77) == old
    assert same_code(new, old)
    assert same_code(old, new.upper())
    assert not same_code(new, "server.serverproxy.other")
    assert fault_of(RefusedError("x", kind="access.no_right"), PROVIDER_SIDE, spelling=SPELLING_77).status == 500


@pytest.mark.parametrize(
    ("code", "status"),
    [("server.serverproxy.access_denied", 500), ("Server.ServerProxy.AccessDenied", 500), ("client.invalid_request", 400), ("", 400)],
)
def test_a_peers_fault_is_passed_on_without_a_prefix(code: str, status: int) -> None:
    fault = passed_on(PeerFault(code, "no", "42"))

    assert (fault.code, fault.status, fault.message, fault.detail) == (code or "internal_error", status, "no", "42")


FAULT = Fault("server.clientproxy.unknown_member", 500, 'no "such" <member> & more', "id-1", "exchange.unknown_member")


def test_a_rest_error_is_json_and_names_its_code_in_a_header() -> None:
    headers, body = rest_error(FAULT, [b"*/*"])

    assert headers == [(b"Content-Type", b"application/json;charset=UTF-8"), (b"X-Road-Error", b"server.clientproxy.unknown_member")]
    assert json.loads(body) == {"type": FAULT.code, "message": FAULT.message, "detail": "id-1"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ([], b"application/json"),
        ([b"application/json"], b"application/json"),
        ([b"text/xml"], b"text/xml"),
        ([b"application/json, application/xml;q=0.1"], b"application/xml"),
        ([b"text/html", b"TEXT/*"], b"text/xml"),
        ([b"text/xml-patch"], b"application/json"),
    ],
)
def test_a_rest_error_is_xml_where_accept_names_xml(accept: list[bytes], content_type: bytes) -> None:
    headers, body = rest_error(FAULT, accept)

    assert headers[0][1] == content_type + b";charset=UTF-8"
    if b"xml" in content_type:
        root = etree.fromstring(body)
        assert [(child.tag, child.text) for child in root] == [("type", FAULT.code), ("message", FAULT.message), ("detail", "id-1")]


def test_when_to_come_back_is_said() -> None:
    fault = fault_of(UnavailableError("x", kind="token.busy", retry_after_s=2.6), CLIENT_SIDE)

    assert (b"Retry-After", b"3") in rest_error(fault, [])[0]


@given(st.text(), st.text(), st.text())
def test_any_text_gives_bodies_that_can_be_read_back(code: str, message: str, detail: str) -> None:
    fault = Fault(code, 500, message, detail, "x")

    headers, body = rest_error(fault, [])
    read = read_fault(soap_fault(fault))

    assert json.loads(body)["message"] == message
    assert all(0x20 < byte < 0x7F for byte in headers[1][1])
    assert isinstance(read, PeerFault)
    etree.fromstring(rest_error(fault, [b"text/xml"])[1])


def test_a_soap_fault_has_the_shape_that_x_road_writes() -> None:
    expected = (
        b'<?xml version="1.0" encoding="UTF-8"?><SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><SOAP-ENV:Body>'
        b"<SOAP-ENV:Fault><faultcode>server.clientproxy.unknown_member</faultcode><faultstring>no</faultstring><faultactor></faultactor>"
        b"<detail><faultDetail>id-1</faultDetail></detail></SOAP-ENV:Fault></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    )

    written = soap_fault(Fault("server.clientproxy.unknown_member", 500, "no", "id-1", "x"))

    assert written == expected
    assert read_fault(written) == PeerFault("server.clientproxy.unknown_member", "no", "id-1")


def test_a_bug_says_nothing() -> None:
    fault = fault_of_bug(PROVIDER_SIDE, detail="id-1")

    assert (fault.code, fault.message, fault.status) == ("server.serverproxy.internal_error", "internal error", 500)


def test_codes_for_reports_have_no_servers_prefix() -> None:
    assert faults.code_of("seal.malformed") == "signature_verification.malformed_signature"
    assert faults.code_of("transport.ocsp_malformed") == "io_error"
