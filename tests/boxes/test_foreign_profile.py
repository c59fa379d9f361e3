"""Real messages, REST and SOAP, between a whole box and a server that speaks X-Road's TLS profile and nothing else, in both roles.

The server of the other make is `x_road_peer`: TLS 1.2 with the three CBC suites, RSA and EC authentication keys, chunked messages. The box
has `relay.foreign_servers`; its own processes, keys, log and information systems are those of every laboratory.
"""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from appliance.exchange.ports import Attachment, Body, Sealed, sealed_parts
from appliance.model.identifiers import ServerId
from appliance.net.message_protocol import digest_of
from appliance.net.soap_protocol import SoapFraming
from appliance.net.soap_reader import read_fault
from appliance.net.transport_parts import REST_REQUEST
from appliance.net.transport_protocol import whole_message
from appliance.relay.outgoing import Outgoing
from provisioning.lab import network
from tests.boxes import x_road_peer
from tests.boxes.box_in_foreign_hands import ForeignBox
from tests.boxes.conftest import Lab
from tests.boxes.soap_client import envelope, fault_code, post, related
from tests.boxes.x_road_peer import (
    BOUNDARY,
    DHE_SUITE,
    ECDSA_SUITE,
    RSA_SUITE,
    Answer,
    AuthenticationKey,
    Provider,
    judged,
    request_headers,
)
from tests.fakes.exchange import SealKey

pytestmark = [pytest.mark.lab, pytest.mark.rule("I.4.XVIII", "II.2.X")]

BASE = "127.0.38"
SOONER = "\n[trust_agent]\nconfiguration_fetch_interval_s = 1\n"
ELSEWHERE = f"{BASE}.99"
"""Where the provider of the other make is: box 2's server by name, at another address."""
SEEN_S_MAX = 60.0
RELATED = 'multipart/related; type="text/xml"; start="<raiz>"; boundary="b-1"'


@dataclass(frozen=True)
class Place:
    """Box 1's server in foreign hands asks box 2; box 1 asks box 2's server, which is in foreign hands, too."""

    box: ForeignBox
    asking: dict[str, AuthenticationKey]
    """Of box 1's server, by kind."""
    answering: dict[str, AuthenticationKey]
    """Of box 2's server, by kind."""

    @property
    def lab(self) -> Lab:
        return self.box.lab


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    directory = Path(tempfile.mkdtemp(prefix="xacbe-x-road-"))
    lab = Lab(directory, network.up(directory, 2, "software", BASE, 1, lambda line: None, settings=SOONER))
    try:
        first, second = (ServerId.parse(str(lab.box(number)["server_id"])) for number in (1, 2))
        for number, named in ((1, second), (2, first)):  # each box allows the profile to the other server alone
            allow(lab, number, named)
        box = ForeignBox(lab)
        asking = {kind: x_road_peer.registered(box, first, kind, BASE) for kind in ("RSA", "EC")}
        answering = {kind: x_road_peer.registered(box, second, kind, BASE) for kind in ("RSA", "EC")}
        with box.centre.registry() as registry:
            registry.register_server(second, ELSEWHERE, (), box.clock.now_us())
        until(lambda: ELSEWHERE in configuration(lab, 1) and ELSEWHERE in configuration(lab, 2))
        yield Place(box, asking, answering)
    finally:
        network.down(directory)
        shutil.rmtree(directory)


def allow(lab: Lab, number: int, server: ServerId) -> None:
    """What a technician does: a line in box.toml, and the relay begins anew."""
    file = Path(lab.box(number)["state"]) / "box.toml"
    file.write_text(file.read_text().replace("[relay]\n", f'[relay]\nforeign_servers = "{server}"\n'))
    (pid,) = lab.pids(number, "relay")
    os.kill(pid, signal.SIGKILL)
    until(lambda: lab.pids(number, "relay") not in ([], [pid]))


def configuration(lab: Lab, number: int) -> str:
    instance = str(lab.document["instance"])
    return (Path(lab.box(number)["state"]) / "trust" / "configuration" / instance / "shared-params.xml").read_text()


