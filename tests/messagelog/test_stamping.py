"""The queue for time stamps, as dialogues: what is asked for, who is answered with what."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.messagelog.stamping import (
    AWAY,
    COMPANY_S,
    PATIENCE_S,
    RETRY_S_MIN,
    SILENCE_HOLDS_S,
    SILENT,
    AnswerProvisional,
    AnswerStamped,
    Effect,
    Event,
    GraceKnown,
    Logged,
    Now,
    OutageWritten,
    Refuse,
    RequestStamp,
    Stamped,
    StampFailed,
    StampQueue,
    StampWritten,
    Ticked,
    Waiting,
    WriteOutage,
    WriteStamp,
    WriteUnconfirmed,
)
from appliance.trust.wire import StampReply
from tests.messagelog.drafts import HOUR_US, NOW_US

REPLY = StampReply(b"token", NOW_US + 5, 100_000, "TSA")
S = 1_000_000


def digest(name: str) -> bytes:
    return name.encode().ljust(64, b".")


def waiting(sequence: int, batch: str = "", ends_us: int = NOW_US + 8 * HOUR_US) -> Waiting:
    name = batch or f"s{sequence}"
    return Waiting(sequence, 1000 + sum(name.encode()), digest(name), ends_us, NOW_US)


def leaf(each: Waiting) -> tuple[int, bytes]:
    return each.signature, each.digest


@dataclass
class Talk:
    """One conversation with a queue, with a clock that both sides see."""

    stamps: StampQueue = field(default_factory=StampQueue)
    s: float = 0.0

    def say(self, happened: Event, after_s: float = 0.0) -> list[Effect]:
        self.s += after_s
        return self.stamps.handle(happened, Now(NOW_US + int(self.s * S), self.s))

    def log(self, *each: Waiting, answered: bool = True) -> list[Effect]:
        """A group: all of them, then the turn after it."""
        return [effect for one in each for effect in self.say(Logged(one, answered))] + self.say(Ticked())


def test_what_arrives_while_a_request_is_out_shares_the_next() -> None:
    talk = Talk()
    first, second, third = waiting(1), waiting(2), waiting(3)

    assert talk.log(first) == [RequestStamp((leaf(first),))]
    assert talk.log(second, third) == []
    assert talk.say(Stamped(REPLY)) == [
        WriteStamp(REPLY, None, (leaf(first),), (1,)),
        RequestStamp((leaf(second), leaf(third))),
    ]
    assert talk.say(StampWritten((1,), 7, 9)) == [AnswerStamped(1, 7, 9)]
    assert talk.say(Stamped(REPLY, b"result")) == [WriteStamp(REPLY, b"result", (leaf(second), leaf(third)), (2, 3))]


def test_messages_under_one_signature_share_a_leaf() -> None:
    talk = Talk()
    first, second, third = waiting(1, "batch"), waiting(2, "batch"), waiting(3)

    assert talk.log(first, second, third) == [RequestStamp((leaf(first), leaf(third)))]
    assert talk.say(Stamped(REPLY, b"r")) == [WriteStamp(REPLY, b"r", (leaf(first), leaf(third)), (1, 2, 3))]


def test_own_messages_are_stamped_and_nobody_is_answered() -> None:
    talk = Talk()
    own = waiting(1)

    assert talk.log(own, answered=False) == []
    assert talk.say(Ticked(), COMPANY_S) == [RequestStamp((leaf(own),))]
    talk.say(Stamped(REPLY))
    assert talk.say(StampWritten((1,), 7, 9)) == []


def test_own_messages_go_with_the_next_received_one() -> None:
    talk = Talk()
    own, received, later = waiting(1), waiting(2), waiting(3)

    assert talk.log(own, answered=False) == []
    assert talk.say(Ticked(), COMPANY_S / 2) == []
    assert talk.log(received) == [RequestStamp((leaf(own), leaf(received)))]
    assert talk.log(later, answered=False) == []
    talk.say(Stamped(REPLY, b"r"))
    assert talk.say(Ticked(), COMPANY_S / 2) == []
    assert talk.say(Ticked(), COMPANY_S) == [RequestStamp((leaf(later),))]


def test_what_waited_when_the_process_ended_is_stamped_at_once() -> None:
    own = waiting(1)
    assert StampQueue([own]).handle(Ticked(), Now(NOW_US, 0.0)) == [RequestStamp((leaf(own),))]


def test_own_messages_are_asked_for_again_after_a_failure_as_received_ones_are() -> None:
    talk = Talk()
    talk.log(waiting(1), answered=False)
    talk.say(Ticked(), COMPANY_S)
    assert talk.say(StampFailed("process.away")) == []
    assert talk.say(Ticked(), RETRY_S_MIN) == [RequestStamp((leaf(waiting(1)),))]


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T19", "T39")
def test_a_stamp_confirms_only_what_lies_within_eight_hours_of_it() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    gone, good, early = waiting(1, ends_us=NOW_US - HOUR_US), waiting(2), replace(waiting(3), begins_us=NOW_US + HOUR_US)
    talk.say(Logged(gone, False))
    talk.say(Logged(good, False))
    talk.say(Logged(early, False))
    talk.stamps._requested, talk.stamps._leaves = (gone, good, early), (leaf(gone), leaf(good), leaf(early))

    effects = talk.say(Stamped(REPLY, b"r"))

    assert effects[0] == WriteStamp(REPLY, b"r", (leaf(gone), leaf(good), leaf(early)), (2,))
    assert effects[1] == WriteUnconfirmed((1,), ())
    assert talk.stamps.waiting == 1


@pytest.mark.rule("IV.3.V", "IV.3.VI")
def test_the_grace_ends_where_the_oldest_unstamped_record_can_no_longer_be_stamped() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    talk.log(replace(waiting(1, ends_us=NOW_US + HOUR_US), own=True), answered=False)
    talk.say(Ticked(), COMPANY_S)
    talk.say(StampFailed(SILENT))
    talk.log(waiting(2))
    talk.say(Ticked(), PATIENCE_S)
    talk.say(StampFailed(SILENT))
    assert talk.stamps.grace_ends_us(NOW_US) == NOW_US + HOUR_US

    later = [*talk.say(Ticked(), 3600), *talk.say(StampFailed(SILENT)), *talk.say(Ticked())]
    (lost,) = [each for each in later if isinstance(each, WriteUnconfirmed)]
    assert (1 in lost.messages, lost.own) == (True, (1,))
    talk.say(StampFailed(SILENT))
    assert not any(isinstance(effect, WriteOutage) and effect.provisional for effect in talk.log(waiting(3)))


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_without_a_grace_a_received_message_is_refused_after_ten_seconds() -> None:
    talk = Talk()
    talk.log(waiting(1))
    assert talk.say(StampFailed("tsa.unreachable"), 2) == [WriteOutage(NOW_US + 2 * S, None, ())]

    assert Refuse(1) not in talk.say(Ticked(), PATIENCE_S - 2.1)
    assert Refuse(1) in talk.say(Ticked(), 0.2)
    assert talk.stamps.waiting == 1  # it stays, as not processed, and is stamped when an authority is back


@pytest.mark.case("T39")
@pytest.mark.rule("IV.3.VI")
def test_within_the_grace_a_message_is_provisional_after_its_deadline_is_on_disk() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    talk.log(waiting(1))
    talk.say(StampFailed("tsa.unreachable"))
    until = NOW_US + 4 * HOUR_US

    effects = talk.say(Ticked(), PATIENCE_S)
    assert WriteOutage(NOW_US, None, ((1, until),)) in effects
    assert not any(isinstance(effect, AnswerProvisional | Refuse) for effect in effects)
    assert talk.say(OutageWritten(((1, until),))) == [AnswerProvisional(1, until)]


def test_once_the_silence_is_established_nobody_waits_for_it_any_more() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    talk.log(waiting(1))
    talk.say(StampFailed("tsa.unreachable"))
    talk.say(Ticked(), PATIENCE_S)

    assert talk.log(waiting(2)) == [WriteOutage(NOW_US, None, ((2, NOW_US + 4 * HOUR_US),))]


@pytest.mark.rule("IV.3.V")
def test_the_deadline_is_never_later_than_the_eight_hour_rule_allows() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    ends = NOW_US + HOUR_US
    talk.log(waiting(1, ends_us=ends))
    talk.say(StampFailed("tsa.unreachable"))

    assert WriteOutage(NOW_US, None, ((1, ends),)) in talk.say(Ticked(), PATIENCE_S)


def test_after_the_grace_nothing_is_provisional_any_more() -> None:
    talk = Talk()
    talk.say(GraceKnown(60 * S))
    talk.log(waiting(1), answered=False)
    talk.say(StampFailed("tsa.unreachable"))
    talk.say(Ticked(), 61)
    talk.say(StampFailed("tsa.unreachable"))
    talk.log(waiting(2))

    assert Refuse(2) in talk.say(Ticked(), PATIENCE_S)


@pytest.mark.rule("IV.3.VI")
def test_a_provisional_record_that_misses_its_deadline_is_unconfirmed_for_ever() -> None:
    talk = Talk()
    talk.say(GraceKnown(60 * S))
    talk.log(waiting(1), waiting(2, ends_us=NOW_US + 9 * HOUR_US))
    talk.say(StampFailed("tsa.unreachable"))
    talk.say(Ticked(), PATIENCE_S)
    talk.say(StampFailed("tsa.unreachable"))
    talk.say(OutageWritten(((1, NOW_US + 60 * S), (2, NOW_US + 60 * S))))

    talk.say(StampFailed("tsa.unreachable"))
    assert WriteUnconfirmed((1, 2), (1, 2)) in talk.say(Ticked(), 60)
    assert talk.stamps.waiting == 0
    assert talk.say(Ticked(), 60) == []


def test_a_restart_resets_no_deadline() -> None:
    until = NOW_US + 30 * S
    talk = Talk(StampQueue([waiting(1)], outage_since_us=NOW_US - 30 * S, provisional={1: until}))
    talk.say(GraceKnown(60 * S))

    assert talk.say(Ticked()) == [RequestStamp((leaf(waiting(1)),))]
    talk.say(StampFailed("tsa.unreachable"))
    assert talk.log(waiting(2)) == [WriteOutage(NOW_US - 30 * S, None, ((2, until),))]
    assert WriteUnconfirmed((1, 2), (1, 2)) in talk.say(Ticked(), 30)


def test_the_end_of_an_outage_is_written_and_the_next_message_waits_again() -> None:
    talk = Talk()
    talk.log(waiting(1), answered=False)
    talk.say(StampFailed("tsa.unreachable"))
    talk.say(Ticked(), 1)

    effects = talk.say(Stamped(REPLY), 1)

    assert effects[0] == WriteOutage(NOW_US, NOW_US + 2 * S, ())
    assert talk.stamps.outage_since_us is None


def test_attempts_back_off_to_half_a_minute() -> None:
    talk = Talk()
    talk.log(waiting(1), answered=False)
    gaps = []
    for _ in range(9):
        failed_at = talk.s
        talk.say(StampFailed("tsa.unreachable"))
        while not any(isinstance(effect, RequestStamp) for effect in talk.say(Ticked(), 0.25)):
            pass
        gaps.append(talk.s - failed_at)

    assert gaps == [1, 2, 4, 8, 16, 30, 30, 30, 30]


@pytest.mark.case("T39")
def test_while_somebody_waits_the_authority_is_asked_again_after_a_second_and_not_more_often() -> None:
    talk = Talk()
    talk.log(waiting(1), answered=False)
    for _ in range(7):  # an outage of minutes while nobody waits
        talk.say(StampFailed(SILENT), 30)
        talk.say(Ticked(), 30)
    talk.say(StampFailed(SILENT))

    assert not any(isinstance(effect, RequestStamp) for effect in talk.log(waiting(2)))
    asked_at = []
    while talk.s < 60 * 7 + PATIENCE_S - 1:
        if any(isinstance(effect, RequestStamp) for effect in talk.say(Ticked(), 0.25)):
            asked_at.append(talk.s - 60 * 7)
            talk.say(StampFailed(SILENT))
    assert asked_at == [1, 2, 3, 4]


@pytest.mark.case("T39")
def test_who_begins_to_wait_in_a_long_pause_ends_it() -> None:
    talk = Talk()
    talk.log(waiting(1), answered=False)
    for _ in range(7):
        talk.say(StampFailed(SILENT), 30)
        talk.say(Ticked(), 30)
    talk.say(StampFailed(SILENT))
    assert talk.say(Ticked(), 5) == []

    assert talk.log(waiting(2)) == [RequestStamp((leaf(waiting(1)), leaf(waiting(2))))]


# -- a trust agent that does not answer


@pytest.mark.rule("IV.3.VI")
@pytest.mark.parametrize("kind", [AWAY, "configuration.absent", "tsa.bad_request"])
def test_only_silent_authorities_start_the_grace(kind: str) -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    talk.log(waiting(1))
    assert talk.say(StampFailed(kind), PATIENCE_S - 1) == []

    assert talk.say(Ticked(), 0.9) == []
    effects = talk.say(Ticked(), 0.1)

    assert effects[0] == Refuse(1, AWAY if kind == AWAY else SILENT)
    assert not any(isinstance(effect, WriteOutage | AnswerProvisional) for effect in effects)
    assert talk.stamps.outage_since_us is None
    assert talk.stamps.failing == kind


def test_a_trust_agent_that_is_back_within_three_seconds_costs_nobody() -> None:
    talk = Talk()
    talk.log(waiting(1))
    talk.say(StampFailed(AWAY))
    for _ in range(2):
        assert talk.say(Ticked(), 1) == [RequestStamp((leaf(waiting(1)),))]
        assert talk.say(StampFailed(AWAY)) == []

    talk.say(Ticked(), 1)
    assert talk.say(Stamped(REPLY)) == [WriteStamp(REPLY, None, (leaf(waiting(1)),), (1,))]
    assert talk.stamps.failing == ""


@pytest.mark.rule("IV.3.VI")
def test_the_word_that_the_authorities_are_silent_outlasts_a_restart_of_the_trust_agent_and_not_its_hanging() -> None:
    talk = Talk()
    talk.say(GraceKnown(4 * HOUR_US))
    talk.log(waiting(1))
    talk.say(StampFailed(SILENT))
    talk.say(Ticked(), PATIENCE_S)
    talk.say(StampFailed(AWAY))

    assert talk.log(waiting(2)) == [WriteOutage(NOW_US, None, ((2, NOW_US + 4 * HOUR_US),))]
    talk.say(OutageWritten(((1, 0), (2, 0))))
    talk.say(StampFailed(AWAY), SILENCE_HOLDS_S - PATIENCE_S)
    assert not any(isinstance(effect, WriteOutage) for effect in talk.log(waiting(3)))
    assert Refuse(3, AWAY) in talk.say(Ticked(), PATIENCE_S)


@given(st.lists(st.sampled_from(["log", "own", "stamp", "fail", "away", "write", "wait", "long"]), max_size=80), st.integers(0, 20_000))
def test_every_message_that_somebody_waits_for_is_answered_exactly_once(steps: list[str], grace_s: int) -> None:
    talk = Talk()
    talk.say(GraceKnown(grace_s * S))
    answers: list[int] = []
    asked, out, sequence = set(), 0, 0
    to_write: list[Event] = []
    stamped: list[int] = []
    lost: list[int] = []

    def take(effects: list[Effect]) -> None:
        nonlocal out
        for effect in effects:
            match effect:
                case RequestStamp():
                    out += 1
                    assert len({digest for _, digest in effect.leaves}) == len(effect.leaves)
                case WriteStamp():
                    to_write.append(StampWritten(effect.messages, 1, 1))
                    stamped.extend(effect.messages)
                case WriteOutage():
                    to_write.append(OutageWritten(effect.provisional))
                    assert all(until <= NOW_US + 8 * HOUR_US for _, until in effect.provisional)
                case WriteUnconfirmed():
                    lost.extend(effect.messages)
                case AnswerStamped() | AnswerProvisional() | Refuse():
                    answers.append(effect.sequence)
            assert out <= 1

    for step in [*steps, *["write", "long"] * 3, "fail", "long", "write"]:
        match step:
            case "log" | "own":
                sequence += 1
                if step == "log":
                    asked.add(sequence)
                take(talk.log(waiting(sequence, f"b{sequence // 3}"), answered=step == "log"))
            case "stamp" | "fail" | "away" if out:
                out = 0
                take(talk.say(Stamped(REPLY) if step == "stamp" else StampFailed(SILENT if step == "fail" else AWAY), 0.1))
            case "write" if to_write:
                ready, to_write[:] = to_write[:], []
                for each in ready:
                    take(talk.say(each))
            case "wait" | "long":
                take(talk.say(Ticked(), 1 if step == "wait" else PATIENCE_S))

    assert sorted(answers) == sorted(asked)
    assert len(stamped) == len(set(stamped))
    assert not set(stamped) & set(lost)
