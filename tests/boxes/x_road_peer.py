"""A security server of the other make, as far as the wire goes: X-Road's TLS 1.2 with its three suites and nothing newer, an authentication
key that may be RSA, and the habits of its HTTP client and server (chunks, `Connection: close`, headers in their spelling; sheet 3).

Keys and certificates are those of a laboratory's box in foreign hands; TLS and HTTP are Python's own, not a line of ours.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from pathlib import Path
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from appliance.commands.wire import Judgement, judge
from appliance.configuration_files import LoadedConfiguration, load_directory
from appliance.model.identifiers import ServerId
from appliance.net.message_protocol import RestRequest, digest_of, parse_head, request_hash, response_head
from appliance.net.soap_protocol import SoapFraming, parse_request, with_request_hash
from appliance.net.transport_parts import REST_REQUEST, REST_RESPONSE, BodyData, SealedMessage
from appliance.net.transport_protocol import TransportReader, whole_message
from provisioning.authority import ca
from provisioning.authority.profiles import Profile, server_subject
from tests.boxes.box_in_foreign_hands import ForeignBox
from tests.fakes.exchange import SealKey

BOUNDARY = b"xtopKiZWuyUxmgMrzEOXlaHkZqjvZkbbiU"
PEER_PORT, OCSP_PORT = 5500, 5577
RSA_SUITE, DHE_SUITE, ECDSA_SUITE = "ECDHE-RSA-AES256-SHA384", "DHE-RSA-AES256-SHA256", "ECDHE-ECDSA-AES256-SHA384"
SUITES = f"{RSA_SUITE}:{DHE_SUITE}:{ECDSA_SUITE}"
WAIT_S_MAX = 20.0


@dataclass(frozen=True)
class AuthenticationKey:
    """What the server shows in TLS."""

    certificate: x509.Certificate
    file: Path
    """Certificate and key, PEM."""

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


def registered(box: ForeignBox, server: ServerId, kind: str, address: str) -> AuthenticationKey:
    """A new authentication key (`RSA` or `EC`) whose certificate CEIQROO issues and registers for the server, beside those it has."""
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    key = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ec.generate_private_key(ec.SECP256R1())
    with box.centre.registry() as registry:
        certificate = ca.issue(
            registry, ca.issuer(box.centre), Profile.PEER, server_subject(server, "foreign", address), key.public_key(),
            holder=str(server), now_us=box.clock.now_us(), ocsp_url=box.centre.ocsp_url,
        )  # fmt: skip
    file = box.lab.directory / f"x-road-{kind}-{certificate.serial_number:x}.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return AuthenticationKey(certificate, file)


def judged(box: ForeignBox, content: bytes, number: int) -> Judgement:
    """What a technician's `xacbe wire check` says of a message, by the configuration of box `number`."""
    configuration = load_directory(Path(box.lab.box(number)["state"]) / "trust" / "configuration")
    return judge([content], configuration, box.clock.now_us())


# -- the client's half


@dataclass(frozen=True)
class Answer:
    """`headers` as spelled on the wire."""

    suite: str
    resumed: bool
    status: int
    headers: list[tuple[str, str]]
    content: bytes


def client_context(key: AuthenticationKey, suites: str = SUITES) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it looks the certificate's hash up, as X-Road does
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(suites)
    context.load_cert_chain(key.file)
    return context


