"""Which other servers speak X-Road's TLS profile (TLS 1.2, three CBC suites; sheet 3.1), and may: those that the settings name.

Pure. Nobody by default. The port 5500 is one for all, so that with any foreign server named the profile is open to whoever connects; a
connection that used it belongs to a named server, or is turned away before a byte of a message is read. Towards others the profile is
offered only where a named server is among those that may be asked.
"""

from __future__ import annotations

from collections.abc import Iterable

from appliance.errors import RefusedError, SettingsError
from appliance.model.identifiers import IdentifierError, ServerId
from appliance.trust.global_configuration import SecurityServer

EVERY = "*"
FOREIGN_PROTOCOL = "TLSv1.2"
SERVERS_MAX = 1000


class ForeignProfileError(RefusedError):
    """A server that the settings do not name came with TLS 1.2."""

    kind = "peer.tls_profile"


class ForeignServers:
    """`spelled`: identifiers `INSTANCE/CLASS/CODE/SERVER`, percent-encoded as in REST, between spaces; EVERY; empty: none."""

    def __init__(self, spelled: str = "") -> None:
        """Raises SettingsError."""
        words = spelled.split()
        self._every = EVERY in words
        try:
            self._named = frozenset(ServerId.decode(word) for word in words if word != EVERY)
        except IdentifierError as error:
            raise SettingsError(f"relay.foreign_servers: {error}") from None
        if len(self._named) > SERVERS_MAX:
            raise SettingsError(f"relay.foreign_servers: at most {SERVERS_MAX}")

    def __bool__(self) -> bool:
        return self._every or bool(self._named)

    def includes(self, server: SecurityServer) -> bool:
        return self._every or server.id in self._named

    def among(self, servers: Iterable[SecurityServer]) -> bool:
        """Whether one of them may be spoken to in X-Road's profile."""
        return any(self.includes(server) for server in servers)

    def check(self, server: SecurityServer, protocol: str | None) -> None:
        """After a handshake. Raises ForeignProfileError."""
        if protocol == FOREIGN_PROTOCOL and not self.includes(server):
            raise ForeignProfileError(f"{server.id} came with {FOREIGN_PROTOCOL}, which the settings do not allow it")
