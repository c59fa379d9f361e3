"""A registered box whose holder is hostile: its real keys and certificates, and whatever its holder puts on the wire."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import ssl
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from appliance.clock import SystemClock
from appliance.messagelog.wire import Seal
from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.net import transport_envelope, transport_protocol
from appliance.net.message_protocol import digest_of, request_from_system
from appliance.net.soap_reader import read_fault
from appliance.net.transport_parts import REST_REQUEST
from appliance.trust.global_configuration import CaCertificate
from appliance.trust.ocsp import build_request
from provisioning.authority import ca, ocsp_responder
from provisioning.authority.profiles import Issuer, Profile, certify, server_subject
from provisioning.centre import Centre
from provisioning.lab import network
from tests.boxes.conftest import Lab
from tests.fakes.exchange import SealKey

PEER_PORT = 5500
ANSWER_S_MAX = 5.0
CLOSED = "the connection was closed"
SEALED = "a sealed answer"


@dataclass(frozen=True)
class Keys:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Message:
    """The parts of one request, each of which the holder may exchange."""

    head: bytes
    body: bytes | None
    seal: Seal
    ocsp: tuple[bytes, ...]
    """Of the TLS certificate."""
    mark: str
    """What the information system would remember of it."""
    head_type: str = REST_REQUEST

    def content(self, boundary: bytes) -> bytes:
        seal = self.seal
        return transport_protocol.whole_message(
            boundary, self.head_type, self.head, self.body, seal.signature, seal.chain_result, seal.chain, ocsp=self.ocsp
        )


@dataclass
class ForeignBox:
    """Box 1 of the laboratory in the hands of somebody else; box 2 is asked. Its own relay goes on serving."""

    lab: Lab
    boundary: bytes = b"xtop-of-a-hostile-peer"
    _contexts: dict[bytes, ssl.SSLContext] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = SystemClock()
        self.centre = Centre.open(self.lab.directory / "ceiqroo")
        self.responder = ocsp_responder.Delegate(
            self.centre.certificate(Profile.ISSUING), self.centre.certificate(Profile.OCSP), self.centre.key(Profile.OCSP)
        )
        issuing = self.centre.certificate(Profile.ISSUING)
        self.authority = CaCertificate(issuing, issuing.subject.public_bytes(), (), (), "", top=False)
        self.client = ClientId.parse(self.lab.client)
        self.service = ServiceId.parse(self.lab.service)
        self.tls = self.keys_of(1, "tls-peer")
        self.seal = self.keys_of(1, self.seal_label(1))
        self.address = str(self.lab.box(2)["address"])

    # -- what the holder has

    def seal_label(self, number: int) -> str:
        return "seal/" + "/".join(str(self.lab.box(number)["server_id"]).split("/")[1:3])

    def keys_of(self, number: int, label: str) -> Keys:
        """Of a box whose token is software: the files of its signer."""
        approval = json.loads((self.lab.directory / "enrolment" / f"{number}.approval.json").read_text())
        certificate = x509.load_der_x509_certificate(base64.b64decode(approval["certificates"][label]))
        file = Path(self.lab.box(number)["state"]) / "keys" / "software" / f"{quote(label, safe='')}.key"
        key = load_der_private_key(file.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return Keys(certificate, key)

    def issued(self, days_ago: int = 0) -> Keys:
        """A new TLS certificate of CEIQROO's authority that nobody registered."""
        key, server = ec.generate_private_key(ec.SECP256R1()), ServerId(self.client.member, "SS9")
        issuer: Issuer = ca.issuer(self.centre)
        at_us = self.clock.now_us() - days_ago * 86400 * 1_000_000
        return Keys(certify(Profile.PEER, server_subject(server, "nobody", "127.0.0.1"), key.public_key(), issuer, at_us), key)

    def confirmation(self, of: x509.Certificate, ago_s: int = 0, *, revoked: bool = False) -> bytes:
        """What CEIQROO's responder would have said `ago_s` seconds ago."""
        at_us = self.clock.now_us() - ago_s * 1_000_000
        status = ocsp_responder.CertificateStatus(at_us - 1_000_000 if revoked else None)
        return ocsp_responder.answer(build_request(of, self.authority), lambda _: status, self.responder, at_us, 9 * 3600)

    # -- what the holder makes

    def message(
        self,
        *,
        client: ClientId | None = None,
        service: ServiceId | None = None,
        by: Keys | None = None,
        sealed_ago_s: int = 0,
        confirmations: tuple[bytes, ...] | None = None,
        path: str = "/incidentes",
        header: tuple[bytes, bytes] = (b"X-Nothing", b"special"),
    ) -> Message:
        """A request that a system would see as a new incident of the type `mark`; good in all that is not asked otherwise."""
        mark = uuid.uuid4().hex
        incident = {"tipo": mark, "fecha": "2026-01-01T00:00:00-05:00", "municipio": "Tulum", "lat": 20.2, "lon": -87.4}
        body = json.dumps(incident).encode()
        request = request_from_system(
            b"POST",
            f"/r1/{(service or self.service).encoded()}{path}".encode(),
            [(b"X-Road-Client", (client or self.client).encoded().encode()), (b"Content-Type", b"application/json"), header],
            request_id=str(uuid.uuid4()),
            generated_id=f"hostile-{mark}",
        )
        seal = self.sealed(request.head, body, by=by, sealed_ago_s=sealed_ago_s, confirmations=confirmations)
        return Message(request.head, body, seal, (self.confirmation(self.tls.certificate),), mark)

    def sealed(
        self,
        head: bytes,
        body: bytes | None,
        *,
        by: Keys | None = None,
        sealed_ago_s: int = 0,
        confirmations: tuple[bytes, ...] | None = None,
    ) -> Seal:
        by = by or self.seal
        if confirmations is None:
            confirmations = (self.confirmation(by.certificate),)
        parts = [("/message.xml", digest_of(head))] + ([] if body is None else [("/attachment1", digest_of(body))])
        key = SealKey(by.key, by.certificate, lambda _: b"")
        return key.seal([parts], self.clock.now_us() - sealed_ago_s * 1_000_000, confirmations)[0]

    # -- what the holder sends

    def send(self, content: bytes | Iterable[bytes], *, keys: Keys | None = None, envelope: bytes | None = None) -> str:
        """One request on a connection of its own; returns SEALED, the fault's code, an HTTP status or CLOSED.

        Content that comes in pieces is sent in chunks until the other side has heard enough. Takes at most ANSWER_S_MAX.
        """
        deadline = time.monotonic() + ANSWER_S_MAX
        try:
            with self.connection(keys or self.tls) as sock:
                with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):  # it answered, and reads no more
                    if isinstance(content, bytes):
                        length = b"Content-Length: %d\r\n\r\n" % len(content)
                        sock.sendall((self.envelope() if envelope is None else envelope) + length + content)
                    else:
                        _send_chunks(sock, self.envelope() if envelope is None else envelope, content, deadline)
                answer = _read_answer(sock, deadline)
        except (ConnectionError, ssl.SSLError):
            return CLOSED
        assert time.monotonic() < deadline, "no answer in time"
        return _told(answer)

    def connection(self, keys: Keys) -> ssl.SSLSocket:
        raw = socket.create_connection((self.address, PEER_PORT), timeout=ANSWER_S_MAX)
        return self._context(keys).wrap_socket(raw)

    def envelope(self, **instead: bytes) -> bytes:
        """Request line and headers without length; `instead`: another value for a header, by its name with `_`; empty drops it."""
        lines = [b"POST / HTTP/1.1", b"Host: " + self.address.encode()]
        for name, value in transport_envelope.request_headers(self.boundary, str(uuid.uuid4())):
            value = instead.get(name.decode().lower().replace("-", "_"), value)
            lines += [name + b": " + value] if value else []
        return b"\r\n".join((*lines, b""))

    def _context(self, keys: Keys) -> ssl.SSLContext:
        """One for each pair of keys, since a context reads them from files."""
        context = self._contexts.get(keys.der)
        if context is None:
            context = self._contexts[keys.der] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it does not care who we are
            file = self.lab.directory / f"hostile-{len(self._contexts)}.pem"
            key = keys.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            file.write_bytes(key + keys.certificate.public_bytes(Encoding.PEM))
            context.load_cert_chain(file)
        return context

    # -- what came of it

    def seen_by_system(self, mark: str) -> int:
        """How many incidents of this type the provider's information system has."""
        base = self.lab.document["services"][0]["system_url"]
        return int(requests.get(f"{base}/incidentes", {"tipo": mark}, timeout=5).json()["total"])

    def recorded(self, mark: str) -> int:
        """How many messages of this query box 2 has in its log."""
        return len(self.lab.records(2, "--id", f"hostile-{mark}"))


