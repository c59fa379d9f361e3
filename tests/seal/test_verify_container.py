"""Containers: X-Road's verdicts on X-Road's files, our own rules on ours."""

from __future__ import annotations

import io
import random
import re
import zipfile
from dataclasses import replace
from functools import cache

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.configuration_files import LoadedConfiguration, load_directory
from appliance.model.identifiers import ClientId
from appliance.seal.container import Contents, write_container
from appliance.seal.hash_chain import sha512
from appliance.seal.report import FAILED, INVALID, PASSED, SKIPPED, UNDECIDABLE, UNDECIDED, VALID, Report
from appliance.seal.sender import SenderUnreadableError, sender_of
from appliance.seal.verify import verify_container
from appliance.seal.xades import signature_value
from tests.seal.workshop import CLIENT, HEAD, HOUR_US, INSTANCE, NOON_US, Known, Workshop, known, parts_of
from tests.vectors import VECTORS, needs_vectors

WORKSHOP = Workshop()
STRICTER = {"gap-unsigned-attachment.asice": "seal.uncovered_part"}
"""The files where the index wants us to differ from X-Road."""
FREE = {"form-prefix-dsig.asice", "form-ws-cert-extra.asice", "ok-ocsp-future-thisupdate.asice"}
"""The files where the index lets us differ."""
WITHOUT_CODE = {"rest-no-client.asice"}
"""X-Road dies of a null pointer: refused, but under no code."""


def expected_verdicts() -> dict[str, str]:
    """File -> X-Road's verdict: `successful`, or the code of the failure."""
    if not VECTORS.is_dir():
        return {}
    found: dict[str, str] = {}
    for name, columns in re.findall(r"^\| ([\w.-]+\.asice) \|(.*)\|$", (VECTORS / "INDEX.md").read_text(), re.MULTILINE):
        cells = [cell.strip() for cell in columns.split("|")]
        verdict = next(cell for cell in cells if re.match(r"successful|failed:|asic_|malformed_|invalid_signature_value", cell))
        found[name] = "successful" if verdict.startswith("successful") else verdict.removeprefix("failed: ")
    return found


VERDICTS = expected_verdicts()


@cache
def configuration_of(folder: str) -> LoadedConfiguration:
    return load_directory(VECTORS / folder)


def judged(name: str) -> Report:
    is_theirs = (VECTORS / "asice" / name).is_file()
    folder, configuration = ("asice", "globalconf-DEV-v3") if is_theirs else ("generated/containers", "generated/conf-LAB")
    return verify_container((VECTORS / folder / name).read_bytes(), configuration_of(configuration))


@needs_vectors
@pytest.mark.case("T24")
@pytest.mark.parametrize("name", sorted(VERDICTS))
def test_every_container_of_x_road_gets_its_verdict(name: str) -> None:
    found = judged(name)

    if name in STRICTER:
        assert (found.verdict, found.reason) == (INVALID, STRICTER[name])
    elif name in FREE:
        assert found.verdict in (VALID, INVALID)
    elif VERDICTS[name] == "successful":
        assert (found.verdict, found.reason) == (VALID, None)
    else:
        assert found.verdict == INVALID
        assert name in WITHOUT_CODE or found.xroad_code == VERDICTS[name]


@needs_vectors
def test_all_containers_of_the_index_are_judged() -> None:
    files = {path.name for folder in ("asice", "generated/containers") for path in (VECTORS / folder).glob("*.asice")}

    assert files == VERDICTS.keys()


@needs_vectors
def test_attachments_are_told_apart_as_x_road_prints_them() -> None:
    batch, absent = judged("ok-batch5-4.asice"), judged("ok-soap-2att-notstored.asice")

    assert [(part.name, part.stored, part.verified) for part in batch.attachments] == [("/attachment1", True, True)]
    assert [(part.name, part.stored, part.verified) for part in absent.attachments] == [
        ("/attachment1", False, False),
        ("/attachment2", False, False),
    ]
    assert absent.attachments[0].digest == sha512(b'{"a":1}').hex()


