"""CEIQROO's services for these tests: a real HTTP server in a thread, bytes signed by the test PKI, every silence on request."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from asn1crypto import tsp
from cryptography.x509 import ocsp as x509_ocsp

from tests.trust import centre, pki
from tests.trust.centre import Directory, Shared
from tests.trust.pki import Holder, Stamp, Statement


@dataclass
class Services:
    """What the server answers; tests change it while it runs. Certificates are valid around the real time of now."""

    port: int = 0
    signer: Holder = field(default_factory=lambda: pki.issue("CN=Configuration"))
    ca: Holder = field(default_factory=lambda: real("O=Red,CN=CA"))
    version: int = 6
    generation: int = 1
    validity_s: float = 3600
    freshness: str = "28800"
    configuration_up: bool = True
    ocsp_up: bool = True
    tsa_up: bool = True
    first_tsa: str = "up"
    """`up`, `silent` (takes the connection, never answers) or `wrong` (a stamp over something else)."""
    first_responder: str = ""
    """`down`, `silent`, `forging`: a responder that is listed before the good one; empty: there is none."""
    revoked: bool = False
    with_nonce: bool = True
    leaves: list[Holder] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    ocsp_produced_ago_s: float = 0
    configuration_ahead_s: float = 0
    """How far the clock of the configuration's maker is ahead of ours."""
    born: datetime = field(default_factory=lambda: datetime.now(UTC) - timedelta(hours=1))  # noqa: TID251  a real server's clock
    ahead_s: float = 0
    """How far the clock of responder and authorities is ahead of ours."""

    def __post_init__(self) -> None:
        self.tsas = [real(f"O=Red,CN=TSA {number}", self.ca, tsa=True) for number in (1, 2)]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def anchor(self) -> bytes:
        return centre.anchor((self.url("/internalconf"), self.signer))

    def directory(self) -> Directory:
        tsas = [(f"TSA {number}", self.url(f"/tsa{number}"), holder) for number, holder in enumerate(self.tsas, 1)]
        shared = Shared(ca=self.ca, tsas=tsas, ocsp_urls=self._responders(), freshness=self.freshness)
        return Directory(
            signer=self.signer,
            parts={"SHARED-PARAMETERS": shared.xml(), "PRIVATE-PARAMETERS": centre.private()},
            expires=datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self.validity_s),  # noqa: TID251  a real server's clock
            generated=(self.born + timedelta(seconds=self.generation + self.configuration_ahead_s)).strftime("%Y%m%d%H%M%S000000000"),
        )

    def _responders(self) -> tuple[str, ...]:
        first = (self.url("/first"),) if self.first_responder else ()
        return (*first, self.url("/ocsp"))

    def get(self, path: str) -> tuple[int, bytes]:
        if not self.configuration_up:
            return 503, b""
        directory = self.directory()
        if path == f"/internalconf?version={self.version}":
            return 200, directory.body()
        content = directory.files().get(path)
        return (404, b"") if content is None else (200, content)

    def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        if path == "/first":
            if self.first_responder == "silent":
                self.stop.wait(20)
            return (503, b"") if self.first_responder == "down" else (200, self._ocsp(body, real("O=Falso,CN=CA")))
        if path == "/ocsp":
            return (200, self._ocsp(body)) if self.ocsp_up else (503, b"")
        number = int(path[-1])
        if number == 1 and self.first_tsa == "silent":
            self.stop.wait(20)
        if not self.tsa_up:
            return 503, b""
        return 200, self._stamp(body, number)

    def _ocsp(self, body: bytes, signer: Holder | None = None) -> bytes:
        request = x509_ocsp.load_der_ocsp_request(body)
        leaf = next(one for one in self.leaves if one.certificate.serial_number == request.serial_number)
        now = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self.ahead_s - self.ocsp_produced_ago_s)  # noqa: TID251  a real server's clock
        status = x509_ocsp.OCSPCertStatus.REVOKED if self.revoked else x509_ocsp.OCSPCertStatus.GOOD
        nonces = [extension.value.nonce for extension in request.extensions] if self.with_nonce else []
        statement = Statement(leaf, self.ca, status, now, now + timedelta(hours=9))
        return pki.ocsp_response(statement, signer or self.ca, nonce=nonces[0] if nonces else None, produced=now)

    def _now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.ahead_s)  # noqa: TID251  a real server's clock

    def _stamp(self, body: bytes, number: int) -> bytes:
        request = tsp.TimeStampReq.load(body)
        imprint = request["message_imprint"]["hashed_message"].native
        if number == 1 and self.first_tsa == "wrong":
            imprint = bytes(64)
        stamp = Stamp(imprint=imprint, nonce=request["nonce"].native, gen_time=self._now())
        return pki.stamp_response(pki.token(self.tsas[number - 1], stamp))


def real(subject: str, issuer: Holder | None = None, *, tsa: bool = False) -> Holder:
    """A certificate that is valid whenever the tests run."""
    validity = {"begins": datetime(2020, 1, 1, tzinfo=UTC), "ends": datetime(2099, 1, 1, tzinfo=UTC)}
    if tsa:
        return pki.tsa(issuer or pki.ca(), subject=subject, **validity)
    return pki.ca(subject, **validity) if issuer is None else pki.signing(issuer, subject, **validity)


@contextmanager
def serving(services: Services) -> Iterator[Services]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            services.requests.append(f"GET {self.path}")
            self._say(*services.get(self.path))

        def do_POST(self) -> None:
            services.requests.append(f"POST {self.path}")
            self._say(*services.post(self.path, self.rfile.read(int(self.headers["Content-Length"]))))

        def _say(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                return  # the caller went away

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    services.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield services
    finally:
        services.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
