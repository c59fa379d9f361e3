"""What each kind of certificate says, and which certification requests are accepted.

Pure: keys, names and the moment come in, a signed certificate goes out. Sheet 5.2, 5.5 (X-Road's *Basic* profile), 9.4.
Nothing but the public key is taken from a request: names, usages and terms are the registry's and this table's.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from appliance.clock import from_us
from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId, ServerId

COUNTRY = "MX"
OWNER = "CEIQROO"
NAME_CHARACTERS_MAX = 64
"""Upper bound of common and organisation names (RFC 5280, ub-common-name)."""
REQUEST_BYTES_MAX = 8192
"""A request with an RSA-4096 key is 1.7 KB: more is not one of ours."""
BACKDATED = timedelta(minutes=5)
"""A box whose clock is a little behind must still accept its new certificate (T40: up to five minutes off is tolerated)."""

BoxPublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CertificateRequestError(RefusedError):
    """A certification request (PKCS#10) that we do not certify."""

    kind = "request.malformed"


class Profile(StrEnum):
    """The certificates of an instance; for a box's, the name is the label of the key in its token."""

    ROOT = "root"
    ISSUING = "issuing"
    OCSP = "ocsp"
    TSA = "tsa"
    CONFIGURATION = "configuration"
    BROKER = "broker"
    MONITOR = "monitor"
    WEB = "web"
    SEAL = "seal"
    PEER = "tls-peer"
    INTERNAL = "tls-internal"
    REPORT = "tls-report"
    LOG = "log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a profile puts into its certificates. `depth`: path length of an authority, None for end entities."""

    days: int
    usages: frozenset[str] = frozenset()
    key_exchange: bool = False
    """Adds keyAgreement (EC) or keyEncipherment (RSA), as RFC 5480 and RFC 3279 ask."""
    extended: tuple[x509.ObjectIdentifier, ...] = ()
    extended_critical: bool = False
    depth: int | None = None
    checked: bool = True
    """Its status is asked by OCSP: the address goes into the certificate."""


_SIGNS = frozenset({"digital_signature"})
_AUTHORITY = frozenset({"key_cert_sign", "crl_sign"})
_CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH
_SERVER = ExtendedKeyUsageOID.SERVER_AUTH

RULES: dict[Profile, Rules] = {
    Profile.ROOT: Rules(days=20 * 365, usages=_AUTHORITY, depth=1, checked=False),
    Profile.ISSUING: Rules(days=10 * 365, usages=_AUTHORITY, depth=0, checked=False),
    # id-pkix-ocsp-nocheck (RFC 6960 4.2.2.2.1): nobody asks the responder about the responder, hence its short term.
    Profile.OCSP: Rules(days=2 * 365, usages=_SIGNS, extended=(ExtendedKeyUsageOID.OCSP_SIGNING,), checked=False),
    # RFC 3161 2.3: this usage alone, and critical.
    Profile.TSA: Rules(days=9 * 365, usages=_SIGNS, extended=(ExtendedKeyUsageOID.TIME_STAMPING,), extended_critical=True),
    # A container for a key (sheet 6.1): trusted because the anchor holds these very bytes, not because somebody issued it.
    Profile.CONFIGURATION: Rules(days=10 * 365, usages=_SIGNS, checked=False),
    Profile.BROKER: Rules(days=2 * 365, usages=_SIGNS, key_exchange=True, extended=(_SERVER,)),
    Profile.MONITOR: Rules(days=2 * 365, usages=_SIGNS, extended=(_CLIENT,)),
    Profile.WEB: Rules(days=2 * 365, usages=_SIGNS, key_exchange=True, extended=(_SERVER,)),
    # Sheet 5.2: nonRepudiation and nothing else, so that a seal key can never be used for TLS.
    Profile.SEAL: Rules(days=2 * 365, usages=frozenset({"content_commitment"})),
    Profile.PEER: Rules(days=90, usages=_SIGNS, key_exchange=True, extended=(_CLIENT, _SERVER)),
    Profile.INTERNAL: Rules(days=90, usages=_SIGNS, key_exchange=True, extended=(_SERVER,)),
    Profile.REPORT: Rules(days=90, usages=_SIGNS, extended=(_CLIENT,)),
    Profile.LOG: Rules(days=2 * 365, usages=_SIGNS),
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def checked_request(der: bytes) -> BoxPublicKey:
    """The public key of a request, once its holder has proven to own the private one. Raises CertificateRequestError."""
    if len(der) > REQUEST_BYTES_MAX:
        raise CertificateRequestError(f"a request longer than {REQUEST_BYTES_MAX} bytes")
    try:
        request = x509.load_der_x509_csr(der)
        key = request.public_key()
        spelled = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) in request.tbs_certrequest_bytes
        signed = request.is_signature_valid
        digest = request.signature_hash_algorithm
    except Exception as error:  # what a foreign DER makes a parser raise is open; the outcome is the same
        raise CertificateRequestError(f"not a certification request: {type(error).__name__}") from None
    if not isinstance(digest, hashes.SHA256 | hashes.SHA384 | hashes.SHA512):
        raise CertificateRequestError("signed with a digest other than SHA-2", kind="request.signature")
    if not signed:
        raise CertificateRequestError("not signed by the key that it names", kind="request.signature")
    if not spelled:
        # Explicit curve parameters or a compressed point: other software might read another key than the one that is certified.
        raise CertificateRequestError("a public key in another form than named curve and uncompressed point", kind="request.key")
    return accepted_key(key)


def accepted_key(key: object) -> BoxPublicKey:
    """P-256, or RSA of 2048, 3072 or 4096 bits with exponent 65537. Raises CertificateRequestError kind `request.key`."""
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in (2048, 3072, 4096) and key.public_numbers().e == 65537:
        return key
    raise CertificateRequestError("neither P-256 nor RSA-2048/3072/4096 with exponent 65537", kind="request.key")


def certify(
    profile: Profile,
    subject: x509.Name,
    public_key: BoxPublicKey,
    issuer: Issuer | ec.EllipticCurvePrivateKey,
    now_us: int,
    *,
    names: tuple[str, ...] = (),
    ocsp_url: str = "",
) -> x509.Certificate:
    """A certificate by its profile; with a bare key as issuer it is self-signed. Never outlives its issuer."""
    rules = RULES[profile]
    begins = from_us(now_us) - BACKDATED
    ends = from_us(now_us) + timedelta(days=rules.days)
    authority, key = (subject, issuer) if isinstance(issuer, ec.EllipticCurvePrivateKey) else (issuer.certificate.subject, issuer.key)
    if isinstance(issuer, Issuer):
        ends = min(ends, issuer.certificate.not_valid_after_utc)
    builder = (
        x509.CertificateBuilder(authority, subject, public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins.replace(microsecond=0))
        .not_valid_after(ends.replace(microsecond=0))
    )
    for extension, critical in _extensions(rules, public_key, key.public_key(), names, ocsp_url):
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, hashes.SHA256())


