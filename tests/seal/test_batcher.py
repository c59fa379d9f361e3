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


def told(effects: list[Effect]) -> list[tuple[int, bytes | None, bytes | None]]:
    """What was released, chains written."""
    assert all(isinstance(effect, Release) for effect in effects)
    return [(one.message, one.chain_result, one.chain()) for one in effects if isinstance(one, Release)]


def test_one_part_alone_is_signed_directly() -> None:
    batcher = SealBatcher()

    assert batcher.handle(queued(1)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m1"), 1)]
    assert batcher.handle(Signed(b"f", b"c", 1.0)) == [Release(1, b"f", b"c", None)]


def test_a_message_with_a_body_is_signed_through_a_chain() -> None:
    batcher = SealBatcher()
    result, chains = build_batch([parts(1, 1)])

    assert batcher.handle(queued(1, 1)) == [SignRoot(SIGNED_CHAIN, result, 1)]
    assert told(batcher.handle(Signed(b"f", b"c", 1.0))) == [(1, result, chains[0])]


def test_messages_that_arrive_while_the_token_is_busy_share_one_signature() -> None:
    batcher = SealBatcher(BatchLimits(messages_max=8))
    result, chains = build_batch([parts(2), parts(3, 2)])

    assert batcher.handle(queued(1)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m1"), 1)]
    assert batcher.handle(queued(2)) == [WakeAt(10.0)]
    assert batcher.handle(queued(3, 2)) == []
    assert batcher.handle(Signed(b"f1", b"c", 1.0)) == [SignRoot(SIGNED_CHAIN, result, 2), Release(1, b"f1", b"c", None)]
    assert told(batcher.handle(Signed(b"f2", b"c", 2.0))) == [(2, result, chains[0]), (3, result, chains[1])]


def test_a_failing_token_refuses_its_batch_and_the_next_one_is_tried() -> None:
    batcher = SealBatcher()
    batcher.handle(queued(1))
    batcher.handle(queued(2))

    assert batcher.handle(TokenFailed("token.absent", 1.0)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m2"), 1), Refuse(1, "token.absent")]


def test_a_message_whose_deadline_passes_while_it_waits_is_refused() -> None:
    batcher = SealBatcher()
    batcher.handle(queued(1))
    assert batcher.handle(queued(2, deadline_s=5.0)) == [WakeAt(5.0)]
    assert batcher.handle(queued(3, deadline_s=7.0)) == []

    assert batcher.handle(Woke(5.0)) == [Refuse(2, TOO_LATE), WakeAt(7.0)]
    assert batcher.handle(Signed(b"f", b"c", 7.5)) == [Refuse(3, TOO_LATE), Release(1, b"f", b"c", None)]


def signed_next(batcher: SealBatcher, at_s: float) -> int:
    """The token answers: how many messages the next batch has."""
    roots = [effect for effect in batcher.handle(Signed(b"f", b"c", at_s)) if isinstance(effect, SignRoot)]
    return roots[0].messages if roots else 0


def test_a_large_crowd_is_divided_and_a_small_one_is_not() -> None:
    batcher = SealBatcher(BatchLimits(whole_max=64))
    for message in range(256):
        batcher.handle(queued(message))
    # the first one alone; then so much of the 255 and of what was signed lately, which is the same crowd, a part of it elsewhere
    assert [signed_next(batcher, 0.0) for _ in range(4)] == [102, 102, 51, 0]

    for message in range(65):
        batcher.handle(queued(1000 + message))
    assert [signed_next(batcher, 0.0) for _ in range(2)] == [64, 0]


@pytest.mark.parametrize("away", [1, 2])
def test_a_crowd_that_comes_back_together_is_spread_over_all_signatures(away: int) -> None:
    """Each batch is there again `away` signatures after its own, just too late for the one that begins then. Signed all at once the
    crowd would leave the token nothing but its first message, again and again."""
    batcher = SealBatcher(BatchLimits(whole_max=16))
    for message in range(256):
        batcher.handle(queued(message))
    on_the_way, sizes, at_token, sent = [0] * away, list[int](), 1, 256
    for _ in range(40):
        on_the_way.append(at_token)
        at_token = signed_next(batcher, 0.0)
        for _ in range(on_the_way.pop(0)):
            batcher.handle(queued(sent))
            sent += 1
        sizes.append(at_token)
    evenly = 256 / (away + 2)
    assert min(sizes[-12:]) > 0.6 * evenly
    assert max(sizes[-12:]) < 1.4 * evenly


def after_a_crowd(messages: int, signature_s: float) -> SealBatcher:
    """The token is free; it signed for one, and then for all others, who are on their way."""
    batcher = SealBatcher(BatchLimits(whole_max=256))
    for message in range(messages):
        batcher.handle(queued(message, deadline_s=60.0))
    assert signed_next(batcher, 0.0) == messages - 1
    assert signed_next(batcher, signature_s) == 0
    return batcher


def test_a_token_that_finds_few_of_a_crowd_waits_a_fifth_of_a_signature_for_the_others() -> None:
    batcher = after_a_crowd(200, 0.1)

    (wake,) = batcher.handle(queued(200, at_s=0.12, deadline_s=60.0))
    assert isinstance(wake, WakeAt)
    assert wake.at_s == pytest.approx(0.14)
    assert batcher.handle(queued(201, at_s=0.13, deadline_s=60.0)) == []
    (root,) = batcher.handle(Woke(wake.at_s))
    assert isinstance(root, SignRoot)
    assert root.messages == 2


def test_it_waits_for_no_more_than_a_tenth_of_a_second_however_slow_it_is() -> None:
    (wake,) = after_a_crowd(200, 5.0).handle(queued(200, at_s=5.5, deadline_s=60.0))
    assert isinstance(wake, WakeAt)
    assert wake.at_s == pytest.approx(5.6)


def test_it_goes_on_as_soon_as_enough_are_there() -> None:
    batcher = after_a_crowd(200, 0.1)
    effects = [effect for message in range(200, 286) for effect in batcher.handle(queued(message, at_s=0.11, deadline_s=60.0))]
    assert [effect.messages for effect in effects if isinstance(effect, SignRoot)] == [86]


@pytest.mark.parametrize(
    ("messages", "signature_s", "at_s"),
    [(200, 0.1, 0.21), (200, 0.019, 0.02), (126, 0.1, 0.11)],
    ids=["a crowd that is long gone", "a fast token", "no crowd"],
)
def test_otherwise_it_does_not_wait(messages: int, signature_s: float, at_s: float) -> None:
    batcher = after_a_crowd(messages, signature_s)
    assert batcher.handle(queued(200, at_s=at_s)) == [SignRoot(SIGNED_MESSAGE, sha512(b"m200"), 1)]


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
                    if (result := effect.chain_result) is not None and (chain := effect.chain()) is not None:
                        verify_chain(result, chain, dict(sealed[effect.message]))
                case Refuse():
                    ended.append(effect.message)
                case WakeAt():
                    assert effect.at_s > now

    sealed: dict[int, list[Part]] = {}
    for step in [*steps, *["sign", "wake"] * (len(steps) + 1)]:
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
