"""X.509 certificates as we hold them: read once, completely, so that nothing later can fail on them.

Pure. `cryptography` reads lazily: a certificate that loads may still raise when its extensions or its key are looked at. `read` looks at
everything that the box ever asks for; a certificate that came through it is safe to ask again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.clock import to_us
from appliance.errors import UnverifiedError

CERTIFICATE_BYTES_MAX = 16 << 10
"""Real ones have 0.7 to 2 KiB; a larger one is an attack on whoever parses it."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
"""The kinds of keys that this network uses (sheet 4.1)."""

PARSER_ERRORS: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""Everything that `cryptography` was seen to raise for foreign DER."""

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


@contextmanager
def unusual_names_allowed() -> Iterator[None]:
    """Reads without warnings: X-Road's EJBCA profile writes the instance into C, where `cryptography` expects two letters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class CertificateMalformedError(UnverifiedError):
    """These bytes are not a certificate that we can use."""

    kind = "certificate.malformed"


def read(der: bytes) -> x509.Certificate:
    """One DER certificate, every field that we use looked at once. Raises CertificateMalformedError."""
    if len(der) > CERTIFICATE_BYTES_MAX:
        raise CertificateMalformedError(f"a certificate of {len(der)} bytes, at most {CERTIFICATE_BYTES_MAX}")
    try:
        with unusual_names_allowed():
            certificate = x509.load_der_x509_certificate(der)
            if certificate.serial_number <= 0:
                raise CertificateMalformedError("the serial number is not positive")
            certificate.subject.public_bytes()
            certificate.issuer.public_bytes()
            to_us(certificate.not_valid_before_utc)
            to_us(certificate.not_valid_after_utc)
            key = certificate.public_key()
            list(certificate.extensions)
            _ = certificate.signature_algorithm_oid, certificate.tbs_certificate_bytes, certificate.signature
    except PARSER_ERRORS as error:
        raise CertificateMalformedError(f"not a usable certificate: {error}") from None
    if not isinstance(key, PublicKey):
        raise CertificateMalformedError(f"a key of a kind that this network does not use: {type(key).__name__}")
    return certificate


def read_text(text: bytes) -> x509.Certificate:
    """A certificate as configuration files carry it: base64 of DER or of a PEM text, or the PEM text itself (sheet 6.5).

    Raises CertificateMalformedError.
    """
    if (pem := _PEM.search(text)) is None:
        inner = _decoded(text)
        pem = _PEM.search(inner)
        if pem is None:
            return read(inner)
    return read(_decoded(pem[1]))


def _decoded(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise CertificateMalformedError("a certificate is not base64") from None


def der(certificate: x509.Certificate) -> bytes:
    """The certificate's bytes, exactly as they came."""
    return certificate.public_bytes(Encoding.DER)


def sha256(certificate: x509.Certificate) -> bytes:
    """How the global configuration (version 3 and later) names authentication certificates (sheet 3.2)."""
    return hashlib.sha256(der(certificate)).digest()


def sha1(certificate: x509.Certificate) -> bytes:
    """How port 5577 names certificates (sheet 3.3). A name, not a proof."""
    return hashlib.sha1(der(certificate), usedforsecurity=False).digest()


def public_key(certificate: x509.Certificate) -> PublicKey:
    """The key of a certificate that came through `read`."""
    key = certificate.public_key()
    if not isinstance(key, PublicKey):
        raise CertificateMalformedError(f"a key of a kind that this network does not use: {type(key).__name__}")
    return key


def is_valid_at(certificate: x509.Certificate, at_us: int) -> bool:
    """Whether the moment lies in the validity period, both ends included (RFC 5280)."""
    return to_us(certificate.not_valid_before_utc) <= at_us <= to_us(certificate.not_valid_after_utc)
