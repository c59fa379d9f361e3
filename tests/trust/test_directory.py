"""The signed directory (sheet 6.3): reading, signature, and what nobody may change."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from appliance.clock import to_us
from appliance.errors import XacbeError
from appliance.model import certificates
from appliance.trust import directory as directories
from appliance.trust.directory import ConfigurationUntrustedError, check_signature, parse_directory
from appliance.trust.global_configuration import ConfigurationMalformedError, parse_anchor, parse_shared_parameters
from tests.trust import pki
from tests.trust.centre import Directory
from tests.trust.pki import NOW
from tests.vectors import VECTORS, needs_vectors

SIGNER = pki.issue("CN=Configuration")
OTHER = pki.issue("CN=Other")
PARTS = {"SHARED-PARAMETERS": b"<shared/>", "PRIVATE-PARAMETERS": b"<private/>", "FETCHINTERVAL": b"<fetch/>"}
MADE = Directory(signer=SIGNER, parts=PARTS)
BODY = MADE.body()


def verdict(body: bytes, *signers: pki.Holder) -> str:
    try:
        check_signature(parse_directory(body), [signer.certificate for signer in signers])
    except XacbeError as error:
        return error.kind
    return "good"


def test_a_directory_lists_parts_with_their_digests() -> None:
    directory = parse_directory(BODY)

    assert directory.expires_us == to_us(NOW) + 9 * 3600 * 1_000_000
    assert directory.version == 6
    assert [(part.identifier, part.instance, part.location) for part in directory.parts] == [
        (name, "QROO-TEST", MADE.location(name)) for name in PARTS
    ]
    assert all(part.is_of(PARTS[part.identifier]) and not part.is_of(b"other") for part in directory.parts)
    assert directory.generated == "20261123120000000000000"
    assert directory.signed == MADE.signed()
    assert verdict(BODY, OTHER, SIGNER) == "good"


def test_line_ends_may_be_lf_as_in_xroads_samples() -> None:
    assert verdict(Directory(signer=SIGNER, parts=PARTS, line_end=b"\n").body(), SIGNER) == "good"


@pytest.mark.case("T14")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (Directory(signer=OTHER, parts=PARTS).body(), "configuration.untrusted"),
        (Directory(signer=OTHER, named=SIGNER, parts=PARTS).body(), "configuration.untrusted"),
        (BODY.replace(b"2026-11-23T21", b"2036-11-23T21"), "configuration.untrusted"),
        (BODY.replace(b"QROO-TEST", b"QROO"), "configuration.untrusted"),
        (BODY.replace(b"ecdsa-sha512", b"ecdsa-sha1"), "configuration.untrusted"),
        (BODY.replace(b"ecdsa-sha512", b"rsa-sha512"), "configuration.untrusted"),
        (BODY[:-200], "configuration.malformed"),
        (BODY[: len(BODY) // 2], "configuration.malformed"),
        (BODY.replace(b"boundary=IN", b"boundary=IN2"), "configuration.malformed"),
        (BODY.replace(b"multipart/mixed", b"text/plain"), "configuration.malformed"),
        (BODY.replace(b"Expire-date", b"Expired-at"), "configuration.malformed"),
        (BODY.replace(b"T21:00:00Z", b"T21:00:00"), "configuration.malformed"),
        (BODY.replace(b"xmlenc#sha512", b"xmlenc#md5"), "configuration.malformed"),
        (Directory(signer=SIGNER, parts=PARTS, digests={"FETCHINTERVAL": b"short"}).body(), "configuration.malformed"),
        (b"", "configuration.malformed"),
        (bytes(1 << 20), "configuration.malformed"),
    ],
)
def test_what_was_not_signed_like_this_is_refused(body: bytes, kind: str) -> None:
    assert verdict(body, SIGNER) == kind


@pytest.mark.case("T14")
def test_the_unsigned_header_cannot_choose_how_the_signed_list_is_read() -> None:
    class WithTwoLists(Directory):
        """Signs a second list behind the first; a header that names its delimiter would bring it to light."""

        def signed(self) -> bytes:
            return super().signed() + super().signed().replace(b"--IN", b"--XX").replace(b"2026", b"2099")

    body = WithTwoLists(signer=SIGNER, parts=PARTS).body()

    assert parse_directory(body).expires_us == to_us(NOW) + 9 * 3600 * 1_000_000
    with pytest.raises(ConfigurationMalformedError):
        parse_directory(body.replace(b"boundary=IN", b"boundary=XX"))


@pytest.mark.parametrize("scheme", ["rsa-sha512", "sha512-rsa-MGF1"])
def test_rsa_signatures_are_accepted_in_both_forms(scheme: str) -> None:
    key = rsa.generate_private_key(65537, 2048)
    signer = pki.issue("CN=RSA", key=key)
    made = Directory(signer=signer, parts=PARTS)
    pss = padding.PSS(padding.MGF1(hashes.SHA512()), 64)
    signature = key.sign(made.signed(), pss if "MGF1" in scheme else padding.PKCS1v15(), hashes.SHA512())
    folder = "2007/05" if "MGF1" in scheme else "2001/04"
    body = made.body().replace(b"2001/04/xmldsig-more#ecdsa-sha512", f"{folder}/xmldsig-more#{scheme}".encode())
    body = re.sub(rb"(sha512\"\r\n\r\n)[^\r]+", lambda found: found[1] + base64.b64encode(signature), body)

    assert verdict(body, signer) == "good"


@pytest.mark.case("T14")
@given(st.integers(0, len(BODY) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_changes_nothing_signed(at: int, new: int) -> None:
    changed = BODY[:at] + bytes((new,)) + BODY[at + 1 :]

    if verdict(changed, SIGNER) == "good":
        read, original = parse_directory(changed), parse_directory(BODY)
        assert (read.parts, read.expires_us, read.signed) == (original.parts, original.expires_us, original.signed)


@given(st.binary(max_size=200))
def test_any_bytes_give_our_error(data: bytes) -> None:
    with pytest.raises(ConfigurationMalformedError):
        parse_directory(data)


@given(st.lists(st.sampled_from([b"--IN", b"--IN--", b"--OUT", b"--OUT--", b"\r\n", b"\n", b"A: b", b"Content-Type: ", b"x"]), max_size=30))
def test_any_lines_give_a_directory_or_our_error(lines: list[bytes]) -> None:
    try:
        parse_directory(BODY[:130] + b"".join(lines))
    except XacbeError:
        return


@needs_vectors
@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("test-conf-simple.txt", "good"),
        ("test-conf-detached.txt", "good"),
        ("test-conf-missing-date.txt", "configuration.malformed"),
        ("test-conf-malformed.txt", "configuration.malformed"),
        ("test-conf-invalid-signature.txt", "configuration.untrusted"),
        ("test-conf-missing-signature.txt", "configuration.untrusted"),
    ],
)
def test_xroads_own_samples_are_judged_alike(file: str, expected: str) -> None:
    signer = pki.Holder(SIGNER.key, certificates.read_text((VECTORS / "misc" / "consumer-cert.pem").read_bytes()))

    assert verdict((VECTORS / "conf-download" / file).read_bytes(), signer) == expected


@needs_vectors
def test_xroads_signed_configuration_verifies_with_its_anchor() -> None:
    root = VECTORS / "globalconf-signed"
    signers = parse_anchor((root / "configuration_anchor_CS_internal.xml").read_bytes()).sources[0].certificates
    directory = parse_directory((root / "V6" / "internalconf").read_bytes())

    check_signature(directory, signers)

    assert directory.expires_us == to_us(datetime(2035, 11, 11, 3, 7, 40, tzinfo=UTC))
    assert all(part.is_of((root / part.location.lstrip("/")).read_bytes()) for part in directory.parts)
    with pytest.raises(ConfigurationUntrustedError):
        check_signature(parse_directory((root / "V6-rotated-keys" / "internalconf").read_bytes()), signers)


@needs_vectors
def test_xroads_external_directory_lists_another_shared_part() -> None:
    root = VECTORS / "globalconf-signed"
    internal = parse_directory((root / "V6" / "internalconf").read_bytes())
    content = (root / internal.parts[0].location.lstrip("/")).read_bytes()
    source = parse_shared_parameters(content, 6).sources[0]
    external = parse_directory((root / "V6" / "externalconf").read_bytes())

    check_signature(external, source.external_certificates)

    assert external.parts[0].identifier == directories.SHARED
    assert not external.parts[0].is_of(content)
