"""A fixed amount of work over keep-alive connections: a small HTTP/1.1 client that costs little and counts what it got."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass, field


@dataclass
class Outcome:
    """What came back: answers by status, and the time of each in milliseconds."""

    statuses: dict[int, int] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def percentile(self, share: float) -> float:
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


async def work(host: str, port: int, context: ssl.SSLContext | None, request: bytes, count: int, in_flight: int) -> Outcome:
    """Sends `count` copies of `request` over `in_flight` connections and reads every answer whole (they have a Content-Length)."""
    outcome, left = Outcome(), count
    began = time.perf_counter()

    async def one_connection() -> None:
        nonlocal left
        reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost" if context else None)
        try:
            while left > 0:
                left -= 1
                sent = time.perf_counter()
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                await reader.readexactly(length)
                outcome.statuses[status] = outcome.statuses.get(status, 0) + 1
                outcome.times_ms.append((time.perf_counter() - sent) * 1000)
                if b"connection: close" in head.lower():
                    writer.close()
                    reader, writer = await asyncio.open_connection(
                        host, port, ssl=context, server_hostname="localhost" if context else None
                    )
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_connection())
    outcome.seconds = time.perf_counter() - began
    return outcome
