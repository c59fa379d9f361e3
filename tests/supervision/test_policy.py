"""Restart, back-off, hold: dialogues with the policy, on a clock of the test."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.supervision.policy import (
    EXIT_CORRUPT,
    EXIT_RESTS,
    EXIT_SETTINGS,
    EXIT_UNAVAILABLE,
    Hold,
    ProcessEnded,
    RaiseIncident,
    Released,
    RestartAfter,
    RestartBudget,
    RestartPolicy,
    StartWhenCalled,
)


def test_a_killed_process_restarts_at_once_and_it_is_told() -> None:
    effects = RestartPolicy().handle(ProcessEnded("signer", -9, 3600.0, 3600.0))
    told = RaiseIncident("signer", "process.ended", {"process": "signer", "code": "-9", "ran_s": "3600.0"})
    assert effects == [RestartAfter("signer", 0.1), told]


def test_one_that_is_killed_every_three_seconds_is_always_back_at_once() -> None:
    policy = RestartPolicy()
    for kill in range(100):
        restart = policy.handle(ProcessEnded("relay", -9, 2.5, kill * 3.0))[0]
        assert restart == RestartAfter("relay", 0.1)


def test_one_that_does_not_stay_up_is_slowed_down_and_then_held() -> None:
    policy, delays = RestartPolicy(), []
    while isinstance(effect := policy.handle(ProcessEnded("relay", 1, 0.3, len(delays)))[0], RestartAfter):
        delays.append(effect.seconds)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0]
    assert effect == Hold("relay", "does_not_stay_up")


def test_a_run_that_settled_clears_the_slowness() -> None:
    policy = RestartPolicy()
    for _ in range(5):
        policy.handle(ProcessEnded("relay", 1, 0.3, 0.0))
    assert policy.handle(ProcessEnded("relay", 1, 60.0, 60.0))[0] == RestartAfter("relay", 0.1)


def test_one_that_rests_is_started_by_a_call_alone_and_is_no_incident() -> None:
    policy = RestartPolicy()
    for turn in range(20):
        assert policy.handle(ProcessEnded("archivist", EXIT_RESTS, 0.3, turn * 60.0)) == [StartWhenCalled("archivist")]


def test_one_that_could_not_get_what_it_needs_does_not_rest_it_is_started_again_and_in_the_end_held() -> None:
    assert len({EXIT_SETTINGS, EXIT_CORRUPT, EXIT_RESTS, EXIT_UNAVAILABLE}) == 4
    policy = RestartPolicy()
    first, told = policy.handle(ProcessEnded("recorder", EXIT_UNAVAILABLE, 0.3, 0.0))
    assert (first, isinstance(told, RaiseIncident)) == (RestartAfter("recorder", 0.1), True)
    ends = [policy.handle(ProcessEnded("recorder", EXIT_UNAVAILABLE, 0.3, float(at)))[0] for at in range(1, 11)]
    assert ends[-1] == Hold("recorder", "does_not_stay_up")


def test_one_that_rests_and_wakes_without_end_is_held() -> None:
    policy = RestartPolicy(RestartBudget(ends_max=3, window_s=100))
    effects = [policy.handle(ProcessEnded("archivist", EXIT_RESTS, 0.3, turn))[0] for turn in range(4)]
    assert effects == [StartWhenCalled("archivist")] * 3 + [Hold("archivist", "ends_too_often")]


def test_one_that_ends_too_often_is_held_however_well_it_starts() -> None:
    policy = RestartPolicy(RestartBudget(ends_max=3, window_s=100))
    ends = [policy.handle(ProcessEnded("relay", -9, 5.0, at))[0] for at in (0, 10, 20, 30)]
    assert ends[-1] == Hold("relay", "ends_too_often")
    slow = RestartPolicy(RestartBudget(ends_max=3, window_s=100))
    assert all(isinstance(slow.handle(ProcessEnded("relay", -9, 5.0, at * 40.0))[0], RestartAfter) for at in range(20))


def test_wrong_settings_and_corrupt_state_are_held_at_once_until_a_person_releases() -> None:
    policy = RestartPolicy()
    for code, reason in ((EXIT_SETTINGS, "settings"), (EXIT_CORRUPT, "corrupt_state")):
        hold, told = policy.handle(ProcessEnded("recorder", code, 100.0, 0.0))
        assert hold == Hold("recorder", reason)
        assert isinstance(told, RaiseIncident)
        assert told.kind == "process.held"
        assert policy.handle(ProcessEnded("recorder", -9, 1.0, 1.0)) == []
        assert policy.handle(Released("recorder")) == [RestartAfter("recorder", 0.0)]


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(-15, 90), st.floats(0, 100), st.floats(0, 5)), max_size=80))
def test_each_end_gets_one_restart_or_one_hold_and_a_held_one_nothing(ends: list[tuple[str, int, float, float]]) -> None:
    policy, held, now_s = RestartPolicy(RestartBudget(unsettled_max=3, ends_max=9)), set(), 0.0
    for process, code, ran_s, pause_s in ends:
        now_s += pause_s
        effects = policy.handle(ProcessEnded(process, code, ran_s, now_s))
        decisions = [effect for effect in effects if not isinstance(effect, RaiseIncident)]
        assert len(decisions) == (0 if process in held else 1)
        held |= {effect.process for effect in decisions if isinstance(effect, Hold)}
        assert all(effect.seconds <= 30 for effect in decisions if isinstance(effect, RestartAfter))
