"""Whether a certificate was issued within this network, at a given moment.

Pure. Sheet 5.2-5.3. The trust anchor is the approved CA whose subject equals the issuer of the certificate, an intermediate as well as a
top CA; nothing is searched, so a hostile chain costs nothing. Certificates that a peer sends along are used only where they are, byte for
byte, pinned in the global configuration.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.model.certificates import PARSER_ERRORS
from appliance.trust.global_configuration import CaCertificate, SharedParameters
from appliance.trust.signatures import RSA_KEY_BITS_MIN

ISSUERS_MAX = 3
"""Pinned issuers above a leaf: deeper hierarchies are not approved, and a chain of 100 must cost nothing (T10)."""

_HANDLED = frozenset(
    {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.ISSUER_ALTERNATIVE_NAME,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    }
)
"""Extensions that may be critical: we read them, or they cannot make a certificate worse than we take it for (no names, no CRLs here)."""

_WEAK_HASHES = (hashes.MD5, hashes.SHA1)
_SIGNATURE_ERRORS: tuple[type[Exception], ...] = (InvalidSignature, *PARSER_ERRORS)

Link = tuple[x509.Certificate, CaCertificate]


class ChainUntrustedError(UnverifiedError):
    """Not issued by an approved CA of the instance; X-Road: `internal_error`."""

    kind = "chain.untrusted"


class ChainSignatureError(UnverifiedError):
    """The issuer's name is right, its signature is not."""

    kind = "chain.wrong_signature"


class ChainValidityError(UnverifiedError):
    """Expired, or not yet valid, at the moment that counts; X-Road: `cannot_create_cert_path`."""

    kind = "chain.expired"


class ChainProfileError(UnverifiedError):
    """A certificate of a kind that has no place here: too many, a CA as a leaf, a weak key, an unknown critical extension."""

    kind = "chain.profile"


def check_path(leaf: x509.Certificate, intermediates: Sequence[x509.Certificate], shared: SharedParameters, at_us: int) -> tuple[Link, ...]:
    """The path from `leaf` to the trust anchor: (certificate, its issuer) for each certificate that needs an OCSP response.

    `intermediates`: what the peer sent along; those that are pinned in `shared` lengthen the path (X-Road asks for their OCSP responses
    as well), all others are ignored. A seal needs none: its anchor is the issuer of the signing certificate. The anchor's own validity is
    not looked at (sheet 5.3). Raises ChainUntrustedError, ChainSignatureError, ChainValidityError, ChainProfileError.
    """
    # (1) no more certificates than an approved hierarchy has, before anything is computed
    if len(intermediates) > ISSUERS_MAX:
        raise ChainProfileError(f"{len(intermediates)} intermediate certificates, at most {ISSUERS_MAX}")
    sent = {certificates.der(certificate) for certificate in intermediates}
    links: list[Link] = []
    current: x509.Certificate = leaf
    while True:
        # (2) the issuer is pinned: looked up by its exact name, never taken from the peer
        issuer = shared.ca_by_subject(current.issuer.public_bytes())
        if issuer is None:
            raise ChainUntrustedError("not issued by an approved certification service")
        # (3) the certificate may stand where it stands
        _check_place(current, depth=len(links))
        # (4) valid at the moment that counts
        if not certificates.is_valid_at(current, at_us):
            raise ChainValidityError("the certificate is not valid at that moment")
        # (5) really signed by the issuer, with an algorithm that still means something
        _check_signature(current, issuer.certificate)
        links.append((current, issuer))
        # (6) go on only through an intermediate that the peer sent and the configuration pins
        if issuer.top or certificates.der(issuer.certificate) not in sent:
            return tuple(links)
        if len(links) > ISSUERS_MAX:
            raise ChainProfileError("the approved CAs issue each other")
        current = issuer.certificate


def is_signing_certificate(certificate: x509.Certificate) -> bool:
    """For seals: key usage present, with nonRepudiation (sheet 5.2)."""
    usage = _key_usage(certificate)
    return usage is not None and usage.content_commitment


def is_authentication_certificate(certificate: x509.Certificate) -> bool:
    """For TLS between servers: EKU clientAuth, or a key usage of signature or encipherment (sheet 5.2)."""
    if has_extended_usage(certificate, ExtendedKeyUsageOID.CLIENT_AUTH):
        return True
    usage = _key_usage(certificate)
    return usage is not None and (usage.digital_signature or usage.key_encipherment or usage.data_encipherment)


def has_extended_usage(certificate: x509.Certificate, usage: x509.ObjectIdentifier, *, critical: bool = False) -> bool:
    """Whether the extended key usage (a critical one, where asked) names `usage`."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    except x509.ExtensionNotFound:
        return False
    return usage in extension.value and (extension.critical or not critical)


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _check_place(certificate: x509.Certificate, depth: int) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _HANDLED:
            raise ChainProfileError(f"an unknown critical extension {extension.oid.dotted_string}")
    key = certificates.public_key(certificate)
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < RSA_KEY_BITS_MIN:
        raise ChainProfileError(f"an RSA key of {key.key_size} bits, at least {RSA_KEY_BITS_MIN}")
    constraints = _basic_constraints(certificate)
    if depth == 0 and constraints is not None and constraints.ca:
        raise ChainProfileError("a CA certificate in the place of a member's or a server's")
    if depth > 0:
        if constraints is None or not constraints.ca:
            raise ChainProfileError("an issuer that is not a CA")
        if constraints.path_length is not None and constraints.path_length < depth - 1:
            raise ChainProfileError("a path longer than an issuer allows")


def _basic_constraints(certificate: x509.Certificate) -> x509.BasicConstraints | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return None


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        if isinstance(certificate.signature_hash_algorithm, _WEAK_HASHES):
            raise ChainSignatureError("signed with a broken digest algorithm")
        certificate.verify_directly_issued_by(issuer)
    except _SIGNATURE_ERRORS:
        raise ChainSignatureError("the issuer did not sign this certificate") from None
