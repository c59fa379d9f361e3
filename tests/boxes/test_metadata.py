"""Metadata services and signed documents over two boxes, by clients that know nothing of us: requests, zeep, and a verifier elsewhere."""

from __future__ import annotations

import email.policy
import io
import json
import re
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from email.parser import BytesParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
import zeep
from lxml import etree
from zeep.transports import Transport

from tests.boxes.conftest import BIN, Lab
from tests.boxes.soap_client import envelope, fault_code, headers, post, provider

pytestmark = [
    pytest.mark.lab,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of zeep
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
XML = {"x": "http://x-road.eu/xsd/xroad.xsd", "id": "http://x-road.eu/xsd/identifiers", "s": "http://schemas.xmlsoap.org/soap/envelope/"}
PARTS = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")


def own(lab: Lab, path: str, **more: Any) -> requests.Response:
    return requests.get(lab.box(1)["client_http"] + path, timeout=40, **more)


def ask(lab: Lab, code: str, query: str = "") -> requests.Response:
    return requests.get(lab.url(query, f"{provider(lab)}/{code}"), headers={"X-Road-Client": lab.client}, timeout=30)


def ask_soap(lab: Lab, code: str, content: str = "") -> requests.Response:
    """With the metadata service's own namespace in the body."""
    sent = envelope(lab, code, content).replace(b"urn:qroo:vehiculos", b"http://x-road.eu/xsd/xroad.xsd")
    return post(lab, sent.replace(b"<id:serviceVersion>v1</id:serviceVersion>", b""))


# -- lists


def test_list_clients_tells_the_whole_network_in_both_forms(lab: Lab) -> None:
    told = own(lab, "/listClients", headers={"Accept": "application/json"})
    assert told.headers["Content-Type"].startswith("application/json")
    names = {"/".join(member["id"][part] for part in member["id"] if part != "object_type") for member in told.json()["member"]}
    assert {lab.client, provider(lab)} <= names

    root = etree.fromstring(own(lab, f"/listClients?xRoadInstance={lab.client.split('/')[0]}").content)
    assert root.tag == "{http://x-road.eu/xsd/xroad.xsd}clientList"
    assert {"/".join(one.xpath("x:id/id:*/text()", namespaces=XML)) for one in root} == names


def test_an_instance_that_nobody_knows_has_no_clients(lab: Lab) -> None:
    answer = own(lab, "/listClients?xRoadInstance=NADA", headers={"Accept": "application/json"})
    assert (answer.status_code, answer.headers["X-Road-Error"]) == (500, "server.clientproxy.unknown_member")
    assert own(lab, "/listClients?xRoadInstance=A&xRoadInstance=B").headers["X-Road-Error"] == "server.clientproxy.invalid_request"
    assert fault_code(requests.post(lab.box(1)["client_http"] + "/listClients", timeout=10)) == "client.invalid_content_type"


@pytest.mark.rule("I.4.III")
def test_list_methods_is_for_everybody_and_allowed_methods_by_rights(lab: Lab) -> None:
    offered = {one["service_code"]: one for one in ask(lab, "listMethods").json()["service"]}
    allowed = {one["service_code"] for one in ask(lab, "allowedMethods").json()["service"]}

    assert lab.service.rsplit("/", 1)[1] in allowed
    refused = lab.refused.rsplit("/", 1)
    if refused[0] == provider(lab):
        assert refused[1] in offered.keys() - allowed
    assert allowed < offered.keys()
    assert {one["service_type"] for one in offered.values()} <= {"REST", "OPENAPI"}


def test_get_open_api_tells_the_description_without_an_address_of_the_system(lab: Lab) -> None:
    described = next(one["service_code"] for one in ask(lab, "listMethods").json()["service"] if one["service_type"] == "OPENAPI")

    answer = ask(lab, "getOpenAPI", f"?serviceCode={described}")

    assert answer.status_code == 200
    assert answer.json()["openapi"].startswith("3.")
    assert not any("//" in server["url"] for server in answer.json().get("servers", []))
    assert ask(lab, "getOpenAPI", "?serviceCode=nada").headers["X-Road-Error"] == "server.serverproxy.unknown_service"
    assert ask(lab, "getOpenAPI").headers["X-Road-Error"] == "server.serverproxy.invalid_request"


def test_soap_lists_its_services(lab: Lab) -> None:
    for code in ("listMethods", "allowedMethods"):
        root = etree.fromstring(ask_soap(lab, code).content)
        listed = root.xpath(f"s:Body/x:{code}Response/x:service[id:serviceVersion='v1']/id:serviceCode/text()", namespaces=XML)
        assert "consultaVehiculo" in listed


def attachment(answer: requests.Response) -> tuple[bytes, bytes]:
    """The SOAP part and the only attachment."""
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.content)
    soap_part, attachment_part = message.iter_parts()
    assert attachment_part.get_content_type() == "text/xml"
    assert re.fullmatch(r"<wsdl=[0-9a-f]+@x-road\.eu>", attachment_part["Content-ID"])  # as X-Road names it
    soap, attached = soap_part.get_payload(decode=True), attachment_part.get_payload(decode=True)
    assert isinstance(soap, bytes)
    assert isinstance(attached, bytes)
    return soap, attached


