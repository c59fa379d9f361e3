"""Which key of a label is in force, and what a renewal leaves as it was."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from appliance.clock import to_us
from appliance.errors import CorruptStateError
from appliance.hsm.certificates import CertificateStore
from appliance.hsm.key_book import KeyBook, NotReadyToSwitchError
from appliance.hsm.software import SoftwareToken
from appliance.hsm.token import KeyMissingError
from tests.hsm import parts

SEAL, RENEWED = "seal/MUN/TULUM", "seal/MUN/TULUM/2"
NOW = datetime(2026, 6, 1, tzinfo=UTC)
NOW_US = to_us(NOW)
TOKEN = SoftwareToken("TEST")
for label in (SEAL, RENEWED):
    TOKEN.generate(label, "EC-P256")


def certified(book: KeyBook, label: str, first: datetime = NOW - timedelta(days=1), days: int = 365) -> bytes:
    der = parts.certificate_for(book.key(label).public_key, seals=True, first=first, days=days)
    book.certificates.add(label, x509.load_der_x509_certificate(der))
    return der


@pytest.fixture
def book(tmp_path: Path) -> KeyBook:
    book = KeyBook(tmp_path, CertificateStore(tmp_path / "certificates"))
    book.take(TOKEN.keys())
    return book


@pytest.mark.case("T17")
def test_a_renewed_key_comes_into_force_by_the_switch_and_not_by_its_certificate(book: KeyBook, tmp_path: Path) -> None:
    old, new = certified(book, SEAL), certified(book, RENEWED)
    assert book.in_force(SEAL, NOW_US).label == SEAL
    assert book.record(SEAL, NOW_US).certificates == [old, new]
    assert [version.state for version in book.record(SEAL, NOW_US).versions] == ["in_force", "coming"]

    book.switch(RENEWED)

    again = KeyBook(tmp_path, CertificateStore(tmp_path / "certificates"))
    again.take(TOKEN.keys())
    for one in (book, again):
        assert one.in_force(SEAL, NOW_US).label == RENEWED
        assert one.record(SEAL, NOW_US).certificates == [new, old]
        assert [version.state for version in one.record(SEAL, NOW_US).versions] == ["in_force", "former"]


@pytest.mark.case("T17")
def test_a_handshake_is_signed_with_the_key_of_the_certificate_that_it_shows(book: KeyBook) -> None:
    old, new = certified(book, SEAL), certified(book, RENEWED)
    book.switch(RENEWED)

    keys = [book.of_certificate(SEAL, hashlib.sha256(der).digest(), NOW_US).label for der in (old, new)]

    assert keys == [SEAL, RENEWED]
    assert book.of_certificate(SEAL, b"", NOW_US).label == RENEWED
    with pytest.raises(KeyMissingError):
        book.of_certificate("tls-peer", hashlib.sha256(old).digest(), NOW_US)


def test_a_key_without_a_certificate_that_is_valid_now_cannot_be_switched_to(book: KeyBook) -> None:
    certified(book, SEAL)
    with pytest.raises(NotReadyToSwitchError):
        book.check_switch(RENEWED, NOW_US)
    certified(book, RENEWED, NOW + timedelta(days=9))
    with pytest.raises(NotReadyToSwitchError):
        book.check_switch(RENEWED, NOW_US)
    book.check_switch(RENEWED, to_us(NOW + timedelta(days=10)))
    with pytest.raises(KeyMissingError):
        book.check_switch("seal/MUN/TULUM/3", NOW_US)


def test_where_the_chosen_certificate_has_ended_a_valid_one_steps_in(book: KeyBook) -> None:
    certified(book, SEAL, NOW - timedelta(days=300), 310)
    certified(book, RENEWED)

    assert book.in_force(SEAL, NOW_US).label == SEAL
    assert book.in_force(SEAL, to_us(NOW + timedelta(days=11))).label == RENEWED


def test_a_second_renewal_goes_on_with_the_key_of_the_first(book: KeyBook) -> None:
    certified(book, SEAL)
    coming = book.coming(SEAL, NOW_US)
    assert coming is not None
    assert coming.label == RENEWED
    certified(book, RENEWED)
    book.switch(RENEWED)

    assert book.coming(SEAL, NOW_US) is None
    assert book.next_label(SEAL) == "seal/MUN/TULUM/3"
    with pytest.raises(KeyMissingError):
        book.next_label("tls-peer")


def test_a_deleted_key_leaves_the_former_one_in_force(book: KeyBook) -> None:
    certified(book, SEAL)
    certified(book, RENEWED)
    book.switch(RENEWED)

    book.remove(RENEWED)

    assert book.in_force(SEAL, NOW_US).label == SEAL
    assert len(book.record(SEAL, NOW_US).versions) == 1


def test_a_certificate_finds_its_key_among_those_of_the_label(book: KeyBook) -> None:
    public_key = book.key(RENEWED).public_key

    assert book.of_public_key(SEAL, public_key).label == RENEWED
    assert book.of_public_key(SEAL, b"another").label == SEAL
    with pytest.raises(KeyMissingError):
        book.of_public_key("tls-peer", public_key)


def test_a_choice_that_cannot_be_read_stops_the_signer(tmp_path: Path) -> None:
    (tmp_path / "in_force").write_bytes(b"\xff")
    with pytest.raises(CorruptStateError):
        KeyBook(tmp_path, CertificateStore(tmp_path / "certificates"))
