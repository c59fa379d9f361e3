"""What the instance tells every box: shared and private parameters, signed as one directory, and the anchor that begins trust in it.

Only `publish` and `anchor` read (registry, the centre's files); the rest is pure. Sheet 6.1-6.5; versions 3 to 6 of X-Road's form, which
differ by a few elements. The same registry always gives the same bytes. Rules II.2.II, II.2.XIV.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree

from appliance.clock import from_us, iso
from appliance.model.identifiers import ClientId
from appliance.trust.global_configuration import parse_anchor
from appliance.trust.optional_parts import FETCH_INTERVAL, FILES, MONITORING, NEXT_UPDATE
from appliance.trust.standing import SUSPENDED
from provisioning.authority.profiles import Profile
from provisioning.centre import Centre, Parameters
from provisioning.records import ApprovedAuthority, Group, Server, Snapshot
from provisioning.registry import Registry

VERSIONS = (3, 4, 5, 6)
NEWEST = VERSIONS[-1]
NAMES_FROM = MAINTENANCE_FROM = 5
COSTS_FROM = 6

XROAD = "http://x-road.eu/xsd/xroad.xsd"
IDENTIFIERS = "http://x-road.eu/xsd/identifiers"
EXTENSION = "urn:xacbe:configuration:1"
"""Our own element, where X-Road's schema allows any: other implementations skip it."""

SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"
ECDSA_SHA512 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512"

MANAGEMENT = ("EST", "CEIQROO", "MANAGEMENT")
"""Names the registry's own management service; X-Road wants one in private parameters even where enrolment is carried by hand."""


@dataclass(frozen=True, slots=True)
class ConfigurationKey:
    """The key that signs directories, with the certificate that anchors hold."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Publication:
    """One signed directory and the parts that it names, by path."""

    directory: bytes
    parts: dict[str, bytes]


def publish(
    registry: Registry, centre: Centre, signing: ConfigurationKey, version: int, now_us: int, *, external: bool = False
) -> Publication:
    """The instance's configuration in one version, valid from now for as long as its parameters say. `external`: what federated instances
    are given, the shared parameters alone (sheet 6.2).

    A part's path carries the moment at which its content became the current one: what did not change keeps its path and is not fetched
    again, and boxes refuse a directory whose paths are older than those they know (T14).
    """
    # with its port: boxes and X-Road build `http://<address>/internalconf` from it (sheet 6.2)
    source = centre.configuration_address, signing.certificate.public_bytes(Encoding.DER)
    snapshot = registry.snapshot(now_us)
    named = {"SHARED-PARAMETERS": ("shared-params.xml", shared_parameters(snapshot, centre.settings.parameters, source, version))}
    if not external:
        named["PRIVATE-PARAMETERS"] = ("private-params.xml", private_parameters(centre, snapshot))
        named |= optional_parts(snapshot, centre.settings.parameters)
    parts: dict[str, bytes] = {}
    entries: list[bytes] = []
    for identifier, (file, content) in named.items():
        since_us = registry.current_since(f"V{version}/{file}", hashlib.sha256(content).digest(), now_us)
        location = f"/V{version}/{from_us(since_us):%Y%m%d%H%M%S%f}000/{file}"
        parts[location] = content
        entries.append(_part_entry(identifier, snapshot.instance, location, content))
    expires_us = now_us + centre.settings.parameters.validity_s * 1_000_000
    return Publication(_directory(entries, version, expires_us, signing), parts)


def anchor(centre: Centre, *, external: bool = False, https: bool = False) -> bytes:
    """The XML that a person installs on a box: where the configuration is, and by which key it is known. `external`: the one that is
    given to an instance that federates with ours. `https`: names the encrypted place as well, first.
    """
    root = etree.Element(f"{{{XROAD}}}configurationAnchor", nsmap={"xr": XROAD, "id": IDENTIFIERS})
    _add(root, "generatedAt", iso(centre.settings.initialised_us))
    _add(root, "instanceIdentifier", centre.instance)
    for scheme in (True, False) if https else (False,):
        source = _add(root, "source")
        _add(source, "downloadURL", centre.source_url(external=external, https=scheme))
        _add(source, "verificationCert", _base64(centre.certificate_file(Profile.CONFIGURATION).read_bytes()))
    return _document(root)


def fingerprint(anchor_xml: bytes) -> str:
    """What two people compare before they trust an anchor: SHA-224, upper-case hex with colons (sheet 6.1)."""
    return hashlib.sha224(anchor_xml).digest().hex(":").upper()


def shared_parameters(snapshot: Snapshot, parameters: Parameters, source: tuple[str, bytes], version: int) -> bytes:
    """shared-params.xml; the order of elements is the schema's. `source`: CEIQROO's address and its configuration certificate."""
    root = etree.Element(f"{{{XROAD}}}conf", nsmap={"xr": XROAD, "id": IDENTIFIERS})
    _add(root, "instanceIdentifier", snapshot.instance)
    address, certificate = source
    element = _add(root, "source")
    _add(element, "address", address)
    _add(element, "internalVerificationCert", _base64(certificate))
    _add(element, "externalVerificationCert", _base64(certificate))
    _add_trust_services(root, snapshot, version)
    ids = _add_members(root, snapshot, version)
    for server in snapshot.servers:
        _add_server(root, server, ids, version)
    for group in snapshot.groups:
        _add_group(root, group)
    _add_settings(root, snapshot, parameters)
    return _document(root)


def private_parameters(centre: Centre, snapshot: Snapshot) -> bytes:
    """private-params.xml: what only our own boxes are told, anchors of federated instances among it (II.2.X)."""
    root = etree.Element(f"{{{XROAD}}}conf", nsmap={"xr": XROAD, "id": IDENTIFIERS})
    _add(root, "instanceIdentifier", centre.instance)
    for _, foreign in snapshot.federated:
        _add_anchor(root, foreign)
    management = _add(root, "managementService")
    _add(management, "authCertRegServiceAddress", f"https://{centre.settings.address}:4001/managementservice/")
    _add_client(management, "managementRequestServiceProviderId", ClientId(centre.instance, *MANAGEMENT))
    _add(root, "timeStampingIntervalSeconds", str(centre.settings.parameters.time_stamping_interval_s))
    return _document(root)


def optional_parts(snapshot: Snapshot, parameters: Parameters) -> dict[str, tuple[str, bytes]]:
    """Identifier to file name and content, only of those that say something else than X-Road's defaults (sheet 6.6)."""
    found: dict[str, etree._Element] = {}
    if snapshot.monitoring_client is not None:
        found[MONITORING] = _optional_root()
        _add_client(_add(found[MONITORING], "monitoringClient"), "monitoringClientId", snapshot.monitoring_client)
    if parameters.ocsp_fetch_interval_s:
        found[FETCH_INTERVAL] = _optional_root()
        _add(found[FETCH_INTERVAL], "ocspFetchInterval", str(parameters.ocsp_fetch_interval_s))
    if not parameters.checks_next_update:
        found[NEXT_UPDATE] = _optional_root()
        _add(found[NEXT_UPDATE], "verifyNextUpdate", "false")
    return {identifier: (FILES[identifier], _document(root)) for identifier, root in found.items()}