def test_zeep_calls_the_service_by_the_wsdl_that_get_wsdl_gave(lab: Lab, tmp_path: Path) -> None:
    soap, document = attachment(ask_soap(lab, "getWsdl", "<serviceCode>consultaVehiculo</serviceCode><serviceVersion>v1</serviceVersion>"))
    assert etree.fromstring(soap).xpath("string(s:Body/x:getWsdlResponse/x:serviceCode)", namespaces=XML) == "consultaVehiculo"
    assert re.findall(rb'address location="([^"]*)"', document) == [b"http://example.org/xroad-endpoint"]
    file = tmp_path / "recibido.wsdl"
    file.write_bytes(document)

    client = zeep.Client(str(file), transport=Transport(cache=None))
    service = client.create_service("{urn:qroo:vehiculos}vehiculos", lab.box(1)["client_http"])

    assert service.consultaVehiculo(placa="UTP-02-02", _soapheaders=headers(lab, "consultaVehiculo")).placa == "UTP-02-02"


def test_a_wsdl_of_nothing_gets_its_fault(lab: Lab) -> None:
    assert fault_code(ask_soap(lab, "getWsdl", "<serviceCode>nada</serviceCode>")) == "server.serverproxy.unknown_service"
    assert fault_code(ask_soap(lab, "getWsdl")) == "server.serverproxy.invalid_request"


# -- signed documents


def exchanged(lab: Lab, body: bytes = b"{}") -> str:
    """The id of a new exchange of the first client."""
    query = f"descarga/{uuid.uuid4()}"
    answer = requests.post(
        lab.url("/bytes"), data=body, headers={"X-Road-Client": lab.client, "X-Road-Id": query, "Content-Type": "x/y"}, timeout=60
    )
    assert answer.ok, answer.text
    return query


def documents(lab: Lab, query: str, *flags: str, client: str = "", **more: Any) -> requests.Response:
    named = dict(zip(PARTS, (client or lab.client).split("/"), strict=False)) | {"queryId": query}
    return own(lab, "/asic", params={**named, **dict.fromkeys(flags, "")}, **more)


