"""The signed facts about the network: members, servers, approved CAs and time-stamping authorities.

Pure. Sheet 6.5: parsers of `shared-params.xml` and `private-params.xml`, versions 2 to 6. The signature was checked before
(`appliance.trust.directory`); the parsers are strict all the same: no DTD, bounded size, every value checked, one error.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from lxml import etree

from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.model.identifiers import ClientId, IdentifierError, ServerId
from appliance.trust.standing import STATED, standing_of

SHARED_BYTES_MAX = 32 << 20
"""The largest national instance is near 3 MB; libxml2's own limits (depth 256, 10 MB a text) hold besides."""
OCSP_FRESHNESS_S_MAX = 7 * 24 * 3600
STAMP_GRACE_S_MAX = 8 * 3600
"""A grace beyond the eight-hour rule could never be used (IV.3.V)."""
VERSIONS = (2, 3, 4, 5, 6)

ROOT_NAMESPACE = "http://x-road.eu/xsd/xroad.xsd"
_ID = "{http://x-road.eu/xsd/identifiers}"
_OURS = "{urn:xacbe:configuration:1}"


class ConfigurationMalformedError(UnverifiedError):
    """A part of the global configuration does not say what it must."""

    kind = "configuration.malformed"


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """One approved CA certificate, top or intermediate: a trust anchor either way (sheet 5.3)."""

    certificate: x509.Certificate
    subject: bytes
    """DER name: issuers are looked up by it."""
    ocsp_urls: tuple[str, ...]
    ocsp_certificates: tuple[x509.Certificate, ...]
    """Responders that the configuration lists under this CA: authorised without a certificate extension (sheet 5.4)."""
    profile: str
    """Java class of the certificate profile (sheet 5.5)."""
    top: bool


@dataclass(frozen=True, slots=True)
class ApprovedTsa:
    name: str
    url: str
    certificate: x509.Certificate


