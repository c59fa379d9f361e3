"""Accepting connections: bounds, handshakes, one task for each connection that is through, an orderly stop.

Before TLS a connection is a socket and 1 KiB of ours. Whoever is over a bound is cut without a word: an answer would cost more than
it tells. Why somebody was refused goes to `on_refused`, for the audit log, and into `refusals` by kind.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from appliance.errors import CorruptStateError, RefusedError, XacbeError
from appliance.net import http1
from appliance.net.connection import PeerClosedError, PeerTimeoutError, ServerConnection, StreamLimits
from appliance.net.crowd import Crowd
from appliance.net.deadlines import NEVER, Deadlines
from appliance.net.handshake_gate import HandshakeGate
from appliance.net.http1 import MalformedError, OversizedError
from appliance.net.http_stream import BUFFERED_BYTES_MAX
from appliance.net.tls_engine import Application, HandshakeThreads, Peer, TlsEndpoint, TlsRejectedError

Handler = Callable[[ServerConnection], Awaitable[None]]
"""`await handler(connection)`: takes requests until there are none. The connection's own errors may leave it; any other is a bug."""

BACKLOG = 1024
GATE_INTERVAL_S = 0.5
GONE_S_MAX = 1.0
"""For the sockets to close after everything was aborted: a loop that is closed under them hangs (uvloop)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """Bounds of one listener; the relay's settings have the same names."""

    connections_max: int = 4096
    connections_per_address_max: int = 1024
    handshakes_max: int = 64
    handshake_s_max: float = 10
    stream: StreamLimits = field(default_factory=StreamLimits)


class TooManyConnectionsError(RefusedError):
    """Over a bound: `peer.connections_full` for the listener's, `peer.address_full` for one address's, `peer.displaced` by a newcomer."""

    kind = "peer.connections_full"


def _bare(error: Exception, status: int) -> bytes:
    """The default of `malformed`: HTTP's own status and no body."""
    return http1.response_head(status, [(b"Content-Length", b"0"), (b"Connection", b"close")])


def _raise(address: str, error: Exception) -> None:
    """The default of `on_bug`: out of `serve`, as a test wants it."""
    raise error


def _nobody_listens(address: str, error: XacbeError) -> None:
    """The default of `on_refused`."""


