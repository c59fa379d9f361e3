"""Who is believed to have issued what (sheet 5.2-5.3)."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.clock import to_us
from appliance.trust import chains
from appliance.trust.chains import check_path
from tests.trust import pki
from tests.trust.pki import NOW, NOW_US

ROOT = pki.ca("O=Red,CN=Root")
MIDDLE = pki.ca("O=Red,CN=Middle", ROOT)
PINNED = pki.shared(pki.approved(ROOT), pki.approved(MIDDLE, top=False))


def test_the_issuer_in_the_configuration_is_the_anchor_even_an_intermediate() -> None:
    leaf = pki.signing(MIDDLE)

    path = check_path(leaf.certificate, (), PINNED, NOW_US)

    assert [(certificate, issuer.certificate) for certificate, issuer in path] == [(leaf.certificate, MIDDLE.certificate)]


def test_an_intermediate_that_the_peer_sent_and_the_configuration_pins_needs_evidence_of_its_own() -> None:
    leaf = pki.signing(MIDDLE)

    path = check_path(leaf.certificate, (MIDDLE.certificate,), PINNED, NOW_US)

    assert [issuer.certificate for _, issuer in path] == [MIDDLE.certificate, ROOT.certificate]


@pytest.mark.case("T10")
def test_an_intermediate_that_only_the_peer_knows_is_never_used() -> None:
    unknown = pki.ca("O=Red,CN=Own", ROOT)
    leaf = pki.signing(unknown)

    with pytest.raises(chains.ChainUntrustedError):
        check_path(leaf.certificate, (unknown.certificate,), PINNED, NOW_US)


@pytest.mark.case("T10")
def test_a_chain_of_a_hundred_is_refused_before_anything_is_computed() -> None:
    long = [pki.ca(f"O=Red,CN=Link {number}", ROOT).certificate for number in range(4)] * 25
    leaf = pki.signing(MIDDLE)
    began = time.perf_counter()

    with pytest.raises(chains.ChainProfileError):
        check_path(leaf.certificate, long, PINNED, NOW_US)

    assert time.perf_counter() - began < 0.05


def test_a_ca_of_the_same_name_with_another_key_signs_nothing() -> None:
    impostor = pki.ca("O=Red,CN=Root")

    with pytest.raises(chains.ChainSignatureError):
        check_path(pki.signing(impostor).certificate, (), PINNED, NOW_US)


@pytest.mark.parametrize("at", [NOW - timedelta(days=31), NOW + timedelta(days=366)])
def test_a_leaf_counts_only_within_its_validity(at: object) -> None:
    with pytest.raises(chains.ChainValidityError):
        check_path(pki.signing(ROOT).certificate, (), PINNED, to_us(at))  # type: ignore[arg-type]  # a datetime


@pytest.mark.case("T40")
def test_nothing_is_accepted_in_1970() -> None:
    with pytest.raises(chains.ChainValidityError):
        check_path(pki.signing(ROOT).certificate, (), PINNED, 0)


def test_the_anchors_own_validity_is_not_looked_at() -> None:
    expired = pki.ca("O=Red,CN=Old", ends=NOW - timedelta(days=1))

    assert check_path(pki.signing(expired).certificate, (), pki.shared(pki.approved(expired)), NOW_US)


def test_an_expired_intermediate_in_the_path_is_refused() -> None:
    expired = pki.ca("O=Red,CN=Middle", ROOT, ends=NOW - timedelta(days=1))
    shared = pki.shared(pki.approved(ROOT), pki.approved(expired, top=False))

    with pytest.raises(chains.ChainValidityError):
        check_path(pki.signing(expired).certificate, (expired.certificate,), shared, NOW_US)


def test_a_ca_certificate_is_no_members_certificate() -> None:
    with pytest.raises(chains.ChainProfileError):
        check_path(MIDDLE.certificate, (), PINNED, NOW_US)


def test_a_path_longer_than_an_issuer_allows_is_refused() -> None:
    top = pki.ca("O=Red,CN=Top")
    upper = pki.ca("O=Red,CN=Upper", top, path_length=0)
    lower = pki.ca("O=Red,CN=Lower", upper)
    shared = pki.shared(pki.approved(top), pki.approved(upper, top=False), pki.approved(lower, top=False))
    leaf = pki.signing(lower)

    with pytest.raises(chains.ChainProfileError):
        check_path(leaf.certificate, (lower.certificate, upper.certificate), shared, NOW_US)


def test_an_unknown_critical_extension_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4.5"), b"\x05\x00")

    with pytest.raises(chains.ChainProfileError):
        check_path(pki.issue("C=XX,O=GOB,CN=SSP", ROOT, (unknown, True)).certificate, (), PINNED, NOW_US)


def test_a_weak_rsa_key_is_refused() -> None:
    weak = rsa.generate_private_key(65537, 1024)  # noqa: S505  the weak one

    with pytest.raises(chains.ChainProfileError):
        check_path(pki.signing(ROOT, key=weak).certificate, (), PINNED, NOW_US)


def test_a_strong_digest_is_needed() -> None:
    key = rsa.generate_private_key(65537, 2048)
    old = pki.ca("O=Red,CN=RSA", key=key)
    leaf = pki.signing(old, digest=hashes.SHA512())

    assert check_path(leaf.certificate, (), pki.shared(pki.approved(old)), NOW_US)


@pytest.mark.parametrize(
    ("extensions", "signs", "authenticates"),
    [
        ([pki.key_usage("content_commitment")], True, False),
        ([pki.key_usage("digital_signature")], False, True),
        ([pki.key_usage("key_encipherment")], False, True),
        ([pki.key_usage("data_encipherment")], False, True),
        ([pki.key_usage("key_cert_sign")], False, False),
        ([pki.extended(ExtendedKeyUsageOID.CLIENT_AUTH)], False, True),
        ([pki.extended(ExtendedKeyUsageOID.SERVER_AUTH)], False, False),
        ([], False, False),
    ],
)
def test_key_usage_says_what_a_certificate_is_for(
    extensions: list[tuple[x509.ExtensionType, bool]], signs: bool, authenticates: bool
) -> None:
    certificate = pki.issue("CN=x", ROOT, *extensions).certificate

    assert chains.is_signing_certificate(certificate) is signs
    assert chains.is_authentication_certificate(certificate) is authenticates
