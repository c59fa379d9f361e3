"""Documents of our own form, read without a parser: never another answer than the parser's, for any bytes."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from appliance.errors import UnverifiedError
from appliance.seal import xades
from appliance.seal.chain_check import ChainMalformedError, ChainResult, Digest, check_chain, check_chain_parts, parse_result
from appliance.seal.hash_chain import CHAIN, Batch, Ways, leads_to, result_value, sha512
from appliance.seal.signature import parse
from tests.seal.test_xades import ALGORITHMS, DOCUMENT, KEYS, signed_document
from tests.seal.workshop import parts_of
from tests.vectors import VECTORS, needs_vectors

MESSAGES = [parts_of(b"m%d" % at, [b"a%d" % at] * (at % 3)) for at in range(13)]
BATCH = Batch(MESSAGES)
ROOT = result_value(BATCH.result) or b""
CHAINS = [BATCH.chain(at) for at in range(len(MESSAGES))]
DEEP = 4
TOKEN = re.compile(rb"<[^>]*>|[^<]+")
SPLICES = (
    b"",
    b" ",
    b"\n",
    b"<!---->",
    b"<?x?>",
    b"&amp;",
    b"&#65;",
    b"A",
    b"=",
    b"==",
    b"0",
    b"\x00",
    b"\xff",
    b'<ns2:StepRef URI="#STEP1"/>',
    b"</ns2:HashStep>",
    b'<ns2:HashStep id="STEP1">',
    b'<ns2:DataRef URI="/message.xml">',
    b'<ds:Reference Id="signature-reference-0" URI="/message.xml">',
    b"</ds:SignedInfo>",
    b"<xades:EncapsulatedTimeStamp>AA==</xades:EncapsulatedTimeStamp>",
    b"http://www.w3.org/2001/04/xmlenc#sha256",
)


@st.composite
def mutations(draw: st.DrawFn, document: bytes) -> bytes:
    """One to three changes: a flipped byte, a cut, something put in, a token of the document twice, gone, or in another's place."""
    for _ in range(draw(st.integers(1, 3))):
        tokens = TOKEN.findall(document)
        at, other = draw(st.integers(0, len(document) - 1)), draw(st.integers(0, len(tokens) - 1))
        place = draw(st.integers(0, len(tokens) - 1))
        change = draw(st.sampled_from(("flip", "splice", "cut", "token twice", "token gone", "token swapped", "token spliced")))
        if change == "flip":
            document = document[:at] + bytes((document[at] ^ draw(st.integers(1, 255)),)) + document[at + 1 :]
        elif change == "splice":
            document = document[:at] + draw(st.sampled_from(SPLICES)) + document[at:]
        elif change == "cut":
            document = document[:at] + document[at + draw(st.integers(1, 40)) :]
        else:
            if change == "token twice":
                tokens.insert(place, tokens[other])
            elif change == "token gone":
                del tokens[other]
            elif change == "token swapped":
                tokens[place], tokens[other] = tokens[other], tokens[place]
            else:
                tokens.insert(place, draw(st.sampled_from(SPLICES)))
            document = b"".join(tokens)
        if len(document) < 2:
            return document + b"<x/>"
    return document


