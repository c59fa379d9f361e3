"""The signature document: what we write is canonical, what we read is unambiguous."""

from __future__ import annotations

import re
import time
from base64 import b64encode
from datetime import UTC, datetime
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import example, given
from hypothesis import strategies as st
from lxml import etree

from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.seal.hash_chain import sha512
from appliance.seal.signature import (
    SignatureMalformedError,
    SignatureValueError,
    SigningCertificateError,
    WrongDigestError,
    check_value,
)
from appliance.seal.xades import complete, embed_stamp, parse, prepare, signature_value
from tests.seal.workshop import NOON_US, PrivateKey, sign
from tests.vectors import VECTORS, needs_vectors

KEYS: dict[str, PrivateKey] = {
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "RSA": rsa.generate_private_key(65537, 2048),
}
ALGORITHMS = {"P-256": ["ecdsa-sha512"], "P-384": ["ecdsa-sha512"], "RSA": ["rsa-sha512", "rsa-pss-sha512"]}


@cache
def certificate(key: PrivateKey, issuer: str = "CA") -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 77, datetime(2026, 1, 1, tzinfo=UTC), datetime(2036, 1, 1, tzinfo=UTC))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def signed_document(
    key: PrivateKey, algorithm: str, signed: str = "message", issuer: str = "CA", at_us: int = NOON_US
) -> tuple[bytes, bytes]:
    """The document and the bytes that were signed."""
    prepared = prepare(certificate(key, issuer), signed, sha512(b"content"), at_us, algorithm)
    return complete(prepared.finish(sign(key, prepared.to_sign, algorithm)), [b"a confirmation"]), prepared.to_sign


def canonical(document: bytes, tag: str) -> bytes:
    element = etree.fromstring(document).find(f".//{{*}}{tag}")
    assert element is not None
    return bytes(etree.tostring(element, method="c14n", exclusive=False, with_comments=False))


DOCUMENT, _ = signed_document(KEYS["P-256"], "ecdsa-sha512")


@pytest.mark.parametrize(("key", "algorithm"), [(key, algorithm) for key, names in ALGORITHMS.items() for algorithm in names])
@pytest.mark.parametrize("signed", ["message", "chain"])
def test_what_is_written_reads_back_and_holds(key: str, algorithm: str, signed: str) -> None:
    document, to_sign = signed_document(KEYS[key], algorithm, signed)

    found = parse(document)

    check_value(found, certificates.read(found.certificate))
    assert found.signed_info == to_sign
    assert list(found.references) == ["/message.xml" if signed == "message" else "/sig-hashchainresult.xml"]
    assert found.references.popitem()[1].value == sha512(b"content")
    assert (found.signing_time, found.ocsp_responses) == ("2026-11-23T12:00:00.000Z", (b"a confirmation",))


@given(
    issuer=st.text(st.characters(codec="utf-8"), min_size=1, max_size=16),
    at_us=st.integers(0, 4_000_000_000_000_000),
    signed=st.sampled_from(["message", "chain"]),
)
def test_the_template_is_what_canonicalisation_makes_of_the_document(issuer: str, at_us: int, signed: str) -> None:
    document, to_sign = signed_document(KEYS["P-256"], "ecdsa-sha512", signed, issuer, at_us)

    assert canonical(document, "SignedInfo") == to_sign
    found = parse(document)
    assert canonical(document, "SignedProperties") == found.properties
    assert sha512(found.properties) == found.properties_digest.value


def test_the_document_is_one_line_with_x_roads_prefixes_and_order() -> None:
    assert b"\n" not in DOCUMENT
    assert DOCUMENT.startswith(b'<?xml version="1.0" encoding="UTF-8" standalone="no"?><asic:XAdESSignatures xmlns:asic=')
    names = re.findall(rb"<((?:ds|xades):[A-Za-z0-9]+)", DOCUMENT)
    assert names[:4] == [b"ds:Signature", b"ds:SignedInfo", b"ds:CanonicalizationMethod", b"ds:SignatureMethod"]
    positions = [
        DOCUMENT.index(name)
        for name in (b'"signature-reference-0"', b'"signature-reference-1"', b"<ds:SignatureValue", b"<ds:KeyInfo", b"<ds:Object")
    ]
    assert positions == sorted(positions)
    assert b"<xades:Cert><xades:CertDigest><ds:DigestMethod" in DOCUMENT
    assert b"urn:oid:1.3.6.1.4.1.3516.16.2" in DOCUMENT


@needs_vectors
def test_our_document_has_the_elements_of_x_roads_own() -> None:
    theirs = (VECTORS / "generated" / "wire-by-xroad" / "j-0.bin").read_bytes()
    theirs = theirs[theirs.index(b"<asic:XAdES") : theirs.index(b"</asic:XAdESSignatures>") + 23]

    def shape(document: bytes) -> list[tuple[str, list[tuple[str, str]]]]:
        varying = ("Id", "Algorithm")
        return [
            (etree.QName(element).localname, [(str(k), str(v)) for k, v in element.items() if k not in varying])
            for element in etree.fromstring(document).iter()
        ]

    assert shape(DOCUMENT) == shape(theirs)


