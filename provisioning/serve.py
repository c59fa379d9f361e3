"""CEIQROO's services on the network: distribution of the configuration, OCSP, time stamps; one process, one port each, plain HTTP.

Shell. Everything served here is signed, so TLS would add nothing that could be believed (RFC 6960 A.1, RFC 3161 3.4, sheet 6.2). What is
answered is decided by the pure modules; here are limits, deadlines and the order of start and stop. A directory is signed anew when it is
asked for and the registry has changed or the last one is older than a minute: nothing runs while nobody asks.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
import signal
import socket
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote_to_bytes

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from appliance.clock import Clock, SystemClock
from appliance.errors import SettingsError
from appliance.journal import event, start_journal
from provisioning import publication
from provisioning.authority import ocsp_responder, tsa
from provisioning.authority.profiles import Profile
from provisioning.centre import Centre
from provisioning.registry import Registry
from provisioning.verifier.build import build

SERVICES = ("configuration", "configuration-https", "ocsp", "tsa")
EXTERNAL = "/externalconf"
"""What federated instances fetch: the shared parameters alone."""

DIRECTORY_S_MAX = 60
"""Age at which a directory is signed anew (house rule: every 60 s), so that its expiry stays that far ahead."""

PARTS_KEPT_MAX = 64
"""Parts of earlier directories, still served: a box fetches directory and parts in two steps, and a change may fall between them."""

CONNECTIONS_MAX = 512
"""For each service; a box keeps one. More are answered 503 by the server."""

BACKLOG = 256
IDLE_S_MAX = 75
STOP_S_MAX = 1
"""For answers under way at SIGTERM; all of them take milliseconds."""


class _TooLargeError(Exception):
    """The body is longer than any that we answer."""


class Distribution:
    """The directories of every version with their parts. Invariant: every part named by a directory that was handed out is served."""

    def __init__(self, centre: Centre, registry: Registry, clock: Clock) -> None:
        self._centre, self._registry, self._clock = centre, registry, clock
        self._signing = publication.ConfigurationKey(centre.certificate(Profile.CONFIGURATION), centre.key(Profile.CONFIGURATION))
        self._parts: OrderedDict[str, bytes] = OrderedDict()
        self._directories: dict[tuple[int, bool], tuple[int, float, bytes]] = {}

    def directory(self, version: int, *, external: bool = False) -> bytes:
        """The signed directory: at most a minute old, and never older than the registry."""
        revision, now_s = self._registry.revision(), self._clock.monotonic_s()
        known = self._directories.get((version, external))
        if known is not None and known[0] == revision and now_s - known[1] < DIRECTORY_S_MAX:
            return known[2]
        made = publication.publish(self._registry, self._centre, self._signing, version, self._clock.now_us(), external=external)
        for location, content in made.parts.items():
            self._parts[location] = content
            self._parts.move_to_end(location)
        while len(self._parts) > PARTS_KEPT_MAX:
            self._parts.popitem(last=False)
        self._directories[version, external] = (revision, now_s, made.directory)
        return made.directory

    def part(self, location: str) -> bytes | None:
        """A part by its path; after a restart the present ones exist once a directory was made."""
        if location not in self._parts:
            for version in publication.VERSIONS:
                self.directory(version)
        return self._parts.get(location)


def configuration_app(distribution: Distribution) -> Starlette:
    """Sheet 6.2: 404 for a version that we do not make; without a version the newest one."""

    async def directory(request: Request) -> Response:
        version = request.query_params.get("version", str(publication.NEWEST))
        if version not in map(str, publication.VERSIONS):
            return PlainTextResponse("no such version\n", 404)
        external = request.url.path == EXTERNAL
        return Response(distribution.directory(int(version), external=external), media_type="application/octet-stream")

    async def part(request: Request) -> Response:
        content = distribution.part(request.url.path)
        if content is None:
            return PlainTextResponse("no such part\n", 404)
        return Response(content, media_type="application/octet-stream")

    async def verifier(_: Request) -> Response:
        # to be saved and opened from disk: browsers allow no cryptography to a page that came over plain HTTP
        return Response(_verifier_page(), media_type="text/html", headers={"Content-Disposition": 'attachment; filename="verify.html"'})

    return Starlette(
        routes=[
            Route("/verify.html", verifier),
            Route("/internalconf", directory),
            Route(EXTERNAL, directory),
            Route("/V{version:int}/{since}/{file}", part),
        ]
    )


@cache
def _verifier_page() -> bytes:
    return build()


def ocsp_app(answer: Callable[[bytes], bytes]) -> Starlette:
    """RFC 6960 appendix A: POST, or GET with the request in base64 as the last part of the path."""

    async def posted(request: Request) -> Response:
        try:
            return _ocsp_response(answer(await _body(request, ocsp_responder.REQUEST_BYTES_MAX)))
        except _TooLargeError:
            return PlainTextResponse("request too large\n", 413)

    async def got(request: Request) -> Response:
        # The raw path: a server in front may have decoded %2F, which is part of base64 and not of the path.
        encoded = unquote_to_bytes(bytes(request.scope["raw_path"]).removeprefix(b"/ocsp/"))
        try:
            asked = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            asked = b""
        return _ocsp_response(answer(asked))

    return Starlette(routes=[Route("/ocsp", posted, methods=["POST"]), Route("/ocsp/{encoded:path}", got)])


def tsa_app(answer: Callable[[bytes], bytes]) -> Starlette:
    """RFC 3161 3.4: a query in, an answer out; rejections are answers too and carry status 200."""

    async def stamped(request: Request) -> Response:
        try:
            query = await _body(request, tsa.QUERY_BYTES_MAX)
        except _TooLargeError:
            return PlainTextResponse("query too large\n", 413)
        return Response(answer(query), media_type="application/timestamp-reply")

    return Starlette(routes=[Route("/tsa", stamped, methods=["POST"])])


def apps(centre: Centre, registry: Registry, clock: Clock, only: Sequence[str] = SERVICES) -> dict[str, Starlette]:
    """The services' applications, each with its own key and no other."""
    made: dict[str, Starlette] = {}
    if distributing := {"configuration", "configuration-https"}.intersection(only):
        made |= dict.fromkeys(sorted(distributing), configuration_app(Distribution(centre, registry, clock)))
    if "ocsp" in only:
        delegate = ocsp_responder.Delegate(centre.certificate(Profile.ISSUING), centre.certificate(Profile.OCSP), centre.key(Profile.OCSP))
        validity_s = centre.settings.parameters.ocsp_validity_s
        made["ocsp"] = ocsp_app(lambda asked: ocsp_responder.answer(asked, registry.status, delegate, clock.now_us(), validity_s))
    if "tsa" in only:
        stamping = tsa.StampingKey(centre.certificate(Profile.TSA), centre.key(Profile.TSA))
        numbers = tsa.SerialNumbers()
        made["tsa"] = tsa_app(lambda query: tsa.answer(query, stamping, clock.now_us(), numbers.take()))
    return made


