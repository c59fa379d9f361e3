"""This box's own clients, services and rights, indexed for the hot path.

Pure. Built anew whenever the supervisor announces a change or the global groups change; never mutated.
"""

from __future__ import annotations

from appliance.access.rights import Client, RightsTable, Service
from appliance.model.identifiers import ClientId, ServiceId
from appliance.supervision.wire import LocalConfiguration


class LocalView:
    """Look-ups by identifier, and decisions by the table of rights."""

    def __init__(self, configuration: LocalConfiguration, groups: dict[str, frozenset[ClientId]]) -> None:
        self.generation = configuration.generation
        self.rights = RightsTable(configuration.rights, groups)
        # by parts, not by text: a part may contain a slash, and two names must never be taken for one
        self._clients = {ClientId.parse(client.subsystem): client for client in configuration.clients}
        self._services = {_service_id(service): service for service in configuration.services}

    def client(self, client: ClientId) -> Client | None:
        return self._clients.get(client)

    def service(self, service: ServiceId) -> Service | None:
        return self._services.get(service)

    def services(self) -> list[Service]:
        return list(self._services.values())


def _service_id(service: Service) -> ServiceId:
    plain = ServiceId.parse(service.id)
    return ServiceId(plain.provider, plain.code, service.version or None)