def configuration(lab: Lab, place: Path) -> Path:
    answer = own(lab, "/verificationconf")
    assert answer.headers["Content-Type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        archive.extractall(place)
    return place / "verificationconf"


def verdict(lab: Lab, place: Path, container: bytes) -> str:
    """By what `/verificationconf` gave, on a machine that is no box."""
    file = place / f"{uuid.uuid4()}.asice"
    file.write_bytes(container)
    command = [str(BIN / "xacbe"), "verify", str(file), "--json", "--configuration", str(place / "verificationconf")]
    return str(json.loads(subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout)["verdict"])


@pytest.mark.rule("IV.3.III")
def test_a_system_fetches_what_it_sent_and_received_and_verifies_it_elsewhere(lab: Lab, tmp_path: Path) -> None:
    query = exchanged(lab)
    conf = configuration(lab, tmp_path)
    assert {path.name for path in (conf / lab.client.split("/")[0]).iterdir()} == {"shared-params.xml", "shared-params.xml.metadata"}

    answer = documents(lab, query, "force")

    stem = quote(query, safe="")
    assert answer.headers["Content-Type"] == "application/zip"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{stem}.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert [re.sub(r"-\w{10}\.asice$", "", name) for name in names] == [f"{stem}-request", f"{stem}-response"]
        assert all(one.compress_type == zipfile.ZIP_STORED for one in archive.infolist())
        assert [verdict(lab, tmp_path, archive.read(name)) for name in names] == ["valid", "valid"]


@pytest.mark.rule("IV.2.III.B")
@pytest.mark.case("T31")
def test_one_document_comes_alone_and_its_download_is_an_act_in_the_audit_log(lab: Lab, tmp_path: Path) -> None:
    query = exchanged(lab)
    configuration(lab, tmp_path)

    for flag, direction in (("requestOnly", "request"), ("responseOnly", "response")):
        answer = documents(lab, query, flag, "unique", "force")
        assert answer.headers["Content-Type"] == "application/vnd.etsi.asic-e+zip"
        name = rf'attachment; filename="{quote(query, safe="")}-{direction}-\w{{10}}\.asice"'
        assert re.fullmatch(name, answer.headers["Content-Disposition"])
        assert verdict(lab, tmp_path, answer.content) == "valid"

    acts = json.loads(lab.xacbe(1, "log", "acts", "--json").stdout)
    records = {str(one["sequence"]) for one in lab.records(1, "--id", query)}
    downloads = [one for one in acts if one.get("act") == "download" and one["record"] in records]
    assert len(downloads) == len(records) == 2
    assert all(one["by"] == lab.client and one["from"] for one in downloads)
    assert query not in json.dumps(acts)


def test_a_large_message_is_streamed_and_is_whole(lab: Lab, tmp_path: Path) -> None:
    body = bytes(range(256)) * (48 << 10)  # 12 MiB: beyond what is made in memory
    query = exchanged(lab, body)
    configuration(lab, tmp_path)

    answer = documents(lab, query, "requestOnly", "force")

    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        (container,) = (archive.read(name) for name in archive.namelist())
    with zipfile.ZipFile(io.BytesIO(container)) as inside:
        assert inside.read("attachment1") == body
    assert verdict(lab, tmp_path, container) == "valid"


def test_http_1_0_gets_the_same_until_the_end_of_the_connection(lab: Lab) -> None:
    host, port = lab.box(1)["client_http"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(b"GET /verificationconf HTTP/1.0\r\n\r\n")
        received = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, content = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


def test_what_has_no_stamp_yet_is_given_only_when_it_has_one(lab: Lab) -> None:
    query = exchanged(lab)
    answer = documents(lab, query)
    if answer.status_code == 500:  # its own request is stamped half a second later; on a slow machine it already is
        assert answer.text == "Some message signatures have not been timestamped yet!"
    ends = time.monotonic() + 15
    while documents(lab, query).status_code != 200:
        assert time.monotonic() < ends
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("flags", "status"),
    [
        (("requestOnly", "responseOnly"), 400),
        (("unique",), 400),
        (("subsystemCode",), 400),
        (("queryId",), 400),
        (("memberCode",), 400),
    ],
)
def test_contradicting_or_missing_parameters_are_refused_in_plain_text(lab: Lab, flags: tuple[str, ...], status: int) -> None:
    answer = documents(lab, "x", *flags)

    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "text/plain;charset=utf-8")
    assert answer.text


@pytest.mark.rule("I.4.III")
def test_nobody_gets_anothers_messages(lab: Lab) -> None:
    query = exchanged(lab)
    assert documents(lab, "no-existe").status_code == 404
    assert documents(lab, query, client="/".join((*lab.client.split("/")[:3], "OTRO"))).status_code == 500
    assert documents(lab, query, client=provider(lab)).status_code == 500  # not a client of this box
    assert documents(lab, query, client="/".join(lab.client.split("/")[:3])).status_code == 500  # the member is not its subsystem


@pytest.mark.rule("I.4.III")
def test_a_system_proves_itself_for_a_download_as_for_a_message(lab: Lab) -> None:
    query, authorities = exchanged(lab), lab.document["ceiqroo"]["ca_cert"]
    for number in (2, 3):
        box, client = lab.box(number), next(one for one in lab.document["clients"] if one["id"] in lab.box(number)["subsystems"])
        asked = {**dict(zip(PARTS, client["id"].split("/"), strict=False)), "queryId": query, "force": ""}
        assert requests.get(box["client_http"] + "/asic", params=asked, timeout=20).status_code == 401
        plain = requests.get(box["client_https"] + "/asic", params=asked, timeout=20, verify=authorities)
        own_certificate = (client["cert"], client["key"])
        shown = requests.get(box["client_https"] + "/asic", params=asked, timeout=20, verify=authorities, cert=own_certificate)
        found = 200 if client["id"] == provider(lab) else 404
        assert plain.status_code == (found if client["mode"] == "https" else 401)
        assert shown.status_code == found


def test_a_download_that_is_broken_off_harms_nobody(lab: Lab) -> None:
    query = exchanged(lab, bytes(12 << 20))
    named = "&".join(f"{name}={part}" for name, part in zip(PARTS, lab.client.split("/"), strict=False))
    host, port = lab.box(1)["client_http"].removeprefix("http://").split(":")
    for _ in range(4):
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(f"GET /asic?{named}&queryId={quote(query, safe='')}&force HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")

    assert documents(lab, query, "requestOnly", "force").status_code == 200


def test_curl_takes_the_file_under_its_name(lab: Lab, tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("curl of the laboratory's machine")
    done = subprocess.run(
        ["curl", "-sSJO", lab.box(1)["client_http"] + "/verificationconf"], cwd=tmp_path, check=False, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "verificationconf.zip").stat().st_size > 1000
