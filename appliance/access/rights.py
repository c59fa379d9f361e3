"""May this client use this service: default deny, decided with a reason.

Pure. Rules I.4.III, III.3.V; sheet 9.1 and 9.2. A right names one client or group, one service and an endpoint (method and path).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from appliance.access import paths
from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId

HTTP, HTTPS, MUTUAL_TLS = "http", "https", "mtls"
"""How an information system authenticates to its own box (X-Road: NOSSL, SSLNOAUTH, SSLAUTH)."""
REST, OPENAPI3, WSDL = "REST", "OPENAPI3", "WSDL"
REST_KINDS = (REST, OPENAPI3)
ANY_METHOD, ANY_PATH = "*", "**"
GROUP = "GROUP:"
"""Subject of a right: `GROUP:code` is a global group of the instance; everything else is a member or subsystem, exactly."""

NO_RIGHT = "access.no_right"


class NoRightError(RefusedError):
    """No right covers this client, service and endpoint."""

    kind = NO_RIGHT


class UnknownServiceError(RefusedError):
    """This box offers no such service."""

    kind = "access.unknown_service"


class ServiceTypeError(RefusedError):
    """A SOAP call of a REST service, or the other way round."""

    kind = "access.service_type"


class ServiceDisabledError(RefusedError):
    """The service is switched off by its owner."""

    kind = "access.service_disabled"


class ClientUnknownError(RefusedError):
    """The subsystem does not use this box."""

    kind = "access.client_unknown"


class AuthenticationError(RefusedError):
    """The information system did not show what its mode asks for."""

    kind = "access.authentication"


class Client(msgspec.Struct, frozen=True, array_like=True):
    """A subsystem whose information system uses or offers services through this box."""

    subsystem: str
    mode: str = MUTUAL_TLS
    certificates: tuple[bytes, ...] = ()
    """DER of the information system's certificates, compared byte for byte."""
    notices: str = ""
    """URL at which the information system takes withdrawal notices; empty: it has none, and they wait."""


class Service(msgspec.Struct, frozen=True, array_like=True):
    """A service that one of our subsystems offers. `id`: `INSTANCE/CLASS/CODE/SUBSYSTEM/SERVICE`; SOAP services of one code differ by
    `version` and share their rights.
    """

    id: str
    url: str
    kind: str = REST
    description: str = ""
    """Where its OpenAPI document or WSDL lies: URL, or a path on the box."""
    timeout_s: int = 60
    enabled: bool = True
    certificates: tuple[bytes, ...] = ()
    """For https URLs: DER of the certificates that the system may show; empty: any issued by the box's system CAs."""
    document: str = ""
    """SHA-256 (hex) of the description that the box keeps in `box/descriptions/<document>.json` (a WSDL: `.wsdl`); empty: none."""
    endpoints: tuple[tuple[str, str], ...] = ()
    """(method, path glob) of each operation in the document, for listMethods."""
    version: str = ""
    """Of a SOAP service; empty where its WSDL gives none."""


class Right(msgspec.Struct, frozen=True, array_like=True):
    """`client` may use `service`: whole (`*`, `**`), or one endpoint by method and path glob."""

    service: str
    client: str
    method: str = ANY_METHOD
    path: str = ANY_PATH


@dataclass(frozen=True, slots=True)
class Decision:
    """`reason`: the kind of a refusal, or the subject whose right allowed it. `detail`: for the audit log, never for the client."""

    allowed: bool
    reason: str
    detail: str = ""


_NO_SUBJECT = Decision(False, NO_RIGHT, "no right for this client")
_NO_ENDPOINT = Decision(False, NO_RIGHT, "no right for this method and path")
_PATH_REFUSED = Decision(False, NO_RIGHT, "the path leaves its service or can be read in two ways")


def decide(
    rights: Iterable[Right], groups: Mapping[str, frozenset[ClientId]], client: ClientId, service_id: str, method: str, path: str
) -> Decision:
    """One decision from the bare rights; who decides often keeps a RightsTable."""
    return RightsTable(rights, groups).decide(client, service_id, method, path)