@pytest.mark.rule("III.3.II, IV.3.VI, IV.7")
@pytest.mark.rule("I.4.IV")
@pytest.mark.parametrize("batch_stamp", [False, True])
@pytest.mark.parametrize("body", [None, b"", b'{"a":1}'])
def test_what_we_seal_stamp_and_export_is_valid(body: bytes | None, batch_stamp: bool) -> None:
    found = verify_container(WORKSHOP.container(body=body, batch_stamp=batch_stamp), known(WORKSHOP))

    assert (found.verdict, found.reason) == (VALID, None)
    assert [step.verdict for step in found.steps].count(PASSED) == (11 if body is not None else 10)
    assert all(part.verified for part in found.attachments)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP384R1()), "ecdsa-sha512"),
        (rsa.generate_private_key(65537, 2048), "rsa-sha512"),
        (rsa.generate_private_key(65537, 2048), "rsa-pss-sha512"),
    ],
    ids=["P-384", "RSA", "RSA-PSS"],
)
def test_every_kind_of_seal_key_is_good(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str) -> None:
    workshop = Workshop(key, algorithm)

    assert verify_container(workshop.container(body=b"x"), known(workshop)).verdict == VALID


@pytest.mark.rule("IV.3.V")
@pytest.mark.parametrize(
    ("after_us", "verdict", "reason"),
    [
        # the stamp states an accuracy of 100 ms, which counts against the seal
        (8 * HOUR_US - 100_000, VALID, None),
        (8 * HOUR_US - 99_000, INVALID, "seal.evidence_gap"),
        (9 * HOUR_US, INVALID, "seal.evidence_gap"),
        (-8 * HOUR_US + 100_000, VALID, None),
        (-8 * HOUR_US + 99_000, INVALID, "seal.evidence_gap"),
    ],
)
def test_confirmation_and_stamp_lie_at_most_eight_hours_apart(after_us: int, verdict: str, reason: str | None) -> None:
    workshop = Workshop(freshness_s=24 * 3600)

    found = verify_container(workshop.container(stamped_us=NOON_US + after_us), known(workshop))

    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.rule("IV.3.V")
def test_the_eight_hour_rule_can_be_left_to_instances_that_have_it() -> None:
    workshop = Workshop(freshness_s=24 * 3600)
    data = workshop.container(stamped_us=NOON_US + 9 * HOUR_US)

    found = verify_container(data, known(workshop), evidence_gap_rule=False)

    assert (found.verdict, found.steps[10].verdict) == (VALID, SKIPPED)


def repacked(data: bytes, **changes: bytes | None) -> bytes:
    """The container with entries replaced (message, signature, chain, body ...) or taken out (None)."""
    entries = {"message": "message.xml", "signature": "META-INF/signatures.xml", "body": "attachment1", "chain": "sig-hashchain.xml"}
    entries |= {"result": "sig-hashchainresult.xml", "stamp_chain": "ts-hashchain.xml", "token": "META-INF/timestamp.tst"}
    wanted = {entries.get(key, key): value for key, value in changes.items()}
    output = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as new:
        for name in dict.fromkeys([*old.namelist(), *wanted]):
            content = wanted.get(name, old.read(name) if name in old.namelist() else None)
            if content is not None:
                new.writestr(name, content)
    return output.getvalue()


