"""Peers whose certificate, chain or OCSP response is bad in one way and good in all others: for both directions (T09, T10, T18).

Every bad certificate is registered with CEIQROO and confirmed by the responder unless that is its fault, so that nothing else can be the
reason of its refusal.
"""

from __future__ import annotations

import base64
import functools
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID as Eku

from tests.trust import pki
from tests.trust.pki import Holder, Statement, extended, issue, key_usage

NOW = datetime.now(UTC).replace(microsecond=0)  # noqa: TID251  OpenSSL reads the machine's clock
DAY = timedelta(days=1)
VALID = {"begins": NOW - DAY, "ends": NOW + 30 * DAY}
SUBJECT = "C=MX,O=GOB,CN=SS1"


@functools.cache
def authority() -> Holder:
    return pki.ca("O=Red,CN=Issuing", **VALID)


@functools.cache
def stranger() -> Holder:
    return pki.ca("O=Otra,CN=Issuing", **VALID)


@dataclass(frozen=True)
class Shown:
    """What a peer shows: its certificate and key, further certificates, and the confirmations that come with it."""

    leaf: Holder
    enclosed: tuple[bytes, ...] = ()
    responses: tuple[bytes, ...] | None = None
    registered: bool = True

    @property
    def pem(self) -> bytes:
        ders = (self.leaf.der, *self.enclosed)
        certificates = b"".join(_pem(each) for each in ders)
        key = self.leaf.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return certificates + key


