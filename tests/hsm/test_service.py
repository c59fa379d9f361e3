"""Whose turn it is at the token, and what a seal may contain."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hsm.service import (
    ACT,
    HANDSHAKE,
    PASSED_OVER_MAX,
    SEAL,
    Asked,
    Freed,
    GivenUp,
    Refuse,
    SealContentError,
    TokenQueue,
    UseToken,
    check_signature,
    prepare_seal,
)
from appliance.hsm.software import SoftwareToken
from appliance.hsm.token import WrongSignatureError
from appliance.hsm.wire import CHAIN, MESSAGE, SealRequest
from appliance.seal import hash_chain
from tests.hsm import parts


def test_one_job_at_a_time_and_handshakes_first() -> None:
    queue = TokenQueue(8)

    assert queue.handle(Asked(1, SEAL, 10), 0) == [UseToken(1)]
    assert queue.handle(Asked(2, SEAL, 10), 0) == []
    assert queue.handle(Asked(3, ACT, 10), 0) == []
    assert queue.handle(Asked(4, HANDSHAKE, 10), 0) == []
    assert [queue.handle(Freed(), 1) for _ in range(4)] == [[UseToken(4)], [UseToken(2)], [UseToken(3)], []]


def test_a_job_whose_deadline_passed_is_refused_and_the_next_one_goes() -> None:
    queue = TokenQueue(8)
    queue.handle(Asked(1, SEAL, 10), 0)
    queue.handle(Asked(2, SEAL, 3), 0)
    queue.handle(Asked(3, SEAL, 10), 0)

    assert queue.handle(Freed(), 3) == [Refuse(2), UseToken(3)]


def test_what_exceeds_the_bound_is_refused_at_once() -> None:
    queue = TokenQueue(2)
    queue.handle(Asked(0, SEAL, 10), 0)

    assert [queue.handle(Asked(job, HANDSHAKE, 10), 0) for job in (1, 2, 3)] == [[], [], [Refuse(3)]]


def test_seals_that_fill_the_queue_keep_no_handshake_out() -> None:
    queue = TokenQueue(2)
    for job in range(5):
        queue.handle(Asked(job, SEAL, 10), 0)

    assert queue.handle(Asked(9, HANDSHAKE, 10), 0) == []
    assert queue.handle(Freed(), 1) == [UseToken(9)]


def test_a_flood_of_handshakes_does_not_end_the_seals() -> None:
    queue = TokenQueue(1000)
    queue.handle(Asked(0, HANDSHAKE, 10), 0)
    queue.handle(Asked(1, SEAL, 10), 0)
    for job in range(2, 100):
        queue.handle(Asked(job, HANDSHAKE, 10), 0)

    used = [effect.job for _ in range(99) for effect in queue.handle(Freed(), 1)]

    assert used.index(1) <= PASSED_OVER_MAX


def test_a_job_given_up_is_never_used() -> None:
    queue = TokenQueue(8)
    queue.handle(Asked(1, SEAL, 10), 0)
    queue.handle(Asked(2, SEAL, 10), 0)

    assert queue.handle(GivenUp(2), 1) == []
    assert queue.handle(Freed(), 1) == []


STEP = st.one_of(
    st.tuples(st.just("ask"), st.sampled_from([HANDSHAKE, SEAL, ACT]), st.integers(1, 20)),
    st.tuples(st.just("free"), st.just(0), st.just(0)),
    st.tuples(st.just("give up"), st.integers(0, 30), st.just(0)),
)


@given(st.lists(STEP, max_size=80), st.integers(1, 6))
def test_every_job_ends_exactly_once_and_one_is_at_the_token(steps: list[tuple[str, int, int]], bound: int) -> None:
    queue, ended, asked, at_token = TokenQueue(bound), list[int](), 0, 0
    waiting: set[int] = set()

    def take(effects: list[UseToken | Refuse]) -> None:
        nonlocal at_token
        for effect in effects:
            ended.append(effect.job)
            waiting.discard(effect.job)
            at_token += isinstance(effect, UseToken)
            assert at_token <= 1

    for now, (step, number, deadline) in enumerate(steps):
        if step == "ask":
            asked += 1
            waiting.add(asked)
            take(queue.handle(Asked(asked, number, now + deadline), now))
        elif step == "free" and at_token:
            at_token = 0
            take(queue.handle(Freed(), now))
        elif step == "give up" and number in waiting:
            waiting.discard(number)
            ended.append(number)
            take(queue.handle(GivenUp(number), now))
        assert len(queue) == len(waiting) <= 3 * bound
    while at_token:
        at_token = 0
        take(queue.handle(Freed(), len(steps)))

    assert sorted(ended) == list(range(1, asked + 1))


@given(st.binary(max_size=400), st.sampled_from([CHAIN, MESSAGE, "", "digest"]))
def test_arbitrary_content_is_not_sealed(content: bytes, signed: str) -> None:
    if signed == MESSAGE and len(content) == 64:
        return
    with pytest.raises(SealContentError):
        prepare_seal(SealRequest("C/M", signed, content, 0), b"", "EC-P256", 0)


@pytest.mark.parametrize("place", [0, 40, -1, -20])
def test_a_hash_chain_result_with_one_byte_changed_outside_its_digest_is_not_sealed(place: int) -> None:
    result = bytearray(hash_chain.build_batch([[(hash_chain.MESSAGE, hashlib.sha512(b"m").digest())]])[0])
    result[place] ^= 1

    with pytest.raises(SealContentError):
        prepare_seal(SealRequest("C/M", CHAIN, bytes(result), 0), b"", "EC-P256", 0)


@pytest.mark.case("T57")
@pytest.mark.parametrize("algorithm", ["EC-P256", "RSA-2048"])
def test_a_signature_with_one_bit_flipped_does_not_leave(algorithm: str) -> None:
    token = SoftwareToken("TEST")
    key = token.generate("log", algorithm)
    digest = parts.digest_of(b"m")
    signature = bytearray(token.sign_digest("log", digest, "sha512"))
    check_signature(key.public_key, bytes(signature), digest, "sha512")
    signature[-1] ^= 1

    with pytest.raises(WrongSignatureError):
        check_signature(key.public_key, bytes(signature), digest, "sha512")
