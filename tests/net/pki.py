"""A small PKI in files, for tests of connections: real keys and certificates, made once per test session."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Identity:
    """A certificate, its key, and both in one PEM file."""

    certificate: x509.Certificate
    key: Key
    file: Path

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def load(self) -> Callable[[ssl.SSLContext], None]:
        return lambda context: context.load_cert_chain(self.file)


def identity(
    directory: Path,
    name: str,
    issuer: Identity | None = None,
    *,
    authority: bool = False,
    days: tuple[int, int] = (-1, 30),
    usages: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH),
    host: str = "",
) -> Identity:
    """A new identity under `issuer`, or self-signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)  # noqa: TID251  certificates for the machine's own OpenSSL, which reads the machine's clock
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(authority, None), critical=True)
    )
    if usages and not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    if host:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    file = directory / f"{name}.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Identity(certificate, key, file)


@dataclass(frozen=True)
class Pki:
    """Two authorities: the approved one and another. Boxes `a` and `b` are under the first, `stranger` under the second."""

    ca: Identity
    other_ca: Identity
    a: Identity
    b: Identity
    stranger: Identity
    expired: Identity
    system: Identity


def make(directory: Path) -> Pki:
    ca = identity(directory, "ca", authority=True)
    other = identity(directory, "other-ca", authority=True)
    return Pki(
        ca,
        other,
        identity(directory, "a", ca),
        identity(directory, "b", ca),
        identity(directory, "stranger", other),
        identity(directory, "expired", ca, days=(-30, -1)),
        identity(directory, "system", usages=()),
    )