class Listener:
    """One listening socket. `context` is asked at each handshake, so that a new one is used as soon as there is one; None: no TLS."""

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        limits: ListenerLimits,
        *,
        context: Callable[[], ssl.SSLContext] | None = None,
        threads: HandshakeThreads | None = None,
        on_refused: Callable[[str, XacbeError], None] = _nobody_listens,
        on_bug: Callable[[str, Exception], None] | None = None,
        malformed: Callable[[XacbeError, int], bytes] | None = None,
    ) -> None:
        if context is not None and threads is None:
            raise RuntimeError("TLS without threads for its handshakes")
        self._sock, self._handler, self._limits, self._context, self._on_refused = sock, handler, limits, context, on_refused
        self._threads = threads
        self._on_bug = on_bug or _raise
        self._malformed = malformed or _bare
        self.refusals: Counter[str] = Counter()
        """By kind, since the start."""
        self._gate: HandshakeGate[TlsEndpoint] = HandshakeGate(limits.handshakes_max)
        self._running: dict[ServerConnection, asyncio.Task[None]] = {}
        self._crowd: Crowd[TlsEndpoint | ServerConnection] = Crowd()
        """What holds a socket: endpoints, and connections without TLS."""
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        """A connection or a task has ended."""
        self._group: asyncio.TaskGroup
        self._loop: asyncio.AbstractEventLoop
        self._deadlines: Deadlines
        self.deadline = NEVER

    @property
    def connections(self) -> int:
        """Open now, handshakes included."""
        return len(self._crowd)

    async def serve(self, grace_s: float = 2.0) -> None:
        """Accepts until `stop`; then running exchanges have `grace_s` to end. A bug in a handler comes out of here."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        server = await self._loop.create_server(self._protocol, sock=self._sock, backlog=BACKLOG)
        try:
            async with asyncio.TaskGroup() as self._group:
                await self._stopping.wait()
                server.close()
                await self._finish(grace_s)
        finally:
            server.close()
            for each in list(self._crowd):
                each.abort()
            await self._all_gone(GONE_S_MAX)

    def stop(self) -> None:
        """Accepts no more, lets what runs end."""
        self._stopping.set()

    async def _finish(self, grace_s: float) -> None:
        for each in list(self._crowd):
            if isinstance(each, TlsEndpoint) and not each.is_open:
                each.abort()
        for connection in self._running:
            connection.stop()
        await self._all_gone(grace_s)
        for connection, task in list(self._running.items()):
            connection.abort()
            task.cancel()

    async def _all_gone(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._crowd or self._running:
                    self._changed.clear()
                    await self._changed.wait()

    # Connections come

    def _protocol(self) -> asyncio.BaseProtocol:
        if self._context is None or self._threads is None:
            return _PlainEntrance(self)
        return TlsEndpoint(self, self._threads, self._context, server_side=True)

    def admit(self, address: str) -> bool:
        """Whether there is room for a connection from here; somebody who does nothing may have to give way to it."""
        if self._stopping.is_set():
            return False
        if (own := self._crowd.number_of(address)) >= self._limits.connections_per_address_max:
            self.refused(address, TooManyConnectionsError(f"{own} connections", kind="peer.address_full"))
            return False
        if len(self._crowd) < self._limits.connections_max:
            return True
        if (place := self._crowd.yields_to(address)) is None:
            self.refused(address, TooManyConnectionsError(f"{len(self._crowd)} connections"))
            return False
        theirs, idle = place
        self.refused(theirs, TooManyConnectionsError("an idle connection gave way to a newcomer", kind="peer.displaced"))
        idle.abort()
        self._gone(idle, theirs)
        return True

    def _gone(self, held: TlsEndpoint | ServerConnection, address: str) -> None:
        """Its place is free, once."""
        if self._crowd.leave(address, held):
            self._changed.set()
            if isinstance(held, TlsEndpoint):
                self._deadlines.discard(held)
                self._leave_gate(held)

    def hold(self, connection: ServerConnection) -> None:
        """A connection without TLS has a socket of its own."""
        self._crowd.enter(connection.peer.address, connection)

    def plain_lost(self, connection: ServerConnection) -> None:
        self._gone(connection, connection.peer.address)

    def refused(self, address: str, error: XacbeError) -> None:
        self.refusals[error.kind] += 1
        self._on_refused(address, error)

    def begin(self, peer: Peer, on_lost: Callable[[ServerConnection], None]) -> ServerConnection:
        """A connection with a task of its own."""
        connection = ServerConnection(peer, self._limits.stream, self._deadlines, on_lost)
        self._running[connection] = self._group.create_task(self._serve_one(connection))
        return connection

    async def _serve_one(self, connection: ServerConnection) -> None:
        try:
            await self._handler(connection)
            connection.close()
        except (MalformedError, OversizedError) as error:
            self.refused(connection.peer.address, error)
            connection.refuse(self._malformed(error, error.status))
        except (PeerClosedError, PeerTimeoutError, TlsRejectedError) as error:
            self.refused(connection.peer.address, error)
            connection.abort()
        except CorruptStateError:
            connection.abort()
            raise
        except Exception as error:
            # A bug, met on one connection: it costs that connection and is told loudly. Ending the process would let whoever finds it end
            # everybody's exchanges (house rule 5; the record is in this folder's README.md).
            self._on_bug(connection.peer.address, error)
            connection.refuse(_bare(error, 500))
        except BaseException:
            connection.abort()
            raise
        finally:
            del self._running[connection]
            self._changed.set()

    # The owner of TLS endpoints

    def made(self, endpoint: TlsEndpoint, address: str) -> None:
        if not self.admit(address):
            endpoint.abort()
            return
        self._crowd.enter(address, endpoint)
        endpoint.deadline = self._loop.time() + self._limits.handshake_s_max
        self._deadlines.add(endpoint)

    def hello_arrived(self, endpoint: TlsEndpoint) -> None:
        self._shake(self._gate.enter(endpoint, self._loop.time()))
        if self._gate.waiting and self.deadline == NEVER:
            self._deadlines.add(self)
            self.expired()

    def opened(self, endpoint: TlsEndpoint, peer: Peer) -> Application:
        self._deadlines.discard(endpoint)
        self._leave_gate(endpoint)
        connection = self.begin(peer, _counted_below)
        connection.attach(endpoint)
        return connection

    def failed(self, endpoint: TlsEndpoint, error: XacbeError) -> None:
        self._leave_gate(endpoint)
        self.refused(endpoint.address, error)

    def lost(self, endpoint: TlsEndpoint) -> None:
        self._gone(endpoint, endpoint.address)

    def expired(self) -> None:
        """While somebody waits at the gate: whoever keeps us waiting inside has to go."""
        now = self._loop.time()
        for endpoint in self._gate.stalled(now):
            endpoint.refuse(PeerTimeoutError("the handshake stalled while others waited"))
        if self._gate.waiting:
            self.deadline = now + GATE_INTERVAL_S
        else:
            self._deadlines.discard(self)

    def _leave_gate(self, endpoint: TlsEndpoint) -> None:
        self._shake(self._gate.leave(endpoint, self._loop.time()))

    def _shake(self, endpoints: list[TlsEndpoint]) -> None:
        for endpoint in endpoints:
            endpoint.shake()


class _PlainEntrance(asyncio.Protocol):
    """Stands in for a connection without TLS until its address is known."""

    __slots__ = ("_listener",)

    def __init__(self, listener: Listener) -> None:
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw: Any = transport
        name = raw.get_extra_info("peername")
        address = str(name[0]) if name else ""
        listener = self._listener
        if not listener.admit(address):
            raw.abort()
            return
        raw.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
        connection = listener.begin(Peer(address), listener.plain_lost)
        listener.hold(connection)
        connection.attach(raw)
        raw.set_protocol(connection)


def _counted_below(connection: ServerConnection) -> None:
    """With TLS the endpoint below is what is counted."""
