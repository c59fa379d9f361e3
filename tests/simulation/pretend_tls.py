"""Stands in for TLS between boxes: both ends show the certificate of their context, in clear, and go on.

What it keeps: who is on the other end is what the contexts of the two relays say (certificate of the token's key in force, approved CAs
known), a handshake takes a round trip and can be cut. What it lacks: the proof of the key, and secrecy: nobody here forges a certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from appliance.net.connection import ClientConnection, PeerTimeoutError
from appliance.net.dialer import Dialer
from appliance.net.http_stream import BUFFERED_BYTES_MAX
from appliance.net.listener import Listener
from appliance.net.tls_engine import Peer, TlsRejectedError
from appliance.relay.contexts import INTERNAL_KEY, PEER_KEY, Contexts
from appliance.relay.turns import SAMPLE_S

_LENGTH = 4


class Shown:
    """A context: which certificate this end shows."""

    def __init__(self, certificate: bytes) -> None:
        self.certificate = certificate


class SimContexts(Contexts):
    """The real one, but for the OpenSSL contexts themselves."""

    def _make_peer(self) -> None:
        chain = self._chains.get(PEER_KEY)
        if not chain or not self._anchors:
            return
        self._server = self._client = Shown(chain[0])  # type: ignore[assignment]
        self._shown = chain[0]
        self.peer_ready.set()

    def _make_https(self) -> None:
        chain = self._chains.get(INTERNAL_KEY)
        if chain:
            self._https = Shown(chain[0])  # type: ignore[assignment]
            self.https_ready.set()


class _Greeting(asyncio.Protocol):
    """Sends one certificate, reads one, and hands the transport over with what came behind it."""

    def __init__(self, ours: bytes, met: Callable[[Any, bytes], Any], failed: Callable[[], None]) -> None:
        self._ours, self._met, self._failed, self._read = ours, met, failed, b""
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(len(self._ours).to_bytes(_LENGTH, "big") + self._ours)

    def data_received(self, data: bytes) -> None:
        self._read += data
        size = int.from_bytes(self._read[:_LENGTH], "big") if len(self._read) >= _LENGTH else 1 << 20
        if len(self._read) >= _LENGTH + size:
            theirs, rest = self._read[_LENGTH : _LENGTH + size], self._read[_LENGTH + size :]
            protocol = self._met(self.transport, theirs)
            if protocol is None:
                self.transport.abort()
                return
            self.transport.set_protocol(protocol)
            if rest:
                protocol.data_received(rest)

    def eof_received(self) -> bool:
        self._failed()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed()


class SimDialer(Dialer):
    """The real one, but for the handshake."""

    async def _secured(self, sock: Any, build: Any, context: Any, hostname: Any, session: Any) -> ClientConnection:
        outcome: asyncio.Future[ClientConnection] = self._loop.create_future()

        def met(transport: Any, theirs: bytes) -> ClientConnection | None:
            if outcome.done():
                return None
            connection: ClientConnection = build(Peer(transport.peer[0], True, theirs, (theirs,), False, "TLSv1.3"))
            transport.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
            connection.attach(transport)
            outcome.set_result(connection)
            return connection

        def failed() -> None:
            if not outcome.done():
                outcome.set_exception(TlsRejectedError("the connection was lost during the handshake"))

        greeting = _Greeting(context.certificate, met, failed)
        try:
            async with asyncio.timeout(self._limits.handshake_s_max):
                await self._loop.create_connection(lambda: greeting, sock=sock)
                return await outcome
        except TimeoutError:
            greeting.transport.abort()
            raise PeerTimeoutError("the handshake took too long") from None


class CalmMachine:
    """The relay's `Pressure`: the real one measures this machine, which has nothing to do with the run."""

    def __init__(self) -> None:
        self.high = False

    async def run(self, turned: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(SAMPLE_S)
            turned()


class SimListener(Listener):
    """The real one; with a context its connections begin with a greeting instead of a handshake."""

    def _protocol(self) -> Any:
        if self._context is None:
            return super()._protocol()
        context: Any = self._context()

        def met(transport: Any, theirs: bytes) -> Any:
            address = transport.peer[0]
            if not self.admit(address):
                return None
            transport.set_write_buffer_limits(high=BUFFERED_BYTES_MAX)
            connection = self.begin(Peer(address, True, theirs, (theirs,), False, "TLSv1.3"), self.plain_lost)
            self.hold(connection)
            connection.attach(transport)
            return connection

        return _Greeting(context.certificate, met, lambda: None)
