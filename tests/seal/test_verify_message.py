"""The seal of a message on the wire: X-Road's own messages, the gap that X-Road leaves, and what the cache may not forget."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from appliance.clock import to_us
from appliance.configuration_files import load_directory
from appliance.errors import UnverifiedError
from appliance.model.identifiers import ClientId
from appliance.seal.hash_chain import Part, sha512
from appliance.seal.verify import MessageParts, SealFacts, SignatureCache, verify_message
from appliance.trust.global_configuration import SharedParameters
from tests.seal.workshop import CLIENT, HEAD, HOUR_US, MEMBER, NOON_US, SECOND_US, Seal, Workshop, parts_of
from tests.vectors import VECTORS, needs_vectors

WIRE_AT_US = to_us(datetime(2026, 11, 23, 6, 0, tzinfo=UTC))
SENDER = ClientId("DEV", "COM", "4321", "TestClient")
WORKSHOP = Workshop()


@dataclass
class Wire:
    """The parts of a captured message."""

    message: bytes = b""
    attachments: list[bytes] = field(default_factory=list)
    chain_result: bytes | None = None
    chain: bytes | None = None
    signature: bytes = b""

    def verified(self, at_us: int = WIRE_AT_US) -> SealFacts:
        parts = MessageParts(sha512(self.message), [sha512(data) for data in self.attachments])
        shared = load_directory(VECTORS / "generated" / "conf-LAB").shared["DEV"]
        return verify_message(parts, self.signature, self.chain_result, self.chain, SENDER, shared, at_us, SignatureCache())


def pieces(data: bytes, boundary: bytes) -> list[tuple[str, bytes]]:
    """(content type, body) of each part; enough for files that are known."""
    found = []
    for piece in data.split(b"--" + boundary)[1:-1]:
        head, _, body = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        kind = re.search(rb"(?i)content-type: *([^;\r]+)", head)
        assert kind
        found.append((kind[1].decode(), body.removesuffix(b"\r\n")))
    return found


def wire(name: str) -> Wire:
    data = (VECTORS / "generated" / name).read_bytes()
    found = Wire()
    for kind, body in pieces(data, data[2 : data.index(b"\r\n")]):
        match kind:
            case "application/x-road-rest-request" | "application/x-road-rest-response" | "text/xml":
                found.message = body
            case "application/x-road-rest-body":
                found.attachments.append(body)
            case "multipart/mixed":
                inner = re.search(rb"--(xatt\w*)\r\n", body)
                assert inner
                found.attachments += [content for _, content in pieces(body, inner[1])]
            case "application/hash-chain-result":
                found.chain_result = body
            case "application/hash-chain":
                found.chain = body
            case "signature/bdoc-1.0/ts":
                found.signature = body
    return found


@needs_vectors
@pytest.mark.case("T24")
@pytest.mark.parametrize(
    "name",
    [
        *(f"wire-by-xroad/j-{n}.bin" for n in ("0", "1", "2", "3", "batch3-0", "batch3-2", "batch5-0", "batch5-2", "batch5-4")),
        *(f"wire-by-python/w-{n}.bin" for n in ("rest-req", "rest-req-body", "rest-resp-body", "resp-nobody", "soap", "soap-att")),
        *(f"wire-by-python/w-{n}.bin" for n in ("empty-body", "form-upper-part-headers", "no-ocsp", "bad-ws-root", "bad-upper-reqid")),
    ],
)
def test_messages_that_x_road_verifies_hold(name: str) -> None:
    assert wire(name).verified().member == SENDER.member


@needs_vectors
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("w-bad-schema", "seal.malformed"),
        ("w-bad-schema-ws", "seal.malformed"),
        ("w-chain-missing-body-part", "seal.chain_unknown_reference"),
        ("w-bad-unused-body", "seal.uncovered_part"),
    ],
)
def test_bad_messages_are_refused_by_name(name: str, kind: str) -> None:
    """The last one passes X-Road: its body is not covered by anything."""
    with pytest.raises(UnverifiedError) as refused:
        wire(f"wire-by-python/{name}.bin").verified()

    assert refused.value.kind == kind


@needs_vectors
def test_the_confirmation_on_the_wire_ages() -> None:
    message = wire("wire-by-xroad/j-0.bin")

    message.verified(WIRE_AT_US + 58 * 60 * SECOND_US)
    with pytest.raises(UnverifiedError) as stale:
        message.verified(WIRE_AT_US + 61 * 60 * SECOND_US)
    assert stale.value.kind == "ocsp.stale"


BODY = b'{"incident":1}'
LEAVES = [parts_of(HEAD, [BODY]), parts_of(b"second"), parts_of(b"third", [b"", b"x"])]
SEALS = WORKSHOP.sealed(LEAVES, NOON_US)


def check(
    seal: Seal,
    leaf: list[Part],
    *,
    sender: ClientId = CLIENT,
    shared: SharedParameters | None = None,
    at_us: int = NOON_US,
    cache: SignatureCache | None = None,
) -> SealFacts:
    parts = MessageParts(leaf[0][1], [digest for _, digest in leaf[1:]])
    kept = SignatureCache() if cache is None else cache
    return verify_message(parts, seal.signature, seal.chain_result, seal.chain, sender, shared or WORKSHOP.shared, at_us, kept)


def refusal(seal: Seal, leaf: list[Part], **changes: object) -> str:
    with pytest.raises(UnverifiedError) as refused:
        check(seal, leaf, **changes)  # type: ignore[arg-type]  # the parameters of check by name
    return refused.value.kind


@pytest.mark.rule("III.3.II, IV.3.VI, IV.7")
@pytest.mark.rule("IV.3.I")
def test_every_message_of_a_batch_holds_by_its_own_chain() -> None:
    cache = SignatureCache()

    for seal, leaf in zip(SEALS, LEAVES, strict=True):
        facts = check(seal, leaf, cache=cache)
        assert (facts.member, facts.signature_digest) == (MEMBER, sha512(seal.signature))
        assert facts.ocsp.this_update_us == NOON_US
    assert len(cache) == 1


@pytest.mark.case("T04")
def test_a_warm_cache_checks_every_message_as_a_cold_one() -> None:
    """The batch's signature was believed for the first message: that says nothing about the others."""
    cache = SignatureCache()
    check(SEALS[0], LEAVES[0], cache=cache)
    first, second = SEALS[0], SEALS[1]

    assert (
        refusal(first, LEAVES[1], cache=cache) == "seal.chain_unused_input" or refusal(first, LEAVES[1], cache=cache) == "seal.chain_result"
    )
    assert refusal(first, parts_of(HEAD, [b"other body"]), cache=cache) == "seal.chain_result"
    assert refusal(first, parts_of(HEAD), cache=cache) == "seal.chain_unknown_reference"
    assert refusal(first, parts_of(HEAD, [BODY, b"smuggled"]), cache=cache) == "seal.chain_unused_input"
    assert refusal(replace(second, chain=None), LEAVES[1], cache=cache) == "seal.chain_missing"
    assert refusal(replace(second, chain_result=(second.chain_result or b"") + b" "), LEAVES[1], cache=cache) == "seal.wrong_digest"
    assert refusal(first, LEAVES[0], cache=cache, sender=ClientId(CLIENT.instance, "GOV", "2002", "x")) == "seal.wrong_signer"


