"""Information systems: they ask their own box over HTTP, and serve what their own box delivers. What they see is what counts (I1, I2, I6).

A request names itself: its message id is `Q-<number>`, and its body begins with it. So does the answer's body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.simulation.ceiqroo import serve_http
from tests.simulation.network import NetworkLoop, SimNetwork
from tests.simulation.scenario import Ask
from tests.simulation.town import CLIENT_PORT, SYSTEM_PORT, Institution
from tests.simulation.virtual_time import SimProcess

ANSWER_S_MAX = 100.0
"""Longer than any box keeps an information system waiting for an answer of its own."""


def question_of(ask: Ask) -> bytes:
    """The body of a request; empty where it has none."""
    return b"" if ask.body_bytes == 0 else name_of(ask.number).ljust(ask.body_bytes, b"?")


def name_of(number: int) -> bytes:
    return b"Q-%04d" % number


def answer_to(name: bytes, body: bytes) -> bytes:
    """Of every length: a third of the question's, and its name."""
    return name + b" was heard " + b"!" * (len(body) // 3)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A request that an information system was given by its own box."""

    at_s: float
    provider: str
    client: str
    service: str
    query_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an information system heard of its request. `status` 0: the connection broke, or nothing came."""

    ask: Ask
    began_s: float
    ended_s: float
    status: int
    body: bytes
    error: str = ""

    @property
    def is_answer(self) -> bool:
        return self.status == 200 and not self.error


@dataclass
class System:
    """One institution's information system. `waits_s`: before it answers."""

    institution: Institution
    loop: NetworkLoop
    network: SimNetwork
    note: Callable[..., None]
    waits_s: float = 0.01
    breaks: bool = False
    deliveries: list[Delivery] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def open(self) -> None:
        self.process = SimProcess(self.institution.system_host, "system")
        serve_http(self.network, (self.institution.system_host, SYSTEM_PORT), self._serve, self.loop)

    async def _serve(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        query_id = headers.get("x-road-id", "")
        delivery = Delivery(self.loop.now, self.institution.code, headers.get("x-road-client", ""), target.split("/")[1], query_id, body)
        self.deliveries.append(delivery)
        self.note(self.institution.system_host, f"is given {query_id} of {delivery.client} for {delivery.service}, {len(body)} bytes")
        await asyncio.sleep(self.waits_s)
        return (-1, b"") if self.breaks else (200, answer_to(query_id.encode(), body))

    async def ask(self, ask: Ask, provider: Institution) -> Outcome:
        """One request, whatever becomes of it."""
        began_s = self.loop.now
        status, answer, error = 0, b"", ""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                status, answer, error = await self._exchange(ask, provider)
        except TimeoutError:
            error = "nothing came"
        except (OSError, asyncio.IncompleteReadError) as broken:
            error = type(broken).__name__
        outcome = Outcome(ask, began_s, self.loop.now, status, answer, error)
        self.outcomes.append(outcome)
        self.note(self.institution.system_host, f"{name_of(ask.number).decode()} ends: {status} {error} {len(answer)} bytes")
        return outcome

    async def _exchange(self, ask: Ask, provider: Institution) -> tuple[int, bytes, str]:
        reader, writer = await asyncio.open_connection(self.institution.host, CLIENT_PORT)
        try:
            body = question_of(ask)
            head = (
                f"POST /r1/{provider.service(ask.service).encoded()}/{ask.number} HTTP/1.1\r\nHost: {self.institution.host}\r\n"
                f"X-Road-Client: {self.institution.client.encoded()}\r\nX-Road-Id: {name_of(ask.number).decode()}\r\n"
                f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            )
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
            length = headers.get("content-length")
            answer = await (reader.read() if length is None else reader.readexactly(int(length)))
            return int(lines[0].split(" ")[1]), answer, headers.get("x-road-error", "")
        finally:
            writer.transport.abort()
