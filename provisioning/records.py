"""What the registry holds, as values.

Pure. Names follow the glossary; certificates are DER, moments integer microseconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.model.identifiers import ClientId, ServerId


@dataclass(frozen=True, slots=True)
class Member:
    id: ClientId
    name: str
    suspended_us: int | None


@dataclass(frozen=True, slots=True)
class Subsystem:
    id: ClientId
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A box: peers accept it by its authentication certificates, and for its clients."""

    id: ServerId
    address: str
    maintenance: str | None
    authentication_certificates: tuple[bytes, ...]
    clients: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True)
class IssuedCertificate:
    """`holder`: a member's or a server's id, or CEIQROO. `key_sha256`: of the SubjectPublicKeyInfo."""

    serial: int
    profile: str
    holder: str
    key_sha256: bytes
    der: bytes
    issued_us: int
    not_after_us: int
    revoked_us: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ApprovedAuthority:
    """A CA whose certificates the instance accepts; `top` is None for a top CA, else that CA's certificate.

    `profile`: the class name by which X-Road reads members out of subjects (sheet 5.5).
    """

    certificate: bytes
    top: bytes | None
    name: str
    profile: str
    ocsp_url: str
    ocsp_certificate: bytes | None


@dataclass(frozen=True, slots=True)
class ApprovedStamping:
    name: str
    url: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Group:
    """A global group: rights may be given to it as a whole. Members of federated instances may belong."""

    code: str
    description: str
    members: tuple[ClientId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The registry at one moment, as the global configuration tells it: everything in a fixed order."""

    instance: str
    member_classes: tuple[tuple[str, str], ...]
    members: tuple[Member, ...]
    subsystems: tuple[Subsystem, ...]
    servers: tuple[Server, ...]
    authorities: tuple[ApprovedAuthority, ...]
    stamping: tuple[ApprovedStamping, ...]
    suspended: tuple[ClientId, ...] = ()
    """Members that are left out for now: their boxes are told so (II.2.XIV)."""
    groups: tuple[Group, ...] = ()
    federated: tuple[tuple[str, bytes], ...] = ()
    """Instances that this one federates with, each with its anchor (XML)."""
    monitoring_client: ClientId | None = None
