"""Which OCSP responses are believed (sheet 5.4, RFC 6960): one fault at a time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import ocsp as asn1_ocsp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import ocsp as x509_ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.trust import ocsp
from tests.trust import pki
from tests.trust.pki import NOW, NOW_US, Statement, ocsp_response, seconds
from tests.vectors import VECTORS, needs_vectors

CA = pki.ca()
OTHER_CA = pki.ca("O=Otra,CN=CA")
LEAF = pki.signing(CA)
NEIGHBOUR = pki.signing(CA, "C=XX,O=GOB,CN=FGE")
DELEGATE = pki.responder(CA)
LISTED = pki.issue("O=Externo,CN=OCSP")
"""A responder without any extension, signed by nobody: trusted because the configuration lists it under the CA."""
ISSUER = pki.approved(CA, LISTED)
SHARED = pki.shared(ISSUER, pki.approved(OTHER_CA))
REVOKED, UNKNOWN = x509_ocsp.OCSPCertStatus.REVOKED, x509_ocsp.OCSPCertStatus.UNKNOWN
ABOUT = Statement(LEAF, CA)


def check(response: bytes, *, at_us: int = NOW_US, nonce: bytes | None = None) -> str:
    """`good`, or the kind of the refusal."""
    try:
        return ocsp.check_response(response, LEAF.certificate, ISSUER, SHARED, at_us, nonce=nonce).status
    except XacbeError as error:
        return error.kind


def by_delegate(statement: Statement = ABOUT, delegate: pki.Holder = DELEGATE, **others: object) -> bytes:
    return ocsp_response(statement, delegate, enclosed=(delegate,), **others)  # type: ignore[arg-type]  # passed through


def two_answers(first: Statement, second: Statement) -> bytes:
    """One response with both answers, signed by the CA."""
    responses = [asn1_ocsp.OCSPResponse.load(ocsp_response(statement, CA)) for statement in (first, second)]
    basics = [response["response_bytes"]["response"].parsed for response in responses]
    singles = [basic["tbs_response_data"]["responses"][0] for basic in basics]
    return pki.resigned(responses[0], basics[0], CA, responses=asn1_ocsp.Responses(singles))


def broken() -> bytes:
    response = asn1_ocsp.OCSPResponse.load(ocsp_response(ABOUT, CA))
    basic = response["response_bytes"]["response"].parsed
    return pki.resigned(response, basic, OTHER_CA)


CASES: list[tuple[str, Callable[[], bytes], str]] = [
    ("signed by the CA itself", lambda: ocsp_response(ABOUT, CA), "good"),
    ("CA named by its key", lambda: ocsp_response(ABOUT, CA, by_name=False), "good"),
    ("by a delegate inside", by_delegate, "good"),
    ("by a listed responder", lambda: ocsp_response(ABOUT, LISTED), "good"),
    ("without next update", lambda: ocsp_response(Statement(LEAF, CA, next_update=None), CA), "good"),
    ("from the future, as X-Road accepts", lambda: ocsp_response(Statement(LEAF, CA, this_update=NOW + seconds(7200)), CA), "good"),
    ("produced in the future", lambda: ocsp_response(ABOUT, CA, produced=NOW + seconds(60)), "good"),
    ("produced before it knew, as X-Road accepts", lambda: ocsp_response(ABOUT, CA, produced=NOW - seconds(60)), "good"),
    ("at the edge of freshness", lambda: ocsp_response(Statement(LEAF, CA, this_update=NOW - seconds(3600)), CA), "good"),
    ("good twice about us", lambda: two_answers(ABOUT, ABOUT), "good"),
    ("ours first, another's after", lambda: two_answers(ABOUT, Statement(NEIGHBOUR, CA, REVOKED)), "good"),
    ("revoked", lambda: ocsp_response(Statement(LEAF, CA, REVOKED), CA), "ocsp.revoked"),
    ("unknown", lambda: ocsp_response(Statement(LEAF, CA, UNKNOWN), CA), "ocsp.revoked"),
    ("good, then revoked, about us", lambda: two_answers(ABOUT, Statement(LEAF, CA, REVOKED)), "ocsp.revoked"),
    ("about another certificate", lambda: ocsp_response(Statement(NEIGHBOUR, CA), CA), "ocsp.mismatch"),
    ("about one of another issuer", lambda: ocsp_response(Statement(LEAF, OTHER_CA), CA), "ocsp.mismatch"),
    ("CertID with SHA-256", lambda: ocsp_response(Statement(LEAF, CA, digest=hashes.SHA256()), CA), "ocsp.mismatch"),
    ("ours second", lambda: two_answers(Statement(NEIGHBOUR, CA), ABOUT), "ocsp.mismatch"),
    ("broken signature", broken, "ocsp.untrusted"),
    ("responder nobody knows", lambda: ocsp_response(ABOUT, pki.responder(CA)), "ocsp.untrusted"),
    ("delegate without the purpose", lambda: by_delegate(delegate=pki.responder(CA, pki.key_usage("digital_signature"))), "ocsp.untrusted"),
    (
        "delegate with another purpose",
        lambda: by_delegate(delegate=pki.responder(CA, pki.extended(ExtendedKeyUsageOID.SERVER_AUTH))),
        "ocsp.untrusted",
    ),
    ("delegate of another CA", lambda: by_delegate(delegate=pki.responder(OTHER_CA)), "ocsp.untrusted"),
    ("delegate expired", lambda: by_delegate(delegate=pki.responder(CA, ends=NOW - timedelta(days=1))), "ocsp.untrusted"),
    ("another approved CA", lambda: ocsp_response(ABOUT, OTHER_CA, enclosed=(OTHER_CA,)), "ocsp.untrusted"),
    ("older than an hour", lambda: ocsp_response(Statement(LEAF, CA, this_update=NOW - seconds(3601)), CA), "ocsp.stale"),
    (
        "next update passed",
        lambda: ocsp_response(Statement(LEAF, CA, this_update=NOW - seconds(9), next_update=NOW - seconds(1)), CA),
        "ocsp.stale",
    ),
    ("stale and revoked: X-Road says stale", lambda: ocsp_response(Statement(LEAF, CA, REVOKED, NOW - seconds(4000)), CA), "ocsp.stale"),
    (
        "tryLater",
        lambda: x509_ocsp.OCSPResponseBuilder.build_unsuccessful(x509_ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(
            serialization.Encoding.DER
        ),
        "ocsp.malformed",
    ),
    ("ten megabytes", lambda: bytes(10 << 20), "ocsp.malformed"),
    ("a web page", lambda: b"<html><body>502 Bad Gateway</body></html>", "ocsp.malformed"),
    ("nothing", lambda: b"", "ocsp.malformed"),
    ("cut off", lambda: ocsp_response(ABOUT, CA)[:-7], "ocsp.malformed"),
]


@pytest.mark.case("T18")
@pytest.mark.rule("I.4.XIII")
@pytest.mark.parametrize(("made", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_response_is_believed_or_refused_for_its_first_fault(made: Callable[[], bytes], expected: str) -> None:
    assert check(made()) == expected


@pytest.mark.case("T18")
def test_the_nonce_must_come_back() -> None:
    assert check(ocsp_response(ABOUT, CA, nonce=b"n" * 16), nonce=b"n" * 16) == "good"
    assert check(ocsp_response(ABOUT, CA, nonce=b"m" * 16), nonce=b"n" * 16) == "ocsp.mismatch"
    assert check(ocsp_response(ABOUT, CA), nonce=b"n" * 16) == "ocsp.mismatch"
    assert check(ocsp_response(ABOUT, CA, nonce=b"n" * 16)) == "good"
    assert ocsp.nonce_of(ocsp_response(ABOUT, CA, nonce=b"n" * 16)) == b"n" * 16
    assert ocsp.nonce_of(ocsp_response(ABOUT, CA)) is None


def test_a_stale_response_says_what_it_knew_because_its_signature_was_good() -> None:
    response = ocsp_response(Statement(LEAF, CA, this_update=NOW - seconds(5000)), CA, produced=NOW - seconds(4000))

    with pytest.raises(ocsp.OcspStaleError) as refused:
        ocsp.check_response(response, LEAF.certificate, ISSUER, SHARED, NOW_US)

    assert refused.value.facts is not None
    assert refused.value.facts.produced_at_us == NOW_US - 4000 * 1_000_000


def test_rsa_responders_are_checked_as_well() -> None:
    rsa_ca = pki.ca("O=Red,CN=RSA", key=rsa.generate_private_key(65537, 2048))
    leaf = pki.signing(rsa_ca)
    issuer = pki.approved(rsa_ca)

    facts = ocsp.check_response(ocsp_response(Statement(leaf, rsa_ca), rsa_ca), leaf.certificate, issuer, pki.shared(issuer), NOW_US)

    assert facts == ocsp.OcspFacts(NOW_US, NOW_US, NOW_US + 9 * 3600 * 1_000_000, "good")


def test_our_request_is_what_openssl_reads(tmp_path: Path) -> None:
    request = tmp_path / "request.der"
    request.write_bytes(ocsp.build_request(LEAF.certificate, ISSUER, b"0123456789abcdef"))

    said = subprocess.run(["openssl", "ocsp", "-reqin", request, "-req_text"], capture_output=True, text=True, check=True).stdout

    assert "Hash Algorithm: sha1" in said
    assert f"{LEAF.certificate.serial_number:X}" in said.replace(":", "")
    assert "30313233343536373839616263646566" in said.replace(":", "").upper()


def test_the_certificate_id_is_the_one_that_the_request_carries() -> None:
    request = x509_ocsp.load_der_ocsp_request(ocsp.build_request(LEAF.certificate, ISSUER))

    assert ocsp.certificate_id(LEAF.certificate, ISSUER) == (
        "sha1",
        request.issuer_name_hash,
        request.issuer_key_hash,
        LEAF.certificate.serial_number,
    )


@needs_vectors
def test_the_vectors_own_response_reads() -> None:
    facts = ocsp.facts((VECTORS / "generated" / "lab-ocsp.der").read_bytes())

    assert facts.status == "good"
    assert facts.next_update_us == facts.this_update_us + 3600 * 1_000_000


GOOD = by_delegate(nonce=b"n" * 16)


@pytest.mark.case("T08")
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_flipped_bit_gives_another_good_answer(at: int, flip: int) -> None:
    changed = GOOD[:at] + bytes((GOOD[at] ^ flip,)) + GOOD[at + 1 :]

    verdict = check(changed, nonce=b"n" * 16)

    # only bytes that no signature covers may differ: none of them changes what is believed
    assert verdict in ("good", "ocsp.malformed", "ocsp.mismatch", "ocsp.untrusted")
    if verdict == "good":
        assert ocsp.facts(changed) == ocsp.facts(GOOD)


@pytest.mark.case("T08")
@given(st.binary(max_size=300))
def test_any_bytes_are_an_answer_or_malformed(data: bytes) -> None:
    assert check(data) == "ocsp.malformed"


def test_a_responder_that_echoes_an_unknown_critical_extension_is_not_understood() -> None:
    builder = (
        x509_ocsp.OCSPResponseBuilder()
        .add_response(LEAF.certificate, CA.certificate, hashes.SHA1(), x509_ocsp.OCSPCertStatus.GOOD, NOW, None, None, None)  # noqa: S303
        .responder_id(x509_ocsp.OCSPResponderEncoding.NAME, CA.certificate)
        .add_extension(x509.OCSPNonce(b"n" * 16), critical=True)
    )
    response = builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)

    assert check(response) == "good"  # a critical nonce is understood


def test_an_instance_may_say_that_next_update_does_not_count() -> None:
    """The part NEXTUPDATE (sheet 6.6): freshness alone decides then."""
    ended = ocsp_response(Statement(LEAF, CA, this_update=NOW - seconds(9), next_update=NOW - seconds(1)), CA)

    facts = ocsp.check_response(ended, LEAF.certificate, ISSUER, replace(SHARED, checks_next_update=False), NOW_US)

    assert (facts.status, check(ended)) == ("good", "ocsp.stale")