def test_intermediates_are_written_with_their_references() -> None:
    other = certificate(KEYS["P-384"], "Intermediate")
    prepared = prepare(certificate(KEYS["P-256"]), "message", bytes(64), NOON_US, "ecdsa-sha512")
    fragment = prepared.finish(sign(KEYS["P-256"], prepared.to_sign, "ecdsa-sha512"))

    found = parse(complete(fragment, [b"one", b"two"], [other]))

    assert found.ocsp_responses == (b"one", b"two")
    assert found.intermediates == (other,)
    assert found.certificate_digests[0].value == sha512(certificate(KEYS["P-256"]))


def test_a_wrong_algorithm_for_the_key_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        prepare(certificate(KEYS["P-256"]), "message", bytes(64), NOON_US, "rsa-sha512")


def test_a_stamp_goes_in_front_of_the_other_unsigned_properties_and_moves_nothing_else() -> None:
    stamped = embed_stamp(DOCUMENT, b"token")

    at = stamped.index(b"<xades:SignatureTimeStamp>")
    end = stamped.index(b"</xades:SignatureTimeStamp>") + len(b"</xades:SignatureTimeStamp>")
    assert stamped[:at] + stamped[end:] == DOCUMENT
    assert stamped[:at].endswith(b"<xades:UnsignedSignatureProperties>")
    assert parse(stamped).stamps == (b"token",)
    assert signature_value(stamped) == signature_value(DOCUMENT)


def test_a_stamp_does_not_land_in_a_comment() -> None:
    trapped = DOCUMENT.replace(
        b"<xades:UnsignedSignatureProperties>", b"<!-- <xades:UnsignedSignatureProperties> --><xades:UnsignedSignatureProperties>"
    )
    with pytest.raises(SignatureMalformedError):
        embed_stamp(trapped, b"token")
    hidden = DOCUMENT.replace(b"xades:UnsignedSignatureProperties", b"xades:UnsignedDataObjectProperties")
    with pytest.raises(SignatureMalformedError):
        embed_stamp(hidden.replace(b"</ds:Object>", b"</ds:Object><!-- <xades:UnsignedSignatureProperties> -->"), b"token")


def test_ecdsa_values_are_r_and_s_side_by_side_with_leading_zeros_kept() -> None:
    for _ in range(300):  # one in 128 values has a leading zero byte in r or s
        prepared = prepare(certificate(KEYS["P-256"]), "message", bytes(64), NOON_US, "ecdsa-sha512")
        value = parse(complete(prepared.finish(sign(KEYS["P-256"], prepared.to_sign, "ecdsa-sha512")), [])).value
        assert len(value) == 64


SECOND_SIGNATURE = re.search(rb"<ds:Signature .*</ds:Signature>", DOCUMENT)
assert SECOND_SIGNATURE
WRAPPED = SECOND_SIGNATURE[0]
PROPERTIES = re.search(rb"<xades:SignedProperties .*</xades:SignedProperties>", DOCUMENT)
assert PROPERTIES
DTD = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'


