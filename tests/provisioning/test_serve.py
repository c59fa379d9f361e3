"""CEIQROO's services as a real process on loopback, asked as boxes and tools ask."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import hashlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from appliance.clock import SystemClock
from appliance.model.identifiers import ClientId
from appliance.net import fetch
from appliance.net.fetch import FetchError, FetchLimits
from provisioning import publication, serve
from provisioning.authority import ca
from provisioning.centre import Centre
from provisioning.verifier.build import build
from tests.provisioning.parts import StandingClock, openssl

ADDRESS = "127.0.11.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((ADDRESS, 0))
        port: int = probe.getsockname()[1]
        return port


def started(*words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-m", "provisioning", *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("ready ")
    return process


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    ports = {name: free_port() for name in ("configuration_port", "ocsp_port", "tsa_port")}
    centre = ca.initialise(tmp_path_factory.mktemp("served") / "c", "QROO-TEST", ADDRESS, SystemClock(), **ports)
    process = started("serve", str(centre.directory))
    yield centre
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=2) == 0
    assert process.stdout is not None
    process.stdout.close()


def directory(centre: Centre, version: str = "6") -> requests.Response:
    return requests.get(centre.configuration_url, params={"version": version}, timeout=5)


@pytest.mark.rule("II.2.II")
def test_the_directory_and_every_part_of_it_can_be_fetched(served: Centre) -> None:
    answer = directory(served)

    assert answer.status_code == 200
    listed = re.findall(rb"Content-location: (\S+)\r\n.*?\r\n\r\n(\S+)\r\n", answer.content, re.DOTALL)
    assert len(listed) == 2
    for location, digest in listed:
        part = requests.get(served.configuration_url.replace("/internalconf", location.decode()), timeout=5)
        assert part.status_code == 200
        assert hashlib.sha512(part.content).digest() == base64.b64decode(digest)


@pytest.mark.parametrize(("version", "status"), [("2", 404), ("3", 200), ("5", 200), ("6", 200), ("7", 404), ("06", 404), ("x", 404)])
def test_a_version_that_is_not_made_is_not_found(served: Centre, version: str, status: int) -> None:
    assert directory(served, version).status_code == status


def test_without_a_version_the_newest_is_given(served: Centre) -> None:
    assert b"\r\nVersion: 6\r\n" in requests.get(served.configuration_url, timeout=5).content


def test_the_verifier_page_is_handed_out_to_be_saved(served: Centre) -> None:
    answer = requests.get(served.configuration_url.replace("/internalconf", "/verify.html"), timeout=5)

    assert answer.content == build()
    assert answer.headers["Content-Disposition"].startswith("attachment")


def test_nothing_else_is_served(served: Centre) -> None:
    base = served.configuration_url.removesuffix("/internalconf")
    for path in ("/", "/V6/20260101000000000000000/shared-params.xml", "/V6/../registry.sqlite", "/centre.json", "/keys/tsa.pem", "/ocsp"):
        assert requests.get(base + path, timeout=5).status_code == 404


@pytest.mark.rule("II.2.XIV")
def test_a_suspension_is_in_the_next_directory_and_the_earlier_parts_stay(served: Centre) -> None:
    before = re.findall(r"Content-location: (\S+)\r", directory(served).text)
    with served.registry() as registry:
        registry.set_suspended(ClientId("QROO-TEST", "MUN", "BACALAR"), SystemClock().now_us())

    after = re.findall(r"Content-location: (\S+)\r", directory(served).text)

    assert after[0] > before[0]
    assert after[1] == before[1]
    base = served.configuration_url.removesuffix("/internalconf")
    assert b"BACALAR" in requests.get(base + before[0], timeout=5).content
    assert b"<memberCode>BACALAR" not in requests.get(base + after[0], timeout=5).content


def test_openssl_asks_about_a_certificate_before_and_after_its_revocation(served: Centre) -> None:
    which = ("-issuer", served.certificate_file("issuing", "pem"), "-cert", served.certificate_file("monitor", "pem"))
    ask = ("ocsp", "-url", served.ocsp_url, "-CAfile", served.authorities_file, *which)
    assert "monitor.pem: good" in openssl(*ask)

    serial = f"{served.certificate('monitor').serial_number:x}"
    revoke = [sys.executable, "-m", "provisioning", "certificate", "revoke", str(served.directory), serial, "--reason", "keyCompromise"]
    subprocess.run(revoke, check=True, capture_output=True)

    text = openssl(*ask)
    assert "Response verify OK" in text
    assert "monitor.pem: revoked" in text
    assert "Reason: keyCompromise" in text


def test_ocsp_answers_a_get_as_well(served: Centre) -> None:
    builder = ocsp.OCSPRequestBuilder().add_certificate(served.certificate("broker"), served.certificate("issuing"), hashes.SHA256())
    encoded = base64.b64encode(builder.build().public_bytes(Encoding.DER)).decode()

    for path in (encoded, quote(encoded, safe="")):
        answer = requests.get(f"{served.ocsp_url}/{path}", timeout=5)
        assert answer.headers["content-type"] == "application/ocsp-response"
        assert ocsp.load_der_ocsp_response(answer.content).certificate_status is ocsp.OCSPCertStatus.GOOD


def test_openssl_verifies_a_stamp_over_the_network(served: Centre, tmp_path: Path) -> None:
    openssl("ts", "-query", "-data", served.anchor_file, "-sha512", "-cert", "-out", tmp_path / "query")
    headers = {"Content-Type": "application/timestamp-query"}

    answer = requests.post(served.tsa_url, data=(tmp_path / "query").read_bytes(), headers=headers, timeout=5)

    assert answer.headers["content-type"] == "application/timestamp-reply"
    (tmp_path / "answer").write_bytes(answer.content)
    verify = ("ts", "-verify", "-in", tmp_path / "answer", "-queryfile", tmp_path / "query", "-CAfile", served.authorities_file)
    assert "Verification: OK" in openssl(*verify)


def test_bodies_beyond_their_bound_are_refused_and_the_service_goes_on(served: Centre) -> None:
    for url in (served.ocsp_url, served.tsa_url):
        assert requests.post(url, data=bytes(20_000), timeout=5).status_code == 413
        assert requests.post(url, data=b"\x30", timeout=5).status_code == 200
        assert requests.put(url, data=b"\x30", timeout=5).status_code == 405


def test_one_service_alone_stops_within_two_seconds_although_a_connection_is_open(served: Centre) -> None:
    port = free_port()
    process = started("serve", str(served.directory), "--only", "tsa", "--tsa-port", str(port))
    with socket.create_connection((ADDRESS, port)) as idle:
        idle.sendall(b"POST /tsa HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n")
        time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=2) == 0
    assert process.stdout is not None
    process.stdout.close()


def test_a_taken_address_is_said_in_one_line(served: Centre) -> None:
    words = ["serve", str(served.directory), "--only", "tsa"]
    done = subprocess.run([sys.executable, "-m", "provisioning", *words], capture_output=True, text=True, check=False, timeout=10)

    assert done.returncode == 1
    assert done.stderr.startswith("serve.address: ")
    assert "(127.0.11.1:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_is_signed_anew_only_when_it_is_old_or_the_registry_changed(own_centre: Centre) -> None:
    clock = StandingClock()
    with own_centre.registry() as registry:
        distribution = serve.Distribution(own_centre, registry, clock)
        first = distribution.directory(6)
        clock.us += serve.DIRECTORY_S_MAX * 1_000_000 - 1
        assert distribution.directory(6) is first
        clock.us += 1
        second = distribution.directory(6)
        registry.set_suspended(ClientId("QROO-TEST", "MUN", "BACALAR"), clock.us)
        assert len({first, second, distribution.directory(6)}) == 3


def test_parts_are_served_after_a_restart_and_old_ones_are_bounded(own_centre: Centre) -> None:
    clock = StandingClock()
    bacalar = ClientId("QROO-TEST", "MUN", "BACALAR")
    with own_centre.registry() as registry:
        first = serve.Distribution(own_centre, registry, clock)
        location = re.findall(r"Content-location: (\S+)\r", first.directory(publication.NEWEST).decode())[0]
        again = serve.Distribution(own_centre, registry, clock)
        assert again.part(location) == first.part(location)
        for at in range(serve.PARTS_KEPT_MAX):
            registry.set_suspended(bacalar, None if at % 2 else clock.us)
            clock.us += 1_000
            again.directory(publication.NEWEST)
        assert again.part(location) is None
        assert len(again._parts) <= serve.PARTS_KEPT_MAX


def test_an_answer_on_an_open_connection_is_not_held_back(served: Centre) -> None:
    """Head and body are two writes: without TCP_NODELAY each answer waited 40 ms for the client's acknowledgement."""
    with requests.Session() as session:
        took = sorted(session.post(served.tsa_url, data=b"\x30", timeout=5).elapsed.total_seconds() for _ in range(15))

    assert took[len(took) // 2] < 0.02


def test_the_configuration_comes_by_https_to_whoever_knows_the_authority(served: Centre, tmp_path: Path) -> None:
    url, limits = served.source_url(external=True, https=True), FetchLimits(5, 5, 1 << 20)
    knowing = ssl.create_default_context(cafile=str(served.authorities_file))

    answer = asyncio.run(fetch.get(f"{url}?version=6", dataclasses.replace(limits, https=knowing)))
    assert answer.status == 200
    assert b"SHARED-PARAMETERS" in answer.body
    assert b"PRIVATE-PARAMETERS" not in answer.body

    with pytest.raises(FetchError):  # the machine's own authorities do not vouch for a laboratory
        asyncio.run(fetch.get(url, limits))
