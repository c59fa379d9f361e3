"""SOAP through two boxes, by clients that know nothing of us: zeep, the X-Road client package pyxroad, and bytes by hand."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import requests
import zeep
from lxml import etree
from zeep.transports import Transport

from appliance.net.soap_reader import SOAP_BYTES_MAX
from tests.boxes.conftest import Lab
from tests.boxes.soap_client import envelope, fault_code, headers, post, provider, related

pytestmark = [
    pytest.mark.lab,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client packages
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
HASH = "{http://x-road.eu/xsd/xroad.xsd}requestHash"


def wsdl_url(lab: Lab) -> str:
    return next(str(one["system_url"]) for one in lab.document["services"] if one["kind"] == "WSDL") + "?wsdl"


@pytest.fixture(scope="module")
def service(lab: Lab) -> Any:
    """The operations of the WSDL, sent to our box instead of to the system itself."""
    client = zeep.Client(wsdl_url(lab), transport=Transport(cache=None))
    return client.create_service("{urn:qroo:vehiculos}vehiculos", lab.box(1)["client_http"])


@pytest.mark.rule("I.4.XI-XII")
def test_zeep_gets_an_answer_from_a_wsdl_service_behind_two_boxes(lab: Lab, service: Any) -> None:
    answer = service.consultaVehiculo(placa="UTP-02-02", _soapheaders=headers(lab, "consultaVehiculo"))

    assert (answer.placa, answer.reporteDeRobo) == ("UTP-02-02", True)


def test_zeep_gets_a_document_as_mtom_through_the_body_file(lab: Lab, service: Any) -> None:
    document = service.recuperaDocumento(bytes=300_000, _soapheaders=headers(lab, "recuperaDocumento"))

    assert document == (bytes(range(256)) * 1200)[:300_000]


def test_a_fault_of_the_service_reaches_the_client_as_the_service_wrote_it(lab: Lab, service: Any) -> None:
    with pytest.raises(zeep.exceptions.Fault, match="no hay vehículo con placa X") as caught:
        service.consultaVehiculo(placa="X", _soapheaders=headers(lab, "consultaVehiculo"))

    assert caught.value.code == "soapenv:Server"


@pytest.mark.rule("I.4.III")
def test_zeep_gets_the_boxes_own_errors_as_faults_with_x_roads_codes(lab: Lab, service: Any) -> None:
    with pytest.raises(zeep.exceptions.Fault) as caught:
        service.consultaVehiculo(placa="X", _soapheaders=headers(lab, "consultaVehiculo", version="v9"))

    assert caught.value.code == "server.serverproxy.unknown_service"


def test_a_real_x_road_client_package_gets_an_answer(lab: Lab) -> None:
    """pyxroad takes the box for its HTTP proxy. It asks a UXP server's own `/wsdl` for the description, which X-Road 7 does not have: that
    one document comes from the system itself.
    """
    from XRoad import XClient

    class WithDescription(Transport):  # type: ignore[misc]  # zeep has no types
        def load(self, url: str) -> bytes:
            return requests.get(wsdl_url(lab), timeout=10).content if "/wsdl?" in url else super().load(url)

    box = lab.box(1)["client_http"]
    client = XClient(box, lab.client, f"{provider(lab)}/consultaVehiculo/v1", transport=WithDescription(cache=None))

    answer = client.request(placa="UTP-01-01")

    assert answer["descripcion"].startswith("Nissan")


@pytest.mark.parametrize("sizes", [(), (0,), (1, 0, 2), (70_000, 10, 200_000), (5_000_000, 3)])
def test_attachments_arrive_as_they_were_sent(lab: Lab, sizes: tuple[int, ...]) -> None:
    contents = [(hashlib.sha512(b"%d" % size).digest() * (size // 64 + 1))[:size] for size in sizes]
    soap = envelope(lab, "adjuntaDocumentos", "<placa>UTP-01-01</placa>")
    content_type, content = related(soap, contents)

    answer = post(lab, content, content_type)

    assert fault_code(answer) == ""
    root = etree.fromstring(answer.content)
    listed = [dict(one.attrib) for one in root.iter("{urn:qroo:vehiculos}documento")]
    assert [(one["contentId"], one["contentType"], int(one["bytes"])) for one in listed] == [
        (f"<a{at}>", "application/x-prueba", size) for at, size in enumerate(sizes)
    ]
    assert [one["sha256"] for one in listed] == [hashlib.sha256(one).hexdigest() for one in contents]
    (found,) = root.iter(HASH)
    assert found.get("algorithmId") == "http://www.w3.org/2001/04/xmlenc#sha512"


def test_a_soap_part_of_nearly_three_mib_goes_all_the_way_and_into_both_logs(lab: Lab, tmp_path: Path) -> None:
    query, padding = f"soap-large-{lab.directory.name}", "ñ" * ((SOAP_BYTES_MAX >> 1) - 2000)
    soap = envelope(lab, "consultaVehiculo", f"<placa>UTP-01-01</placa><relleno>{padding}</relleno>", query=query)

    answer = post(lab, soap)

    assert fault_code(answer) == "", answer.text[:500]
    for number in (1, 2):
        file = tmp_path / f"{number}.asice"
        done = lab.xacbe(number, "log", "export", query, "--request", "--wait", "10", "--reason", "prueba", "--out", str(file))
        assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(file) as archive:
            assert archive.read("message.xml") == soap
    beyond = post(lab, soap.replace(b"</relleno>", b" " * 5000 + b"</relleno>"))
    assert fault_code(beyond) == "client.invalid_message"


@pytest.mark.rule("IV.3.III")
def test_every_message_is_in_both_logs_and_its_container_holds_the_attachments(lab: Lab, tmp_path: Path) -> None:
    query, contents = f"soap-{lab.directory.name}", [b"uno", bytes(100_000), b"tres\r\n--x"]
    soap = b"\xef\xbb\xbf" + envelope(lab, "adjuntaDocumentos", "<placa>ñ</placa>", query=query)
    content_type, content = related(soap, contents)
    assert fault_code(post(lab, content, content_type)) == ""

    for number in (1, 2):
        assert sorted(one["direction"] for one in lab.records(number, "--id", query)) == ["request", "response"]
        for direction in ("--request", "--response"):
            file = tmp_path / f"{number}{direction}.asice"
            done = lab.xacbe(number, "log", "export", query, direction, "--wait", "10", "--reason", "prueba", "--out", str(file))
            assert done.returncode == 0, done.stderr
            judged = lab.xacbe(
                1, "verify", str(file), "--json", "--anchor", lab.document["ceiqroo"]["anchor"],
                "--configuration", str(Path(lab.box(1)["state"]) / "trust" / "configuration"),
            )  # fmt: skip
            report = json.loads(judged.stdout)
            assert (report["verdict"], report["reason"]) == ("valid", None), judged.stdout
        with zipfile.ZipFile(io.BytesIO((tmp_path / f"{number}--request.asice").read_bytes())) as archive:
            assert archive.read("message.xml") == soap
            assert [archive.read(f"attachment{at}") for at in (1, 2, 3)] == contents


def test_what_changed_in_a_wsdl_is_shown_before_it_takes_effect(lab: Lab, tmp_path: Path) -> None:
    document = requests.get(wsdl_url(lab), timeout=10).content
    file = tmp_path / "propio.wsdl"
    file.write_bytes(document.replace(b"consultaVehiculo", b"consultaAntes"))
    own = provider(lab)
    done = lab.xacbe(
        2, "service", "add", own, "consultaAntes", "--kind", "WSDL", "--description", str(file), "--url", "http://127.0.0.1:1/"
    )
    assert done.returncode == 0, done.stderr
    assert lab.xacbe(2, "access", "add", f"{own}/consultaAntes", lab.client).returncode == 0

    file.write_bytes(document.replace(b"consultaVehiculo", b"consultaAntes").replace(b"<xrd:version>v1<", b"<xrd:version>v2<"))
    shown = lab.xacbe(2, "service", "refresh", own, "consultaAntes").stdout
    assert "+ consultaAntes v2" in shown
    assert "- consultaAntes v1" in shown
    assert _versions(lab, "consultaAntes") == {"v1": "http://127.0.0.1:1/"}

    applied = json.loads(lab.xacbe(2, "service", "refresh", own, "consultaAntes", "--apply", "--json").stdout)
    assert applied[0]["added"] == [{"service": "consultaAntes", "version": "v2"}]
    assert _versions(lab, "consultaAntes") == {"v2": "http://127.0.0.1:1/"}
    assert f"{own}/consultaAntes" in lab.xacbe(2, "access", "list").stdout  # rights are for the code
    assert lab.xacbe(2, "service", "remove", own, "consultaAntes").returncode == 0
    assert f"{own}/consultaAntes" not in lab.xacbe(2, "access", "list").stdout


def _versions(lab: Lab, code: str) -> dict[str, str]:
    found = json.loads(lab.xacbe(2, "service", "list", "--json").stdout)
    return {one["version"]: one["url"] for one in found if one["id"].endswith(f"/{code}")}


BOMB = '<!DOCTYPE s [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
XML_CASES = {
    "DTD": ("invalid_xml", {"prolog": "<!DOCTYPE s>"}),
    "external entity": ("invalid_xml", {"prolog": '<!DOCTYPE s [<!ENTITY a SYSTEM "file:///etc/passwd">]>', "body": "&a;"}),
    "entity bomb": ("invalid_xml", {"prolog": BOMB, "body": "&b;"}),
    "DTD behind a comment": ("invalid_xml", {"prolog": "<!-- -->" + BOMB, "body": "&b;"}),
    "undefined entity": ("invalid_xml", {"body": "&nada;"}),
    "deep nesting": ("invalid_xml", {"body": "<a>" * 100_000}),
    "deep nesting that ends": ("invalid_xml", {"body": "<a>" * 300 + "</a>" * 300}),
    "huge attribute": ("invalid_message", {"body": f'<a b="{"x" * (1 << 22)}"/>'}),
    "a million elements": ("invalid_xml", {"body": "<a/>" * 700_000}),
    "300,000 attributes": ("invalid_xml", {"body": "<a " + " ".join(f'a{at:x}=""' for at in range(302_000)) + "/>"}),
    "another encoding": ("invalid_content_type", {"prolog": '<?xml version="1.0" encoding="UTF-7"?>'}),
    "header twice": ("duplicate_header_field", {"header": "<xrd:id>otro</xrd:id>"}),
    "not XML": ("invalid_xml", {"prolog": "x"}),
    "two elements in the body": ("invalid_body", {"body": '</consultaVehiculo><consultaVehiculo xmlns="urn:qroo:vehiculos">'}),
}


@pytest.mark.case("T05")
@pytest.mark.parametrize("name", XML_CASES)
def test_hostile_xml_gets_its_fault_and_the_next_message_is_served(lab: Lab, name: str) -> None:
    code, parts = XML_CASES[name]

    answer = post(lab, envelope(lab, "consultaVehiculo", **{"body": "<placa>X</placa>", **parts}))

    assert fault_code(answer) == f"client.{code}"
    assert answer.headers["Content-Type"].replace(" ", "").lower() == "text/xml;charset=utf-8"
    assert answer.elapsed.total_seconds() < 5
    _served(lab)


def _served(lab: Lab) -> None:
    assert fault_code(post(lab, envelope(lab, "consultaVehiculo", "<placa>UTP-01-01</placa>"))) == ""


SOAP, END = b"{soap}", b"\r\n--B--\r\n"
PART = b"--B\r\nContent-Type: text/xml\r\n\r\n"
RELATED = "multipart/related; boundary=B"
MULTIPART_CASES = {
    "no boundary": ("mime_parsing_failed", "multipart/related", PART + SOAP + END),
    "two boundaries": ("mime_parsing_failed", "multipart/related; boundary=B; boundary=C", PART + SOAP + END),
    "a boundary that does not come": ("mime_parsing_failed", "multipart/related; boundary=C", PART + SOAP + END),
    "an end that does not come": ("mime_parsing_failed", RELATED, PART + SOAP),
    "much behind the end": ("mime_parsing_failed", RELATED, PART + SOAP + END + b"more" * 300),
    "much before the beginning": ("mime_parsing_failed", RELATED, b"preamble" * 150 + b"\r\n" + PART + SOAP + END),
    "an endless boundary": ("mime_parsing_failed", RELATED, b"--B" + b" " * 100_000),
    "endless part headers": ("invalid_message", RELATED, b"--B\r\nX: " + b"a" * 100_000),
    "too many parts": ("mime_parsing_failed", RELATED, PART + SOAP + b"\r\n--B\r\n\r\nx" * 100 + END),
    "a multipart for a SOAP part": (
        "invalid_content_type",
        RELATED,
        b"--B\r\nContent-Type: multipart/related; boundary=C\r\n\r\n" + (PART + SOAP + END).replace(b"--B", b"--C") + END,
    ),
    "the SOAP part is not the first": (
        "invalid_content_type",
        RELATED,
        b"--B\r\nContent-Type: text/plain\r\n\r\nx\r\n" + PART + SOAP + END,
    ),
    "a start that names another part": (
        "invalid_content_type",
        'multipart/related; boundary=B; start="<b>"',
        PART + SOAP + b"\r\n--B\r\nContent-Type: text/xml\r\nContent-ID: <b>\r\n\r\n" + SOAP + END,
    ),
    "a SOAP part in base64": (
        "invalid_content_type",
        RELATED,
        PART.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + END,
    ),
    "an empty SOAP part": ("missing_soap", RELATED, PART + END),
    "nothing at all": ("missing_soap", "text/xml", b""),
    "another charset": ("invalid_content_type", "text/xml; charset=UTF-16", SOAP),
    "JSON": ("invalid_content_type", "application/json", b"{}"),
    "SOAP 1.2": ("invalid_content_type", "application/soap+xml", SOAP),
}


@pytest.mark.case("T05")
@pytest.mark.parametrize("name", MULTIPART_CASES)
def test_hostile_multipart_gets_its_fault_and_the_next_message_is_served(lab: Lab, name: str) -> None:
    code, content_type, content = MULTIPART_CASES[name]
    soap = envelope(lab, "consultaVehiculo", "<placa>UTP-01-01</placa>")

    answer = post(lab, content.replace(SOAP, soap), content_type)

    assert fault_code(answer) == f"client.{code}", answer.text
    _served(lab)


def test_what_is_no_post_and_what_has_a_wrong_action_is_refused(lab: Lab) -> None:
    soap = envelope(lab, "consultaVehiculo", "<placa>UTP-01-01</placa>")
    assert fault_code(requests.get(lab.box(1)["client_http"] + "/vehiculos", timeout=10)) == "client.invalid_http_method"
    assert fault_code(post(lab, soap, SOAPAction="without quotes")) == "client.invalid_soap_action"
    assert fault_code(post(lab, soap, SOAPAction='"urn:x#y"')) == ""


@pytest.mark.rule("I.4.III")
def test_a_client_without_a_right_is_refused_and_soap_is_not_for_rest_services(lab: Lab) -> None:
    stranger = envelope(lab, "consultaVehiculo", "<placa>x</placa>").replace(b"BENITO-JUAREZ", b"COZUMEL")
    assert fault_code(post(lab, stranger)) == "server.clientproxy.unknown_member"
    rest = envelope(lab, "incidentes").replace(b"<id:serviceVersion>v1</id:serviceVersion>", b"")
    assert fault_code(post(lab, rest)) == "server.serverproxy.service_type"
    answer = requests.get(lab.url("", f"{provider(lab)}/consultaVehiculo"), headers={"X-Road-Client": lab.client}, timeout=10)
    assert answer.headers["X-Road-Error"] == "server.serverproxy.unknown_service"