@dataclass(frozen=True, slots=True)
class SecurityServer:
    id: ServerId
    address: str
    """Host name or address without a port; empty where none is registered."""
    auth_hashes: frozenset[bytes]
    """SHA-256 of the registered authentication certificates' DER; in a version 2 file they are SHA-1 and match nothing here."""
    clients: frozenset[ClientId]
    maintenance: str | None
    """The operator's message (may be empty) while the server is in maintenance (sheet 6.8), else None."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the configuration can be had, and with which certificates it is signed there."""

    address: str
    internal_certificates: tuple[x509.Certificate, ...]
    external_certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class SharedParameters:
    """One instance as everybody in it sees it."""

    instance: str
    version: int
    cas: tuple[CaCertificate, ...]
    tsas: tuple[ApprovedTsa, ...]
    members: dict[ClientId, str]
    """Members and subsystems with their names."""
    servers: tuple[SecurityServer, ...]
    groups: dict[str, frozenset[ClientId]]
    ocsp_freshness_s: int
    checks_next_update: bool = True
    """Whether the end of validity that a responder states counts (the own instance's part NEXTUPDATE, sheet 6.6)."""
    stamp_grace_s: int = 0
    """How long messages may be delivered without a time stamp while every authority is silent (IV.3.VI)."""
    sources: tuple[Source, ...] = ()
    stated: dict[ClientId | ServerId, str] = field(default_factory=dict)
    """Members and servers that CEIQROO has suspended or whose membership has ended (`trust.standing`)."""
    _by_subject: dict[bytes, CaCertificate] = field(init=False, repr=False, compare=False, default_factory=dict)
    _by_client: dict[ClientId, list[SecurityServer]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _by_hash: dict[bytes, SecurityServer] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for ca in self.cas:
            self._by_subject[ca.subject] = ca  # the last one wins, as in X-Road (sheet 5.3)
        for server in self.servers:
            for client in {*server.clients, server.id.owner}:
                self._by_client.setdefault(client, []).append(server)
            for digest in server.auth_hashes:
                self._by_hash[digest] = server

    def ca_by_subject(self, name_der: bytes) -> CaCertificate | None:
        """The approved CA certificate with exactly this subject."""
        return self._by_subject.get(name_der)

    def servers_of(self, client: ClientId) -> tuple[SecurityServer, ...]:
        """Servers on which exactly this client is registered, or whose owner it is (sheet 3.2)."""
        return tuple(self._by_client.get(client, ()))

    def standing_of(self, server: ServerId) -> str:
        """What the configuration says of a box: a word of `trust.standing`."""
        stated = [self.stated[named] for named in (server.owner, server) if named in self.stated]
        return standing_of(any(one.id == server for one in self.servers), stated)

    def server_by_auth_hash(self, sha256: bytes) -> SecurityServer | None:
        """The server that registered the authentication certificate with this hash."""
        return self._by_hash.get(sha256)

    def auth_hashes_of(self, server: ServerId) -> list[bytes]:
        """The hashes of the authentication certificates that are registered for this server."""
        return [sha256 for sha256, owner in self._by_hash.items() if owner.id == server]


@dataclass(frozen=True, slots=True)
class AnchorSource:
    """One place of an anchor: where to download, and whose signature counts there."""

    url: str
    certificates: tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Anchor:
    """How an instance's configuration is found and believed (sheet 6.1)."""

    instance: str
    sources: tuple[AnchorSource, ...]


@dataclass(frozen=True, slots=True)
class PrivateParameters:
    """What only the instance's own servers are told."""

    instance: str
    anchors: tuple[Anchor, ...]
    """Of other instances: federation (II.2.X)."""
    stamp_interval_s: int
    registration_address: str
    management_provider: ClientId | None


def parse_shared_parameters(xml: bytes, version: int) -> SharedParameters:
    """`shared-params.xml` of configuration version 2 to 6. Raises ConfigurationMalformedError, CertificateMalformedError."""
    if version not in VERSIONS:
        raise ConfigurationMalformedError(f"configuration version {version} is not known")
    root = root_of(xml, "conf")
    instance = child_text(root, "instanceIdentifier")
    clients = dict(_clients(root, instance))
    members = {client: name for client, name in clients.values()}
    by_reference = {reference: client for reference, (client, _) in clients.items()}
    settings = _child(root, "globalSettings")
    return SharedParameters(
        instance=instance,
        version=version,
        cas=tuple(_cas(root)),
        tsas=tuple(
            ApprovedTsa(child_text(tsa, "name"), child_text(tsa, "url"), _certificate(_child(tsa, "cert")))
            for tsa in root.iterchildren("approvedTSA")
        ),
        members=members,
        servers=tuple(_server(server, by_reference) for server in root.iterchildren("securityServer")),
        groups={child_text(group, "groupCode"): frozenset(_group_members(group)) for group in root.iterchildren("globalGroup")},
        ocsp_freshness_s=whole_number(child_text(settings, "ocspFreshnessSeconds"), 1, OCSP_FRESHNESS_S_MAX),
        stamp_grace_s=_grace(root) if version >= 3 else 0,
        stated=dict(_stated(root, instance)) if version >= 3 else {},
        sources=tuple(_sources(root)) if version >= 3 else (),
    )


def parse_private_parameters(xml: bytes) -> PrivateParameters:
    """`private-params.xml`, any version. Raises ConfigurationMalformedError, CertificateMalformedError."""
    root = root_of(xml, "conf")
    management = root.find("managementService")
    provider = None if management is None else management.find("managementRequestServiceProviderId")
    return PrivateParameters(
        instance=child_text(root, "instanceIdentifier"),
        anchors=tuple(_anchor(anchor) for anchor in root.iterchildren("configurationAnchor")),
        stamp_interval_s=whole_number(child_text(root, "timeStampingIntervalSeconds"), 1, 24 * 3600),
        registration_address="" if management is None else child_text(management, "authCertRegServiceAddress"),
        management_provider=None if provider is None else client_id(provider),
    )


def parse_anchor(xml: bytes) -> Anchor:
    """A configuration anchor file (sheet 6.1). Raises ConfigurationMalformedError, CertificateMalformedError."""
    return _anchor(root_of(xml, "configurationAnchor"))


def root_of(xml: bytes, name: str) -> etree._Element:
    """The root element of a part, which must be `name` in X-Road's namespace. Raises ConfigurationMalformedError."""
    if len(xml) > SHARED_BYTES_MAX:
        raise ConfigurationMalformedError(f"{len(xml)} bytes, at most {SHARED_BYTES_MAX}")
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, remove_comments=True, remove_pis=True
    )
    try:
        root = etree.fromstring(xml, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise ConfigurationMalformedError(f"not XML: {error}") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise ConfigurationMalformedError("a document type declaration")  # entities have no place in configuration
    if root.tag != f"{{{ROOT_NAMESPACE}}}{name}":
        raise ConfigurationMalformedError(f"the root element is not {name}")
    return root


def _cas(root: etree._Element) -> Iterator[CaCertificate]:
    for approved in root.iterchildren("approvedCA"):
        profile = child_text(approved, "certificateProfileInfo")
        _child(approved, "topCA")
        for ca in approved.iterchildren("topCA", "intermediateCA"):
            certificate = _certificate(_child(ca, "cert"))
            responders = [(child_text(ocsp, "url"), ocsp.find("cert")) for ocsp in ca.iterchildren("ocsp")]
            yield CaCertificate(
                certificate=certificate,
                subject=certificate.subject.public_bytes(),
                ocsp_urls=tuple(url for url, _ in responders),
                ocsp_certificates=tuple(_certificate(listed) for _, listed in responders if listed is not None),
                profile=profile,
                top=ca.tag == "topCA",
            )


def _clients(root: etree._Element, instance: str) -> Iterator[tuple[str, tuple[ClientId, str]]]:
    seen = set()
    for member in root.iterchildren("member"):
        member_class, member_code = child_text(_child(member, "memberClass"), "code"), child_text(member, "memberCode")
        name = child_text(member, "name")
        found = [(member, ClientId(instance, member_class, member_code), name)]
        for subsystem in member.iterchildren("subsystem"):
            client = ClientId(instance, member_class, member_code, child_text(subsystem, "subsystemCode"))
            found.append((subsystem, client, _optional(subsystem, "subsystemName") or name))
        for element, client, called in found:
            reference = element.get("id") or ""
            if not reference or reference in seen:
                raise ConfigurationMalformedError(f"{client}: its id is missing or used twice")
            seen.add(reference)
            yield reference, (client, called)


def _server(server: etree._Element, by_reference: dict[str, ClientId]) -> SecurityServer:
    try:
        owner = by_reference[child_text(server, "owner")]
        clients = frozenset(by_reference[_own_text(client)] for client in server.iterchildren("client"))
    except KeyError as missing:
        raise ConfigurationMalformedError(f"a security server names an unknown client {missing}") from None
    maintenance = server.find("inMaintenanceMode")
    return SecurityServer(
        id=ServerId(owner.member, child_text(server, "serverCode")),
        address=_optional(server, "address"),
        auth_hashes=frozenset(_base64(digest) for digest in server.iterchildren("authCertHash")),
        clients=clients,
        maintenance=None if maintenance is None else _optional(maintenance, "message"),
    )


def _group_members(group: etree._Element) -> Iterator[ClientId]:
    for member in group.iterchildren("groupMember"):
        yield client_id(member)


def client_id(element: etree._Element) -> ClientId:
    """X-Road's XML identifier (sheet 1.3): qualified parts, kind in an attribute. Raises ConfigurationMalformedError."""
    names = {"MEMBER": ["xRoadInstance", "memberClass", "memberCode"]}
    names["SUBSYSTEM"] = [*names["MEMBER"], "subsystemCode"]
    wanted = names.get(element.get(f"{_ID}objectType") or "")
    if wanted is None:
        raise ConfigurationMalformedError("an identifier that is neither member nor subsystem")
    try:
        return ClientId.of([child_text(element, _ID + name) for name in wanted])
    except IdentifierError as error:
        raise ConfigurationMalformedError(str(error)) from None


def _sources(root: etree._Element) -> Iterator[Source]:
    for source in root.iterchildren("source"):
        yield Source(
            address=child_text(source, "address"),
            internal_certificates=tuple(_certificate(c) for c in source.iterchildren("internalVerificationCert")),
            external_certificates=tuple(_certificate(c) for c in source.iterchildren("externalVerificationCert")),
        )


def _anchor(element: etree._Element) -> Anchor:
    sources = tuple(
        AnchorSource(child_text(source, "downloadURL"), tuple(_certificate(c) for c in source.iterchildren("verificationCert")))
        for source in element.iterchildren("source")
    )
    if not sources or not all(source.certificates for source in sources):
        raise ConfigurationMalformedError("an anchor without a source, or a source without a certificate")
    return Anchor(child_text(element, "instanceIdentifier"), sources)


def _stated(root: etree._Element, instance: str) -> Iterator[tuple[ClientId | ServerId, str]]:
    """Our own extension: `standing` with the class and code of a member, a server's code where one box alone is meant, and the word."""
    extension = root.find(f"{_OURS}xacbe")
    for element in () if extension is None else extension.iterchildren(f"{_OURS}standing"):
        member_class, member_code, server_code = (element.get(name) or "" for name in ("memberClass", "memberCode", "serverCode"))
        word = _own_text(element)
        if not member_class or not member_code or word not in STATED:
            raise ConfigurationMalformedError("a standing without a member, or with a word that is not known")
        member = ClientId(instance, member_class, member_code)
        yield (ServerId(member, server_code) if server_code else member), word


def _grace(root: etree._Element) -> int:
    """Our own extension, in the place that the schema leaves open at the end (lax `any`)."""
    extension = root.find(f"{_OURS}xacbe")
    seconds = None if extension is None else extension.find(f"{_OURS}stampGraceSeconds")
    return 0 if seconds is None else whole_number(_own_text(seconds), 0, STAMP_GRACE_S_MAX)


def _child(element: etree._Element, name: str) -> etree._Element:
    found = element.find(name)
    if found is None:
        raise ConfigurationMalformedError(f"{etree.QName(element).localname}: {name} is missing")
    return found


def child_text(element: etree._Element, name: str) -> str:
    """The text of a child that must be there and say something. Raises ConfigurationMalformedError."""
    value = _own_text(_child(element, name))
    if not value:
        raise ConfigurationMalformedError(f"{etree.QName(element).localname}: {etree.QName(name).localname} is empty")
    return value


def _optional(element: etree._Element, name: str) -> str:
    found = element.find(name)
    return "" if found is None else _own_text(found)


def _own_text(element: etree._Element) -> str:
    return (element.text or "").strip()


def _certificate(element: etree._Element) -> x509.Certificate:
    return certificates.read_text(_own_text(element).encode())


def _base64(element: etree._Element) -> bytes:
    try:
        return base64.b64decode(_own_text(element), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationMalformedError("a hash is not base64") from None


def whole_number(text: str, low: int, high: int) -> int:
    """Raises ConfigurationMalformedError."""
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high):
        raise ConfigurationMalformedError(f"a number that is not {low} to {high}")
    return int(text)