@pytest.mark.case("T05")
@pytest.mark.parametrize(
    "document",
    [
        pytest.param(DOCUMENT.replace(b"<asic:XAdES", DTD + b"<asic:XAdES", 1), id="billion laughs"),
        pytest.param(
            DOCUMENT.replace(b"<asic:XAdES", b'<!DOCTYPE x SYSTEM "http://127.0.0.1/x"><asic:XAdES', 1), id="a DTD from elsewhere"
        ),
        pytest.param(DOCUMENT.replace(b"?><asic", b"?><!-- <a> --> <!DOCTYPE x><asic", 1), id="a DTD behind a comment"),
        pytest.param(DOCUMENT.replace(b"</ds:Signature>", b"</ds:Signature>" + SECOND_SIGNATURE[0]), id="two signatures"),
        pytest.param(
            DOCUMENT.replace(b"</ds:Object>", b"</ds:Object><ds:Object>" + SECOND_SIGNATURE[0] + b"</ds:Object>", 1),
            id="a wrapped signature",
        ),
        pytest.param(DOCUMENT.replace(b"</ds:Object>", b"</ds:Object><ds:Object>" + PROPERTIES[0] + b"</ds:Object>", 1), id="an Id twice"),
        pytest.param(DOCUMENT.replace(b"<ds:SignedInfo>", b"<ds:SignedInfo><?php ?>", 1), id="a processing instruction"),
        pytest.param(DOCUMENT.replace(b"<ds:SignedInfo>", b"<ds:SignedInfo><ds:Foo/>", 1), id="an unknown element in SignedInfo"),
        pytest.param(DOCUMENT.replace(b"<ds:SignedInfo>", b"<ds:Foo/><ds:SignedInfo>", 1), id="an unknown element before SignedInfo"),
        pytest.param(DOCUMENT.replace(b'Target="#signature"', b'Target="#other"'), id="properties of another signature"),
        pytest.param(DOCUMENT.replace(b'URI="/message.xml"', b'URI="message.xml"'), id="a reference without slash"),
        pytest.param(DOCUMENT.replace(b'URI="/message.xml"', b'URI="http://127.0.0.1/message.xml"'), id="a reference into the network"),
        pytest.param(DOCUMENT.replace(b'URI="/message.xml"', b'URI="#xpointer(/)"'), id="a reference into the document"),
        pytest.param(
            DOCUMENT.replace(
                b'URI="/message.xml">',
                b'URI="/message.xml"><ds:Transforms><ds:Transform Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116"/></ds:Transforms>',
            ),
            id="a transform",
        ),
        pytest.param(DOCUMENT.replace(b"REC-xml-c14n-20010315", b"REC-xml-c14n-20010315#WithComments"), id="c14n with comments"),
        pytest.param(DOCUMENT.replace(b"xmlenc#sha512", b"xmldsig#sha1"), id="a weak digest"),
        pytest.param(b"<a>" * 100_000, id="100,000 levels"),
        pytest.param(DOCUMENT.replace(b"<ds:KeyInfo>", b"<ds:KeyInfo>" + b" " * (1 << 20)), id="more than 1 MiB"),
        pytest.param(b"\xef\xbb\xbf" + DOCUMENT.decode().encode("utf-16"), id="another encoding"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_an_ambiguous_or_abusive_document_is_refused_quickly(document: bytes) -> None:
    began = time.perf_counter()

    with pytest.raises(SignatureMalformedError):
        parse(document)

    assert time.perf_counter() - began < 0.5


def test_comments_and_line_breaks_change_nothing_for_the_value() -> None:
    spaced = DOCUMENT.replace(b"<ds:Signature ", b"<!-- x -->\r\n<ds:Signature ").replace(b"<ds:SignatureValue", b"\n<ds:SignatureValue")

    found = parse(spaced)

    check_value(found, certificates.read(found.certificate))


def test_another_certificate_for_the_same_key_is_not_the_one_that_was_signed() -> None:
    found = parse(DOCUMENT)
    other = parse(DOCUMENT.replace(b64encode(found.certificate), b64encode(certificate(KEYS["P-256"], "Another CA"))))

    assert other.signed_info == found.signed_info
    with pytest.raises(SigningCertificateError):
        check_value(other, certificates.read(other.certificate))


def test_a_changed_value_and_changed_properties_have_names_of_their_own() -> None:
    found = parse(DOCUMENT)
    value = b64encode(found.value)
    wrong = parse(DOCUMENT.replace(value, b64encode(bytes(64))))
    short = parse(DOCUMENT.replace(value, b64encode(found.value[:-1])))
    later = parse(DOCUMENT.replace(b"2026-11-23T12:00:00.000Z", b"2026-11-23T13:00:00.000Z"))

    for bad, error in ((wrong, SignatureValueError), (short, SignatureValueError), (later, WrongDigestError)):
        with pytest.raises(error):
            check_value(bad, certificates.read(bad.certificate))


@pytest.mark.case("T04")
@example(at=DOCUMENT.index(b"http://uri.etsi.org/02918"), mask=1)  # a relative namespace: not canonicalised by libxml2
@given(at=st.integers(0, len(DOCUMENT) - 1), mask=st.integers(1, 255))
def test_a_flipped_byte_never_signs_something_else(at: int, mask: int) -> None:
    flipped = DOCUMENT[:at] + bytes((DOCUMENT[at] ^ mask,)) + DOCUMENT[at + 1 :]
    original = parse(DOCUMENT)
    try:
        found = parse(flipped)
        check_value(found, certificates.read(found.certificate))
    except UnverifiedError:
        return
    # what is left are bytes outside of what is signed: unsigned properties, Ids, white space
    assert (found.references, found.properties, found.certificate) == (original.references, original.properties, original.certificate)


@needs_vectors
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sign-0.xml", None),
        ("batch-sig.xml", None),
        ("sign-0-invalid-signature-value.xml", "seal.signature_value"),
        ("sign-0-schema-fail.xml", "seal.malformed"),
        ("extra-certs-missing-id.xml", "seal.malformed"),
        ("extra-certs-digest-invalid.xml", "seal.malformed"),
    ],
)
def test_signatures_of_2014_get_x_roads_verdict(name: str, kind: str | None) -> None:
    folder = VECTORS / "signature-2014"
    document = (folder / name).read_bytes()

    if kind is not None:
        with pytest.raises(UnverifiedError) as refused:
            check_value(parse(document), certificates.read(parse(document).certificate))
        assert refused.value.kind == kind
        return
    found = parse(document)
    check_value(found, certificates.read(found.certificate))
    (file, digest), *_ = found.references.items()
    content = {"/message.xml": "message-0.xml", "/sig-hashchainresult.xml": "hash-chain-result.xml"}[file]
    assert sha512((folder / content).read_bytes()) == digest.value