def until(held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_S_MAX
    while not held():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


# -- the box provides


def rest(place: Place, kind: str) -> bytes:
    """A sealed REST request as that server sends it."""
    message = place.box.message()
    ocsp = (place.box.confirmation(place.asking[kind].certificate),)
    return whole_message(
        BOUNDARY, REST_REQUEST, message.head, message.body, message.seal.signature, message.seal.chain_result, message.seal.chain, ocsp=ocsp
    )


def soap(place: Place, kind: str, attachments: tuple[bytes, ...]) -> bytes:
    """A sealed SOAP request, its attachments nested as X-Road nests them."""
    box = place.box
    head = envelope(place.lab, "adjuntaDocumentos", "<placa>UTP-01-01</placa>")
    headers = b"Content-Type: application/x-prueba\r\nContent-ID: <a>\r\n"
    parts = tuple(Attachment(len(one), digest_of(one), headers) for one in attachments)
    content = b"".join(attachments)
    body = Body(len(content), digest_of(content), inline=content, attachments=parts) if parts else None
    key = SealKey(box.seal.key, box.seal.certificate, lambda _: b"")
    seal = key.seal([sealed_parts(digest_of(head), body)], box.clock.now_us(), (box.confirmation(box.seal.certificate),))[0]
    framing = SoapFraming(((b"Content-Type", b"text/xml; charset=UTF-8"), (b"Content-ID", b"<raiz>")), RELATED.encode())
    sealed = Sealed(head, body, seal, soap=framing)
    whole = Outgoing.between_boxes(BOUNDARY, REST_REQUEST, sealed, (box.confirmation(place.asking[kind].certificate),)).whole
    assert whole is not None
    return whole


def ask(place: Place, kind: str, content: bytes, *, rest: bool, session: list[ssl.SSLSession] | None = None) -> Answer:
    context = x_road_peer.client_context(place.asking[kind])
    headers = request_headers(x_road_peer.new_id(), rest=rest, content_type="" if rest else RELATED)
    return x_road_peer.ask(place.box.address, context, content, *headers, session=session)


@pytest.mark.parametrize("kind", ["RSA", "EC"])
def test_a_server_with_x_roads_tls_gets_sealed_answers_to_rest_and_soap(place: Place, kind: str) -> None:
    asked = [(True, rest(place, kind)), (False, soap(place, kind, ())), (False, soap(place, kind, (b"uno", b"", bytes(70_000))))]

    for is_rest, content in asked:
        answer = ask(place, kind, content, rest=is_rest)

        assert (answer.suite, answer.status) == (ECDSA_SUITE, 200)  # our own key is EC
        told = [name for name, _ in answer.headers]
        assert "x-hash-algorithm" in told  # X-Road's client looks both up by case (sheet 3.6)
        assert ("x-original-content-type" in told) == (not is_rest)
        judgement = judged(place.box, answer.content, 1)
        assert judgement.verdict == "valid", (judgement, answer.content[:2000])
        assert [part["what"] for part in judgement.parts][0] == "head"
        if not is_rest:
            assert b"adjuntaDocumentosResponse" in answer.content


def test_a_tls_session_is_taken_up_again_and_still_checked(place: Place) -> None:
    """X-Road keeps sessions for 600 s (sheet 3.1), and a new connection for each message."""
    context = x_road_peer.client_context(place.asking["RSA"])
    headers = request_headers(x_road_peer.new_id(), rest=True)
    sessions: list[ssl.SSLSession] = []

    answers = [x_road_peer.ask(place.box.address, context, rest(place, "RSA"), *headers, session=sessions) for _ in range(3)]

    assert [judged(place.box, answer.content, 1).verdict for answer in answers] == ["valid"] * 3
    assert [answer.resumed for answer in answers] == [False, True, True]


def test_the_profile_is_for_the_named_server_alone(place: Place) -> None:
    """Box 2 names box 1's server; its own server's certificate is registered and comes with TLS 1.2 all the same: told so, not served."""
    content = rest(place, "RSA")
    context = x_road_peer.client_context(place.answering["RSA"])

    answer = x_road_peer.ask(place.box.address, context, content, *request_headers(x_road_peer.new_id(), rest=True))

    fault = read_fault(answer.content)
    assert fault is not None
    assert fault.code == "server.serverproxy.ssl_authentication_failed"


# -- the box asks


@pytest.mark.parametrize(("kind", "suite"), [("RSA", RSA_SUITE), ("RSA", DHE_SUITE), ("EC", ECDSA_SUITE)])
def test_the_box_asks_a_server_with_x_roads_tls_for_rest_and_soap(place: Place, kind: str, suite: str) -> None:
    lab = place.lab
    with Provider(place.box, 2, ELSEWHERE, place.answering[kind], suite).serving() as provider:
        plain = requests.get(lab.url("/incidentes?a=%2Fb"), headers={"X-Road-Client": lab.client}, timeout=30)
        posted = requests.post(
            lab.url("/eco"), data=b'{"a":1}', headers={"X-Road-Client": lab.client, "X-Propia": "ñ".encode()}, timeout=30
        )
        content_type, content = related(envelope(lab, "adjuntaDocumentos", "<placa>UTP-01-01</placa>"), [b"uno", bytes(100_000), b""])
        attached = post(lab, content, content_type)

    assert provider.failures == []
    assert (plain.status_code, plain.content) == (200, provider.rest_answer), plain.text
    assert (posted.status_code, posted.content) == (200, provider.rest_answer + b'{"a":1}'), posted.text
    assert fault_code(attached) == "", attached.text
    assert b"adjuntaDocumentosResponse" in attached.content
    assert [(one.protocol, one.suite) for one in provider.received] == [("TLSv1.2", suite)] * 3
    for one in provider.received:
        assert one.judgement.verdict == "valid", one.judgement
        assert one.headers["x-hash-algorithm"] == "SHA-512"
        assert one.headers["x-proxy-version"] == "7.8.0"
        assert one.headers["content-type"].startswith("multipart/mixed; charset=UTF-8; boundary=xtop")
    kinds = [[part["what"] for part in one.judgement.parts] for one in provider.received]
    sealed = ["chain_result", "chain", "signature"]
    assert kinds[0] == ["ocsp", "head", "signature"]
    assert kinds[1] == ["ocsp", "head", "attachment", *sealed]
    assert kinds[2] == ["ocsp", "head", "attachment", "attachment", "attachment", *sealed]
    assert [one.headers.get("x-road-message-type") for one in provider.received] == ["REST", "REST", None]
    recorded = lab.records(1, "--id", plain.headers["x-road-id"])
    assert sorted(record["direction"] for record in recorded) == ["request", "response"]
