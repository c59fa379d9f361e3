"""The states of a box: every change of the table, every fact that decides, the way from any state to any other."""

from __future__ import annotations

import itertools

import pytest

from appliance.supervision.states import ADVICE, ALLOWED, BoxState, Facts, derive, steps
from appliance.supervision.trust_facts import sealing_ends_at_us, silent_services
from appliance.trust.wire import Evidence, ServiceHealth, TrustStatus

H = 3_600_000_000
GOOD = {"now_us": 10 * H, "enrolled": True, "token": "ready", "sealing_ends_us": 17 * H, "configuration_expires_us": 19 * H}


def facts(**changed: object) -> Facts:
    return Facts(**{**GOOD, **changed})  # type: ignore[arg-type]  # the test's own keywords


@pytest.mark.parametrize(
    ("changed", "state", "advice"),
    [
        ({}, BoxState.OPERATIONAL, []),
        ({"enrolled": False}, BoxState.UNPROVISIONED, ["advice.enrol"]),
        ({"enrolled": False, "token": None, "silent_services": ("ocsp",)}, BoxState.UNPROVISIONED, ["advice.enrol"]),
        ({"token": None}, BoxState.LOCKED, ["advice.signer_away"]),
        ({"token": "absent"}, BoxState.LOCKED, ["advice.token_absent"]),
        ({"token": "locked"}, BoxState.LOCKED, ["advice.unlock"]),
        ({"token": "pin_rejected"}, BoxState.LOCKED, ["advice.pin_rejected"]),
        ({"token": "pin_locked"}, BoxState.LOCKED, ["advice.pin_locked"]),
        ({"token": "uninitialised"}, BoxState.LOCKED, ["advice.token_uninitialised"]),
        ({"token": "melted"}, BoxState.LOCKED, ["advice.token_unknown"]),
        ({"silent_services": ("ocsp",)}, BoxState.AUTONOMOUS, ["advice.centre_silent"]),
        ({"sealing_ends_us": 10 * H + 1}, BoxState.OPERATIONAL, []),
        ({"sealing_ends_us": 10 * H}, BoxState.SEALING_STOPPED, ["advice.evidence_ended"]),
        ({"sealing_ends_us": None}, BoxState.SEALING_STOPPED, ["advice.evidence_missing"]),
        ({"configuration_expires_us": 10 * H}, BoxState.SEALING_STOPPED, ["advice.configuration_expired"]),
        ({"configuration_expires_us": None}, BoxState.SEALING_STOPPED, ["advice.configuration_missing"]),
        ({"log_full": True}, BoxState.SEALING_STOPPED, ["advice.log_full"]),
        ({"clock": "stop"}, BoxState.SEALING_STOPPED, ["advice.clock_stopped"]),
        ({"clock": "warning"}, BoxState.OPERATIONAL, ["advice.clock_off"]),
        ({"held": ("signer",), "enrolled": False}, BoxState.HELD, ["advice.held"]),
        ({"suspended": True}, BoxState.SUSPENDED, ["advice.suspended"]),
        ({"suspended": True, "terminated": True, "held": ("relay",)}, BoxState.TERMINATED, ["advice.terminated"]),
        (
            {"silent_processes": ("relay",), "local_fell_back": True},
            BoxState.OPERATIONAL,
            ["advice.process_silent", "advice.local_fell_back"],
        ),
        ({"unregistered": True}, BoxState.SUSPENDED, ["advice.not_registered"]),
        ({"unregistered": True, "enrolled": False}, BoxState.UNPROVISIONED, ["advice.enrol"]),
        (
            {"stamps_ended": True, "silent_services": ("tsa",)},
            BoxState.SEALING_STOPPED,
            ["advice.stamps_ended", "advice.centre_silent"],
        ),
        ({"certificates_end_us": 10 * H}, BoxState.SEALING_STOPPED, ["advice.certificates_ended"]),
        ({"certificates_end_us": 10 * H + 1}, BoxState.OPERATIONAL, []),
        ({"notices_waiting": True}, BoxState.OPERATIONAL, ["advice.notices_waiting"]),
        ({"waiting_processes": ("relay",)}, BoxState.OPERATIONAL, ["advice.process_waiting"]),
    ],
)
def test_a_state_follows_from_its_facts(changed: dict[str, object], state: BoxState, advice: list[str]) -> None:
    assert derive(facts(**changed)) == (state, advice)


