"""Digest lists, trees and chain documents: X-Road's known answers, then properties."""

from __future__ import annotations

from base64 import b64decode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from appliance.errors import UnverifiedError
from appliance.seal.chain_check import ChainResultError, Digest, check_chain, parse_result, verify_chain
from appliance.seal.hash_chain import Part, build_batch, build_stamp_batch, digest_list, digest_list_of, leaf_of, parent, sha512, tree
from tests.seal.workshop import parts_of

A, B, C = sha512(b"a"), sha512(b"b"), sha512(b"c")
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"


def leaves_of(sizes: list[int]) -> list[list[Part]]:
    return [parts_of(b"message %d" % at, [b"attachment %d of %d" % (n, at) for n in range(size)]) for at, size in enumerate(sizes)]


def test_the_digest_lists_have_the_values_that_x_road_computes() -> None:
    assert sha512(digest_list([A, B])).hex() == (
        "3b2c81632c210776c2bdd0651ec9bcbec02dcac4ed11d82d6f9c10e2b3f81837bee1ec54c9264a03355924b9a110b63ba0e826ebd13c29eb4b637211b430873b"
    )
    assert sha512(digest_list([A, B, C])).hex() == (
        "c4adaebd7015b867b0f2fd7131538a4e30f30dc835c0d6174248f1b4687e50b303c0f0b5fb0be5146cce34ebc89f25cc75700cd16ac60136b2f4c41aaf69a0eb"
    )


@pytest.mark.parametrize(("items", "head"), [(1, "306f"), (2, "3081de"), (3, "3082014d"), (7, "30820309")])
def test_the_list_header_is_the_shortest_der(items: int, head: str) -> None:
    assert digest_list([A] * items).hex().startswith(head + "306d0440")


def test_a_digest_of_another_algorithm_is_written_with_its_own_name_and_length() -> None:
    written = digest_list_of([(SHA256, b"\x0b")])

    assert written == b"\x30\x30\x30\x2e\x04\x01\x0b\x0c\x27" + SHA256.encode() + b"\x30\x00"


def test_the_two_ways_to_a_parent_agree() -> None:
    assert parent(A, B) == sha512(digest_list([A, B]))


@pytest.mark.parametrize(
    ("leaves", "root"), [(2, "991c87a6125d9cb0"), (3, "4ff6d62bdba55a3e"), (5, "9e0908f0c475abdc"), (7, "350d8d5c6ee563cc")]
)
def test_the_tree_has_x_roads_root(leaves: int, root: str) -> None:
    levels = tree([sha512(b"leaf%d" % at) for at in range(leaves)])

    assert levels[-1][0].hex().startswith(root)


def test_the_example_of_the_protocol_gets_x_roads_result() -> None:
    head = (
        b"POST\r\n/r1/DEV/COM/1234/TestService/mock1/pets?x=1\r\nContent-Type:application/json\r\n"
        b"X-Road-Client:DEV/COM/4321/TestClient\r\nx-road-request-id:11111111-2222-3333-4444-555555555555\r\n"
        b"x-road-id:DEV-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\r\n"
    )

    result, _ = build_batch([parts_of(head, [b'{"a":1}'])])

    assert parse_result(result).digest.value == b64decode(
        "sTMclDeCG2dctuab2hYRh2OfT/BcDdnt/Z7rt4XmCLyEQejy8d2SvK3sIyN9OImgk/r+yxLWQNEaWZZoscKsrw=="
    )


def test_a_promoted_leaf_skips_the_levels_where_it_was_alone() -> None:
    result, chains = build_batch(leaves_of([0, 0, 0, 0, 1]))

    steps = etree.fromstring(chains[4]).findall("{*}HashStep")

    assert [step.get("id") for step in steps] == ["STEP0", "STEP1"]
    assert [etree.QName(value).localname for value in steps[0]] == ["HashValue", "StepRef"]
    assert [value.get("URI") for value in steps[1]] == ["/message.xml", "/attachment1"]
    assert b'URI="/sig-hashchain.xml#STEP0"' in result


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.data())
def test_every_chain_leads_to_the_result_and_no_other_does(sizes: list[int], data: st.DataObject) -> None:
    leaves = leaves_of(sizes)
    result, chains = build_batch(leaves)
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) - 1))

    verify_chain(result, chains[index], dict(leaves[index]))

    if other != index:
        with pytest.raises(UnverifiedError):
            verify_chain(result, chains[other], dict(leaves[index]))


def test_the_leaf_of_one_part_is_its_digest() -> None:
    assert leaf_of([A]) == A
    assert leaf_of([A, B]) == sha512(digest_list([A, B]))


@pytest.mark.rule("IV.3.VI")
@pytest.mark.parametrize("records", [1, 2, 3, 17])
def test_one_time_stamp_covers_every_record_by_its_own_chain(records: int) -> None:
    documents = [b"<signature %d/>" % at for at in range(records)]
    result, chains = build_stamp_batch([sha512(document) for document in documents])
    parsed = parse_result(result)

    for document, chain in zip(documents, chains, strict=True):
        assert check_chain(parsed, {"/ts-hashchain.xml": chain}, {}).keys() == {"/META-INF/signatures.xml"}
        assert parsed.file == "/ts-hashchain.xml"
        with pytest.raises(UnverifiedError, match="lead"):
            _against(result, chain, document + b" ")


def _against(result: bytes, chain: bytes, document: bytes) -> None:
    check_chain(parse_result(result), {"/ts-hashchain.xml": chain}, {"/META-INF/signatures.xml": Digest(sha512(document))})


def test_our_digest_takes_the_place_of_the_chains() -> None:
    (leaf,) = leaves_of([1])
    result, (chain,) = build_batch([leaf])

    with pytest.raises(ChainResultError):
        verify_chain(result, chain, {**dict(leaf), "/attachment1": sha512(b"another body")})