WHOLE = WORKSHOP.container(body=b'{"a":1}', batch_stamp=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"body": b'{"a":2}'}, "seal.chain_reference"),
        ({"attachment2": b"smuggled"}, "seal.chain_unused_input"),
        ({"message": HEAD + b"X-Evil:1\r\n"}, "seal.chain_reference"),
        ({"message": HEAD.replace(b"solomon", b"geoportal")}, "seal.chain_reference"),
        ({"chain": None}, "seal.reference_missing"),
        ({"stamp_chain": None}, "seal.no_stamp"),
        ({"token": b"\x30\x00"}, "tsa.malformed"),
    ],
)
def test_a_changed_part_is_named(changes: dict[str, bytes | None], reason: str) -> None:
    found = verify_container(repacked(WHOLE, **changes), known(WORKSHOP))

    assert (found.verdict, found.reason) == (INVALID, reason)


def test_a_body_that_is_not_stored_is_reported_as_unverified() -> None:
    found = verify_container(repacked(WHOLE, body=None), known(WORKSHOP))

    assert found.verdict == VALID
    assert [(part.name, part.stored, part.verified, part.digest) for part in found.attachments] == [
        ("/attachment1", False, False, sha512(b'{"a":1}').hex())
    ]


def test_an_attachment_beside_a_signature_over_the_message_alone_is_refused() -> None:
    """Closes the gap that X-Road has (sheet 4.7)."""
    found = verify_container(repacked(WORKSHOP.container(), body=b"smuggled"), known(WORKSHOP))

    assert (found.verdict, found.reason) == (INVALID, "seal.uncovered_part")


def test_a_seal_of_another_member_is_refused() -> None:
    head = HEAD.replace(b"GOV/1001", b"GOV/2002", 1).replace(b"X-Road-Client:QROO-TEST/GOV/1001", b"X-Road-Client:QROO-TEST/GOV/2002")
    (seal,) = WORKSHOP.sealed([parts_of(head)], NOON_US)
    token = WORKSHOP.stamp(signature_value(seal.signature), NOON_US)

    found = verify_container(write_container(Contents(message=head, signature=seal.signature, stamp_token=token), NOON_US), known(WORKSHOP))

    assert (found.verdict, found.reason) == (INVALID, "seal.wrong_signer")


def test_a_stamp_of_another_seal_is_refused() -> None:
    (seal,) = WORKSHOP.sealed([parts_of(HEAD)], NOON_US)
    data = write_container(Contents(message=HEAD, signature=seal.signature, stamp_token=WORKSHOP.stamp(b"other", NOON_US)), NOON_US)

    assert verify_container(data, known(WORKSHOP)).reason == "tsa.mismatch"


def test_a_revoked_certificate_is_refused() -> None:
    confirmation = WORKSHOP.confirmation(NOON_US, revoked_us=NOON_US - HOUR_US)
    (seal,) = WORKSHOP.sealed([parts_of(HEAD)], NOON_US, confirmation)
    token = WORKSHOP.stamp(signature_value(seal.signature), NOON_US)

    found = verify_container(write_container(Contents(message=HEAD, signature=seal.signature, stamp_token=token), NOON_US), known(WORKSHOP))

    assert found.reason == "ocsp.revoked"


def test_without_trust_material_only_what_needs_it_is_undecided() -> None:
    found = verify_container(WHOLE, None)

    assert (found.verdict, found.reason) == (UNDECIDABLE, "verify.no_configuration")
    assert {step.name for step in found.steps if step.verdict == UNDECIDED} == {"stamp", "signer", "path", "ocsp", "evidence_gap"}
    assert verify_container(repacked(WHOLE, body=b"x"), None).verdict == INVALID


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        (Known(INSTANCE, {INSTANCE: WORKSHOP.with_shared(WORKSHOP.authority, tsas=False)}), "verify.no_tsa"),
        (Known(INSTANCE, {INSTANCE: WORKSHOP.with_shared()}), "verify.no_ca"),
        (Known("OTHER", {"OTHER": replace(WORKSHOP.shared, instance="OTHER")}), "verify.unknown_instance"),
    ],
    ids=["no TSA", "no CA", "another instance"],
)
def test_missing_material_is_undecidable_by_name(configuration: Known, reason: str) -> None:
    found = verify_container(WHOLE, configuration)

    assert (found.verdict, found.reason) == (UNDECIDABLE, reason)


