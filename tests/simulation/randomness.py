"""All randomness of a run from its seed: also what the product draws from the system, nonces, salts, keys and identifiers.

In the simulation only, and only while a run lasts. ECDSA signs as RFC 6979 says, so that the same run makes the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed


@contextlib.contextmanager
def seeded(seed: str) -> Iterator[random.Random]:
    """Inside, `os.urandom`, `secrets`, `uuid4` and the module `random` give what this seed gives."""
    source = random.Random(f"system {seed}")  # noqa: S311  a simulation's dice
    state, system, in_random = random.getstate(), os.urandom, random._urandom  # type: ignore[attr-defined]
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined]
    random.seed(seed)
    try:
        yield source
    finally:
        os.urandom, random._urandom = system, in_random  # type: ignore[attr-defined]
        random.setstate(state)


@contextlib.contextmanager
def steady_certificates() -> Iterator[None]:
    """Inside, certificates are signed as RFC 6979 says."""
    sign = x509.CertificateBuilder.sign

    def steady(builder: x509.CertificateBuilder, key: Any, algorithm: Any) -> x509.Certificate:
        return sign(builder, key, algorithm, ecdsa_deterministic=True)

    x509.CertificateBuilder.sign = steady  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        x509.CertificateBuilder.sign = sign  # type: ignore[method-assign]


class SteadyKey:
    """A P-256 key whose signatures depend on nothing but what is signed (RFC 6979)."""

    def __init__(self, number: int) -> None:
        self.real = ec.derive_private_key(number, ec.SECP256R1())

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self.real.public_key()

    def sign(self, data: bytes, algorithm: Any) -> bytes:
        return self.real.sign(data, ec.ECDSA(algorithm._algorithm, deterministic_signing=True))

    def sign_digest(self, digest: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
        return self.real.sign(digest, ec.ECDSA(Prehashed(algorithm), deterministic_signing=True))
