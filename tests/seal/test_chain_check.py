"""Received hash chains: X-Road's own documents, then those that nobody honest writes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import UnverifiedError
from appliance.seal.chain_check import (
    STEPS_MAX,
    ChainMalformedError,
    ChainUnknownReferenceError,
    ChainUnusedInputError,
    Digest,
    File,
    Input,
    check_chain,
    parse_result,
    verify_chain,
)
from appliance.seal.hash_chain import build_batch, sha512
from tests.seal.workshop import parts_of
from tests.vectors import VECTORS, needs_vectors

SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
FOLDER = VECTORS / "hashchain"


def document(name: str) -> bytes:
    return (FOLDER / f"hc-verifier{name}.xml").read_bytes()


def checked(result: str, chains: Mapping[str, str], inputs: Mapping[str, Input]) -> str:
    """`valid`, or the kind of what was found."""
    try:
        check_chain(parse_result(document(result)), {name: document(chain) for name, chain in chains.items()}, inputs)
    except UnverifiedError as error:
        return error.kind
    return "valid"


@needs_vectors
def test_set_1_holds_for_the_message_as_a_file_and_as_a_digest() -> None:
    message = document("1-message")
    chain = {"/hashchain.xml": "1-hashchain"}
    digest = Digest(hashlib.sha256(message).digest(), SHA256)

    assert checked("1-hashchainresult", chain, {"/message.xml": File.of(message)}) == "valid"
    assert checked("1-hashchainresult", chain, {"/message.xml": digest}) == "valid"
    assert checked("1-hashchainresult", chain, {"/message.xml": digest, "/extra": digest}) == "seal.chain_unused_input"
    assert checked("1-hashchainresult", chain, {"/message.xml": Digest(b"\x00" * 32, SHA256)}) == "seal.chain_result"


@needs_vectors
def test_set_2_holds_for_four_parts_given_as_digests() -> None:
    parts = {
        name: Digest(bytes((11 + at,)), SHA256) for at, name in enumerate(("/message.xml", "/attachment1", "/attachment2", "/attachment3"))
    }

    assert checked("2-hashchainresult", {"/hashchain.xml": "2-hashchain"}, parts) == "valid"


@needs_vectors
def test_set_3_holds_with_its_canonicalisation_and_not_without() -> None:
    message: dict[str, Input] = {"/message.xml": File.of(document("3-message"))}

    assert checked("3-hashchainresult", {"/hashchain.xml": "3-hashchain"}, message) == "valid"
    assert checked("3-hashchainresult", {"/hashchain.xml": "3-hashchain-invalid"}, message) == "seal.chain_reference"


@needs_vectors
def test_set_4_holds_over_two_chain_files() -> None:
    chains = {"/hashchain.xml": "4-hashchain1", "/hashchain1.xml": "4-hashchain1", "/hashchain2.xml": "4-hashchain2"}

    assert checked("4-hashchainresult", chains, {"/message.xml": File.of(document("4-message"))}) == "valid"


@needs_vectors
def test_set_5_breaks_the_schema() -> None:
    chain = {"/hashchain.xml": "5-hashchain-invalid-schema"}

    assert checked("1-hashchainresult", chain, {"/message.xml": File.of(document("1-message"))}) == "seal.chain_malformed"


@needs_vectors
def test_the_chain_of_2014_leads_to_its_result() -> None:
    folder = VECTORS / "signature-2014"
    chain = (folder / "hash-chain-1.xml").read_bytes()
    result = parse_result((folder / "hash-chain-result.xml").read_bytes())

    check_chain(result, {result.file: chain}, {"/message.xml": File.of((folder / "message-1.xml").read_bytes())})


def steps(*contents: str) -> bytes:
    joined = "".join(f'<h:HashStep id="STEP{at}">{content}</h:HashStep>' for at, content in enumerate(contents))
    return (
        '<h:HashChain xmlns:h="http://cyber.ee/hashchain" xmlns="http://www.w3.org/2000/09/xmldsig#">'
        f'<h:DefaultDigestMethod Algorithm="http://www.w3.org/2001/04/xmlenc#sha512"/>{joined}</h:HashChain>'
    ).encode()


RESULT, (CHAIN,) = build_batch([parts_of(b"m", [b"a"])])
INPUTS = dict(parts_of(b"m", [b"a"]))


@pytest.mark.case("T05")
@pytest.mark.parametrize(
    "chain",
    [
        pytest.param(steps('<h:StepRef URI="#STEP0"/>'), id="a step that needs itself"),
        pytest.param(steps('<h:StepRef URI="#STEP1"/>', '<h:StepRef URI="#STEP0"/>'), id="two steps in a circle"),
        pytest.param(steps('<h:StepRef URI="#STEP9"/>'), id="a step that is not there"),
        pytest.param(steps('<h:StepRef URI="/etc/passwd#STEP0"/>'), id="another file"),
        pytest.param(steps(*['<h:StepRef URI="#STEP1"/>'] * (STEPS_MAX + 1)), id="too many steps"),
        pytest.param(steps("<h:HashValue><DigestValue>AA==</DigestValue></h:HashValue>" * 3000), id="too many values"),
        pytest.param(steps('<h:DataRef URI="/message.xml"/>'), id="no digest"),
        pytest.param(steps("<h:DataRef><DigestValue>AA==</DigestValue></h:DataRef>"), id="no file name"),
        pytest.param(steps("<h:HashValue><DigestValue>A*==</DigestValue></h:HashValue>"), id="not base64"),
        pytest.param(steps("<h:Other/>"), id="unknown value"),
        pytest.param(b'<!DOCTYPE a [<!ENTITY x "y">]>' + CHAIN, id="a DTD"),
        pytest.param(b"<a/>", id="another document"),
        pytest.param(b"", id="nothing"),
        pytest.param(CHAIN.replace(b"xmlenc#sha512", b"xmldsig-more#md5"), id="a broken digest algorithm"),
    ],
)
def test_a_malformed_chain_is_refused_under_its_name(chain: bytes) -> None:
    with pytest.raises(ChainMalformedError):
        verify_chain(RESULT, chain, INPUTS)


@pytest.mark.case("T05")
def test_a_tower_of_shared_steps_costs_as_much_as_its_document() -> None:
    """Each step refers to the next one twice: 2^60 ways down, computed once each."""
    tower = steps(
        *(f'<h:StepRef URI="#STEP{at + 1}"/>' * 2 for at in range(60)), "<h:HashValue><DigestValue>AA==</DigestValue></h:HashValue>"
    )
    began = time.perf_counter()

    with pytest.raises(ChainUnusedInputError):
        verify_chain(RESULT, tower, INPUTS)

    assert time.perf_counter() - began < 0.5


@pytest.mark.rule("IV.3.VI")
def test_a_part_that_the_chain_does_not_name_is_not_sealed() -> None:
    with pytest.raises(ChainUnusedInputError):
        verify_chain(RESULT, CHAIN, {**INPUTS, "/attachment2": sha512(b"smuggled")})


def test_a_part_that_the_chain_names_must_have_come() -> None:
    with pytest.raises(ChainUnknownReferenceError):
        verify_chain(RESULT, CHAIN, {"/message.xml": INPUTS["/message.xml"]})


@pytest.mark.case("T05")
@given(st.binary(max_size=200) | st.integers(0, len(CHAIN) - 1).map(lambda at: CHAIN[:at]))
def test_arbitrary_bytes_are_one_named_error(data: bytes) -> None:
    with pytest.raises(UnverifiedError):
        verify_chain(RESULT, data, INPUTS)


@pytest.mark.case("T04")
@given(st.integers(0, len(CHAIN) - 1), st.integers(1, 255))
def test_a_flipped_byte_of_the_chain_never_moves_a_message(at: int, mask: int) -> None:
    """White space, unused parts of names and the replaced digests may change: what is covered may not."""
    flipped = CHAIN[:at] + bytes((CHAIN[at] ^ mask,)) + CHAIN[at + 1 :]
    with pytest.raises(UnverifiedError):
        verify_chain(RESULT, flipped, {**INPUTS, "/message.xml": sha512(b"another message")})