def _pem(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def leaf(*extensions: tuple[x509.ExtensionType, bool], issuer: Holder | None = None, **others: object) -> Holder:
    """A server's authentication certificate under the approved authority, where nothing else is asked."""
    given = extensions or (key_usage("digital_signature"), extended(Eku.CLIENT_AUTH, Eku.SERVER_AUTH, critical=False))
    return issue(SUBJECT, issuer or authority(), *given, **(VALID | others))  # type: ignore[arg-type]  # passed through


def confirmed(holder: Holder, **others: object) -> bytes:
    """The authority's word on it, now."""
    fields = {"this_update": NOW, "next_update": NOW + DAY} | {name: others.pop(name) for name in list(others) if name != "produced"}
    return pki.ocsp_response(Statement(holder, authority(), **fields), authority(), produced=others.get("produced", NOW))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Bad:
    """One line of the table. `kinds`: what may be the answer: `tls` (no handshake), or the kinds of `exchange.peer_trust`."""

    name: str
    make: Callable[[], Shown]
    kinds: tuple[str, ...]


TLS, PROFILE, STATUS, UNKNOWN = ("tls",), ("tls", "peer.certificate_refused"), ("peer.certificate_refused",), ("peer.not_registered",)


def made(**others: object) -> Callable[[], Shown]:
    return lambda: Shown(leaf(**others))


def with_extensions(*extensions: tuple[x509.ExtensionType, bool]) -> Callable[[], Shown]:
    return lambda: Shown(leaf(*extensions))


def with_more(extension: x509.ExtensionType) -> Callable[[], Shown]:
    return lambda: Shown(leaf(key_usage("digital_signature"), extended(Eku.CLIENT_AUTH), (extension, True)))


def with_key(key: Callable[[], object]) -> Callable[[], Shown]:
    return lambda: Shown(leaf(key=key()))


def self_signed() -> Shown:
    return Shown(issue(SUBJECT, None, key_usage("digital_signature"), extended(Eku.CLIENT_AUTH), **VALID))  # type: ignore[arg-type]


def by_a_namesake() -> Shown:
    return Shown(leaf(issuer=pki.ca("O=Red,CN=Issuing", **VALID)))


def name_spelled_otherwise() -> Shown:
    """The issuer's name in another string type: the same to a reader, other bytes."""
    holder = leaf()
    changed = asn1_x509.Certificate.load(holder.der)
    for relative in changed["tbs_certificate"]["issuer"].chosen:
        for pair in relative:
            pair["value"] = asn1_x509.DirectoryString(name="printable_string", value=asn1_x509.PrintableString(pair["value"].native))
    return Shown(_resigned(holder, changed, authority()), responses=(confirmed(holder),))


def _resigned(holder: Holder, changed: object, issuer: Holder) -> Holder:
    der: object = changed
    body = der["tbs_certificate"].dump(force=True)  # type: ignore[index]  # asn1crypto has no types
    der["signature_value"] = pki.sign(issuer.key, body)  # type: ignore[index]
    return Holder(holder.key, _Raw(der.dump(force=True)))  # type: ignore[attr-defined, arg-type]


class _Raw:
    """Bytes in a certificate's place, which our own reader might refuse."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def public_bytes(self, encoding: serialization.Encoding) -> bytes:
        return self._der


def with_ed25519() -> Shown:
    """Of a kind that our own reader refuses before anything else."""
    key, like = ed25519.Ed25519PrivateKey.generate(), leaf()
    builder = (
        x509.CertificateBuilder().subject_name(like.certificate.subject).issuer_name(like.certificate.issuer).public_key(key.public_key())
    )
    builder = builder.serial_number(5).not_valid_before(NOW - DAY).not_valid_after(NOW + DAY)
    builder = builder.add_extension(*extended(Eku.CLIENT_AUTH))
    made_here = builder.sign(authority().key, hashes.SHA256())
    return Shown(Holder(key, made_here), responses=(confirmed(like),))  # type: ignore[arg-type]  # the wrong kind of key


def over_sha1() -> Shown:
    """`cryptography` does not sign over it any more; the command does."""
    holder = leaf()
    changed = asn1_x509.Certificate.load(holder.der)
    for place in (changed["signature_algorithm"], changed["tbs_certificate"]["signature"]):
        place["algorithm"] = "sha1_ecdsa"
    with tempfile.NamedTemporaryFile() as file:
        encoding = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        file.write(authority().key.private_bytes(*encoding))
        file.flush()
        body, command = changed["tbs_certificate"].dump(force=True), ["openssl", "dgst", "-sha1", "-sign", file.name]
        changed["signature_value"] = subprocess.run(command, input=body, capture_output=True, check=True).stdout
    return Shown(Holder(holder.key, _Raw(changed.dump(force=True))), responses=(confirmed(holder),))  # type: ignore[arg-type]


def negative_serial() -> Shown:
    holder = leaf()
    changed = asn1_x509.Certificate.load(holder.der)
    changed["tbs_certificate"]["serial_number"] = -5
    return Shown(_resigned(holder, changed, authority()), responses=(confirmed(leaf()),))


def broken_signature() -> Shown:
    holder = leaf()
    changed = asn1_x509.Certificate.load(holder.der)
    body = changed["tbs_certificate"].dump() + b"!"
    changed["signature_value"] = pki.sign(authority().key, body)
    return Shown(Holder(holder.key, _Raw(changed.dump(force=True))), responses=(confirmed(leaf()),))  # type: ignore[arg-type]


def below_an_own_authority() -> Shown:
    between = pki.ca("O=Red,CN=Own", authority(), **VALID)
    return Shown(leaf(issuer=between), (between.der,))


def below_a_server() -> Shown:
    between = leaf()
    return Shown(leaf(issuer=between), (between.der,))


def behind_a_stranger() -> Shown:
    """The registered certificate comes second: whose key it is counts, not what lies beside it."""
    good = leaf()
    return Shown(leaf(), (good.der,), registered=False)


def a_hundred_links() -> Shown:
    above, links = authority(), []
    for number in range(100):
        above = pki.ca(f"O=Red,CN=Link {number}", above, key=_shared_key(), **VALID)
        links.append(above.der)
    return Shown(leaf(issuer=above), tuple(reversed(links)))


def a_lattice() -> Shown:
    """Twelve steps, each with two keys and certificates both ways: thousands of paths for whoever walks them all."""
    level, sent = [stranger(), pki.ca("O=Otra,CN=Issuing", **VALID)], []
    for step in range(12):
        keys = (pki.new_key(), pki.new_key())
        made_here = [pki.ca(f"O=Red,CN=Step {step}", above, key=key, **VALID) for key in keys for above in level]
        sent += [each.der for each in made_here]
        level = [made_here[0], made_here[-1]]
    return Shown(leaf(issuer=level[0]), tuple(sent))


@functools.cache
def _shared_key() -> ec.EllipticCurvePrivateKey:
    return pki.new_key()


def of_another_server() -> Shown:
    """Registered, confirmed, and of a box on which neither client nor provider is."""
    return Shown(other_server())


@functools.cache
def other_server() -> Holder:
    return leaf()


def unregistered() -> Shown:
    return Shown(leaf(), registered=False)


def with_responses(make: Callable[[Holder], tuple[bytes, ...]]) -> Callable[[], Shown]:
    def shown() -> Shown:
        holder = leaf()
        return Shown(holder, responses=make(holder))

    return shown


def by_somebody_else(holder: Holder) -> tuple[bytes, ...]:
    return (pki.ocsp_response(Statement(holder, authority(), this_update=NOW, next_update=NOW + DAY), stranger(), produced=NOW),)


HOUR = timedelta(hours=1)
STALE = {"this_update": NOW - 9 * HOUR, "produced": NOW - 9 * HOUR}
OVER = {"this_update": NOW - HOUR / 2, "next_update": NOW - HOUR / 60}
OTHER_USAGES = (("OCSP signing", Eku.OCSP_SIGNING), ("time stamping", Eku.TIME_STAMPING), ("code signing", Eku.CODE_SIGNING))

BAD: tuple[Bad, ...] = (
    Bad("self-signed", self_signed, TLS),
    Bad("of another authority", lambda: Shown(leaf(issuer=stranger())), TLS),
    Bad("of another authority, which comes along", lambda: Shown(leaf(issuer=stranger()), (stranger().der,)), TLS),
    Bad("of an authority's namesake", by_a_namesake, TLS),
    Bad("issuer's name in other bytes", name_spelled_otherwise, PROFILE),
    Bad("expired", made(begins=NOW - 9 * DAY, ends=NOW - DAY), TLS),
    Bad("expired a minute ago", made(begins=NOW - DAY, ends=NOW - timedelta(minutes=1)), TLS),
    Bad("not yet valid", made(begins=NOW + DAY, ends=NOW + 9 * DAY), TLS),
    Bad("of 1970", made(begins=datetime(1970, 1, 1, tzinfo=UTC), ends=datetime(1970, 1, 2, tzinfo=UTC)), TLS),
    Bad("an authority's own certificate", lambda: Shown(authority(), responses=(confirmed(leaf()),)), PROFILE + UNKNOWN),
    Bad("an authority in a server's place", with_more(x509.BasicConstraints(ca=True, path_length=None)), PROFILE),
    Bad("below an authority that only it knows", below_an_own_authority, PROFILE),
    Bad("below another server's certificate", below_a_server, TLS),
    *(Bad(f"for {name} alone", with_extensions(extended(usage)), TLS + UNKNOWN) for name, usage in OTHER_USAGES),
    Bad("for servers alone, without key usage", with_extensions(extended(Eku.SERVER_AUTH)), TLS + UNKNOWN),
    Bad("for nothing", with_extensions((x509.SubjectKeyIdentifier(b"k"), False)), UNKNOWN),
    Bad("for seals", with_extensions(key_usage("content_commitment")), TLS + UNKNOWN),
    Bad("for issuing", with_extensions(key_usage("key_cert_sign")), TLS + UNKNOWN),
    Bad("for key agreement alone", with_extensions(key_usage("key_agreement")), TLS + UNKNOWN),
    Bad("unknown critical extension", with_more(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")), PROFILE),
    Bad("critical name constraints", with_more(x509.NameConstraints([x509.DNSName("a.mx")], None)), PROFILE),
    Bad("critical policy constraints", with_more(x509.PolicyConstraints(0, None)), PROFILE),
    Bad("critical inhibition of policies", with_more(x509.InhibitAnyPolicy(0)), PROFILE),
    Bad("RSA of 1024 bits", with_key(lambda: rsa.generate_private_key(65537, 1024)), PROFILE),  # noqa: S505  the weak one
    Bad("RSA of 2047 bits", with_key(lambda: rsa.generate_private_key(65537, 2047)), PROFILE),  # noqa: S505  the weak one
    Bad("P-192", with_key(lambda: ec.generate_private_key(ec.SECP192R1())), PROFILE),
    Bad("secp256k1", with_key(lambda: ec.generate_private_key(ec.SECP256K1())), PROFILE),
    Bad("Ed25519", with_ed25519, PROFILE + UNKNOWN),
    Bad("signed over SHA-1", over_sha1, PROFILE),
    Bad("signature of other bytes", broken_signature, TLS),
    Bad("negative serial number", negative_serial, TLS + UNKNOWN + STATUS),
    Bad("a stranger's before the registered one", behind_a_stranger, UNKNOWN),
    Bad("of a box that serves others", of_another_server, UNKNOWN),
    Bad("not registered", unregistered, UNKNOWN),
    Bad("below a hundred links", a_hundred_links, TLS),
    Bad("in a lattice of authorities", a_lattice, TLS),
    Bad("without a confirmation", with_responses(lambda _: ()), ("peer.evidence_missing",)),
    Bad("revoked", with_responses(lambda one: (confirmed(one, status=ocsp.OCSPCertStatus.REVOKED),)), STATUS),
    Bad("unknown to the responder", with_responses(lambda one: (confirmed(one, status=ocsp.OCSPCertStatus.UNKNOWN),)), STATUS),
    Bad("confirmed nine hours ago", with_responses(lambda one: (confirmed(one, **STALE),)), STATUS),
    Bad("confirmed until a minute ago", with_responses(lambda one: (confirmed(one, **OVER),)), STATUS),
    Bad("another's confirmation", with_responses(lambda _: (confirmed(leaf()),)), STATUS),
    Bad("confirmed by somebody else", with_responses(by_somebody_else), STATUS),
    Bad("confirmed in bytes that are none", with_responses(lambda _: (b"0\x03\x0a\x01\x00",)), STATUS),
)  # fmt: skip


def good() -> Shown:
    return Shown(leaf())


def expected_responses(shown: Shown) -> tuple[bytes, ...]:
    return (confirmed(shown.leaf),) if shown.responses is None else shown.responses
