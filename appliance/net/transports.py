"""What stands between a socket and a connection: whom it reaches, what may be asked of it, and the threads in which handshakes run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import msgspec

from appliance.errors import UnavailableError

HANDSHAKE_THREADS = 8
"""Tokens sign one after the other: more threads would only wait in the same queue. Each costs 100 KiB."""


class TlsRejectedError(UnavailableError):
    """No TLS with this peer: it refused us, or we refused it. The message is for the audit log, not for the peer."""

    kind = "peer.tls_rejected"


class Peer(msgspec.Struct, frozen=True):
    """Whom a connection talks to. Certificates are DER, the leaf first in `chain`; a resumed session shows the leaf alone."""

    address: str
    tls: bool = False
    certificate: bytes | None = None
    chain: tuple[bytes, ...] = ()
    resumed: bool = False
    protocol: str = ""


class Transport(Protocol):
    """What a connection needs of what is below it: an asyncio transport, or a TlsEndpoint."""

    def write(self, data: bytes) -> None: ...
    def write_eof(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def is_closing(self) -> bool: ...
    def get_write_buffer_size(self) -> int:
        """Bytes that the kernel has not taken yet."""
        ...


class Application(Protocol):
    """What stands on top: the part of asyncio.Protocol that is called once the handshake is over."""

    @property
    def idle(self) -> bool:
        """No message is under way whose head has arrived, and the last answer has left."""
        ...

    def data_received(self, data: bytes) -> None: ...
    def stream_ended(self, clean: bool) -> None:
        """No more data will come. `clean` is False where the TLS stream was cut without a close_notify."""
        ...

    def connection_lost(self, exc: Exception | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class HandshakeThreads:
    """The bounded pool of threads in which handshakes sign, verify and wait for the token."""

    def __init__(self, count: int = HANDSHAKE_THREADS) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="handshake")

    def run(self, step: Callable[[], Peer | None]) -> asyncio.Future[Peer | None]:
        return asyncio.get_running_loop().run_in_executor(self._pool, step)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
