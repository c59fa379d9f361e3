"""Which box of the provider to ask.

Pure. Sheet 10.1: every server on which the provider is registered or whose owner it is; the one that the client names, if it names one;
servers in maintenance are left out.
"""

from __future__ import annotations

from appliance.errors import PeerProtocolError, RefusedError, UnavailableError
from appliance.model.identifiers import ClientId, ServerId
from appliance.trust.global_configuration import SecurityServer, SharedParameters


class ProviderUnknownError(RefusedError):
    """No server of the network offers services of this member or subsystem."""

    kind = "exchange.unknown_member"


class InstanceUnknownError(RefusedError):
    """A member of an instance of which we hold no valid configuration: CEIQROO does not federate with it, or its centre is silent."""

    kind = "exchange.unknown_instance"


class ServerUnsuitableError(RefusedError):
    """The server that the client asked for does not serve this provider."""

    kind = "exchange.invalid_security_server"


class MaintenanceError(UnavailableError):
    """Every server of the provider is in declared maintenance."""

    kind = "exchange.maintenance"


class AnswerBrokenError(PeerProtocolError):
    """The peer's answer is not an answer to our request."""

    kind = "exchange.inconsistent_response"


def servers_for(provider: ClientId, wanted: ServerId | None, shared: SharedParameters) -> tuple[SecurityServer, ...]:
    """The servers to try. Raises ProviderUnknownError, ServerUnsuitableError, MaintenanceError."""
    servers = shared.servers_of(provider)
    if not servers:
        raise ProviderUnknownError(f"no security server offers services of {provider}")
    if wanted is not None:
        servers = tuple(server for server in servers if server.id == wanted)
        if not servers:
            raise ServerUnsuitableError(f"{wanted} does not serve {provider}")
    open_ones = tuple(server for server in servers if server.maintenance is None)
    if not open_ones:
        raise MaintenanceError(servers[0].maintenance or "maintenance")
    return open_ones


def is_registered(client: ClientId, server: ServerId, shared: SharedParameters) -> bool:
    """Whether CEIQROO lists the client (or owner) under this server: a suspended one disappears with the next configuration (II.2.XIV)."""
    return any(one.id == server for one in shared.servers_of(client))
