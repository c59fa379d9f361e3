"""TLS on top of an asyncio transport: our own engine over `ssl.MemoryBIO`.

Not asyncio's own: that keeps 256 KiB for every connection, lets a slow key hold up the loop, and tells nobody why a peer was refused
(measured: 25 KiB, 6 ms instead of 900 ms, the same cost as nginx for bulk data). Handshake steps run in worker threads, because the
private key may be in a token that takes 100 ms; until a step has come back nothing touches its buffers, so what arrives meanwhile waits
outside. Before the first complete record a connection costs no TLS object at all.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any, Protocol

from appliance.errors import UnavailableError
from appliance.net.deadlines import NEVER

# Callers know these from here.
from appliance.net.transports import Application as Application
from appliance.net.transports import HandshakeThreads as HandshakeThreads
from appliance.net.transports import Peer as Peer
from appliance.net.transports import TlsRejectedError as TlsRejectedError
from appliance.net.transports import Transport as Transport

RECORD_BYTES = 16 << 10
"""Written and decrypted in steps of one record, because OpenSSL's memory buffers never shrink."""
PLAIN_BYTES = 256 << 10
"""Decrypted data are handed on in pieces of up to this."""
EARLY_BYTES_MAX = 64 << 10
"""Held while a handshake step runs or waits; then the socket is not read."""
UNSENT_BYTES_MAX = 256 << 10
"""Encrypted and waiting for the socket: above it the application is told to pause."""
LINGER_S = 1.0
"""For a refused peer to read its alert and hang up."""

_DER = 2
"""`_ssl.ENCODING_DER`."""

_local = threading.local()


class Owner(Protocol):
    """Who started the endpoint and decides about it: a listener or a dialer."""

    def made(self, endpoint: TlsEndpoint, address: str) -> None:
        """The socket is connected. A refusal is `endpoint.abort()`; a client calls `endpoint.shake()`."""
        ...

    def hello_arrived(self, endpoint: TlsEndpoint) -> None:
        """A server has a complete first record; call `shake` when it may go on."""
        ...

    def opened(self, endpoint: TlsEndpoint, peer: Peer) -> Application: ...

    def failed(self, endpoint: TlsEndpoint, error: UnavailableError) -> None:
        """The handshake came to nothing; the endpoint is closing by itself."""
        ...

    def lost(self, endpoint: TlsEndpoint) -> None:
        """The socket is gone, opened or not. Called exactly once after `made`."""
        ...


_LISTENING, _HELLO, _STEPPING, _PEERS_TURN, _OPEN, _ENDED, _CLOSED = range(7)


