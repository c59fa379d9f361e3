"""The batcher's dialogues, and what holds whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.seal.batcher import (
    TOO_LATE,
    TOO_MANY,
    BatchLimits,
    Effect,
    Queued,
    Refuse,
    Release,
    SealBatcher,
    Signed,
    SignRoot,
    TokenFailed,
    WakeAt,
    Woke,
)
from appliance.seal.chain_check import verify_chain
from appliance.seal.hash_chain import Part, build_batch, sha512
from appliance.seal.xades import SIGNED_CHAIN, SIGNED_MESSAGE


def parts(message: int, attachments: int = 0) -> list[Part]:
    return [("/message.xml", sha512(b"m%d" % message)), *((f"/attachment{at}", sha512(b"a%d" % at)) for at in range(1, attachments + 1))]


def queued(message: int, attachments: int = 0, at_s: float = 0.0, deadline_s: float = 10.0) -> Queued:
    return Queued(message, parts(message, attachments), at_s, deadline_s)


def test_one_part_alone_is_signed_directly() -> None:
    batcher = SealBatcher()

    assert batcher.handle(queued(1)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m1"), 1)]
    assert batcher.handle(Signed(b"f", b"c", 1.0)) == [Release(1, b"f", b"c", None, None)]


def test_a_message_with_a_body_is_signed_through_a_chain() -> None:
    batcher = SealBatcher()
    result, chains = build_batch([parts(1, 1)])

    assert batcher.handle(queued(1, 1)) == [SignRoot(SIGNED_CHAIN, result, 1)]
    assert batcher.handle(Signed(b"f", b"c", 1.0)) == [Release(1, b"f", b"c", result, chains[0])]


def test_messages_that_arrive_while_the_token_is_busy_share_one_signature() -> None:
    batcher = SealBatcher(BatchLimits(messages_max=8))
    result, chains = build_batch([parts(2), parts(3, 2)])

    assert batcher.handle(queued(1)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m1"), 1)]
    assert batcher.handle(queued(2)) == [WakeAt(10.0)]
    assert batcher.handle(queued(3, 2)) == []
    assert batcher.handle(Signed(b"f1", b"c", 1.0)) == [Release(1, b"f1", b"c", None, None), SignRoot(SIGNED_CHAIN, result, 2)]
    assert batcher.handle(Signed(b"f2", b"c", 2.0)) == [
        Release(2, b"f2", b"c", result, chains[0]),
        Release(3, b"f2", b"c", result, chains[1]),
    ]


def test_a_failing_token_refuses_its_batch_and_the_next_one_is_tried() -> None:
    batcher = SealBatcher()
    batcher.handle(queued(1))
    batcher.handle(queued(2))

    assert batcher.handle(TokenFailed("token.absent", 1.0)) == [Refuse(1, "token.absent"), SignRoot(SIGNED_MESSAGE, sha512(b"m2"), 1)]


def test_a_message_whose_deadline_passes_while_it_waits_is_refused() -> None:
    batcher = SealBatcher()
    batcher.handle(queued(1))
    assert batcher.handle(queued(2, deadline_s=5.0)) == [WakeAt(5.0)]
    assert batcher.handle(queued(3, deadline_s=7.0)) == []

    assert batcher.handle(Woke(5.0)) == [Refuse(2, TOO_LATE), WakeAt(7.0)]
    assert batcher.handle(Signed(b"f", b"c", 7.5)) == [Release(1, b"f", b"c", None, None), Refuse(3, TOO_LATE)]


def test_what_does_not_fit_into_the_queue_is_refused_at_once() -> None:
    batcher = SealBatcher(BatchLimits(waiting_max=1))
    batcher.handle(queued(1))
    batcher.handle(queued(2))

    assert batcher.handle(queued(3)) == [Refuse(3, TOO_MANY)]
    assert batcher.waiting == 1


def test_an_answer_without_a_question_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        SealBatcher().handle(Signed(b"f", b"c", 0.0))


@given(st.lists(st.sampled_from(["queue", "queue with body", "sign", "fail", "wake"]), max_size=60), st.integers(1, 5), st.integers(1, 6))
def test_every_message_ends_exactly_once(steps: list[str], size: int, waiting: int) -> None:
    batcher = SealBatcher(BatchLimits(messages_max=size, waiting_max=waiting))
    ended: list[int] = []
    root: list[SignRoot] = []
    sent, now = 0, 0.0

    def carry_out(effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SignRoot():
                    assert not root, "two batches at the token"
                    assert 1 <= effect.messages <= size
                    root.append(effect)
                case Release():
                    ended.append(effect.message)
                    if effect.chain is not None and effect.chain_result is not None:
                        verify_chain(effect.chain_result, effect.chain, dict(sealed[effect.message]))
                case Refuse():
                    ended.append(effect.message)
                case WakeAt():
                    assert effect.at_s > now

    sealed: dict[int, list[Part]] = {}
    for step in [*steps, *["sign"] * (len(steps) + 1)]:
        now += 1.0
        if step.startswith("queue"):
            sealed[sent] = parts(sent, 1 if "body" in step else 0)
            carry_out(batcher.handle(Queued(sent, sealed[sent], now, now + 9.0)))
            sent += 1
        elif step == "wake":
            carry_out(batcher.handle(Woke(now)))
        elif root:
            root.clear()
            carry_out(batcher.handle(Signed(b"f", b"c", now) if step == "sign" else TokenFailed("token.absent", now)))
        assert batcher.waiting <= waiting

    assert sorted(ended) == list(range(sent))
