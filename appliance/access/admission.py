"""Who may enter: the information system at its own box, and the request at the provider's box, in X-Road's order of checks.

Pure. Sheet 9.1 (provider) and 9.2 (information systems). Built once from each local configuration; the relay asks it for every exchange.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from appliance.access.rights import (
    HTTP,
    HTTPS,
    AuthenticationError,
    Client,
    ClientUnknownError,
    Decision,
    NoRightError,
    Right,
    RightsTable,
    Service,
    ServiceDisabledError,
    UnknownServiceError,
)
from appliance.model.identifiers import ClientId, ServiceId


class Admission:
    """One generation of clients, services and rights. Invariant: whoever is not named is refused."""

    def __init__(
        self,
        clients: Iterable[Client],
        services: Iterable[Service],
        rights: Iterable[Right],
        groups: Mapping[str, frozenset[ClientId]],
    ) -> None:
        self._clients = {tuple(client.subsystem.split("/")): client for client in clients}
        self._services = {service.id: service for service in services}
        self.rights = RightsTable(rights, groups)

    def admit_system(self, client: ClientId, *, tls: bool, certificate: bytes | None, own_certificate: bytes | None = None) -> Client:
        """The client whose information system calls us. `certificate`: DER it showed; `own_certificate`: the box's internal one.

        Raises ClientUnknownError, AuthenticationError. Certificates are compared byte for byte; their validity is not asked (9.2).
        """
        known = self._clients.get(client.parts)
        if known is None:
            raise ClientUnknownError(f"{client} does not use this box")
        if known.mode == HTTP:
            return known
        if not tls:
            raise AuthenticationError(f"{client} must connect with TLS")
        if known.mode == HTTPS:
            return known
        if certificate is None:
            raise AuthenticationError(f"{client} must show its certificate")
        if certificate not in known.certificates and certificate != own_certificate:
            raise AuthenticationError(f"{client} showed a certificate that is not registered at this box")
        return known

    def admit_request(
        self, client: ClientId, service_id: ServiceId, method: str, path: str, registered: Collection[ClientId] | None = None
    ) -> tuple[Service, Decision]:
        """The service that may be called, with the decision for the record. `path`: raw, after the service code.

        `registered`: our server's clients in the global configuration, where the caller has it. Raises, in this order,
        ClientUnknownError, UnknownServiceError, NoRightError, ServiceDisabledError.
        """
        provider = service_id.provider
        if provider.parts not in self._clients or (registered is not None and provider not in registered):
            raise ClientUnknownError(f"{provider} does not offer services through this box")
        service = self._services.get(str(service_id))
        if service is None:
            raise UnknownServiceError(f"{service_id} is not known")
        decision = self.rights.decide(client, service.id, method, path)
        if not decision.allowed:
            raise NoRightError(f"{client} may not use {service_id}: {decision.detail}")
        if not service.enabled:
            raise ServiceDisabledError(f"{service_id} is disabled")
        return service, decision

    def services_of(self, provider: ClientId) -> list[Service]:
        """What listMethods shows: the provider's enabled services, in a fixed order."""
        found = (service for service in self._services.values() if service.enabled)
        return sorted((service for service in found if service.id.split("/")[:4] == list(provider.parts)), key=lambda one: one.id)
