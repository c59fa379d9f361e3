"""Connections to others: made, checked, kept and used again.

A route is a set of addresses under which the same peer answers, for one purpose. Connections of a route are used again, the last one
first, so that the rest grows old and is closed. Several addresses race as in X-Road (sheet 10.1): TCP connects in parallel, the first
wins and is remembered; where its handshake or the caller's own check fails, the others race again. Nothing is retried once a byte of a
request was sent: that is not known here and would not be done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from appliance.errors import UnavailableError, XacbeError
from appliance.net import racing
from appliance.net.connection import ClientConnection, PeerTimeoutError, StreamLimits
from appliance.net.deadlines import Deadlines
from appliance.net.racing import Address, UnreachableError
from appliance.net.tls_engine import Application, HandshakeThreads, Peer, TlsEndpoint, TlsRejectedError

__all__ = ["Address", "Check", "Dialer", "DialerLimits", "UnreachableError"]

Check = Callable[[Peer], Awaitable[None]]
"""The caller's own check of a fresh connection, before any use. Raises an XacbeError to refuse it."""

WINNER_S = 3600.0
"""How long the fastest of several addresses is tried alone first (sheet 10.1.3)."""
WINNER_CONNECT_S_MAX = 5.0
GONE_S_MAX = 1.0
ROUTES_MAX = 1024
"""Remembered; the longest unused one without connections is forgotten first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DialerLimits:
    """Bounds of one dialer, in seconds and connections."""

    connect_s_max: float = 5
    handshake_s_max: float = 15
    """Longer than a token's slowest signature (10 s)."""
    idle_s_max: float = 60
    connections_per_route_max: int = 256
    waiting_per_route_max: int = 1024
    """Callers that wait for a connection of one route to come free."""
    stream: StreamLimits = field(default_factory=StreamLimits)


class _Route:
    """What is known of one set of addresses."""

    __slots__ = ("addresses", "idle", "open", "sessions", "waiting", "winner", "winner_until_s")

    def __init__(self, addresses: tuple[Address, ...]) -> None:
        self.addresses = addresses
        self.idle: list[ClientConnection] = []
        self.open = 0
        self.waiting: deque[asyncio.Future[ClientConnection | None]] = deque()
        self.sessions: dict[Address, tuple[ssl.SSLContext, ssl.SSLSession]] = {}
        self.winner: Address | None = None
        self.winner_until_s = 0.0

    def wake(self, connection: ClientConnection | None) -> bool:
        """Hands a free connection, or the right to make one, to whoever waits longest."""
        while self.waiting:
            future = self.waiting.popleft()
            if not future.done():
                future.set_result(connection)
                return True
        return False


