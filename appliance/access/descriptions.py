"""The common shape of service descriptions: what OpenAPI and WSDL say that a service can do, and what changed in it.

Pure. An operation is what a right or a client can name: of REST method and path of a service, of SOAP a service with its version.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from appliance.access.rights import WSDL, Service
from appliance.model.identifiers import ServiceId


@dataclass(frozen=True, slots=True, order=True)
class Operation:
    """`code`: the service. SOAP: `version` and where the description says that it answers (`url`). REST: `method` and `path` glob."""

    code: str
    version: str = ""
    method: str = ""
    path: str = ""
    url: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.code, self.version, self.method, self.path) if part)


@dataclass(frozen=True, slots=True)
class Changes:
    """What a new description adds and takes away, sorted."""

    added: tuple[Operation, ...]
    removed: tuple[Operation, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


def operations(service: Service) -> tuple[Operation, ...]:
    """What the box knows that a service can do; a REST service without description: nothing by name."""
    code = ServiceId.parse(service.id).code
    if service.kind == WSDL:
        return (Operation(code, service.version, url=service.url),)
    return tuple(Operation(code, method=method, path=path) for method, path in service.endpoints)


def compare(before: Iterable[Operation], after: Iterable[Operation]) -> Changes:
    """Addresses do not count: where a service is called is the technician's decision, not the description's."""
    old, new = ({(one.code, one.version, one.method, one.path): one for one in side} for side in (before, after))
    return Changes(tuple(new[key] for key in sorted(new.keys() - old.keys())), tuple(old[key] for key in sorted(old.keys() - new.keys())))
