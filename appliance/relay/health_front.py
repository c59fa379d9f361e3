"""The plain health endpoint, for load balancers: HTTP GET, 200 or 500 with a word on what fails, 503 in maintenance (sheet 10.3).

Off by default: without a port nobody asks. It says nothing that a refused exchange would not say, takes no body worth keeping, and its
finding is kept for two seconds, so that whoever asks often costs nothing.
"""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Callable

from appliance.clock import Clock
from appliance.errors import SettingsError, XacbeError
from appliance.exchange.local_view import LocalView
from appliance.model.identifiers import ServerId
from appliance.net import http1
from appliance.net.connection import ServerConnection
from appliance.relay.contexts import Contexts
from appliance.relay.trust_view import TrustView

KEPT_S = 2.0
OK, FAILING, MAINTENANCE = 200, 500, 503
BACKLOG = 128
_TEXT = (b"Content-Type", b"text/plain; charset=UTF-8")


class HealthFront:
    """Answers every GET and HEAD, whatever the path."""

    def __init__(self, server: ServerId, clock: Clock, trust: TrustView, local: Callable[[], LocalView], contexts: Contexts) -> None:
        self._server, self._clock, self._trust, self._local, self._contexts = server, clock, trust, local, contexts
        self._found, self._until_s = (FAILING, ""), float("-inf")

    async def serve(self, connection: ServerConnection) -> None:
        while (head := await connection.request()) is not None:
            while await connection.next_chunk() is not None:
                pass
            status, said = self._finding() if head.method in (b"GET", b"HEAD") else (405, "only GET")
            text = f"{said}\n".encode()
            whole = http1.response_head(status, [_TEXT, (b"Content-Length", b"%d" % len(text)), (b"Cache-Control", b"no-store")])
            connection.write(whole + (b"" if head.method == b"HEAD" else text))
            await connection.drain()
            if not head.keep_alive:
                break
        connection.close()

    def _finding(self) -> tuple[int, str]:
        if self._clock.monotonic_s() >= self._until_s:
            self._found, self._until_s = self._look(), self._clock.monotonic_s() + KEPT_S
        return self._found

    def _look(self) -> tuple[int, str]:
        """The first thing that keeps this server from exchanging, in X-Road's order: key and its confirmation, configuration of services,
        global configuration. The clock and the global configuration come first here: without them no confirmation means anything.
        """
        try:
            shared = self._trust.shared()
        except XacbeError as error:
            return FAILING, f"{error.kind}: no valid global configuration"
        own = next((one for one in shared.servers if one.id == self._server), None)
        if own is None:
            return FAILING, "the global configuration does not name this server"
        if own.maintenance is not None:
            return MAINTENANCE, "in maintenance"
        certificate = self._contexts.own_certificate()
        if certificate is None:
            return FAILING, "no authentication certificate"
        evidence = self._trust.evidence(hashlib.sha256(certificate).digest())
        if evidence is None or self._clock.now_us() - evidence.this_update_us > shared.ocsp_freshness_s * 1_000_000:
            return FAILING, "no fresh OCSP response for the authentication certificate"
        try:
            self._local()
        except XacbeError as error:
            return FAILING, f"{error.kind}: no configuration of clients and services"
        return OK, "ready"


def health_socket(address: str) -> socket.socket:
    """The listening socket: `HOST:PORT`. Several relays of a box share it. Raises SettingsError."""
    host, _, port = address.rpartition(":")
    try:
        return socket.create_server((host, int(port)), backlog=BACKLOG, reuse_port=True)
    except OSError as error:
        raise SettingsError(f"relay.health: cannot listen on {address}: {error}") from None
