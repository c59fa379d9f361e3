"""A registered box in foreign hands, on the port for boxes: each of its messages ends with the protocol's fault or a closed connection,
the information system sees none of them, and honest exchanges go on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from appliance.messagelog.wire import Seal
from appliance.model.identifiers import ClientId, ServiceId
from appliance.net.multipart import closing, part_begin
from appliance.net.transport_parts import REST_RESPONSE
from appliance.relay.gates import HELD_BYTES_MAX
from appliance.seal import xades
from tests.boxes.box_in_foreign_hands import CLOSED, SEALED, ForeignBox, Message, foreign_box, pieces_without_end

pytestmark = pytest.mark.lab

BASE = "127.0.31"
HOUR_S = 3600


@pytest.fixture(scope="module")
def box() -> Iterator[ForeignBox]:
    """A laboratory of its own with keys in files, so that somebody can take them."""
    with foreign_box(BASE) as box:
        yield box


def honest_exchange(box: ForeignBox) -> None:
    answer = requests.get(box.lab.url("/incidentes"), headers={"X-Road-Client": box.lab.client}, timeout=5)
    assert answer.status_code == 200, answer.text


def new_relay(box: ForeignBox) -> None:
    """Box 2 forgets what it found out about its peers."""
    (pid,) = box.lab.pids(2, "relay")
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while box.lab.pids(2, "relay") in ([], [pid]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- one message, bad in one way


@dataclass(frozen=True)
class Bad:
    """One line of the table: what is sent, and the code that comes back."""

    name: str
    code: str
    make: Callable[[ForeignBox], Message]


SEAL = "server.serverproxy.signature_verification."
CHAIN_FAULT = SEAL + "malformed_signature.invalid_hash_chain"
STATUS_FAULT = SEAL + "invalid_cert_path.incorrect_validation_info"


def _signature(message: Message, signature: bytes) -> Message:
    return replace(message, seal=Seal(signature, message.seal.chain_result, message.seal.chain, 0, 0))


def _broken_value(box: ForeignBox) -> Message:
    message, other = box.message(), box.message()
    value = re.compile(rb'(?<=<ds:SignatureValue Id="signature-value">)[^<]*')
    foreign = value.search(other.seal.signature)
    assert foreign
    return _signature(message, value.sub(foreign[0], message.seal.signature))


def _body_changed(box: ForeignBox) -> Message:
    message = box.message()
    return replace(message, body=message.body.replace(b"Tulum", b"Bacal") if message.body else None)


def _sealed_by_box_2(box: ForeignBox) -> Message:
    return box.message(by=box.keys_of(2, box.seal_label(2)))


def _stale(box: ForeignBox) -> Message:
    return box.message(confirmations=(box.confirmation(box.seal.certificate, 8 * HOUR_S + 60),))


def _revoked(box: ForeignBox) -> Message:
    return box.message(confirmations=(box.confirmation(box.seal.certificate, revoked=True),))


def _of_another(box: ForeignBox) -> Message:
    return box.message(confirmations=(box.confirmation(box.tls.certificate),))


def _sealed_with_tls_key(box: ForeignBox) -> Message:
    return box.message(by=box.tls)


def _chain_dropped(box: ForeignBox) -> Message:
    message = box.message()
    return replace(message, seal=Seal(message.seal.signature, None, None, 0, 0))


def _entity_bomb(box: ForeignBox) -> Message:
    message = box.message()
    bomb = b'<?xml version="1.0" encoding="UTF-8"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    return _signature(message, bomb + message.seal.signature.partition(b"?>")[2])


def _client_of_box_2(box: ForeignBox) -> Message:
    return box.message(client=ClientId.parse(box.lab.document["clients"][1]["id"]))


def _unknown_client(box: ForeignBox) -> Message:
    return box.message(client=ClientId(box.client.instance, "MUN", "NADIE", "SOLOMON"))


def _closed_service(box: ForeignBox) -> Message:
    return box.message(service=ServiceId.parse(box.lab.refused))


def _own_provider(box: ForeignBox) -> Message:
    return box.message(service=ServiceId(box.client, "anything"))


def _head_with(line: bytes) -> Callable[[ForeignBox], Message]:
    """A well sealed message whose head has one more line."""

    def make(box: ForeignBox) -> Message:
        message = box.message()
        head = message.head + line + b"\r\n"
        return replace(message, head=head, seal=box.sealed(head, message.body))

    return make


BAD = [
    Bad("signature value of another message", SEAL + "invalid_signature_value", _broken_value),
    Bad("body changed", CHAIN_FAULT, _body_changed),
    Bad("head changed", CHAIN_FAULT, lambda box: replace(box.message(), head=box.message().head)),
    Bad("body dropped", SEAL + "malformed_signature.invalid_reference", lambda box: replace(box.message(), body=None)),
    Bad("chain dropped", SEAL + "malformed_signature", _chain_dropped),
    Bad("sealed by another member", SEAL + "incorrect_certificate", _sealed_by_box_2),
    Bad("sealed with the TLS key", SEAL + "malformed_signature", _sealed_with_tls_key),
    Bad("seal without OCSP response", SEAL + "malformed_signature", lambda box: box.message(confirmations=())),
    Bad("seal with a stale OCSP response", STATUS_FAULT, _stale),
    Bad("seal with a revoked certificate", SEAL + "invalid_cert_path.cert_validation", _revoked),
    Bad("seal with the OCSP response of another certificate", SEAL + "invalid_cert_path.cert_validation", _of_another),
    Bad("sealed nine hours ago", SEAL + "incorrect_validation_info", lambda box: box.message(sealed_ago_s=9 * HOUR_S)),
    Bad("entities in the signature", SEAL + "malformed_signature", _entity_bomb),
    Bad("in the name of another box's client", "server.serverproxy.ssl_authentication_failed", _client_of_box_2),
    Bad("in the name of a client that nobody knows", "server.serverproxy.ssl_authentication_failed", _unknown_client),
    Bad("without a right", "server.serverproxy.access_denied", _closed_service),
    Bad("for a path beside the service", "server.serverproxy.access_denied", lambda box: box.message(path="/../reservado/incidentes")),
    Bad("for a provider of another box", "server.serverproxy.unknown_member", _own_provider),
    Bad("an oversized head", "server.serverproxy.invalid_message", _head_with(b"X-A:" + b"a" * (64 << 10))),
    Bad("two clients", "server.serverproxy.inconsistent_headers", _head_with(b"X-Road-Client:QROO-TEST/EST/SSP/SOLOMON")),
    Bad("a header that never travels", "server.serverproxy.internal_error", _head_with(b"Transfer-Encoding:chunked")),
    Bad(
        "a head that is an answer",
        "server.serverproxy.invalid_content_type",
        lambda box: replace(box.message(), head_type=REST_RESPONSE),
    ),
]


@pytest.mark.rule("IV.3.I", "IV.3.VI", "I.4.III")
@pytest.mark.case("T15", "T16")
@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_a_bad_message_gets_its_fault_and_reaches_no_system(box: ForeignBox, case: Bad) -> None:
    message = case.make(box)

    assert box.send(message.content(box.boundary)) == case.code
    assert box.seen_by_system(message.mark) == 0
    honest_exchange(box)


def test_what_the_table_calls_bad_is_bad_for_that_reason_alone(box: ForeignBox) -> None:
    message = box.message()

    assert box.send(message.content(box.boundary)) == SEALED
    assert (box.seen_by_system(message.mark), box.recorded(message.mark)) == (1, 2)


@pytest.mark.rule("I.4.XVIII", "IV.2.I")
@pytest.mark.case("T09")
def test_a_box_that_shows_no_good_ocsp_response_for_its_tls_certificate_is_not_served(box: ForeignBox) -> None:
    new_relay(box)
    tls = box.tls.certificate
    shown = {
        "none": (),
        "stale": (box.confirmation(tls, 8 * HOUR_S + 60),),
        "revoked": (box.confirmation(tls, revoked=True),),
        "of another certificate": (box.confirmation(box.seal.certificate),),
    }

    for name, responses in shown.items():
        message = replace(box.message(), ocsp=responses)
        assert box.send(message.content(box.boundary)) == "server.serverproxy.ssl_authentication_failed", name
        assert (box.seen_by_system(message.mark), box.recorded(message.mark)) == (0, 0)
    honest_exchange(box)


# -- replay


@pytest.mark.case("T13")
def test_a_good_message_is_processed_once_even_over_another_connection_and_relay(box: ForeignBox) -> None:
    message = box.message()
    assert box.send(message.content(box.boundary)) == SEALED

    assert box.send(message.content(box.boundary)) == "server.serverproxy.invalid_message"
    new_relay(box)
    again = replace(message, ocsp=(box.confirmation(box.tls.certificate),))
    assert box.send(again.content(box.boundary)) == "server.serverproxy.invalid_message"

    assert (box.seen_by_system(message.mark), box.recorded(message.mark)) == (1, 2)
    honest_exchange(box)


@pytest.mark.case("T13")
def test_a_replayed_message_is_known_again_by_what_was_signed_not_by_its_wrapping(box: ForeignBox) -> None:
    message = box.message(confirmations=(box.confirmation(box.seal.certificate, 2 * HOUR_S),))
    assert box.send(message.content(box.boundary)) == SEALED

    fresh = xades.base64_text(box.confirmation(box.seal.certificate)).encode()
    exchanged = re.sub(rb'(?<=<xades:EncapsulatedOCSPValue Id="ocsp-response-1">)[^<]*', fresh, message.seal.signature)
    spaced = message.seal.signature.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo>\n")
    malformed = "server.serverproxy.signature_verification.malformed_signature"  # nobody writes it like that
    for signature, code in ((exchanged, "server.serverproxy.invalid_message"), (spaced, malformed)):
        assert signature != message.seal.signature
        assert box.send(_signature(message, signature).content(box.boundary)) == code

    assert box.seen_by_system(message.mark) == 1
    honest_exchange(box)


# -- what is no message


@dataclass(frozen=True)
class Noise:
    """One line of the table: bytes, at once or without end, and what comes back."""

    name: str
    outcome: str
    content: Callable[[ForeignBox], bytes | Iterable[bytes]]
    envelope: Callable[[ForeignBox], bytes] = lambda box: box.envelope()


def _good(box: ForeignBox) -> bytes:
    return box.message().content(box.boundary)


def _part(box: ForeignBox, kind: bytes, *, first: bool = False) -> bytes:
    return part_begin(box.boundary, kind, first=first)


def _nine_ocsp_responses(box: ForeignBox) -> bytes:
    message = box.message()
    return replace(message, ocsp=message.ocsp * 9).content(box.boundary)


def _endless_parts(box: ForeignBox) -> Iterable[bytes]:
    part = _part(box, b"application/ocsp-response") + b"0\x01\x00"
    return pieces_without_end(_part(box, b"application/ocsp-response", first=True) + b"0\x01\x00", part * 20)


def _endless(kind: bytes) -> Callable[[ForeignBox], Iterable[bytes]]:
    """A part of this type, in its place, that never ends."""

    def content(box: ForeignBox) -> Iterable[bytes]:
        message = box.message()
        begin = _part(box, b"application/ocsp-response", first=True) + message.ocsp[0]
        if kind == b"signature/bdoc-1.0/ts":
            begin += _part(box, b"application/x-road-rest-request") + message.head
        return pieces_without_end(begin + _part(box, kind), b"a" * 8192)

    return content


def _after_the_signature(box: ForeignBox) -> bytes:
    return _good(box).removesuffix(closing(box.boundary)) + _part(box, b"signature/bdoc-1.0/ts") + b"<again/>" + closing(box.boundary)


def _no_signature(box: ForeignBox) -> bytes:
    message = box.message()
    return _part(box, b"application/x-road-rest-request", first=True) + message.head + closing(box.boundary)


def _no_seal_after_the_body(box: ForeignBox) -> bytes:
    return _good(box).partition(b"application/hash-chain-result")[0].rpartition(b"\r\n--")[0] + closing(box.boundary)


FAULT = "server.serverproxy."
NOISE = [
    Noise("nine OCSP responses", FAULT + "invalid_content_type", _nine_ocsp_responses),
    Noise("parts without end", FAULT + "mime_parsing_failed", _endless_parts),
    Noise("a head without end", FAULT + "invalid_message", _endless(b"application/x-road-rest-request")),
    Noise("a signature without end", FAULT + "invalid_message", _endless(b"signature/bdoc-1.0/ts")),
    Noise("a preamble without end", FAULT + "mime_parsing_failed", lambda _: pieces_without_end(b"", b"nothing yet\r\n" * 600)),
    Noise(
        "part headers without end",
        FAULT + "invalid_message",
        lambda box: pieces_without_end(b"--" + box.boundary + b"\r\n", b"X-A: b\r\n" * 600),
    ),
    Noise("an OCSP part that is not DER", FAULT + "io_error", lambda box: replace(box.message(), ocsp=(b"hello",)).content(box.boundary)),
    Noise(
        "no head",
        FAULT + "missing_rest",
        lambda box: _part(box, b"application/ocsp-response", first=True) + b"0\x01\x00" + closing(box.boundary),
    ),
    Noise("no signature", FAULT + "missing_signature", _no_signature),
    Noise("no seal behind the body", FAULT + "missing_signature", _no_seal_after_the_body),
    Noise("something after the signature", FAULT + "invalid_message", _after_the_signature),
    Noise("nothing", FAULT + "mime_parsing_failed", lambda _: b""),
    Noise("a message that is cut off", FAULT + "mime_parsing_failed", lambda box: _good(box)[:-40]),
    Noise("SHA-1", FAULT + "missing_header_field", _good, lambda box: box.envelope(x_hash_algorithm=b"SHA-1")),
    Noise("no digest algorithm", FAULT + "missing_header_field", _good, lambda box: box.envelope(x_hash_algorithm=b"")),
    Noise("another content type", FAULT + "invalid_content_type", _good, lambda box: box.envelope(content_type=b"text/plain")),
    Noise("GET", FAULT + "invalid_http_method", lambda _: b"", lambda box: box.envelope().replace(b"POST", b"GET", 1)),
    Noise("no HTTP", FAULT + "invalid_message", lambda _: b"", lambda _: b"\x00\x01\x02\x03\r\n\r\n"),
]


@pytest.mark.case("T03", "T44")
@pytest.mark.parametrize("case", NOISE, ids=lambda case: case.name)
def test_noise_ends_within_seconds_and_the_next_exchange_is_served(box: ForeignBox, case: Noise) -> None:
    assert box.send(case.content(box), envelope=case.envelope(box)) == case.outcome
    honest_exchange(box)


@pytest.mark.case("T37")
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_message_that_is_broken_off_leaves_no_trace_in_log_or_system(box: ForeignBox, share: float) -> None:
    message = box.message()
    content = message.content(box.boundary)
    with box.connection(box.tls) as sock:
        sock.sendall(box.envelope() + b"Content-Length: %d\r\n\r\n" % len(content) + content[: int(len(content) * share)])

    honest_exchange(box)
    assert (box.seen_by_system(message.mark), box.recorded(message.mark)) == (0, 0)


# -- who is not let in at all


@pytest.mark.rule("I.4.XVIII")
@pytest.mark.case("T10")
@pytest.mark.parametrize(("days_ago", "said"), [(0, FAULT + "ssl_authentication_failed"), (91, CLOSED)], ids=["not registered", "expired"])
def test_a_certificate_of_the_right_authority_is_not_enough(box: ForeignBox, days_ago: int, said: str) -> None:
    keys = box.issued(days_ago)
    message = replace(box.message(), ocsp=(box.confirmation(keys.certificate),))

    assert box.send(message.content(box.boundary), keys=keys) == said
    assert (box.seen_by_system(message.mark), box.recorded(message.mark)) == (0, 0)
    honest_exchange(box)


@pytest.mark.case("T11")
def test_the_seal_key_carries_no_message(box: ForeignBox) -> None:
    assert box.send(_good(box), keys=box.seal) == "server.serverproxy.ssl_authentication_failed"
    honest_exchange(box)


# -- who fills the memory


@pytest.mark.case("T44")
def test_soap_parts_that_never_end_fill_half_of_the_room_and_others_are_served(box: ForeignBox) -> None:
    """250 of them were 270 MiB, more than a relay may have: from one caller only so much is kept, and what comes on top is told so."""
    (pid,) = box.lab.pids(1, "relay")
    url = urlsplit(box.lab.box(1)["client_http"])
    size, sent = 1 << 20, 40
    head = b"POST / HTTP/1.1\r\nHost: box\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n<s:Envelope>" % (2 * size)
    before_mib = resident_mib(pid)
    with contextlib.ExitStack() as stack:
        place, source = (str(url.hostname), url.port or 0), (f"{BASE}.66", 0)
        socks = [stack.enter_context(socket.create_connection(place, timeout=5, source_address=source)) for _ in range(sent)]
        for sock in socks:
            with contextlib.suppress(ConnectionError, TimeoutError):
                sock.sendall(head + b" " * size)
        honest_exchange(box)
        refused = [code for sock in socks if (code := _told_so_far(sock))]

        assert refused == ["server.clientproxy.internal_error"] * len(refused)
        assert sent - HELD_BYTES_MAX // 2 // size <= len(refused) < sent
        assert resident_mib(pid) - before_mib < 3 * HELD_BYTES_MAX // 2 >> 20
    honest_exchange(box)


def _told_so_far(sock: socket.socket) -> str:
    """The code of the fault that is there already; empty where the other side still listens."""
    sock.settimeout(0.2)
    try:
        data = sock.recv(65536)
    except (TimeoutError, ConnectionError):
        return ""
    return data.partition(b"<faultcode>")[2].partition(b"</faultcode>")[0].decode()


def resident_mib(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:")) / 1024