class Dialer:
    """All connections that a process makes for one kind of peer. Belongs to the running loop."""

    def __init__(self, limits: DialerLimits, threads: HandshakeThreads | None = None) -> None:
        self._limits, self._threads = limits, threads
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines()
        self._routes: OrderedDict[tuple[str, tuple[Address, ...]], _Route] = OrderedDict()
        self._connections: set[ClientConnection] = set()
        self._gone: asyncio.Future[None] | None = None

    async def acquire(
        self,
        addresses: Sequence[Address],
        purpose: str,
        *,
        context: ssl.SSLContext | None = None,
        check: Check | None = None,
        hostname: str | None = None,
    ) -> ClientConnection:
        """A connection ready for `start`; give it back with `release`. A kept one was made with the same context, else it is dropped.

        Raises UnreachableError, PeerTimeoutError, TlsRejectedError (peer.unreachable, peer.timeout, peer.tls_rejected), what `check`
        raised about the last address that was left.
        """
        route = self._route(tuple(addresses), purpose)
        while True:
            connection = self._kept(route, context)
            if connection is not None:
                return connection
            if route.open < self._limits.connections_per_route_max:
                return await self._make(route, context, check, hostname)
            connection = await self._turn(route)
            if connection is not None and self._fits(connection, context):
                return connection

    def release(self, connection: ClientConnection) -> None:
        """Keeps the connection for the next exchange if it can be used again, else closes it. Once for each `acquire`, always."""
        if connection not in self._connections:
            return
        if not connection.reusable:
            if connection.exchange_over:
                connection.close()
            else:
                connection.abort()
            return
        route, address = connection.key
        if not connection.session_kept:
            self._keep_session(route, address, connection)
        connection.rest(self._loop.time() + self._limits.idle_s_max)
        if not (route.waiting and route.wake(connection)):
            route.idle.append(connection)

    async def close(self) -> None:
        """Ends everything, and waits until the sockets are closed: a loop that is closed under them hangs (uvloop)."""
        for connection in list(self._connections):
            connection.abort()
        if self._connections:
            self._gone = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GONE_S_MAX):
                    await self._gone

    # Kept connections

    def _route(self, addresses: tuple[Address, ...], purpose: str) -> _Route:
        if len(addresses) > 1:
            addresses = tuple(sorted(addresses))
        route = self._routes.get((purpose, addresses))
        if route is None:
            route = self._routes[purpose, addresses] = _Route(addresses)
            if len(self._routes) > ROUTES_MAX:
                unused = next((key for key, each in self._routes.items() if not each.open and each is not route), None)
                if unused is not None:
                    del self._routes[unused]
        elif len(self._routes) > ROUTES_MAX // 2:
            self._routes.move_to_end((purpose, addresses))
        return route

    def _kept(self, route: _Route, context: ssl.SSLContext | None) -> ClientConnection | None:
        while route.idle:
            connection = route.idle.pop()
            if self._fits(connection, context):
                return connection
        return None

    def _fits(self, connection: ClientConnection, context: ssl.SSLContext | None) -> bool:
        """A connection of an older context was checked against an older configuration: it is not used again."""
        if connection.reusable and connection.context is context:
            return True
        connection.close()
        return False

    async def _turn(self, route: _Route) -> ClientConnection | None:
        if len(route.waiting) >= self._limits.waiting_per_route_max:
            raise UnreachableError("too many wait for a connection to this peer")
        future: asyncio.Future[ClientConnection | None] = self._loop.create_future()
        route.waiting.append(future)
        try:
            async with asyncio.timeout(self._limits.connect_s_max):
                return await future
        except (TimeoutError, asyncio.CancelledError) as stopped:
            if future.done() and not future.cancelled():  # stopped just when it was our turn: somebody else's now
                connection = future.result()
                if not route.wake(connection) and connection is not None:
                    route.idle.append(connection)
            if isinstance(stopped, TimeoutError):
                raise UnreachableError("no connection to this peer came free in time") from None
            raise

    def _keep_session(self, route: _Route, address: Address, connection: ClientConnection) -> None:
        endpoint = connection.transport
        connection.session_kept = True
        if isinstance(endpoint, TlsEndpoint) and (session := endpoint.session) is not None:
            route.sessions[address] = (connection.context, session)

    def _lost(self, connection: ClientConnection) -> None:
        if connection not in self._connections:
            return  # not handed out yet
        self._connections.discard(connection)
        route: _Route = connection.key[0]
        route.open -= 1
        if connection in route.idle:
            route.idle.remove(connection)
        route.wake(None)
        if self._gone is not None and not self._connections and not self._gone.done():
            self._gone.set_result(None)

    # New connections

    async def _make(self, route: _Route, context: ssl.SSLContext | None, check: Check | None, hostname: str | None) -> ClientConnection:
        route.open += 1  # before the first wait: the bound holds for connections that are being made, too
        try:
            made = await self._fastest(route, context, check, hostname)
        except BaseException:
            route.open -= 1
            route.wake(None)
            raise
        self._connections.add(made)
        return made

    async def _fastest(self, route: _Route, context: ssl.SSLContext | None, check: Check | None, hostname: str | None) -> ClientConnection:
        left = list(route.addresses)
        random.shuffle(left)  # load is spread over those that are equally fast
        limit_s = self._limits.connect_s_max
        error: XacbeError = UnreachableError("the peer has no address")
        if len(left) > 1 and route.winner is not None and self._loop.time() < route.winner_until_s:
            with contextlib.suppress(UnreachableError):
                sock = await racing.connect(route.winner, min(limit_s, WINNER_CONNECT_S_MAX))
                try:
                    return await self._establish(route, route.winner, sock, context, check, hostname)
                except XacbeError as refused:
                    error = refused
                    left.remove(route.winner)
            route.winner = None
        while left:
            sock, address = await racing.fastest(left, limit_s)
            try:
                connection = await self._establish(route, address, sock, context, check, hostname)
            except XacbeError as refused:
                error = refused
                left.remove(address)
                limit_s = max(5.0, limit_s / 2)  # sheet 10.1.4
                continue
            route.winner, route.winner_until_s = address, self._loop.time() + WINNER_S
            return connection
        raise error

    async def _establish(
        self,
        route: _Route,
        address: Address,
        sock: socket.socket,
        context: ssl.SSLContext | None,
        check: Check | None,
        hostname: str | None,
    ) -> ClientConnection:
        def build(peer: Peer) -> ClientConnection:
            return ClientConnection(peer, self._limits.stream, self._deadlines, self._lost, (route, address), context)

        try:
            if context is None:
                connection = await self._plain(sock, build, address)
            else:
                session = route.sessions.get(address)
                resumable = session[1] if session is not None and session[0] is context else None
                connection = await self._secured(sock, build, context, hostname, resumable)
        except OSError as error:  # whoever resets what it has just accepted is nothing but unreachable
            sock.close()
            raise UnreachableError(f"{address[0]}:{address[1]}: {error.strerror or error}") from None
        try:
            if check is not None:
                await check(connection.peer)
        except BaseException:
            connection.abort()
            raise
        if connection.lost:
            raise UnreachableError(f"{address[0]}:{address[1]}: the connection was lost before it could be used")
        return connection

    async def _plain(self, sock: socket.socket, build: Callable[[Peer], ClientConnection], address: Address) -> ClientConnection:
        connection = build(Peer(address[0]))  # by the route: a socket that was reset knows no peer
        await self._loop.create_connection(lambda: connection, sock=sock)
        return connection

    async def _secured(
        self,
        sock: socket.socket,
        build: Callable[[Peer], ClientConnection],
        context: ssl.SSLContext,
        hostname: str | None,
        session: ssl.SSLSession | None,
    ) -> ClientConnection:
        if self._threads is None:
            raise RuntimeError("TLS without threads for its handshakes")
        shake = _Shake(build, self._loop.create_future())
        endpoint = TlsEndpoint(shake, self._threads, lambda: context, server_side=False, hostname=hostname, session=session)
        try:
            async with asyncio.timeout(self._limits.handshake_s_max):
                await self._loop.create_connection(lambda: endpoint, sock=sock)
                return await shake.outcome
        except TimeoutError:
            endpoint.abort()
            raise PeerTimeoutError("the handshake took too long") from None
        except asyncio.CancelledError:
            endpoint.abort()
            raise


class _Shake:
    """The owner of one endpoint while it shakes hands."""

    __slots__ = ("_build", "outcome")

    def __init__(self, build: Callable[[Peer], ClientConnection], outcome: asyncio.Future[ClientConnection]) -> None:
        self._build, self.outcome = build, outcome

    def made(self, endpoint: TlsEndpoint, address: str) -> None:
        endpoint.shake()

    def hello_arrived(self, endpoint: TlsEndpoint) -> None:
        raise RuntimeError("a client waits for no hello")

    def opened(self, endpoint: TlsEndpoint, peer: Peer) -> Application:
        connection = self._build(peer)
        connection.attach(endpoint)
        if self.outcome.done():
            connection.abort()
        else:
            self.outcome.set_result(connection)
        return connection

    def failed(self, endpoint: TlsEndpoint, error: UnavailableError) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(error)

    def lost(self, endpoint: TlsEndpoint) -> None:
        self.failed(endpoint, TlsRejectedError("the connection was lost during the handshake"))