def test_every_combination_of_facts_has_one_state_and_known_advice() -> None:
    reached = set()
    for values in itertools.product(
        (True, False), ("ready", "locked", None), (None, 9 * H, 11 * H), (None, 9 * H, 11 * H), ((), ("tsa",)),
        ((), ("relay",)), (True, False), (True, False), (True, False), ("", "warning", "stop"),
    ):  # fmt: skip
        names = (
            "enrolled", "token", "sealing_ends_us", "configuration_expires_us", "silent_services",
            "held", "log_full", "suspended", "terminated", "clock",
        )  # fmt: skip
        state, advice = derive(facts(**dict(zip(names, values, strict=True))))
        reached.add(state)
        assert set(advice) <= set(ADVICE)
        assert len(set(advice)) == len(advice)
        assert advice or state in (BoxState.OPERATIONAL, BoxState.AUTONOMOUS)
    assert reached == set(BoxState)


@pytest.mark.parametrize(("current", "wanted"), list(itertools.product(BoxState, BoxState)))
def test_every_way_goes_through_allowed_changes_only(current: BoxState, wanted: BoxState) -> None:
    way = steps(current, wanted)
    assert (way[-1] if way else current) is wanted
    for before, after in itertools.pairwise([current, *way]):
        assert after in ALLOWED[before]
    assert len(way) <= 3


def test_the_table_says_what_may_not_follow() -> None:
    assert set(ALLOWED) == set(BoxState)
    assert ALLOWED[BoxState.TERMINATED] == {BoxState.UNPROVISIONED}
    assert BoxState.OPERATIONAL not in ALLOWED[BoxState.UNPROVISIONED]
    assert steps(BoxState.UNPROVISIONED, BoxState.OPERATIONAL) == [BoxState.LOCKED, BoxState.OPERATIONAL]
    assert all(state not in following for state, following in ALLOWED.items())
    for state in set(BoxState) - {BoxState.TERMINATED}:
        assert {BoxState.SUSPENDED, BoxState.TERMINATED, BoxState.HELD} - {state} <= ALLOWED[state]


def evidence(produced_us: int) -> Evidence:
    return Evidence(b"", b"", b"", produced_us, produced_us, produced_us + 9 * H)


@pytest.mark.rule("IV.3.V")
def test_sealing_ends_with_the_first_response_that_runs_out() -> None:
    trust = TrustStatus(1, 20 * H, [], [evidence(2 * H), evidence(3 * H)])
    assert sealing_ends_at_us(trust) == 10 * H - 600_000_000  # eight hours less the ten minutes' margin
    assert sealing_ends_at_us(TrustStatus(1, 20 * H, [], [])) is None
    assert sealing_ends_at_us(None) is None


def test_a_kind_of_service_is_silent_when_none_of_its_addresses_answers() -> None:
    minute = 60_000_000
    services = [
        ServiceHealth("tsa one", "http://a", 1 * minute, 9 * minute, "fetch.failed"),
        ServiceHealth("tsa two", "http://b", 8 * minute, None, ""),
        ServiceHealth("ocsp", "http://c", None, 9 * minute, "fetch.failed"),
        ServiceHealth("configuration", "http://d", 8 * minute, 9 * minute, "fetch.failed"),
        ServiceHealth("configuration OTHER", "http://e", None, 9 * minute, "fetch.failed"),
    ]
    assert silent_services(TrustStatus(1, None, services, []), 9 * minute) == ("ocsp",)
    assert silent_services(None, 9 * minute) == ()


def test_a_responder_that_answers_without_an_answer_is_not_silent_until_its_responses_age() -> None:
    services = [ServiceHealth("ocsp", "http://c", None, H, "ocsp.malformed")]
    assert silent_services(TrustStatus(1, None, services, [evidence(H)]), 2 * H) == ()
    assert silent_services(TrustStatus(1, None, services, [evidence(H)]), 2 * H + 1) == ("ocsp",)
