"""Real keys and requests of a box, a clock that stands where it is put, and running `openssl`."""

from __future__ import annotations

import base64
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

NOW_US = 1_800_000_000_123_456
LABELS = ("seal/MUN/TULUM", "tls-peer", "tls-internal", "tls-report", "log")


@dataclass
class StandingClock:
    us: int = NOW_US

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.us / 1_000_000


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, digest: hashes.HashAlgorithm | None = None, name: str = "a name of its own choice"
) -> bytes:
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest or hashes.SHA256())  # type: ignore[arg-type]  # the test of SHA-1 needs what the type forbids
    return request.public_bytes(Encoding.DER)


def box_keys(*labels: str) -> dict[str, ec.EllipticCurvePrivateKey]:
    return {label: new_key() for label in labels or LABELS}


def enrolment_request(keys: dict[str, ec.EllipticCurvePrivateKey], server: str = "QROO-TEST/MUN/TULUM/SS1") -> dict[str, object]:
    return {"server": server, "requests": {label: base64.b64encode(csr(key)).decode() for label, key in keys.items()}}


def openssl(*words: str | Path, stdin: bytes = b"") -> str:
    """Output and errors of one call; fails the test when openssl does not exit with 0."""
    done = subprocess.run(["openssl", *map(str, words)], input=stdin, capture_output=True, check=False, timeout=20)
    output = (done.stdout + done.stderr).decode(errors="replace")
    assert done.returncode == 0, output
    return output