def test_another_moment_than_the_stamps_may_be_asked_about() -> None:
    assert verify_container(WHOLE, known(WORKSHOP), NOON_US).verdict == VALID
    assert verify_container(WHOLE, known(WORKSHOP), NOON_US + 9 * HOUR_US).reason == "ocsp.stale"
    assert verify_container(WHOLE, known(WORKSHOP), NOON_US + 3 * 365 * 24 * HOUR_US).reason == "chain.expired"


def test_the_first_failure_ends_the_list() -> None:
    found = verify_container(repacked(WHOLE, body=b"x"), known(WORKSHOP))

    verdicts = [step.verdict for step in found.steps]
    assert verdicts[:5] == [PASSED, PASSED, PASSED, PASSED, FAILED]
    assert set(verdicts[5:]) == {"not_reached"}
    assert [step.number for step in found.steps] == list(range(11))


@pytest.mark.case("T04")
@pytest.mark.rule("III.3.II, IV.3.VI, IV.7")
@pytest.mark.parametrize("part", ["message", "signature", "result", "chain", "body"])
def test_no_flipped_byte_makes_another_message_valid(part: str) -> None:
    """300 flips of each part: where one is still valid, it changed bytes that nothing is read from."""
    with zipfile.ZipFile(io.BytesIO(WHOLE)) as archive:
        whole = {name: archive.read(name) for name in archive.namelist()}
    name = {"message": "message.xml", "signature": "META-INF/signatures.xml", "body": "attachment1"}.get(part) or {
        "result": "sig-hashchainresult.xml",
        "chain": "sig-hashchain.xml",
    }[part]
    content = whole[name]
    chance = random.Random(part)  # noqa: S311  the same flips in every run
    for _ in range(300 if len(content) > 300 else len(content) * 4):
        at, mask = chance.randrange(len(content)), chance.randrange(1, 256)
        flipped = content[:at] + bytes((content[at] ^ mask,)) + content[at + 1 :]
        found = verify_container(repacked(WHOLE, **{part: flipped}), known(WORKSHOP))
        # the chain document is not signed, but what it may say is: white space and prefixes are free
        assert found.verdict == INVALID or part == "chain", (at, mask)
        if found.verdict == VALID:
            assert all(step.verdict == PASSED for step in found.steps)
            assert found.attachments[0].verified


def test_soap_senders_are_read_from_requests_and_answers() -> None:
    def envelope(operation: str, extra: str = "") -> bytes:
        ids = "".join(
            f"<id:{tag}>{value}</id:{tag}>"
            for tag, value in (("xRoadInstance", "I"), ("memberClass", "GOV"), ("memberCode", "2"), ("subsystemCode", "s"))
        )
        return (
            '<S:Envelope xmlns:S="http://schemas.xmlsoap.org/soap/envelope/" xmlns:id="http://x-road.eu/xsd/identifiers"'
            ' xmlns:x="http://x-road.eu/xsd/xroad.xsd"><S:Header>'
            f"<x:client>{ids.replace('>2<', '>1<')}</x:client>{extra}"
            f"<x:service>{ids}<id:serviceCode>get</id:serviceCode></x:service></S:Header><S:Body><{operation}/></S:Body></S:Envelope>"
        ).encode()

    assert sender_of(envelope("get")) == ClientId("I", "GOV", "1", "s")
    assert sender_of(b"\xef\xbb\xbf" + envelope("getResponse")) == ClientId("I", "GOV", "2", "s")
    for bad in (envelope("get", "<x:client/>"), b"<!DOCTYPE x>" + envelope("get"), b"<a/>", b"", b"GET\r\n/r1\r\n\r\n", b"\xff"):
        with pytest.raises(SenderUnreadableError):
            sender_of(bad)
    assert sender_of(HEAD) == CLIENT
