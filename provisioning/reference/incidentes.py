"""The reference information system "Solomon incidentes": what stands behind a box in commissioning, demonstration and measurement.

Shell. Plain HTTP/1.1, no knowledge of Xacbe: it sees what its box sends it. Incidents are fictional and live in memory. Besides the service
proper (`/incidentes`, described in `openapi.json`) it has endpoints that show what arrives (`/eco`), move bytes (`/bytes`) and take their
time (`/lento`). It is a plain ASGI function: in measurements its share of the processor must stay small.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import re
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import msgspec
import uvicorn

from appliance.clock import Clock, SystemClock, iso
from appliance.errors import UNREADABLE

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DESCRIPTION_FILE = Path(__file__).with_name("openapi.json")

INCIDENT_BYTES_MAX = 16 << 10
INCIDENTS_MAX = 10_000
"""Kept in memory; with one more the oldest goes: this is a demonstration, not an archive."""
PAGE_MAX = 500
ECHO_KEPT_BYTES_MAX = 1 << 20
"""A longer body is only counted and hashed: the echo grows it by two thirds, and a demonstration needs no more."""
UPLOAD_BYTES_MAX = 1 << 30
DOWNLOAD_BYTES_MAX = 1 << 30
CHUNK_BYTES = 64 << 10
PAUSE_MS_MAX = 120_000

_CHUNK = bytes(range(256)) * (CHUNK_BYTES // 256)
_FOLIO = re.compile(r"[A-Z0-9-]{1,40}")


class NewIncident(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What a caller reports. `fecha`: RFC 3339; the place as degrees of WGS 84."""

    tipo: str
    fecha: str
    municipio: str
    lat: float
    lon: float
    descripcion: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.tipo) <= 80 or not 1 <= len(self.municipio) <= 80 or len(self.descripcion) > 2000:
            raise ValueError("tipo y municipio: 1 a 80 caracteres; descripcion: hasta 2000")
        if not (-90 <= self.lat <= 90 and -180 <= self.lon <= 180):
            raise ValueError("lat de -90 a 90, lon de -180 a 180")
        if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)", self.fecha):
            raise ValueError("fecha en RFC 3339")


class Incident(NewIncident, kw_only=True):
    folio: str


_SAMPLE = (
    ("robo a comercio", "2026-01-05T14:20:00-05:00", "Benito Juárez", 21.1619, -86.8515, "Dato ficticio: tienda de conveniencia."),
    ("accidente vial", "2026-01-05T18:02:00-05:00", "Solidaridad", 20.6296, -87.0739, "Dato ficticio: dos vehículos, sin heridos."),
    ("persona extraviada", "2026-01-06T09:41:00-05:00", "Othón P. Blanco", 18.5036, -88.3055, "Dato ficticio: localizada el mismo día."),
    ("daño a propiedad", "2026-01-07T22:15:00-05:00", "Cozumel", 20.5083, -86.9458, "Dato ficticio: barda dañada."),
    ("robo de vehículo", "2026-01-08T03:30:00-05:00", "Tulum", 20.2114, -87.4654, "Dato ficticio: motocicleta."),
    ("incendio", "2026-01-09T16:55:00-05:00", "Bacalar", 18.6781, -88.3953, "Dato ficticio: pastizal, controlado."),
)


class Incidents:
    """The incidents in memory, newest last. Invariant: at most INCIDENTS_MAX."""

    def __init__(self) -> None:
        self._by_folio: dict[str, Incident] = {}
        self._count = 0
        for tipo, fecha, municipio, lat, lon, descripcion in _SAMPLE:
            self.add(NewIncident(tipo=tipo, fecha=fecha, municipio=municipio, lat=lat, lon=lon, descripcion=descripcion))

    def add(self, new: NewIncident) -> Incident:
        self._count += 1
        incident = Incident(folio=f"QROO-{self._count:06d}", **msgspec.structs.asdict(new))
        self._by_folio[incident.folio] = incident
        if len(self._by_folio) > INCIDENTS_MAX:
            del self._by_folio[next(iter(self._by_folio))]
        return incident

    def find(self, folio: str) -> Incident | None:
        return self._by_folio.get(folio)

    def page(self, municipio: str | None, tipo: str | None, limite: int) -> list[Incident]:
        """The newest first, at most `limite`."""
        found = (
            incident
            for incident in reversed(self._by_folio.values())
            if municipio in (None, incident.municipio) and tipo in (None, incident.tipo)
        )
        return [incident for incident, _ in zip(found, range(limite), strict=False)]