def authority_subject(instance: str, name: str) -> x509.Name:
    """Subject of a certificate of CEIQROO itself: the instance is part of it, so that two instances never share a name."""
    return _name((NameOID.COUNTRY_NAME, COUNTRY), (NameOID.ORGANIZATION_NAME, OWNER), (NameOID.COMMON_NAME, f"{instance} {name}"))


def seal_subject(member: ClientId, name: str) -> x509.Name:
    """X-Road's Basic profile: class in businessCategory, code in serialNumber (sheet 5.5)."""
    return _name(
        (NameOID.COUNTRY_NAME, COUNTRY),
        (NameOID.ORGANIZATION_NAME, name),
        (NameOID.BUSINESS_CATEGORY, member.member_class),
        (NameOID.SERIAL_NUMBER, member.member_code),
        (NameOID.COMMON_NAME, name),
    )


def server_subject(server: ServerId, owner_name: str, address: str) -> x509.Name:
    """For a box's TLS keys. Peers bind by the certificate's hash (sheet 5.5): the names are for people."""
    return _name(
        (NameOID.COUNTRY_NAME, COUNTRY),
        (NameOID.ORGANIZATION_NAME, owner_name),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, server.code),
        (NameOID.SERIAL_NUMBER, server.owner.member_code),
        (NameOID.COMMON_NAME, address),
    )


def report_subject(server: ServerId) -> x509.Name:
    """For the reporter: the broker grants topics by this common name, the Sparkplug edge node id."""
    node = ":".join((server.owner.member_class, server.owner.member_code, server.code))
    return _name((NameOID.ORGANIZATION_NAME, server.owner.instance), (NameOID.COMMON_NAME, node))


def log_subject(server: ServerId) -> x509.Name:
    """For the key that signs the checkpoints of a box's message log."""
    node = ":".join((server.owner.member_class, server.owner.member_code, server.code))
    return _name((NameOID.ORGANIZATION_NAME, server.owner.instance), (NameOID.COMMON_NAME, f"{node} log"[:NAME_CHARACTERS_MAX]))


def _name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    try:
        return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    except ValueError as error:
        raise RefusedError(f"a name that does not fit into a certificate: {error}", kind="request.name") from None


def _extensions(
    rules: Rules, subject_key: BoxPublicKey, issuer_key: ec.EllipticCurvePublicKey, names: tuple[str, ...], ocsp_url: str
) -> list[tuple[x509.ExtensionType, bool]]:
    wanted: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(rules.depth is not None, rules.depth), True),
        (_key_usage(rules, subject_key), True),
        (x509.SubjectKeyIdentifier.from_public_key(subject_key), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), False),
    ]
    if rules.extended:
        wanted.append((x509.ExtendedKeyUsage(rules.extended), rules.extended_critical))
    if ExtendedKeyUsageOID.OCSP_SIGNING in rules.extended:
        wanted.append((x509.OCSPNoCheck(), False))
    if names:
        wanted.append((x509.SubjectAlternativeName([_general_name(name) for name in names]), False))
    if rules.checked and ocsp_url:
        location = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(ocsp_url))
        wanted.append((x509.AuthorityInformationAccess([location]), False))
    return wanted


def _key_usage(rules: Rules, key: BoxPublicKey) -> x509.KeyUsage:
    usages = set(rules.usages)
    if rules.key_exchange:
        usages.add("key_agreement" if isinstance(key, ec.EllipticCurvePublicKey) else "key_encipherment")
    return x509.KeyUsage(
        digital_signature="digital_signature" in usages,
        content_commitment="content_commitment" in usages,
        key_encipherment="key_encipherment" in usages,
        data_encipherment=False,
        key_agreement="key_agreement" in usages,
        key_cert_sign="key_cert_sign" in usages,
        crl_sign="crl_sign" in usages,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