def ask(
    address: str, context: ssl.SSLContext, content: bytes, *headers: tuple[str, str], session: list[ssl.SSLSession] | None = None
) -> Answer:
    """One message in chunks over a connection of its own. `session`: the last is the TLS session to resume; this one's is put behind it."""
    raw = socket.create_connection((address, PEER_PORT), timeout=WAIT_S_MAX)
    with context.wrap_socket(raw, session=session[-1] if session else None) as sock:
        if session is not None and sock.session is not None:
            session.append(sock.session)
        lines = [
            "POST / HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers),
            "Transfer-Encoding: chunked",
            "Host: localhost:5500",
            "Connection: Keep-Alive",
            "User-Agent: Apache-HttpClient/4.5.14 (Java/21.0.5)",
            "Accept-Encoding: gzip,deflate",
        ]
        sock.sendall("\r\n".join((*lines, "", "")).encode("latin-1"))
        for at in range(0, len(content), 2048):
            piece = content[at : at + 2048]
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        response = http.client.HTTPResponse(sock, method="POST")
        response.begin()
        suite = sock.cipher()
        assert suite is not None
        return Answer(suite[0], bool(sock.session_reused), response.status, response.getheaders(), response.read())


def request_headers(request_id: str, *, rest: bool, content_type: str = "") -> list[tuple[str, str]]:
    """As X-Road's client writes them; SOAP has no message type."""
    return [
        ("x-hash-algorithm", "SHA-512"),
        ("x-proxy-version", "7.8.0"),
        ("x-road-request-id", request_id),
        ("x-original-content-type", content_type),
        ("x-road-message-type", "REST") if rest else ("x-original-soapaction", '""'),
        ("Content-Type", f"multipart/mixed; charset=UTF-8; boundary={BOUNDARY.decode()}"),
    ]


# -- the provider's half


@dataclass(frozen=True)
class Received:
    """One request as it came, with the judgement of `xacbe wire check`."""

    protocol: str
    suite: str
    headers: dict[str, str]
    content: bytes
    judgement: Judgement