class _TooLargeError(Exception):
    """The body is longer than the endpoint takes."""


class _GoneError(Exception):
    """The caller left before its body was whole: nobody waits for an answer."""


class System:
    """The application: an ASGI callable over one memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._incidents = Incidents()
        self._description = DESCRIPTION_FILE.read_bytes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        head, _, rest = scope["path"].removeprefix("/").partition("/")
        endpoint = self._ENDPOINTS.get(head)
        if endpoint is None:
            await _problem(send, 404, "no existe")
            return
        try:
            await endpoint(self, scope, rest, receive, send)
        except _TooLargeError:
            await _problem(send, 413, "cuerpo demasiado grande")
        except _GoneError:
            return

    async def _incidentes(self, scope: Scope, folio: str, receive: Receive, send: Send) -> None:
        match scope["method"], folio:
            case "GET", "":
                await self._list(scope, send)
            case "POST", "":
                await self._report(await _body(receive, INCIDENT_BYTES_MAX), send)
            case "GET", _ if _FOLIO.fullmatch(folio) and (found := self._incidents.find(folio)):
                await _json(send, 200, msgspec.json.encode(found))
            case "GET", _:
                await _problem(send, 404, "no hay incidente con ese folio")
            case _:
                await _problem(send, 405, "sólo GET, y POST sobre la colección", ((b"allow", b"GET, POST" if not folio else b"GET"),))

    async def _list(self, scope: Scope, send: Send) -> None:
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()}
        limit = query.get("limite", "100")
        if not limit.isdecimal() or not 1 <= int(limit) <= PAGE_MAX:
            await _problem(send, 400, f"limite: de 1 a {PAGE_MAX}")
            return
        found = self._incidents.page(query.get("municipio"), query.get("tipo"), int(limit))
        await _json(send, 200, msgspec.json.encode({"total": len(found), "incidentes": found}))

    async def _report(self, body: bytes, send: Send) -> None:
        try:
            new = msgspec.json.decode(body, type=NewIncident)
        except UNREADABLE as error:
            await _problem(send, 400, str(error))
            return
        incident = self._incidents.add(new)
        location = (b"location", f"/incidentes/{incident.folio}".encode())
        await _json(send, 201, msgspec.json.encode(incident), (location,))

    async def _eco(self, scope: Scope, _: str, receive: Receive, send: Send) -> None:
        """Everything that arrived, as JSON; the path as it came, before any decoding. Of a long body only length and digest."""
        count, digest, body = await _counted(receive, ECHO_KEPT_BYTES_MAX)
        seen = {
            "method": scope["method"],
            "path": scope["raw_path"].decode("latin-1"),
            "query": scope["query_string"].decode("latin-1"),
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]],
            "bytes": count,
            "sha256": digest,
            "body": None if body is None else _utf8(body),
            "body_base64": None if body is None else base64.b64encode(body).decode(),
        }
        await _json(send, 200, json.dumps(seen).encode())

    async def _bytes(self, scope: Scope, count: str, receive: Receive, send: Send) -> None:
        if scope["method"] in ("POST", "PUT") and not count:
            await self._swallow(receive, send)
        elif scope["method"] in ("GET", "HEAD") and count.isdecimal() and len(count) <= 10 and int(count) <= DOWNLOAD_BYTES_MAX:
            await self._pour(int(count), scope["method"] == "HEAD", receive, send)
        else:
            await _problem(send, 400, f"GET /bytes/N con N hasta {DOWNLOAD_BYTES_MAX}, o POST /bytes")

    async def _pour(self, count: int, head_only: bool, receive: Receive, send: Send) -> None:
        """`send` waits while the socket's buffer is full: memory stays at a few chunks whatever the size."""
        await _begin(send, 200, b"application/octet-stream", count)
        left = 0 if head_only else count
        while left > CHUNK_BYTES:
            await send({"type": "http.response.body", "body": _CHUNK, "more_body": True})
            left -= CHUNK_BYTES
        await send({"type": "http.response.body", "body": _CHUNK[:left]})

    async def _swallow(self, receive: Receive, send: Send) -> None:
        count, digest, _ = await _counted(receive, 0)
        await _json(send, 200, json.dumps({"bytes": count, "sha256": digest}).encode())

    async def _lento(self, scope: Scope, pause: str, receive: Receive, send: Send) -> None:
        if not pause.isdecimal() or len(pause) > 6 or int(pause) > PAUSE_MS_MAX:
            await _problem(send, 400, f"/lento/MS con MS hasta {PAUSE_MS_MAX}")
            return
        began_us = self._clock.now_us()
        await asyncio.sleep(int(pause) / 1000)
        await _json(send, 200, json.dumps({"pausa_ms": int(pause), "desde": iso(began_us)}).encode())

    async def _openapi(self, scope: Scope, _: str, receive: Receive, send: Send) -> None:
        await _json(send, 200, self._description)

    _ENDPOINTS = {
        "incidentes": _incidentes,
        "eco": _eco,
        "bytes": _bytes,
        "lento": _lento,
        "openapi.json": _openapi,
    }


