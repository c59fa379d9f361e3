"""The certificates beside the keys: which one is in force, and what survives."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from appliance.clock import to_us
from appliance.errors import CorruptStateError
from appliance.hsm.certificates import CertificateMissingError, CertificateStore
from appliance.hsm.software import SoftwareToken
from tests.hsm import parts

SEAL = "seal/MUN/TULUM"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
KEY = SoftwareToken("TEST").generate(SEAL, "EC-P256").public_key


def certificate(first: datetime, days: int = 365) -> x509.Certificate:
    return x509.load_der_x509_certificate(parts.certificate_for(KEY, seals=True, first=first, days=days))


def test_the_newest_that_is_valid_now_comes_first(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path / "certificates")
    expired = certificate(NOW - timedelta(days=400), 365)
    current, renewed, coming = (
        certificate(NOW - timedelta(days=300)),
        certificate(NOW - timedelta(days=1)),
        certificate(NOW + timedelta(days=9)),
    )
    for one in (expired, current, renewed, coming):
        store.add(SEAL, one)

    assert store.of(SEAL, to_us(NOW)) == [renewed, current, coming, expired]
    assert store.in_force(SEAL, to_us(NOW + timedelta(days=10))) == coming
    again = CertificateStore(tmp_path / "certificates")
    assert again.of(SEAL, to_us(NOW)) == [renewed, current, coming, expired]
    assert again.labels() == [SEAL]


def test_importing_one_again_brings_it_into_force_again(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path / "certificates")
    first, second = certificate(NOW - timedelta(days=2)), certificate(NOW - timedelta(days=1))
    for one in (first, second, first):
        store.add(SEAL, one)

    assert store.of(SEAL, to_us(NOW)) == [first, second]
    assert len([*(tmp_path / "certificates").iterdir()]) == 2


def test_removed_certificates_are_gone_from_the_disk(tmp_path: Path) -> None:
    store = CertificateStore(tmp_path / "certificates")
    store.add(SEAL, certificate(NOW))
    store.remove(SEAL)

    assert [*(tmp_path / "certificates").iterdir()] == []
    with pytest.raises(CertificateMissingError):
        store.in_force(SEAL, to_us(NOW))


def test_a_file_that_is_no_certificate_stops_the_signer(tmp_path: Path) -> None:
    CertificateStore(tmp_path / "certificates")
    (tmp_path / "certificates" / "log.1.der").write_bytes(b"junk")

    with pytest.raises(CorruptStateError):
        CertificateStore(tmp_path / "certificates")