@dataclass
class Provider:
    """Answers whatever is asked of it: REST with `rest_answer`, SOAP with the answer that the request's body is named after."""

    box: ForeignBox
    number: int
    """Whose member's seal it has."""
    address: str
    key: AuthenticationKey
    suites: str
    rest_answer: bytes = b'{"de":"otra marca"}'
    received: list[Received] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)

    @contextmanager
    def serving(self) -> Iterator[Provider]:
        """On ports 5500 and 5577 of its address."""
        with socket.create_server((self.address, PEER_PORT)) as listener, self._responder() as responder:
            threads = [
                threading.Thread(target=self._accept, args=(listener,), daemon=True),
                threading.Thread(target=responder.serve_forever, daemon=True),
            ]
            for thread in threads:
                thread.start()
            try:
                yield self
            finally:
                responder.shutdown()
                listener.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join(WAIT_S_MAX)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(self.suites)
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(self.box.lab.document["ceiqroo"]["ca_cert"])
        context.load_cert_chain(self.key.file)
        parameters = self.key.file.with_suffix(".dh")
        command = ["openssl", "genpkey", "-genparam", "-algorithm", "DH", "-pkeyopt", "group:ffdhe2048", "-out", str(parameters)]
        subprocess.run(command, check=True, capture_output=True, timeout=WAIT_S_MAX)
        context.load_dh_params(str(parameters))
        return context

    def _accept(self, listener: socket.socket) -> None:
        context = self._context()
        while True:
            try:
                raw, _ = listener.accept()
            except OSError:
                return
            raw.settimeout(WAIT_S_MAX)
            try:
                with context.wrap_socket(raw, server_side=True) as sock:
                    self._serve(sock)
            except (ssl.SSLError, ConnectionError, TimeoutError) as error:
                self.failures.append(error)
            except BaseException as error:
                self.failures.append(error)
                raise

    def _serve(self, sock: ssl.SSLSocket) -> None:
        file = sock.makefile("rb")
        if file.readline() != b"POST / HTTP/1.1\r\n":
            return  # a connection that was opened and not used
        headers = {name.lower(): value for name, value in http.client.parse_headers(file).items()}
        content = _body(file, headers)
        suite = sock.cipher()
        assert suite is not None
        judgement = judge([content], self._configuration(), self.box.clock.now_us())
        self.received.append(Received(str(sock.version()), suite[0], headers, content, judgement))
        content_type, answer = self._answer(headers, content)
        lines = ["HTTP/1.1 200 OK", "Date: Mon, 23 Nov 2026 12:00:00 GMT", "Connection: close", f"Content-Type: {content_type}"]
        lines += ["x-hash-algorithm: SHA-512"]
        if "x-road-message-type" not in headers:
            lines += ["x-original-content-type: text/xml;charset=utf-8"]
        sock.sendall("\r\n".join((*lines, "Transfer-Encoding: chunked", "", "")).encode())
        for at in range(0, len(answer), 4096):
            piece = answer[at : at + 4096]
            sock.sendall(b"%X\r\n%b\r\n" % (len(piece), piece))
        sock.sendall(b"0\r\n\r\n")
        with suppress(OSError):
            sock.unwrap()

    def _configuration(self) -> LoadedConfiguration:
        return load_directory(Path(self.box.lab.box(self.number)["state"]) / "trust" / "configuration")

    def _answer(self, headers: dict[str, str], content: bytes) -> tuple[str, bytes]:
        reader = TransportReader(content[2 : content.index(b"\r\n")])
        bodies = b"".join(event.data for event in reader.feed(content) if isinstance(event, BodyData))
        message = reader.finish()
        assert isinstance(message, SealedMessage)
        body: bytes | None = None
        if message.head.kind == REST_REQUEST:
            request = parse_head(message.head.data)
            assert isinstance(request, RestRequest)
            digest = request_hash(request.digest, message.bodies[0].digest if message.bodies else None)
            head = response_head(200, b"OK", [(b"Content-Type", b"application/json")], request, digest)
            body, head_type = self.rest_answer + bodies, REST_RESPONSE
        else:
            asked = parse_request(message.head.data, SoapFraming(message.head.headers, b"text/xml"), headers["x-road-request-id"])
            code = asked.service.code.encode()
            before, _, _ = message.head.data.partition(b"<s:Body>")
            head = with_request_hash(before + b'<s:Body><v:%bResponse xmlns:v="urn:qroo:vehiculos"/></s:Body></s:Envelope>' % code, asked)
            head_type = "text/xml; charset=UTF-8"
        keys = self.box.keys_of(self.number, self.box.seal_label(self.number))
        parts = [("/message.xml", digest_of(head))] + ([] if body is None else [("/attachment1", digest_of(body))])
        sealed = SealKey(keys.key, keys.certificate, lambda _: b"")
        seal = sealed.seal([parts], self.box.clock.now_us(), (self.box.confirmation(keys.certificate),))[0]
        answer = whole_message(BOUNDARY, head_type, head, body, seal.signature, seal.chain_result, seal.chain)
        return f"multipart/mixed; charset=UTF-8; boundary={BOUNDARY.decode()}", answer

    def _responder(self) -> ThreadingHTTPServer:
        """OCSP by hash, as X-Road answers it: one part for each `cert`."""
        response, sha1 = self.box.confirmation(self.key.certificate), self.key.certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                asked = [value for name, value in parse_qsl(self.path.partition("?")[2]) if name == "cert"]
                if not asked or any(one != sha1 for one in asked):
                    self.send_error(500)
                    return
                part = b"--%b\r\ncontent-type: application/ocsp-response\r\n\r\n%b\r\n" % (BOUNDARY, response)
                content = part * len(asked) + b"--%b--\r\n" % BOUNDARY
                self.send_response(200)
                content_type = f'multipart/related; type="application/ocsp-response"; charset=UTF-8; boundary={BOUNDARY.decode()}'
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        return ThreadingHTTPServer((self.address, OCSP_PORT), Handler)


def _body(file: BufferedReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "") != "chunked":
        return bytes(file.read(int(headers["content-length"])))
    pieces = []
    while size := int(file.readline(), 16):
        pieces.append(file.read(size))
        file.readline()
    file.readline()
    return b"".join(pieces)


def new_id() -> str:
    return str(uuid.uuid4())