def _send_chunks(sock: ssl.SSLSocket, envelope: bytes, pieces: Iterable[bytes], deadline: float) -> None:
    sock.sendall(envelope + b"Transfer-Encoding: chunked\r\n\r\n")
    for piece in pieces:
        sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        assert time.monotonic() < deadline, "it listens for ever"


def _read_answer(sock: ssl.SSLSocket, deadline: float) -> bytes:
    """Head and body by its length, or what came before the end."""
    data = b""
    while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        piece = sock.recv(65536)
        if not piece:
            break
        data += piece
    return data


def _length(data: bytes) -> int:
    head = data.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0] or b"0")


def _told(answer: bytes) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head:
        return CLOSED
    status = head.split(b" ")[1].decode()
    if status != "200":
        return status
    if b"multipart/mixed" in head:
        return SEALED
    fault = read_fault(body)
    assert fault is not None, body
    return fault.code


def pieces_without_end(first: bytes, piece: bytes) -> Iterator[bytes]:
    yield first
    while True:
        yield piece


@contextlib.contextmanager
def foreign_box(base: str) -> Iterator[ForeignBox]:
    """A laboratory of two boxes of its own, with keys in files, so that somebody can take them."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-foreign-"))
    document = network.up(directory, 2, "software", base, 1, lambda line: None)
    try:
        yield ForeignBox(Lab(directory, document))
    finally:
        network.down(directory)
        shutil.rmtree(directory)
