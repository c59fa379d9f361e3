"""A fixed amount of work over keep-alive connections: a small HTTP/1.1 client that costs little and counts what it got."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Outcome:
    """What came back: answers by status, and the time of each in milliseconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def succeeded(self) -> int:
        return self.statuses.get(200, 0) + self.statuses.get(201, 0)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


class Connections:
    """`in_flight` connections, open before anything is measured: a handshake is a cost of its own (`tests.bench.memory`, `relay_floor`)."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, in_flight: int, sources: Sequence[str] = ()) -> None:
        """`sources`: local addresses to come from, in turn; a box bounds the connections of one address."""
        self._host, self._port, self._context, self._in_flight, self._sources = host, port, context, in_flight, sources
        self._open: list[Streams] = []

    async def __aenter__(self) -> Connections:
        for at in range(self._in_flight):
            self._open.append(await self._connect(at))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for _, writer in self._open:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _connect(self, at: int) -> Streams:
        source = (self._sources[at % len(self._sources)], 0) if self._sources else None
        name = "localhost" if self._context else None
        return await asyncio.open_connection(self._host, self._port, ssl=self._context, server_hostname=name, local_addr=source)

    async def work(self, request: bytes, count: int) -> Outcome:
        """Sends `count` copies of `request`, one at a time on each connection, and reads every answer whole (by its Content-Length)."""
        outcome, left = Outcome(), count
        began = time.perf_counter()

        async def one_connection(at: int) -> None:
            nonlocal left
            reader, writer = self._open[at]
            while left > 0:
                left -= 1
                sent = time.perf_counter()
                writer.write(request)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0))
                status = int(head[9:12])
                outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
                outcome.times_ms.append((time.perf_counter() - sent) * 1000)
                if b"connection: close" in head:
                    writer.close()
                    reader, writer = self._open[at] = await self._connect(at)

        async with asyncio.TaskGroup() as group:
            for at in range(self._in_flight):
                group.create_task(one_connection(at))
        outcome.seconds = time.perf_counter() - began
        return outcome
