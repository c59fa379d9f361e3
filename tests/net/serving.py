"""Listeners and dialers on loopback for tests: real sockets, real TLS, an event loop of the kind a box uses."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import uvloop

from appliance.errors import XacbeError
from appliance.net.connection import ClientConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.listener import Handler, Listener, ListenerLimits
from appliance.net.tls_engine import HandshakeThreads


def run(main: Callable[[], Coroutine[Any, Any, None]], limit_s: float = 20) -> None:
    """Runs one test's coroutine on uvloop; whatever goes wrong in a callback fails the test."""
    wrong: list[dict[str, Any]] = []

    async def bounded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: wrong.append(context))
        async with asyncio.timeout(limit_s):
            await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())
    assert not wrong, wrong


class Served:
    """A running listener, where it is, and whom it refused."""

    def __init__(self, listener: Listener, port: int, refused: list[tuple[str, XacbeError]]) -> None:
        self.listener, self.port, self.refused = listener, port, refused
        self.clients: list[asyncio.StreamWriter] = []
        self.dialers: list[Dialer] = []

    async def dial(self, limits: DialerLimits | None = None) -> ClientConnection:
        """A client of ours without TLS; ended with the listener."""
        dialer = Dialer(limits or DialerLimits())
        self.dialers.append(dialer)
        return await dialer.acquire([("127.0.0.1", self.port)], "test")

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A client that is not ours; closed with the listener."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=context, server_hostname="" if context else None)
        self.clients.append(writer)
        return reader, writer

    @property
    def kinds(self) -> list[str]:
        return [error.kind for _, error in self.refused]


@contextlib.asynccontextmanager
async def serving(
    handler: Handler,
    limits: ListenerLimits | None = None,
    *,
    context: Callable[[], ssl.SSLContext] | None = None,
    threads: HandshakeThreads | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Served]:
    sock = socket.create_server((host, 0), backlog=1024)
    refused: list[tuple[str, XacbeError]] = []
    listener = Listener(
        sock,
        handler,
        limits or ListenerLimits(),
        context=context,
        threads=threads,
        on_refused=lambda address, error: refused.append((address, error)),
    )
    served = Served(listener, sock.getsockname()[1], refused)
    async with asyncio.TaskGroup() as group:
        group.create_task(listener.serve(grace_s=0.5))
        try:
            yield served
        finally:
            for writer in served.clients:
                writer.transport.abort()
            for dialer in served.dialers:
                await dialer.close()
            listener.stop()


async def until(condition: Callable[[], bool], limit_s: float = 5) -> None:
    """Waits until something has become true; the event that makes it true has no other trace."""
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)
