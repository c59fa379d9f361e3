"""Signing keys of images built on this machine: made at the first build, kept below `build/`, never committed.

`release` signs what a box boots and the root's verity hash; `test` signs the kernel image of the test profile only. Production keys come
from a ceremony and a token (README, "What is not here").
"""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

NAMES = ("release", "test")
RSA_BITS = 2048
"""What every UEFI firmware accepts."""
VALID_DAYS = 3650


@dataclass(frozen=True)
class SigningKey:
    """Private key (PEM, 0600) and self-signed certificate (PEM)."""

    key: Path
    certificate: Path


def keys(directory: Path) -> dict[str, SigningKey]:
    """Every key by name; makes the missing ones."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    found = {name: SigningKey(directory / f"{name}.key", directory / f"{name}.crt") for name in NAMES}
    for name, pair in found.items():
        if not (pair.key.exists() and pair.certificate.exists()):
            _make(name, pair)
    return found


def _make(name: str, pair: SigningKey) -> None:
    private = rsa.generate_private_key(65537, RSA_BITS)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Xacbe image {name}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    pair.key.unlink(missing_ok=True)
    with os.fdopen(os.open(pair.key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    pair.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