def _optional_root() -> etree._Element:
    return etree.Element(f"{{{XROAD}}}conf", nsmap={"xr": XROAD, "id": IDENTIFIERS})


def _add_anchor(root: etree._Element, anchor_xml: bytes) -> None:
    """Parsed, and checked when the federation was entered (`provisioning.agreements`); here only its elements are copied."""
    foreign = parse_anchor(anchor_xml)
    element = _add(root, "configurationAnchor")
    _add(element, "instanceIdentifier", foreign.instance)
    for source in foreign.sources:
        place = _add(element, "source")
        _add(place, "downloadURL", source.url)
        for certificate in source.certificates:
            _add(place, "verificationCert", _base64(certificate.public_bytes(Encoding.DER)))


def _add_group(root: etree._Element, group: Group) -> None:
    element = _add(root, "globalGroup")
    _add(element, "groupCode", group.code)
    _add(element, "description", group.description)
    for member in group.members:
        _add_client(element, "groupMember", member)


def _add_client(parent: etree._Element, name: str, client: ClientId) -> None:
    """X-Road's XML identifier (sheet 1.3)."""
    element = _add(parent, name)
    element.set(f"{{{IDENTIFIERS}}}objectType", "MEMBER" if client.subsystem is None else "SUBSYSTEM")
    names = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")
    for part, value in zip(names, (client.instance, client.member_class, client.member_code, client.subsystem), strict=True):
        if value is not None:
            _add(element, f"{{{IDENTIFIERS}}}{part}", value)


def _add_trust_services(root: etree._Element, snapshot: Snapshot, version: int) -> None:
    for top in snapshot.authorities:
        if top.top is not None:
            continue
        approved = _add(root, "approvedCA")
        _add(approved, "name", top.name)
        _add(approved, "authenticationOnly", "false")
        _add_authority(approved, "topCA", top, version)
        for authority in snapshot.authorities:
            if authority.top == top.certificate:
                _add_authority(approved, "intermediateCA", authority, version)
        _add(approved, "certificateProfileInfo", top.profile)
    for service in snapshot.stamping:
        approved = _add(root, "approvedTSA")
        _add(approved, "name", service.name)
        _add(approved, "url", service.url)
        _add(approved, "cert", _base64(service.certificate))
        if version >= COSTS_FROM:
            _add(approved, "costType", "FREE")


def _add_authority(approved: etree._Element, name: str, authority: ApprovedAuthority, version: int) -> None:
    element = _add(approved, name)
    _add(element, "cert", _base64(authority.certificate))
    service = _add(element, "ocsp")
    _add(service, "url", authority.ocsp_url)
    if authority.ocsp_certificate is not None:
        _add(service, "cert", _base64(authority.ocsp_certificate))
    if version >= COSTS_FROM:
        _add(service, "costType", "FREE")


