"""What time it is, as trust services signed it, and how far our clock is from that (T40).

Pure. A signed time that was made just now (a time stamp, or an OCSP response that carries our nonce) is kept together with the monotonic
moment at which it arrived. From then on the present is known without the wall clock: a step of it is seen at once, in every process of the
box, without asking anybody. A signed time from earlier only says that no earlier moment can be now; that is how 1970 at boot is recognised.
Microseconds throughout. The clock is never set from here, and no evidence relies on it.
"""

from __future__ import annotations

import msgspec

from appliance.clock import Clock
from appliance.errors import UnavailableError

CLOCK_WARNING_US = 60 * 1_000_000
"""Local clock against signed time: from here the box warns (T40)."""

CLOCK_STOP_US = 5 * 60 * 1_000_000
"""From here nothing new is sealed or believed (T40)."""

EARLIEST_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z: before this software was. A machine whose battery is empty says 1970 or 2000."""

OK, WARNING, STOP = "ok", "warning", "stop"


class ClockUntrustedError(UnavailableError):
    """Our clock is too far from signed time: no validity can be judged by it, so that nothing is sealed or believed until it is right."""

    kind = "clock.untrusted"


class SignedMoment(msgspec.Struct, array_like=True, frozen=True):
    """A signed time, and CLOCK_MONOTONIC of this machine when it arrived: the same clock in every process, new with every boot."""

    signed_us: int
    monotonic_us: int

    def present_us(self, monotonic_us: int) -> int:
        """What time it is now, by this moment. A crystal drifts 50 to 500 ppm: 14 s in eight hours at worst."""
        return self.signed_us + monotonic_us - self.monotonic_us


class SignedTime(msgspec.Struct, array_like=True, frozen=True):
    """What is known of the present. `moment`: the newest one of this boot. `floor_us`: the latest signed time ever seen."""

    moment: SignedMoment | None = None
    floor_us: int = EARLIEST_US

    def offset_us(self, now_us: int, monotonic_us: int) -> int | None:
        """Local minus signed time; None: nothing to compare with, and nothing against it."""
        if self.moment is not None:  # a live answer is the better witness: a floor from an authority that was ahead must not last
            return now_us - self.moment.present_us(monotonic_us)
        return now_us - self.floor_us if now_us < self.floor_us else None

    def present_us(self, now_us: int, monotonic_us: int) -> int:
        """The present for deadlines: by signed time where there is one, so that no step of the wall clock moves a deadline."""
        return now_us if self.moment is None else self.moment.present_us(monotonic_us)

    def reached_us(self, now_us: int, monotonic_us: int, known_us: int = 0) -> int:
        """A moment that has certainly come, for what cannot be undone (erasing): never later than either clock says.

        Where this boot has heard no signed time: the latest one that was ever seen, `known_us` (the newest time stamp of the log) among
        them. So a wall clock that is ahead ends no term, nor does one authority that is.
        """
        signed_us = max(self.floor_us, known_us) if self.moment is None else self.moment.present_us(monotonic_us)
        return min(now_us, signed_us)


NOTHING_SIGNED = SignedTime()


def judged(offset_us: int | None) -> str:
    """`ok`, `warning`, `stop`; empty where there is nothing to compare with."""
    if offset_us is None:
        return ""
    off = abs(offset_us)
    return STOP if off > CLOCK_STOP_US else WARNING if off > CLOCK_WARNING_US else OK


def monotonic_us(clock: Clock) -> int:
    """The monotonic clock in whole microseconds."""
    return int(clock.monotonic_s() * 1_000_000)


def check(signed: SignedTime, clock: Clock) -> None:
    """Raises ClockUntrustedError where the clock is more than five minutes off."""
    offset = signed.offset_us(clock.now_us(), monotonic_us(clock))
    if judged(offset) == STOP:
        raise ClockUntrustedError(f"our clock is {(offset or 0) / 1e6:.0f} s off signed time")