def test_the_cache_forgets_with_time_and_with_a_new_configuration() -> None:
    cache = SignatureCache()
    check(SEALS[0], LEAVES[0], cache=cache)

    assert refusal(SEALS[0], LEAVES[0], cache=cache, at_us=NOON_US + 8 * HOUR_US + SECOND_US) == "ocsp.stale"
    assert refusal(SEALS[0], LEAVES[0], cache=cache, shared=WORKSHOP.with_shared()) == "chain.untrusted"
    check(SEALS[0], LEAVES[0], cache=cache, at_us=NOON_US + 8 * HOUR_US)


def test_the_cache_is_bounded_and_bad_signatures_do_not_enter_it() -> None:
    cache = SignatureCache(entries_max=2)
    for message in (b"one", b"two", b"three"):
        (seal,) = WORKSHOP.sealed([parts_of(message)], NOON_US)
        check(seal, parts_of(message), cache=cache)
    assert len(cache) == 2

    with pytest.raises(UnverifiedError):
        check(Seal(SEALS[0].signature + b"<", None, None), LEAVES[0], cache=cache)
    assert len(cache) == 2


def test_a_single_part_is_covered_directly_and_a_chain_beside_it_is_ignored() -> None:
    (seal,) = WORKSHOP.sealed([parts_of(HEAD)], NOON_US)

    check(seal, parts_of(HEAD))
    check(replace(seal, chain_result=SEALS[0].chain_result, chain=SEALS[0].chain), parts_of(HEAD))
    assert refusal(seal, parts_of(HEAD + b"x")) == "seal.wrong_digest"
    assert refusal(seal, parts_of(HEAD, [b""])) == "seal.uncovered_part"


@pytest.mark.rule("IV.3.II-IV")
def test_a_certificate_that_is_not_for_signing_seals_nothing() -> None:
    workshop = Workshop()
    workshop.certificate = workshop.tsa
    workshop.key = workshop.tsa_key
    (seal,) = workshop.sealed([parts_of(HEAD)], NOON_US)

    assert refusal(seal, parts_of(HEAD), shared=workshop.shared) == "seal.key_usage"


def test_a_confirmation_of_another_certificate_confirms_nothing() -> None:
    other = Workshop()
    (seal,) = WORKSHOP.sealed([parts_of(HEAD)], NOON_US, other.confirmation(NOON_US))

    assert refusal(seal, parts_of(HEAD)) == "ocsp.mismatch"