def by_parser(value: bytes, chain: bytes, parts: Mapping[str, bytes]) -> bool:
    """What `check_chain_parts` says without the short way."""
    digests = {name: Digest(digest) for name, digest in parts.items()}
    try:
        return not check_chain(ChainResult(CHAIN, "STEP0", Digest(value)), {CHAIN: chain}, digests)
    except UnverifiedError:
        return False


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 64, 257])
def test_every_chain_of_ours_is_read_the_short_way(size: int) -> None:
    messages = [parts_of(b"m%d" % at, [b"a%d" % at] * (at % 4)) for at in range(size)]
    batch = Batch(messages)
    value = result_value(batch.result)

    assert value is not None
    assert parse_result(batch.result) == ChainResult(CHAIN, "STEP0", Digest(value))
    for at in range(0, size, max(1, size // 16)):
        assert leads_to(value, batch.chain(at), dict(messages[at]))
        assert by_parser(value, batch.chain(at), dict(messages[at]))


@pytest.mark.parametrize("size", [1, 2, 5, 64, 257])
@pytest.mark.parametrize("step", [1, 7])
def test_the_chains_of_a_batch_are_read_one_after_the_other_in_any_order(size: int, step: int) -> None:
    messages = [parts_of(b"m%d" % at, [b"a%d" % at] * (at % 4)) for at in range(size)]
    batch = Batch(messages)
    value = result_value(batch.result)
    assert value is not None
    ways = Ways(value)
    for at in sorted(range(size), key=lambda at: (at % step, at)):
        assert ways.leads(batch.chain(at), dict(messages[at]))
        assert not ways.leads(batch.chain(at), dict(messages[at - 1])) or size == 1


@pytest.mark.case("T04")
@given(before=st.lists(st.integers(0, len(MESSAGES) - 1), max_size=3), at=st.integers(0, len(MESSAGES) - 1), data=st.data())
def test_what_was_read_before_changes_no_verdict(before: list[int], at: int, data: st.DataObject) -> None:
    """Neither on a changed chain, nor, after it, on a good one."""
    ways, chain = Ways(ROOT), data.draw(mutations(CHAINS[at]))
    for other in before:
        assert ways.leads(CHAINS[other], dict(MESSAGES[other]))
    assert ways.leads(chain, dict(MESSAGES[at])) == leads_to(ROOT, chain, dict(MESSAGES[at]))
    for other in before:
        assert ways.leads(CHAINS[other], dict(MESSAGES[other]))


@pytest.mark.case("T04")
@given(at=st.integers(0, len(MESSAGES) - 1), data=st.data())
def test_what_the_short_way_believes_the_parser_believes(at: int, data: st.DataObject) -> None:
    chain = data.draw(mutations(CHAINS[at]))
    assert not leads_to(ROOT, chain, dict(MESSAGES[at])) or by_parser(ROOT, chain, dict(MESSAGES[at]))


@pytest.mark.case("T04")
def test_no_chain_with_a_flipped_bit_or_a_lost_token_is_read_the_short_way() -> None:
    """Every bit of one chain, and every token left out: the digests that it states of our parts count, too."""
    chain, parts = CHAINS[DEEP], dict(MESSAGES[DEEP])
    tokens = TOKEN.findall(chain)
    changed = [chain[:at] + bytes((chain[at] ^ 1 << bit,)) + chain[at + 1 :] for at in range(len(chain)) for bit in range(8)]
    changed += [b"".join(tokens[:at] + tokens[at + 1 :]) for at in range(len(tokens))]
    assert [each for each in changed if leads_to(ROOT, each, parts)] == []
    ways = Ways(ROOT)
    for at in (DEEP - 1, DEEP):  # what is shared with a chain that held must not hide a change either
        assert ways.leads(CHAINS[at], dict(MESSAGES[at]))
        assert [each for each in changed if ways.leads(each, parts)] == []


@pytest.mark.rule("IV.3.VI")
def test_the_short_way_wants_every_part_and_no_other() -> None:
    parts = dict(MESSAGES[DEEP])

    assert leads_to(ROOT, CHAINS[DEEP], parts)
    assert not leads_to(ROOT, CHAINS[DEEP], {**parts, "/attachment9": sha512(b"smuggled")})
    assert not leads_to(ROOT, CHAINS[DEEP], {"/message.xml": parts["/message.xml"]})
    assert not leads_to(ROOT, CHAINS[DEEP], {**parts, "/message.xml": sha512(b"another")})
    assert not leads_to(sha512(b"another root"), CHAINS[DEEP], parts)
    assert not leads_to(ROOT, CHAINS[DEEP + 1], parts)


@given(mutations(BATCH.result))
def test_a_result_read_the_short_way_is_the_parsers(document: bytes) -> None:
    value = result_value(document)
    if value is not None:
        root = parse_result(document.replace(b"?>", b"?> ", 1))  # one blank more: not of our form, and the same document
        assert root == ChainResult(CHAIN, "STEP0", Digest(value))


@pytest.mark.parametrize(("key", "algorithm"), [(key, algorithm) for key, names in ALGORITHMS.items() for algorithm in names])
@pytest.mark.parametrize("signed", ["message", "chain"])
def test_every_signature_of_ours_is_read_the_short_way_as_the_parser_reads_it(key: str, algorithm: str, signed: str) -> None:
    document, to_sign = signed_document(KEYS[key], algorithm, signed)
    found = xades._own(document)

    assert found is not None
    assert found == parse(document)
    assert found.signed_info == to_sign


@pytest.mark.case("T04")
@given(mutations(DOCUMENT))
def test_a_signature_read_the_short_way_is_the_parsers(document: bytes) -> None:
    found = xades._own(document)
    assert found is None or found == parse(document)


@pytest.mark.case("T04")
def test_no_flipped_bit_and_no_lost_token_of_a_signature_is_read_another_way() -> None:
    tokens = TOKEN.findall(DOCUMENT)
    changed = [DOCUMENT[:at] + bytes((DOCUMENT[at] ^ 1 << at % 8,)) + DOCUMENT[at + 1 :] for at in range(len(DOCUMENT))]
    changed += [b"".join(tokens[:at] + tokens[at + 1 :]) for at in range(len(tokens))]
    read = [(each, found) for each in changed if (found := xades._own(each)) is not None]

    assert read  # digits inside base64: another document of the same form
    assert all(found == parse(each) for each, found in read)


@needs_vectors
def test_x_roads_own_signatures_and_chains_are_read_as_the_parser_reads_them() -> None:
    read = 0
    for file in sorted((VECTORS / "asice").glob("valid-*.asice")):
        with zipfile.ZipFile(file) as container:
            document = container.read("META-INF/signatures.xml")
            assert xades.read(document) == parse(document)
            names = set(container.namelist())
            if {"sig-hashchain.xml", "sig-hashchainresult.xml"} <= names:
                result = parse_result(container.read("sig-hashchainresult.xml"))
                chain, message = container.read("sig-hashchain.xml"), container.read("message.xml")
                parts = {"/message.xml": sha512(message)}
                for name in names:
                    if name.startswith("attachment"):
                        parts["/" + name] = sha512(container.read(name))
                assert not leads_to(result.digest.value, chain, parts) or by_parser(result.digest.value, chain, parts)
            read += 1
    assert read


def test_a_chain_of_another_form_still_holds_by_the_parser() -> None:
    """As JAXB spreads it; spread in any other way it is nobody's."""
    declaration, _, content = CHAINS[DEEP].partition(b"?>")
    root = etree.fromstring(content)
    etree.indent(root, "    ")
    spread = declaration + b"?>\n" + etree.tostring(root) + b"\n"
    assert not leads_to(ROOT, spread, dict(MESSAGES[DEEP]))
    check_chain_parts(parse_result(BATCH.result), spread, dict(MESSAGES[DEEP]))

    for other in (
        spread.replace(b"    <ns2:HashStep", b"   <ns2:HashStep", 1),
        CHAINS[DEEP].replace(b"><ns2:HashStep", b">\n<ns2:HashStep", 1),
    ):
        with pytest.raises(ChainMalformedError):
            check_chain_parts(parse_result(BATCH.result), other, dict(MESSAGES[DEEP]))
