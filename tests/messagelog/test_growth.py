"""When the disk will be full."""

from __future__ import annotations

import msgspec

from appliance.messagelog.growth import HORIZON_US, Growth
from appliance.messagelog.stamping import Now

TB = 1 << 40
DAY_S = 86_400.0


def after_a_day(room: int, lost: int) -> int | None:
    growth = Growth()
    growth.seen(0.0, room + lost)
    return growth.full_us(Now(0, DAY_S), room)


def test_a_disk_that_loses_a_tenth_in_a_day_is_full_in_nine() -> None:
    assert after_a_day(9 * TB, TB) == 9 * DAY_S * 1_000_000


def test_what_fills_in_more_than_a_century_does_not_fill() -> None:
    """Found by the simulation: a large disk that lost a block was full at a time that no frame carries, and the recorder ended."""
    assert after_a_day(16 * TB, 4096) is None


def test_every_moment_that_is_told_fits_a_frame() -> None:
    for lost in (1, 4096, 1 << 20, 1 << 30):
        told = after_a_day(64 * TB, lost)
        assert told is None or told <= HORIZON_US
        msgspec.msgpack.encode(told)