class _Grant:
    """What one subject may do with one service."""

    __slots__ = ("allowed", "endpoints", "named", "whole")

    def __init__(self, subject: str) -> None:
        self.allowed = Decision(True, subject)
        self.whole = False
        self.named: list[tuple[str, str]] = []
        self.endpoints: list[tuple[str, Callable[[str], bool]]] = []

    def add(self, right: Right) -> None:
        method = right.method.upper()
        if method == ANY_METHOD and right.path == ANY_PATH:
            self.whole = True
        else:
            self.named.append((method, right.path))
            self.endpoints.append((method, paths.compiled(right.path)))

    def covers(self, method: str, path: str) -> bool:
        return self.whole or any(wanted in (ANY_METHOD, method) and matches(path) for wanted, matches in self.endpoints)


class _Service:
    """The grants of one service, by exact client and by group."""

    __slots__ = ("clients", "groups")

    def __init__(self) -> None:
        self.clients: dict[tuple[str, ...], _Grant] = {}
        self.groups: dict[str, _Grant] = {}

    def add(self, right: Right) -> None:
        if right.client.startswith(GROUP):
            self.groups.setdefault(right.client, _Grant(right.client)).add(right)
        else:
            # By parts: a part may hold a "/", so two different clients can print alike.
            self.clients.setdefault(tuple(right.client.split("/")), _Grant(right.client)).add(right)


class RightsTable:
    """Rights and groups, indexed for the hot path: a decision costs two look-ups however many rights there are.

    Invariant: what no right names is refused. A member in a group does not cover its subsystems, nor the other way round.
    """

    def __init__(self, rights: Iterable[Right], groups: Mapping[str, frozenset[ClientId]]) -> None:
        self._services: dict[str, _Service] = {}
        for right in rights:
            self._services.setdefault(right.service, _Service()).add(right)
        self._groups: dict[ClientId, tuple[str, ...]] = {}
        for subject in sorted({subject for service in self._services.values() for subject in service.groups}):
            for client in groups.get(subject.removeprefix(GROUP), ()):
                self._groups[client] = (*self._groups.get(client, ()), subject)

    def decide(self, client: ClientId, service_id: str, method: str, path: str) -> Decision:
        """`path`: what follows the service code, raw (percent-encoded), without the query; may be empty."""
        found = self._grants(service_id, client)
        if not found:
            return _NO_SUBJECT
        plain = paths.normalised(path)
        if plain is None:
            return _PATH_REFUSED
        method = method.upper()
        for grant in found:
            if grant.covers(method, plain):
                return grant.allowed
        return _NO_ENDPOINT

    def decide_whole(self, client: ClientId, service_id: str) -> Decision:
        """For calls without method and path (SOAP): only rights to the whole service count."""
        for grant in self._grants(service_id, client):
            if grant.whole:
                return grant.allowed
        return _NO_SUBJECT

    def may_use_any(self, client: ClientId, service_id: str) -> bool:
        """Whether any endpoint is allowed: what allowedMethods lists."""
        return bool(self._grants(service_id, client))

    def endpoints(self, client: ClientId, service: Service) -> tuple[tuple[str, str], ...]:
        """(method, path glob) of what the client may call: of the service's own endpoints those that a right covers, and those that a right
        alone names. Rights to the whole service name none.
        """
        found = self._grants(service.id, client)
        covered = [one for one in service.endpoints if any(grant.covers(*one) for grant in found)]
        named = {one for grant in found for one in grant.named}
        return (*covered, *sorted(named.difference(service.endpoints)))

    def _grants(self, service_id: str, client: ClientId) -> list[_Grant]:
        service = self._services.get(service_id)
        if service is None:
            return []
        own = service.clients.get(client.parts)
        found = [own] if own is not None else []
        for subject in self._groups.get(client, ()):
            grant = service.groups.get(subject)
            if grant is not None:
                found.append(grant)
        return found
