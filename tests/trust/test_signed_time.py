"""The clock against signed time: what warns, what stops, what 1970 is, and that no step of the clock goes unseen (T40)."""

from __future__ import annotations

import itertools
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.clock import to_us
from appliance.processes.clock_watch import ClockWatch
from appliance.trust import signed_time
from appliance.trust.signed_time import EARLIEST_US, ClockUntrustedError, SignedMoment, SignedTime, judged

S = 1_000_000
NOON_US = EARLIEST_US + 300 * 86_400 * S


@dataclass
class Clock:
    """Wall and monotonic time, set apart."""

    us: int = NOON_US
    s: float = 500.0

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.s

    def pass_s(self, seconds: float) -> None:
        self.us, self.s = self.us + int(seconds * S), self.s + seconds


@pytest.mark.case("T40")
@pytest.mark.parametrize(
    ("off_us", "verdict"),
    [
        (0, "ok"), (60 * S, "ok"), (-60 * S, "ok"), (60 * S + 1, "warning"), (-60 * S - 1, "warning"),
        (300 * S, "warning"), (-300 * S, "warning"), (300 * S + 1, "stop"), (-300 * S - 1, "stop"),
    ],
)  # fmt: skip
def test_a_minute_off_warns_and_five_minutes_stop(off_us: int, verdict: str) -> None:
    assert judged(off_us) == verdict


@pytest.mark.case("T40")
@pytest.mark.parametrize("step_s", [-3600, 9 * 3600, -10 * 365 * 86_400])
def test_a_step_of_the_wall_clock_is_seen_at_once_and_its_correction_too(step_s: int) -> None:
    clock = Clock()
    known = SignedTime(SignedMoment(clock.us, 500 * S), clock.us)
    clock.pass_s(3600)

    signed_time.check(known, clock)
    clock.us += step_s * S
    with pytest.raises(ClockUntrustedError):
        signed_time.check(known, clock)
    assert known.present_us(clock.us, int(clock.s * S)) == NOON_US + 3600 * S
    clock.us -= step_s * S
    signed_time.check(known, clock)


@pytest.mark.case("T40")
def test_a_drift_of_500_ppm_neither_warns_nor_stops_in_eight_hours() -> None:
    known = SignedTime(SignedMoment(NOON_US, 0), NOON_US)
    eight_hours_us = 8 * 3600 * S

    assert judged(known.offset_us(NOON_US + eight_hours_us + eight_hours_us // 2000, eight_hours_us)) == "ok"


@pytest.mark.case("T40")
@pytest.mark.parametrize("now_us", [0, to_us(datetime(2000, 1, 1, tzinfo=UTC))])
def test_1970_and_2000_at_boot_are_recognised_without_any_answer(now_us: int) -> None:
    with pytest.raises(ClockUntrustedError):
        signed_time.check(SignedTime(), Clock(us=now_us))


def test_nothing_signed_and_a_possible_time_is_no_reason_to_stop() -> None:
    assert SignedTime().offset_us(NOON_US, 0) is None
    assert judged(None) == ""


@pytest.mark.case("T40")
def test_what_was_signed_before_the_boot_is_a_floor_and_a_live_answer_overrules_it() -> None:
    clock = Clock(us=NOON_US - 3600 * S)
    floored = SignedTime(None, NOON_US)

    with pytest.raises(ClockUntrustedError):
        signed_time.check(floored, clock)
    signed_time.check(SignedTime(SignedMoment(clock.us, 500 * S), NOON_US), clock)


def watch(folder: Path, clock: Clock) -> ClockWatch:
    return ClockWatch(folder / "clock.json", clock, logging.getLogger("clock"))


def test_only_what_says_something_else_is_news(tmp_path: Path) -> None:
    clock = Clock()
    watching = watch(tmp_path, clock)
    news = itertools.count()
    watching.on_news = lambda: next(news) and None

    watching.compare(clock.us)
    clock.pass_s(60)
    watching.compare(clock.us + S // 2)
    watching.compare(clock.us + 400 * S)

    assert next(news) == 2
    assert not watching.is_right
    assert watching.facts() == {"clock_offset_ms": "-400000", "clock": "stop"}


@pytest.mark.case("T40")
@pytest.mark.parametrize(
    ("signed", "wall_us", "reached_us"),
    [
        (SignedTime(SignedMoment(NOON_US, 0), NOON_US), NOON_US + 400 * S, NOON_US + 60 * S),
        (SignedTime(SignedMoment(NOON_US + 400 * S, 0), NOON_US), NOON_US + 60 * S, NOON_US + 60 * S),
        (SignedTime(None, NOON_US), NOON_US + 60 * S, NOON_US + 5 * S),
        (SignedTime(None, NOON_US + 9 * S), NOON_US + 60 * S, NOON_US + 9 * S),
        (SignedTime(None, NOON_US), NOON_US - 60 * S, NOON_US - 60 * S),
        (SignedTime(), NOON_US, NOON_US),
    ],
)
def test_a_moment_has_certainly_come_when_both_clocks_say_so(signed: SignedTime, wall_us: int, reached_us: int) -> None:
    """A minute after the beginning; the log's newest stamp is five seconds past noon."""
    assert signed.reached_us(wall_us, 60 * S, NOON_US + 5 * S) == reached_us
