"""The OCSP responder against openssl, cryptography, our own reader, and hostile requests."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import SystemClock, from_us, to_us
from provisioning.authority import ca, profiles
from provisioning.authority.ocsp_responder import NONCE_BYTES_MAX, CertificateStatus, Delegate, answer
from provisioning.centre import Centre
from tests.provisioning.parts import NOW_US, new_key, openssl

NINE_HOURS_S = 9 * 3600


@pytest.fixture(scope="module")
def delegate(centre: Centre) -> Delegate:
    return Delegate(centre.certificate("issuing"), centre.certificate("ocsp"), centre.key("ocsp"))


@pytest.fixture(scope="module")
def leaf(centre: Centre) -> x509.Certificate:
    subject = profiles.authority_subject("QROO-TEST", "leaf")
    return profiles.certify(profiles.Profile.SEAL, subject, new_key().public_key(), ca.issuer(centre), SystemClock().now_us())


def good(_: int) -> CertificateStatus | None:
    return CertificateStatus()


def revoked(_: int) -> CertificateStatus | None:
    return CertificateStatus(NOW_US - 60_000_000, "keyCompromise")


def unknown(_: int) -> CertificateStatus | None:
    return None


def asked(leaf: x509.Certificate, issuer: x509.Certificate, digest: hashes.HashAlgorithm, nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, digest)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return builder.build().public_bytes(Encoding.DER)


@pytest.mark.parametrize(("lookup", "word"), [(good, "good"), (revoked, "revoked"), (unknown, "unknown")])
@pytest.mark.parametrize("digest", ["sha1", "sha256"])
def test_openssl_verifies_every_status(
    centre: Centre, delegate: Delegate, leaf: x509.Certificate, tmp_path: Path, lookup: object, word: str, digest: str
) -> None:
    (tmp_path / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    which = (f"-{digest}", "-issuer", centre.certificate_file("issuing", "pem"), "-cert", tmp_path / "leaf.pem")
    openssl("ocsp", *which, "-reqout", tmp_path / "request")
    (tmp_path / "answer").write_bytes(
        answer((tmp_path / "request").read_bytes(), lookup, delegate, SystemClock().now_us(), NINE_HOURS_S)  # type: ignore[arg-type]  # parametrised
    )

    exchange = ("-reqin", tmp_path / "request", "-respin", tmp_path / "answer")
    text = openssl("ocsp", *exchange, "-CAfile", centre.authorities_file, "-resp_text")

    assert "Response verify OK" in text
    assert f"Cert Status: {word}" in text
    assert f"Hash Algorithm: {digest}" in text
    assert "WARNING: no nonce" not in text


@pytest.mark.rule("IV.3.V")
def test_the_answer_is_of_the_given_moment_and_carries_its_delegate(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA1())  # noqa: S303  the CertID that X-Road asks with

    response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    moment = from_us(NOW_US - NOW_US % 1_000_000)
    assert response.produced_at_utc == response.this_update_utc == moment
    assert response.next_update_utc is not None
    assert to_us(response.next_update_utc) - to_us(moment) == NINE_HOURS_S * 1_000_000
    assert response.certificates == [centre.certificate("ocsp")]
    assert response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(delegate.certificate.public_key()).digest
    assert isinstance(response.signature_hash_algorithm, hashes.SHA256)
    public_key = delegate.certificate.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    public_key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))


def test_our_own_reader_accepts_the_answer(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    reader = pytest.importorskip("appliance.trust.ocsp", reason="the box's reader is not there")
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA1())  # noqa: S303  the CertID that X-Road asks with

    facts = reader.facts(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    assert facts.produced_at_us == facts.this_update_us == NOW_US - NOW_US % 1_000_000


def test_a_revocation_carries_its_moment_and_reason(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA256())

    response = ocsp.load_der_ocsp_response(answer(request, revoked, delegate, NOW_US, NINE_HOURS_S))

    assert response.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert response.revocation_time_utc == from_us(NOW_US - 60_000_000).replace(microsecond=0)
    assert response.revocation_reason is x509.ReasonFlags.key_compromise


@pytest.mark.parametrize("nonce", [b"n", bytes(range(32)), bytes(NONCE_BYTES_MAX)], ids=len)
def test_a_nonce_is_returned(centre: Centre, delegate: Delegate, leaf: x509.Certificate, nonce: bytes) -> None:
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA1(), nonce)  # noqa: S303  the CertID that X-Road asks with

    response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce


def test_a_question_about_another_authority_is_unauthorized(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    request = asked(leaf, centre.certificate("root"), hashes.SHA1())  # noqa: S303  the CertID that X-Road asks with

    response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    assert response.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


def test_a_digest_that_nobody_should_use_is_unauthorized(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA512())

    response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    assert response.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


def test_an_endless_nonce_is_a_malformed_request(centre: Centre, delegate: Delegate, leaf: x509.Certificate) -> None:
    request = asked(leaf, centre.certificate("issuing"), hashes.SHA1(), bytes(NONCE_BYTES_MAX + 1))  # noqa: S303  as X-Road asks

    response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))

    assert response.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_arbitrary_bytes_are_a_malformed_request(delegate: Delegate) -> None:
    @given(st.binary(max_size=400))
    @settings(max_examples=200, deadline=None)
    def holds(request: bytes) -> None:
        response = ocsp.load_der_ocsp_response(answer(request, good, delegate, NOW_US, NINE_HOURS_S))
        assert response.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST

    holds()


@pytest.mark.case("T08")
def test_two_hundred_damaged_requests_get_an_answer_and_never_an_exception(
    centre: Centre, delegate: Delegate, leaf: x509.Certificate
) -> None:
    chance = random.Random(6960)  # noqa: S311  reproducible damage, no secret
    whole = asked(leaf, centre.certificate("issuing"), hashes.SHA1(), bytes(16))  # noqa: S303  as X-Road asks
    for _ in range(200):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        given_answer = answer(bytes(damaged[: chance.randint(1, len(damaged))]), good, delegate, NOW_US, NINE_HOURS_S)
        ocsp.load_der_ocsp_response(given_answer)