def _add_members(root: etree._Element, snapshot: Snapshot, version: int) -> dict[ClientId, str]:
    """Adds members with their subsystems; returns the XML id of each."""
    classes = dict(snapshot.member_classes)
    ids: dict[ClientId, str] = {}
    for member in snapshot.members:
        element = _add(root, "member")
        ids[member.id] = _numbered(element, ids)
        _add_class(element, member.id.member_class, classes[member.id.member_class])
        _add(element, "memberCode", member.id.member_code)
        _add(element, "name", member.name)
        for subsystem in snapshot.subsystems:
            if subsystem.id.member == member.id:
                child = _add(element, "subsystem")
                ids[subsystem.id] = _numbered(child, ids)
                _add(child, "subsystemCode", subsystem.id.subsystem or "")
                if version >= NAMES_FROM:
                    _add(child, "subsystemName", subsystem.name)
    return ids


def _add_server(root: etree._Element, server: Server, ids: dict[ClientId, str], version: int) -> None:
    element = _add(root, "securityServer")
    _add(element, "owner", ids[server.id.owner])
    _add(element, "serverCode", server.id.code)
    _add(element, "address", server.address)
    for certificate in server.authentication_certificates:
        _add(element, "authCertHash", _base64(hashlib.sha256(certificate).digest()))
    for client in server.clients:
        _add(element, "client", ids[client])
    if server.maintenance is not None and version >= MAINTENANCE_FROM:
        _add(_add(element, "inMaintenanceMode"), "message", server.maintenance)


def _add_settings(root: etree._Element, snapshot: Snapshot, parameters: Parameters) -> None:
    settings = _add(root, "globalSettings")
    for code, description in snapshot.member_classes:
        _add_class(settings, code, description)
    _add(settings, "ocspFreshnessSeconds", str(parameters.ocsp_freshness_s))
    ours = etree.SubElement(root, f"{{{EXTENSION}}}xacbe", nsmap={"x": EXTENSION})
    _add(ours, f"{{{EXTENSION}}}stampGraceSeconds", str(parameters.stamp_grace_s))
    for member in snapshot.suspended:
        stated = _add(ours, f"{{{EXTENSION}}}standing", SUSPENDED)
        stated.set("memberClass", member.member_class)
        stated.set("memberCode", member.member_code)


def _add_class(parent: etree._Element, code: str, description: str) -> None:
    element = _add(parent, "memberClass")
    _add(element, "code", code)
    _add(element, "description", description)


def _numbered(element: etree._Element, ids: dict[ClientId, str]) -> str:
    name = f"id{len(ids) + 1}"
    element.set("id", name)
    return name


def _add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    element = etree.SubElement(parent, name)
    element.text = text
    return element


def _document(root: etree._Element) -> bytes:
    return etree.tostring(root, encoding="UTF-8", xml_declaration=True, standalone=True)


def _part_entry(identifier: str, instance: str, location: str, content: bytes) -> bytes:
    return _lines(
        "Content-type: application/octet-stream",
        "Content-transfer-encoding: base64",
        f"Content-identifier: {identifier}; instance='{instance}'",
        f"Content-location: {location}",
        f"Hash-algorithm-id: {SHA512}",
        "",
        _base64(hashlib.sha512(content).digest()),
    )


def _directory(entries: list[bytes], version: int, expires_us: int, signing: ConfigurationKey) -> bytes:
    """The document of sheet 6.3. What is signed begins with the first inner boundary and ends with the last one's CRLF."""
    head = _lines(f"Expire-date: {from_us(expires_us):%Y-%m-%dT%H:%M:%SZ}", f"Version: {version}", "")
    inner = hashlib.sha256(head + b"".join(entries)).hexdigest()[:20]
    signed = b"".join(_lines(f"--{inner}") + entry for entry in [head, *entries]) + _lines(f"--{inner}--")
    signature = signing.key.sign(signed, ec.ECDSA(hashes.SHA512()))
    fingerprint_of = _base64(hashlib.sha512(signing.certificate.public_bytes(Encoding.DER)).digest())
    outer = f"{inner[::-1]}-"
    return b"".join(
        (
            _lines(f"Content-Type: multipart/related; charset=UTF-8; boundary={outer}", "", f"--{outer}"),
            _lines(f"Content-Type: multipart/mixed; charset=UTF-8; boundary={inner}", ""),
            signed,
            _lines("", f"--{outer}", "Content-Type: application/octet-stream", "Content-Transfer-Encoding: base64"),
            _lines(f"Signature-Algorithm-Id: {ECDSA_SHA512}"),
            _lines(f'Verification-certificate-hash: {fingerprint_of}; hash-algorithm-id="{SHA512}"', ""),
            _lines(_base64(signature), f"--{outer}--"),
        )
    )


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