class TlsEndpoint(asyncio.Protocol):
    """One TLS connection: a protocol towards the socket, a Transport towards the application.

    `deadline` and `expired` are for the owner's Deadlines, which bounds the handshake.
    """

    __slots__ = (
        "_address", "_app", "_context", "_early", "_early_bytes", "_error", "_hostname", "_in", "_object", "_out", "_owner", "_raw",
        "_read", "_server_side", "_session", "_state", "_threads", "_view", "_write", "deadline",
    )  # fmt: skip

    def __init__(
        self,
        owner: Owner,
        threads: HandshakeThreads,
        context: Callable[[], ssl.SSLContext],
        *,
        server_side: bool,
        hostname: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._owner, self._threads, self._context = owner, threads, context
        self._server_side, self._hostname, self._session = server_side, hostname, session
        self._state = _LISTENING
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._raw: Any = None
        self._object: Any = None
        self._app: Application | None = None
        self._error: Exception | None = None
        self._address = ""
        self.deadline = NEVER

    # Towards the socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        raw: Any = transport
        self._raw = raw
        self._raw.set_write_buffer_limits(high=UNSENT_BYTES_MAX)
        name = transport.get_extra_info("peername")
        self._address = str(name[0]) if name else ""
        self._owner.made(self, self._address)

    def data_received(self, data: bytes) -> None:
        if self._state == _OPEN:
            self._decrypt(data)
        elif self._state < _OPEN:
            self._early.append(data)
            self._early_bytes += len(data)
            if self._state == _LISTENING and self._first_record_is_here():
                self._state = _HELLO
                self._owner.hello_arrived(self)
            elif self._state == _PEERS_TURN and self._first_record_is_here():
                self._step()
            elif self._early_bytes > EARLY_BYTES_MAX:
                self.pause_reading()

    def eof_received(self) -> bool:
        if self._state == _OPEN and self._app is not None:
            self._state = _ENDED
            self._app.stream_ended(False)
            return True
        if self._state < _OPEN:
            if self._has_begun():
                self._fail(TlsRejectedError("the connection ended during the handshake"))
            self._state = _CLOSED
        return self._state != _CLOSED

    def connection_lost(self, exc: Exception | None) -> None:
        state, self._state = self._state, _CLOSED
        if state < _OPEN and self._error is None and self._has_begun():
            self._owner.failed(self, TlsRejectedError("the connection was lost during the handshake"))
        if self._app is not None:
            self._app.connection_lost(self._error or exc)
            self._app = None
        self._owner.lost(self)

    def pause_writing(self) -> None:
        if self._app is not None:
            self._app.pause_writing()

    def resume_writing(self) -> None:
        if self._app is not None:
            self._app.resume_writing()

    # The handshake

    @property
    def address(self) -> str:
        return self._address

    @property
    def is_open(self) -> bool:
        """The handshake was completed."""
        return self._app is not None

    @property
    def idle(self) -> bool:
        """No request is under way: the handshake is not over, or nothing was asked since (`net.crowd`)."""
        return self._app is None or self._app.idle

    @property
    def waits_for_peer(self) -> bool:
        """A handshake that has begun and in which it is the peer's turn."""
        return self._state == _PEERS_TURN

    def _has_begun(self) -> bool:
        """Not somebody who only looked whether the port is open."""
        return bool(self._early) or self._object is not None or not self._server_side

    def shake(self) -> None:
        """Begins the handshake: a client at once, a server once its owner has room for it."""
        if self._state in (_LISTENING, _HELLO):
            self._step()

    def expired(self) -> None:
        if self._state < _OPEN:
            self.refuse(UnavailableError("the handshake took too long", kind="peer.timeout"))
        else:
            self._raw.abort()  # refused, and still not gone

    def refuse(self, error: UnavailableError) -> None:
        """Gives up a handshake that is not over."""
        self._fail(error)
        self._raw.abort()

    def _first_record_is_here(self) -> bool:
        """Steps are taken for whole records only: a byte at a time must not cost a thread's attention each."""
        first = self._early[0]
        if len(first) < 5:
            if self._early_bytes < 5:
                return False
            first = self._early[0] = b"".join(self._early)
            del self._early[1:]
        length = int.from_bytes(first[3:5], "big")
        foreign = not 20 <= first[0] <= 23 or length > RECORD_BYTES + 256  # not TLS: OpenSSL says so at once
        return foreign or self._early_bytes >= 5 + length

    def _step(self) -> None:
        self._state = _STEPPING
        if self._object is None:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        for data in self._early:
            self._in.write(data)
        if self._early_bytes > EARLY_BYTES_MAX:
            self.resume_reading()
        self._early, self._early_bytes = [], 0
        self._threads.run(self._in_thread).add_done_callback(self._stepped)

    def _in_thread(self) -> Peer | None:
        """One step of the handshake. Nothing else touches the buffers meanwhile."""
        if self._object is None:
            context = self._context()
            wrapped = context.wrap_bio(
                self._in, self._out, server_side=self._server_side, server_hostname=self._hostname, session=self._session
            )
            self._object = wrapped._sslobj  # type: ignore[attr-defined]  # the C object: half the cost of a call through its wrapper
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return None
        certificate = self._object.getpeercert(True)
        chain = self._object.get_unverified_chain() if certificate else None
        ders = tuple(each.public_bytes(_DER) for each in chain or () if each is not None)
        if certificate and (not ders or ders[0] != certificate):
            ders = (certificate, *ders)  # a resumed session has no chain
        return Peer(self._address, True, certificate, ders, bool(self._object.session_reused), self._object.version() or "")

    def _stepped(self, future: asyncio.Future[Peer | None]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if self._state == _CLOSED:
            return
        if self._out.pending:
            self._raw.write(self._out.read())  # a refusal's alert as well
        if isinstance(error, ssl.SSLError | ValueError):
            self._fail(TlsRejectedError(reason_of(error)))
            self._linger()
        elif isinstance(error, UnavailableError):
            self.refuse(error)
        elif error is not None:
            self._raw.abort()
            raise error
        else:
            self._go_on(future.result())

    def _go_on(self, peer: Peer | None) -> None:
        if peer is None:
            self._state = _PEERS_TURN
            if self._early and self._first_record_is_here():
                self._step()
            return
        self._state = _OPEN
        self.deadline = NEVER
        self._read, self._write = self._object.read, self._object.write
        self._view = _plain_view()
        self._session = None
        self._app = self._owner.opened(self, peer)
        early, self._early, self._early_bytes = b"".join(self._early), [], 0
        if self._state == _OPEN and (early or self._in.pending):
            self.resume_reading()
            self._decrypt(early)

    def _fail(self, error: UnavailableError) -> None:
        if self._error is None:
            self._error = error
            self._owner.failed(self, error)
        self._state = _CLOSED

    def _linger(self) -> None:
        """The alert must arrive: closing while the peer still sends would make the kernel drop it."""
        if self._raw.is_closing():
            return
        self._raw.write_eof()
        self.resume_reading()
        self.deadline = asyncio.get_running_loop().time() + LINGER_S

    # Towards the application

    @property
    def session(self) -> ssl.SSLSession | None:
        """For the next connection to the same peer. A server's tickets come after the handshake: ask once it has answered."""
        session: ssl.SSLSession | None = self._object.session
        return session

    def _decrypt(self, data: bytes) -> None:
        filled, view, size = 0, self._view, len(data)
        pieces = (data,) if size <= RECORD_BYTES else _records(data)
        for piece in pieces:
            self._in.write(piece)
            try:
                while True:
                    got = self._read(PLAIN_BYTES - filled, view[filled:] if filled else view)
                    if not got:
                        self._close_notified(filled)
                        return
                    filled += got
                    if not (self._in.pending or self._object.pending()):
                        break
                    if PLAIN_BYTES - filled < RECORD_BYTES:
                        self._app.data_received(bytes(view[:filled]))  # type: ignore[union-attr]  # OPEN has an application
                        filled = 0
                        if self._state != _OPEN:
                            return
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                self._broken(error)
                return
        if filled:
            self._app.data_received(bytes(view[:filled]))  # type: ignore[union-attr]  # OPEN has an application
        if self._out.pending and self._state == _OPEN:
            self._raw.write(self._out.read())  # an answer to a key update

    def _close_notified(self, filled: int) -> None:
        if filled and self._app is not None:
            self._app.data_received(bytes(self._view[:filled]))
        if self._state == _OPEN and self._app is not None:
            self._state = _ENDED
            self._app.stream_ended(True)

    def _broken(self, error: ssl.SSLError) -> None:
        """A record that does not decrypt, or an alert: with TLS 1.3 a client learns here that the server refused its certificate."""
        self._error = TlsRejectedError(reason_of(error))
        if self._out.pending:
            self._raw.write(self._out.read())
        self._state = _CLOSED
        self._raw.close()

    def write(self, data: bytes) -> None:
        """Encrypts and sends. Nothing happens on a connection that is over: the application hears of that by itself."""
        if self._state != _OPEN and self._state != _ENDED:
            return
        try:
            if len(data) <= RECORD_BYTES:
                self._write(data)
                self._raw.write(self._out.read())
            else:
                encrypted = []
                for record in _records(data):
                    self._write(record)
                    encrypted.append(self._out.read())
                self._raw.writelines(encrypted)
        except ssl.SSLError as error:
            self._broken(error)

    def write_eof(self) -> None:
        """Says close_notify and ends our direction of the socket."""
        if self._notify() and not self._raw.is_closing():
            self._raw.write_eof()

    def close(self) -> None:
        """Says close_notify, sends what is buffered and closes."""
        self._notify()
        self._raw.close()

    def _notify(self) -> bool:
        if self._state not in (_OPEN, _ENDED):
            return False
        with contextlib.suppress(ssl.SSLError):
            self._object.shutdown()
        if self._out.pending:
            self._raw.write(self._out.read())
        self._state = _CLOSED
        return True

    def abort(self) -> None:
        """Closes at once; a handshake that was not over is not reported."""
        if self._state < _OPEN:
            self._state = _CLOSED
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._state == _CLOSED or bool(self._raw.is_closing())

    def get_write_buffer_size(self) -> int:
        return int(self._raw.get_write_buffer_size())

    def pause_reading(self) -> None:
        if not self._raw.is_closing():
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if not self._raw.is_closing():
            self._raw.resume_reading()


def reason_of(error: Exception) -> str:
    """What OpenSSL says, for the audit log: the verification's words where there are any."""
    return str(getattr(error, "verify_message", "") or getattr(error, "reason", "") or error)


def _records(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[at : at + RECORD_BYTES] for at in range(0, len(data), RECORD_BYTES)]


def _plain_view() -> memoryview:
    """The buffer into which every connection of this thread decrypts."""
    view: memoryview | None = getattr(_local, "view", None)
    if view is None:
        view = _local.view = memoryview(bytearray(PLAIN_BYTES))
    return view
