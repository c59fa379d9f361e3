"""CEIQROO's services on the simulated network: real signed bytes, and every way to fall silent.

Configuration source, OCSP responder and time-stamping authority are the centre's own pure functions behind a few lines of HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cryptography.x509 import ocsp as x509_ocsp

from provisioning import publication
from provisioning.authority import ocsp_responder, tsa
from provisioning.centre import Parameters
from tests.simulation.network import SimNetwork
from tests.simulation.town import CEIQROO, CONFIGURATION_PORT, OCSP_PORT, TSA_PORT, PublishedParts, Town
from tests.simulation.virtual_time import SimLoop, SimProcess

UP, SILENT, DOWN, REFUSES = "up", "silent", "down", "refuses"
"""Answers; takes the connection and never answers; says 503; breaks the connection."""

Handler = Callable[[str, str, dict[str, str], bytes], Awaitable[tuple[int, bytes]]]
"""`await handler(method, target, headers, body)`: status and body. Status 0: no answer, ever; -1: the connection breaks."""


def serve_http(network: SimNetwork, address: tuple[str, int], handler: Handler, loop: SimLoop) -> None:
    """As a process of its own on that host; one request after the other on each connection."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                status, answer = await handler(method, target, headers, body)
                if status == 0:
                    await asyncio.Event().wait()
                if status < 0:
                    writer.transport.abort()
                    return
                keep = headers.get("connection", "") != "close"
                word = "" if keep else "Connection: close\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: {len(answer)}\r\n{word}\r\n".encode() + answer)
                if not keep:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.transport.abort()

    def factory() -> Any:
        reader = asyncio.StreamReader(loop=loop)
        return asyncio.StreamReaderProtocol(reader, conversation, loop=loop)

    process = SimProcess(address[0], f"http:{address[1]}")

    async def main() -> None:
        network.serve(factory, network.listen(address))
        await asyncio.Event().wait()

    loop.start(process, main())


@dataclass
class Moods:
    """How each service is just now."""

    configuration: str = UP
    ocsp: str = UP
    tsa: str = UP
    ocsp_age_us: int = 0
    """Above zero: prepared answers of that age, without the nonce."""
    tsa_ahead_us: int = 0


class Ceiqroo:
    """The three services of one run."""

    def __init__(self, town: Town, true_us: Callable[[], int], parameters: Parameters) -> None:
        self._town, self._true_us, self._centre = town, true_us, town.centre(parameters)
        self._parameters = parameters
        self.registry = PublishedParts(town)
        self.moods = Moods()
        self._parts: dict[str, bytes] = {}
        self._serial = 1 << 100
        """Far above any count of a run: every number has the same length."""
        self._by_serial = {certificate.serial_number: certificate for one in town.institutions for certificate in one.certificates.values()}

    def open(self, network: SimNetwork, loop: SimLoop) -> None:
        for port, handler in ((CONFIGURATION_PORT, self._configuration), (OCSP_PORT, self._ocsp), (TSA_PORT, self._tsa)):
            serve_http(network, (CEIQROO, port), handler, loop)

    async def _configuration(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if (refused := _mood(self.moods.configuration)) is not None:
            return refused
        if target.startswith("/internalconf"):
            version = target.rpartition("version=")[2]
            if version != "6":
                return 404, b""
            made = publication.publish(self.registry, self._centre, self._town.signing(), 6, self._true_us())  # type: ignore[arg-type]
            self._parts |= made.parts
            return 200, made.directory
        content = self._parts.get(target)
        return (404, b"") if content is None else (200, content)

    async def _ocsp(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if (refused := _mood(self.moods.ocsp)) is not None:
            return refused
        if self.moods.ocsp_age_us:
            serial = x509_ocsp.load_der_ocsp_request(body).serial_number
            at_us = self._true_us() - self.moods.ocsp_age_us
            return 200, self._town.confirmation(self._by_serial[serial], at_us, self._parameters.ocsp_validity_s)
        good = ocsp_responder.CertificateStatus()
        validity_s = self._parameters.ocsp_validity_s
        return 200, ocsp_responder.answer(body, lambda _: good, self._town.delegate, self._true_us(), validity_s)

    async def _tsa(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if (refused := _mood(self.moods.tsa)) is not None:
            return refused
        self._serial += 1
        return 200, tsa.answer(body, self._town.stamping, self._true_us() + self.moods.tsa_ahead_us, self._serial)


def _mood(mood: str) -> tuple[int, bytes] | None:
    return {UP: None, SILENT: (0, b""), DOWN: (503, b""), REFUSES: (-1, b"")}[mood]
