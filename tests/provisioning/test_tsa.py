"""The time-stamping authority against openssl, our own reader, and hostile queries."""

from __future__ import annotations

import hashlib
import random
import re
import time
from pathlib import Path

import pytest
from asn1crypto import core, tsp
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import SystemClock
from provisioning.authority import structures, tsa
from provisioning.centre import Centre
from tests.provisioning.parts import NOW_US, openssl

OIDS = {"sha1": "1.3.14.3.2.26", "sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2", "sha512": "2.16.840.1.101.3.4.2.3"}


@pytest.fixture(scope="module")
def stamping(centre: Centre) -> tsa.StampingKey:
    return tsa.StampingKey(centre.certificate("tsa"), centre.key("tsa"))


def query(
    digest: str = "sha512", *, nonce: int | None = None, certificate: bool = False, policy: ObjectIdentifier | None = None, version: int = 1
) -> bytes:
    algorithm = structures.AlgorithmIdentifier(algorithm=ObjectIdentifier(OIDS[digest]), parameters=asn1.Null())
    imprint = structures.MessageImprint(hash_algorithm=algorithm, hashed_message=hashlib.new(digest, b"a seal").digest())
    request = structures.TimeStampReq(
        version=version, message_imprint=imprint, req_policy=policy, nonce=nonce, cert_req=certificate, extensions=None
    )
    return asn1.encode_der(request)


def status(answer: bytes) -> tuple[str, set[str]]:
    """Status and reasons. asn1crypto believes that the token is not optional, hence in two steps."""
    info = tsp.PKIStatusInfo.load(core.Sequence.load(answer)[0].dump())
    return info["status"].native, info["fail_info"].native or set()


@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("options", [["-cert"], ["-no_nonce"]], ids=["nonce and certificate", "neither"])
def test_openssl_verifies_the_stamp(centre: Centre, stamping: tsa.StampingKey, tmp_path: Path, digest: str, options: list[str]) -> None:
    (tmp_path / "data").write_bytes(b"a signature value")
    openssl("ts", "-query", "-data", tmp_path / "data", f"-{digest}", *options, "-out", tmp_path / "query")
    answer = tsa.answer((tmp_path / "query").read_bytes(), stamping, SystemClock().now_us(), 7)
    (tmp_path / "answer").write_bytes(answer)

    trust = ("-CAfile", centre.authorities_file, "-untrusted", centre.certificate_file("tsa", "pem"))
    for by in (("-queryfile", tmp_path / "query"), ("-data", tmp_path / "data")):
        assert "Verification: OK" in openssl("ts", "-verify", "-in", tmp_path / "answer", *by, *trust)
    assert (centre.certificate("tsa").public_bytes(Encoding.DER) in answer) == ("-cert" in options)


def test_the_stamp_says_the_given_moment_in_milliseconds_with_its_accuracy(stamping: tsa.StampingKey, tmp_path: Path) -> None:
    (tmp_path / "answer").write_bytes(tsa.answer(query(nonce=-5), stamping, NOW_US, 7))

    text = openssl("ts", "-reply", "-in", tmp_path / "answer", "-text")

    assert "Time stamp: Jan 15 08:00:00.123 2027 GMT" in text
    assert "0x64 millis" in text
    assert "Nonce: 0x-05" in text
    assert f"Policy OID: {tsa.POLICY.dotted_string}" in text
    assert re.search(r"Serial number: 0x0*7$", text, re.MULTILINE)


@pytest.mark.rule("IV.3.V")
def test_our_own_reader_accepts_the_stamp_and_sees_the_same_facts(centre: Centre, stamping: tsa.StampingKey) -> None:
    timestamps = pytest.importorskip("appliance.trust.timestamps", reason="the box's reader is not there")
    from appliance.trust.global_configuration import ApprovedTsa

    approved = [ApprovedTsa("CEIQROO", centre.tsa_url, centre.certificate("tsa"))]
    imprint = hashlib.sha512(b"a seal").digest()
    answer = tsa.answer(timestamps.build_request(imprint), stamping, NOW_US, 7)

    token = timestamps.token_of_response(answer, imprint, approved)
    facts = timestamps.check_token(token, b"a seal", approved)

    assert (facts.gen_time_us, facts.accuracy_us) == (NOW_US - NOW_US % 1000, tsa.ACCURACY_MS * 1000)
    assert centre.certificate("tsa").public_bytes(Encoding.DER) in token


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (query("sha1"), "bad_alg"),
        (query(version=2), "bad_request"),
        (query(policy=ObjectIdentifier("1.2.3.4")), "unaccepted_policy"),
        (query(nonce=1 << 600), "bad_data_format"),
        (query()[:-1], "bad_data_format"),
        (query() + b"\0", "bad_data_format"),
        (b"", "bad_data_format"),
        (bytes(tsa.QUERY_BYTES_MAX + 1), "bad_data_format"),
        (bytes.fromhex("30 80 02 01 01 00 00"), "bad_data_format"),
    ],
    ids=["sha1", "version 2", "other policy", "endless nonce", "cut", "more after it", "empty", "too long", "indefinite length"],
)
def test_a_query_that_gets_no_stamp_is_told_why(stamping: tsa.StampingKey, asked: bytes, reason: str) -> None:
    answer = tsa.answer(asked, stamping, NOW_US, 7)

    assert status(answer) == ("rejection", {reason})
    assert len(core.Sequence.load(answer)) == 1


def test_an_imprint_of_the_wrong_length_gets_no_stamp(stamping: tsa.StampingKey) -> None:
    shorter = query("sha256").replace(hashlib.sha256(b"a seal").digest(), bytes(32))
    lied = shorter.replace(bytes.fromhex("608648016503040201"), bytes.fromhex("608648016503040203"))

    assert status(tsa.answer(lied, stamping, NOW_US, 7)) == ("rejection", {"bad_data_format"})


def test_our_own_policy_may_be_asked_for(stamping: tsa.StampingKey) -> None:
    assert status(tsa.answer(query(policy=tsa.POLICY), stamping, NOW_US, 7)) == ("granted", set())


@pytest.mark.case("T08")
def test_two_hundred_damaged_queries_get_an_answer_and_never_an_exception(stamping: tsa.StampingKey) -> None:
    chance = random.Random(3161)  # noqa: S311  reproducible damage, no secret
    for _ in range(200):
        damaged = bytearray(query(nonce=chance.getrandbits(64), certificate=True))
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        answer = tsa.answer(bytes(damaged[: chance.randint(1, len(damaged))]), stamping, NOW_US, 7)
        assert status(answer)[0] in ("granted", "rejection")


@given(st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes_are_rejected_by_name(asked: bytes) -> None:
    with pytest.raises(tsa.QueryRejectedError):
        tsa._checked(asked)


def test_serial_numbers_differ_within_a_start_and_between_starts() -> None:
    first, second = tsa.SerialNumbers(), tsa.SerialNumbers()

    taken = [numbers.take() for numbers in (first, second) for _ in range(1000)]

    assert len(set(taken)) == 2000
    assert all(number.bit_length() <= 160 for number in taken)


def test_a_stamp_costs_less_than_a_millisecond(stamping: tsa.StampingKey) -> None:
    asked = query(certificate=True)
    began = time.process_time()
    for serial in range(200):
        tsa.answer(asked, stamping, NOW_US, serial)

    assert (time.process_time() - began) / 200 < 0.001
