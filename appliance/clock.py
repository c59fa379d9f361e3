"""Time, passed in. The only module that reads a clock.

Wall time is for evidence, in integer microseconds since 1970 UTC; monotonic seconds are for waits, never for evidence.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What a process knows of time."""

    def now_us(self) -> int:
        """Wall time, microseconds since 1970 UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds that never jump."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


def to_us(moment: datetime) -> int:
    """An aware datetime as integer microseconds (exact, no floats)."""
    if moment.tzinfo is None:
        raise RuntimeError("a moment without a time zone")
    return (moment - EPOCH) // MICROSECOND


def from_us(us: int) -> datetime:
    """Integer microseconds as an aware UTC datetime."""
    return EPOCH + timedelta(microseconds=us)


def iso(us: int) -> str:
    """ISO 8601 with milliseconds and Z, as SigningTime and our JSON print it."""
    return from_us(us).isoformat(timespec="milliseconds").replace("+00:00", "Z")
