"""Certificate requests that we write ourselves, read by others."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.hsm import pkcs10
from appliance.hsm.pkcs10 import SubjectError
from appliance.hsm.software import SoftwareToken

SUBJECT = [("2.5.4.6", "MX"), ("2.5.4.10", "Tulum"), ("2.5.4.15", "MUN"), ("2.5.4.5", "TULUM"), ("2.5.4.3", "Ayuntamiento de Tulúm")]
TOKEN = SoftwareToken("TEST")
KEY = TOKEN.generate("tls-peer", "EC-P256")


def request(label: str, algorithm: str, names: list[str], subject: list[tuple[str, str]] = SUBJECT) -> bytes:
    token = SoftwareToken("TEST")
    key = token.generate(label, algorithm)

    def sign(hash_name: str, data: bytes) -> bytes:
        return token.sign_digest(label, hashlib.new(hash_name, data).digest(), hash_name)

    return pkcs10.request(label, algorithm, key.public_key, subject, names, sign)


@pytest.mark.parametrize("algorithm", ["EC-P256", "EC-P384", "RSA-2048", "RSA-3072"])
def test_the_request_is_what_was_asked_for(algorithm: str) -> None:
    read = x509.load_der_x509_csr(request("tls-peer", algorithm, ["DNS:box.example", "IP:127.0.10.11"]))

    assert read.is_signature_valid
    assert [(one.oid.dotted_string, one.value) for one in read.subject] == SUBJECT
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["box.example", "127.0.10.11"]
    usage = read.extensions.get_extension_for_class(x509.KeyUsage)
    assert not usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment
    assert not usage.value.content_commitment


def test_a_seal_key_asks_for_non_repudiation_alone() -> None:
    read = x509.load_der_x509_csr(request("seal/MUN/TULUM", "EC-P256", []))

    usage = read.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.content_commitment
    assert not usage.digital_signature
    assert [extension.oid for extension in read.extensions] == [ExtensionOID.KEY_USAGE]


def test_openssl_reads_it_and_sees_a_named_curve(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    (tmp_path / "request.der").write_bytes(request("tls-peer", "EC-P384", ["DNS:box.example"]))

    command = ["openssl", "req", "-inform", "DER", "-in", str(tmp_path / "request.der"), "-noout", "-text", "-verify"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)

    assert "verify OK" in done.stdout + done.stderr
    assert "ASN1 OID: secp384r1" in done.stdout


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ([], []),
        (SUBJECT * 4, []),
        ([("2.5.4.6", "Mexico")], []),
        ([("not an oid", "x")], []),
        (SUBJECT, ["box.example"]),
        (SUBJECT, ["IP:localhost"]),
        (SUBJECT, ["DNS:bóx.example"]),
    ],
)
def test_what_cannot_stand_in_a_certificate_is_refused(subject: list[tuple[str, str]], names: list[str]) -> None:
    with pytest.raises(SubjectError):
        request("tls-peer", "EC-P256", names, subject)


@given(st.integers(0, 70_000))
def test_lengths_are_der(length: int) -> None:
    encoded = pkcs10._der(0x04, bytes(length))

    assert len(encoded) - length == (2 if length < 128 else 3 if length < 256 else 4 if length < 65536 else 5)
    assert encoded.endswith(bytes(length))
