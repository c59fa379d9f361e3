"""Which time stamps are believed (RFC 3161, sheet 4.8, 5.6): one fault at a time, tokens from two makers."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from asn1crypto import cms, tsp
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.trust import timestamps
from appliance.trust.timestamps import StampFacts
from tests.trust import pki
from tests.trust.pki import NOW, NOW_US, Stamp, stamp_response, token
from tests.vectors import VECTORS, needs_vectors

CA = pki.ca()
TSA = pki.tsa(CA)
RSA_TSA = pki.tsa(CA, subject="O=Red,CN=TSA RSA", key=rsa.generate_private_key(65537, 2048))
KEY_IDENTIFIER = b"identifier"
NAMED_BY_KEY = pki.tsa(
    CA, pki.extended(ExtendedKeyUsageOID.TIME_STAMPING), (x509.SubjectKeyIdentifier(KEY_IDENTIFIER), False), subject="O=Red,CN=TSA SKI"
)
NOT_CRITICAL = pki.tsa(CA, pki.extended(ExtendedKeyUsageOID.TIME_STAMPING, critical=False), subject="O=Red,CN=TSA loose")
OTHER_PURPOSE = pki.tsa(CA, pki.extended(ExtendedKeyUsageOID.OCSP_SIGNING), subject="O=Red,CN=TSA other")
EXPIRED = pki.tsa(CA, subject="O=Red,CN=TSA old", ends=NOW - timedelta(days=1))
UNLISTED = pki.tsa(CA, subject="O=Red,CN=TSA unlisted")
TSAS = tuple(pki.approved_tsa(holder) for holder in (RSA_TSA, NAMED_BY_KEY, NOT_CRITICAL, OTHER_PURPOSE, EXPIRED, TSA))
DATA = b"seal"


def check(content: bytes, data: bytes = DATA) -> str:
    """`good`, or the kind of the refusal."""
    try:
        timestamps.check_token(content, data, TSAS)
    except XacbeError as error:
        return error.kind
    return "good"


def stamped(holder: pki.Holder = TSA, **fields: object) -> Callable[[], bytes]:
    return lambda: token(holder, Stamp(**fields))  # type: ignore[arg-type]  # passed through


def with_second_attribute() -> bytes:
    whole = cms.ContentInfo.load(token(TSA, Stamp()))
    attributes = whole["content"]["signer_infos"][0]["signed_attrs"]
    attributes.append(attributes[0].copy())
    return bytes(whole.dump(force=True))


CASES: list[tuple[str, Callable[[], bytes], str]] = [
    ("ECDSA, ESSCertIDv2", stamped(), "good"),
    ("RSA", stamped(RSA_TSA), "good"),
    ("ESSCertID of version 1", stamped(ess_version=1), "good"),
    ("signer named by key identifier", stamped(NAMED_BY_KEY, by_key_identifier=KEY_IDENTIFIER), "good"),
    ("imprint by SHA-256", stamped(imprint_digest="sha256"), "good"),
    ("signed over SHA-512", stamped(digest="sha512"), "good"),
    ("no accuracy", stamped(accuracy=None), "good"),
    ("ordering", stamped(ordering=True), "good"),
    ("no certificate inside", stamped(enclosed=()), "good"),
    ("with the chain inside", stamped(enclosed=(TSA, CA)), "good"),
    ("far in the past, while the certificate was valid", stamped(gen_time=NOW - timedelta(days=29)), "good"),
    ("over something else", stamped(data=b"other"), "tsa.mismatch"),
    ("imprint of another length", stamped(imprint=b"x" * 20), "tsa.mismatch"),
    ("imprint by SHA-1", stamped(imprint_digest="sha1"), "tsa.untrusted"),
    ("signed over SHA-1", stamped(digest="sha1"), "tsa.untrusted"),
    ("authority not in the configuration", stamped(UNLISTED), "tsa.untrusted"),
    ("purpose not critical", stamped(NOT_CRITICAL), "tsa.untrusted"),
    ("another purpose", stamped(OTHER_PURPOSE), "tsa.untrusted"),
    ("authority's certificate expired", stamped(EXPIRED), "tsa.untrusted"),
    ("before the certificate was valid", stamped(gen_time=NOW - timedelta(days=31)), "tsa.untrusted"),
    ("ten years ahead", stamped(gen_time=NOW + timedelta(days=3650)), "tsa.untrusted"),
    ("ESSCertIDv2 names another certificate", stamped(named=UNLISTED), "tsa.untrusted"),
    ("ESSCertID names another certificate", stamped(named=UNLISTED, ess_version=1), "tsa.untrusted"),
    ("no ESSCertID", stamped(ess_version=None), "tsa.untrusted"),
    ("content type says data", stamped(content_type="data"), "tsa.untrusted"),
    ("signed digest of other content", stamped(message_digest=b"d" * 32), "tsa.untrusted"),
    ("broken signature", stamped(broken=True), "tsa.untrusted"),
    ("a certificate of the same name, another key", stamped(pki.Holder(pki.new_key(), TSA.certificate)), "tsa.untrusted"),
    ("two signers", stamped(signers=2), "tsa.malformed"),
    ("no signer", stamped(signers=0), "tsa.malformed"),
    ("an attribute twice", with_second_attribute, "tsa.malformed"),
    ("accuracy of 1000 ms", stamped(accuracy={"millis": 1000}), "tsa.malformed"),
    ("not a token", lambda: b"<html/>", "tsa.malformed"),
    ("a certificate", lambda: TSA.der, "tsa.malformed"),
    ("cut off", lambda: token(TSA, Stamp())[:-1], "tsa.malformed"),
    ("a byte after the end", lambda: token(TSA, Stamp()) + b"\x00", "tsa.malformed"),
    ("a megabyte", lambda: bytes(1 << 20), "tsa.malformed"),
]


@pytest.mark.case("T19")
@pytest.mark.rule("I.4.XIII")
@pytest.mark.parametrize(("made", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_token_is_believed_or_refused_for_its_first_fault(made: Callable[[], bytes], expected: str) -> None:
    assert check(made()) == expected


def test_a_missing_authority_is_told_apart_from_a_bad_signature() -> None:
    with pytest.raises(timestamps.TsaNotApprovedError):
        timestamps.check_token(token(UNLISTED, Stamp()), DATA, TSAS)


def test_time_and_accuracy_are_read_in_microseconds() -> None:
    stamp = Stamp(gen_time=NOW + timedelta(microseconds=250_001), accuracy={"seconds": 2, "millis": 3, "micros": 4})

    assert timestamps.check_token(token(TSA, stamp), DATA, TSAS) == StampFacts(NOW_US + 250_001, 2_003_004, "TSA")


IMPRINT = hashlib.sha512(DATA).digest()


@pytest.mark.case("T19")
def test_an_answer_to_our_request_gives_its_token() -> None:
    content = token(TSA, Stamp(nonce=5))

    assert timestamps.token_of_response(stamp_response(content), IMPRINT, TSAS, nonce=5) == content
    assert timestamps.token_of_response(stamp_response(content, "granted_with_mods"), IMPRINT, TSAS) == content
    assert timestamps.check_imprint(content, IMPRINT, TSAS).authority == "TSA"


@pytest.mark.case("T19")
@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (stamp_response(None, "rejection"), "tsa.rejected"),
        (stamp_response(token(TSA, Stamp(nonce=5)), "waiting"), "tsa.rejected"),
        (stamp_response(None), "tsa.malformed"),
        (stamp_response(token(TSA, Stamp(nonce=6))), "tsa.mismatch"),
        (stamp_response(token(TSA, Stamp())), "tsa.mismatch"),
        (stamp_response(token(TSA, Stamp(nonce=5, data=b"other"))), "tsa.mismatch"),
        (stamp_response(token(TSA, Stamp(nonce=5, imprint_digest="sha256"))), "tsa.mismatch"),
        (stamp_response(token(UNLISTED, Stamp(nonce=5))), "tsa.untrusted"),
        (token(TSA, Stamp(nonce=5)), "tsa.malformed"),
        (b"", "tsa.malformed"),
    ],
)
def test_an_answer_to_something_else_is_refused(response: bytes, kind: str) -> None:
    with pytest.raises(XacbeError) as refused:
        timestamps.token_of_response(response, IMPRINT, TSAS, nonce=5)
    assert refused.value.kind == kind


@pytest.mark.parametrize("enclosed", [(), (CA,)])
def test_a_token_without_its_certificate_gets_it(enclosed: tuple[pki.Holder, ...]) -> None:
    made = timestamps.token_of_response(stamp_response(token(TSA, Stamp(enclosed=enclosed))), IMPRINT, TSAS)

    inside = [one.chosen.dump() for one in cms.ContentInfo.load(made)["content"]["certificates"]]
    assert TSA.der in inside
    assert timestamps.check_token(made, DATA, TSAS).gen_time_us == NOW_US


def test_our_request_says_what_another_reader_reads() -> None:
    request = tsp.TimeStampReq.load(timestamps.build_request(IMPRINT, 1 << 62)).native

    assert request["version"] == "v1"
    assert request["message_imprint"] == {"hash_algorithm": {"algorithm": "sha512", "parameters": None}, "hashed_message": IMPRINT}
    assert (request["nonce"], request["cert_req"], request["req_policy"]) == (1 << 62, True, None)


CONFIGURATION = """
[tsa]
serial = {folder}/serial
signer_digest = sha256
default_policy = 1.2.3.4
digests = sha256, sha512
accuracy = secs:1, millisecs:500, microsecs:100
ess_cert_id_chain = no
ess_cert_id_alg = {algorithm}
"""


@pytest.mark.case("T24")
@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
@pytest.mark.parametrize("holder", [TSA, RSA_TSA], ids=["ecdsa", "rsa"])
def test_openssl_answers_our_request_and_we_believe_it(tmp_path: Path, algorithm: str, holder: pki.Holder) -> None:
    # openssl stamps with the time of now: a certificate that is valid then
    now_valid = pki.tsa(CA, subject="O=Red,CN=TSA now", key=holder.key, begins=NOW - timedelta(days=3650), ends=NOW + timedelta(days=3650))
    pem = serialization.Encoding.PEM
    key = now_valid.key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {"request": timestamps.build_request(IMPRINT, 77), "certificate": now_valid.certificate.public_bytes(pem), "key": key}
    files |= {"serial": b"01", "configuration": CONFIGURATION.format(folder=tmp_path, algorithm=algorithm).encode()}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    command = "openssl ts -reply -config configuration -section tsa -queryfile request -inkey key -signer certificate -out response"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)

    approved = (pki.approved_tsa(now_valid),)
    made = timestamps.token_of_response((tmp_path / "response").read_bytes(), IMPRINT, approved, nonce=77)

    assert timestamps.check_token(made, DATA, approved).accuracy_us == 1_500_100


GOOD = token(TSA, Stamp(nonce=5))


@pytest.mark.case("T08")
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_no_flipped_bit_gives_another_stamp(at: int, flip: int) -> None:
    changed = GOOD[:at] + bytes((GOOD[at] ^ flip,)) + GOOD[at + 1 :]

    try:
        facts = timestamps.check_token(changed, DATA, TSAS)
    except XacbeError as refused:
        kind = refused.kind
    else:  # bytes that no signature covers: version numbers, enclosed certificates
        assert facts == StampFacts(NOW_US, 1_000_000, "TSA")
        return
    assert kind in ("tsa.malformed", "tsa.mismatch", "tsa.untrusted")


@pytest.mark.case("T08")
@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_malformed(data: bytes) -> None:
    assert check(data) == "tsa.malformed"
    with pytest.raises(timestamps.TsaMalformedError):
        timestamps.token_of_response(data, IMPRINT, TSAS)


@needs_vectors
def test_an_answer_to_somebody_elses_request_is_read_and_refused() -> None:
    with pytest.raises(XacbeError) as refused:
        timestamps.token_of_response((VECTORS / "misc" / "tsp.response").read_bytes(), IMPRINT, TSAS)
    assert refused.value.kind in ("tsa.mismatch", "tsa.untrusted")
