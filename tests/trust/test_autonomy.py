"""The eight-hour rule at its edges, and against an oracle that counts differently."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.clock import to_us
from appliance.trust import autonomy
from appliance.trust.autonomy import EvidenceGapError, check_creation_gap, check_evidence_gap

S = 1_000_000
T0 = to_us(datetime(2026, 11, 23, 12, tzinfo=UTC))


def is_valid(produced_us: int, stamped_us: int, accuracy_us: int = 0, this_update_us: int | None = None) -> bool:
    try:
        check_evidence_gap(produced_us, produced_us if this_update_us is None else this_update_us, stamped_us, accuracy_us)
    except EvidenceGapError:
        return False
    return True


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
@pytest.mark.parametrize(
    ("gap_us", "expected"),
    [
        (0, True),
        (S, True),
        (-S, True),
        (28_799 * S, True),
        (28_800 * S, True),
        (28_800 * S + 1, False),
        (28_801 * S, False),
        (-28_800 * S, True),
        (-28_800 * S - 1, False),
        (-28_801 * S, False),
    ],
)
def test_eight_hours_are_valid_and_one_microsecond_more_is_not(gap_us: int, expected: bool) -> None:
    assert is_valid(T0, T0 + gap_us) is expected


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
def test_the_stated_accuracy_counts_against_the_seal() -> None:
    assert is_valid(T0, T0 + 28_799 * S, accuracy_us=S)
    assert not is_valid(T0, T0 + 28_800 * S, accuracy_us=1)


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T21")
def test_a_response_produced_an_hour_ago_from_knowledge_of_twenty_hours_ago_is_too_old() -> None:
    assert not is_valid(T0 - 3600 * S, T0, this_update_us=T0 - 20 * 3600 * S)


@pytest.mark.case("T20")
@pytest.mark.parametrize("begins", [datetime(2026, 12, 31, 20, tzinfo=UTC), datetime(2027, 4, 4, 3, tzinfo=UTC)])
def test_year_end_and_summer_time_change_nothing(begins: datetime) -> None:
    assert is_valid(to_us(begins), to_us(begins + timedelta(hours=8)))
    assert not is_valid(to_us(begins), to_us(begins + timedelta(hours=8, microseconds=1)))


@pytest.mark.rule("IV.3.V")
def test_we_stop_making_seals_ten_minutes_earlier() -> None:
    last = T0 + (8 * 3600 - 600) * S

    check_creation_gap(T0, T0, last)

    with pytest.raises(EvidenceGapError):
        check_creation_gap(T0, T0, last + 1)
    assert autonomy.sealing_ends_at_us(T0, T0, None, 28_800) == last


def test_sealing_ends_with_the_first_of_its_limits() -> None:
    assert autonomy.sealing_ends_at_us(T0, T0, None, 3600) == T0 + 3600 * S
    assert autonomy.sealing_ends_at_us(T0, T0, T0 + 60 * S, 3600) == T0 + 60 * S
    assert autonomy.sealing_ends_at_us(T0, T0 - 3600 * S, None, 28_800) == T0 + (7 * 3600 - 600) * S


def oracle(produced_us: int, this_update_us: int, stamped_us: int, accuracy_us: int) -> bool:
    """The rule in datetime arithmetic: the stamp's whole uncertainty lies within eight hours of both times."""
    start = datetime(1970, 1, 1, tzinfo=UTC)
    produced, updated, stamped = (start + timedelta(microseconds=us) for us in (produced_us, this_update_us, stamped_us))
    accuracy, limit = timedelta(microseconds=accuracy_us), timedelta(hours=8)
    edges = (stamped - accuracy, stamped + accuracy)
    return all(known - limit <= edge <= known + limit for known in (produced, updated) for edge in edges)


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
@given(st.integers(-30_000 * S, 30_000 * S), st.integers(-30_000 * S, 30_000 * S), st.integers(0, 2 * S))
def test_the_rule_agrees_with_the_oracle(to_produced: int, to_update: int, accuracy: int) -> None:
    expected = oracle(T0 + to_produced, T0 + to_update, T0, accuracy)

    assert is_valid(T0 + to_produced, T0, accuracy, T0 + to_update) is expected


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
def test_a_hundred_thousand_pairs_near_the_edge_agree_with_the_oracle() -> None:
    chance = random.Random(20)  # noqa: S311  a test's data
    for _ in range(100_000):
        gap = chance.choice((1, -1)) * (28_800 * S + chance.randint(-3, 3) + chance.choice((0, 0, -S, S)))
        accuracy = chance.choice((0, 0, 1, S))
        assert is_valid(T0, T0 + gap, accuracy) is (abs(gap) + accuracy <= 28_800_000_000)