@dataclass(frozen=True, slots=True)
class OffsetClock:
    """The machine's clock, off by some seconds: for a laboratory that shows what boxes do when time and signed time differ (T40)."""

    offset_s: int

    def now_us(self) -> int:
        return SystemClock().now_us() + self.offset_s * 1_000_000

    def monotonic_s(self) -> float:
        return SystemClock().monotonic_s()


def run(centre: Centre, address: str, ports: dict[str, int], offset_s: int = 0) -> None:
    """Serves what `ports` names until SIGTERM or SIGINT; says `ready` on standard output once every port listens."""
    log = start_journal("ceiqroo", logging.WARNING)
    sockets = {name: _listening(address, port) for name, port in ports.items()}
    with centre.registry() as registry:
        served = apps(centre, registry, OffsetClock(offset_s), tuple(ports))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(centre, served, sockets, log))


@dataclass(frozen=True, slots=True)
class _Stopper:
    servers: list[_Server]

    def stop(self) -> None:
        for server in self.servers:
            server.should_exit = True


class _Server(uvicorn.Server):
    """Without uvicorn's own signal handlers: several servers share this process, and one of ours stops them all."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listens.set()


async def _run(centre: Centre, served: dict[str, Starlette], sockets: dict[str, socket.socket], log: logging.Logger) -> None:
    servers = {name: _Server(_config(app, centre if name.endswith("-https") else None)) for name, app in served.items()}
    stopper = _Stopper(list(servers.values()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopper.stop)
    async with asyncio.TaskGroup() as group:
        for name, server in servers.items():
            group.create_task(server.serve([sockets[name]]), name=name)
        for server in servers.values():
            await server.listens.wait()
        places = " ".join(f"{name}={_place(sockets[name])}" for name in servers)
        sys.stdout.write(f"ready {places}\n")
        sys.stdout.flush()
    event(log, logging.INFO, "services.stopped")


def _config(app: Starlette, encrypted: Centre | None) -> uvicorn.Config:
    """`encrypted`: serve by TLS with that centre's own certificate."""
    return uvicorn.Config(
        app,
        ssl_certfile=None if encrypted is None else str(encrypted.certificate_file(Profile.WEB, "pem")),
        ssl_keyfile=None if encrypted is None else str(encrypted.key_file(Profile.WEB)),
        lifespan="off",
        access_log=False,
        log_config=None,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_keep_alive=IDLE_S_MAX,
        timeout_graceful_shutdown=STOP_S_MAX,
        server_header=False,
        date_header=False,
    )


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Inherited by every connection: head and body of an answer are two writes, and Nagle would hold the second for 40 ms (measured).
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((address, port))
    except OSError as error:
        raise SettingsError(f"{address}:{port}: {error.strerror}", kind="serve.address") from None
    listener.listen(BACKLOG)
    return listener


def _place(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    return f"{address}:{port}"


async def _body(request: Request, bytes_max: int) -> bytes:
    """The whole body, read no further than its bound."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise _TooLargeError
    return bytes(body)


def _ocsp_response(der: bytes) -> Response:
    return Response(der, media_type="application/ocsp-response")