async def _body(receive: Receive, bytes_max: int) -> bytes:
    """The whole body, read no further than its bound."""
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise _TooLargeError
        more = message.get("more_body", False)
    return bytes(body)


async def _counted(receive: Receive, kept_bytes_max: int) -> tuple[int, str, bytes | None]:
    """Length and SHA-256 (hexadecimal) of a body up to UPLOAD_BYTES_MAX, and the body where it is at most `kept_bytes_max` long."""
    digest, count, kept = hashlib.sha256(), 0, bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        piece = message["body"]
        digest.update(piece)
        count += len(piece)
        if count > UPLOAD_BYTES_MAX:
            raise _TooLargeError
        if count <= kept_bytes_max:
            kept += piece
        else:
            kept.clear()
        more = message.get("more_body", False)
    return count, digest.hexdigest(), bytes(kept) if count <= kept_bytes_max else None


def _utf8(body: bytes) -> str | None:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


async def _begin(send: Send, status: int, kind: bytes, length: int, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(length).encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _json(send: Send, status: int, document: bytes, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    await _begin(send, status, b"application/json", len(document), more)
    await send({"type": "http.response.body", "body": document})


async def _problem(send: Send, status: int, detail: str, more: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    """RFC 9457 in its smallest form."""
    document = json.dumps({"status": status, "detail": detail}, ensure_ascii=False).encode()
    await _begin(send, status, b"application/problem+json", len(document), more)
    await send({"type": "http.response.body", "body": document})


class Server(uvicorn.Server):
    """Says `ready` on its output once it listens."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        sys.stdout.write("ready\n")
        sys.stdout.flush()


def main(argv: list[str] | None = None) -> None:
    """`python -m provisioning.reference.incidentes --address A --port P`; says `ready` once it listens."""
    parser = argparse.ArgumentParser(description="Sistema de información de referencia: Solomon incidentes.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    arguments = parser.parse_args(argv)
    listener = socket.socket(socket.AF_INET6 if ":" in arguments.address else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited: head and body are two writes
    listener.bind((arguments.address, arguments.port))
    config = uvicorn.Config(
        System(SystemClock()),
        lifespan="off",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
        backlog=1024,
    )
    Server(config).run([listener])


if __name__ == "__main__":
    main()
