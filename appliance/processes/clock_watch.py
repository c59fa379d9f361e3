"""Compares the machine's clock with every signed time that arrives, and remembers it over a restart (T40).

Part of the trust agent process. Decisions: `trust.signed_time`. The file `trust/clock.json` holds the newest signed moment with the number
of the boot that its monotonic clock belongs to: after a restart of the process it counts as before, after a reboot it is only a floor.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from appliance import durable
from appliance.clock import Clock
from appliance.errors import UNREADABLE
from appliance.journal import event
from appliance.trust.signed_time import EARLIEST_US, OK, SignedMoment, SignedTime, judged, monotonic_us

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FILE_NAME = "clock.json"
SAVE_INTERVAL_S = 60.0
"""Signed times arrive with every stamp; a written one is good for as long as this boot lasts, so that one a minute is plenty."""
LOOK_INTERVAL_S = 1.0
NEWS_US = 1_000_000
"""A new moment is told to the other processes at once only where it says something else than the one before."""


class _Saved(msgspec.Struct):
    boot: str
    signed_us: int
    monotonic_us: int


class ClockWatch:
    """The signed time of this process. `on_news`: called when the others should hear of it at once."""

    def __init__(self, file: Path, clock: Clock, log: logging.Logger) -> None:
        self._file, self._clock, self._log = file, clock, log
        self._boot = BOOT_ID.read_text().strip()
        self.on_news: Callable[[], None] = lambda: None
        self.signed = self._loaded()
        self._state, self._unsaved, self._save_due_s = "", False, float("-inf")

    def _loaded(self) -> SignedTime:
        try:
            saved = msgspec.json.decode(self._file.read_bytes(), type=_Saved)
        except (OSError, *UNREADABLE):
            return SignedTime()
        floor_us = max(EARLIEST_US, saved.signed_us)
        if saved.boot != self._boot or saved.monotonic_us > monotonic_us(self._clock):
            return SignedTime(None, floor_us)
        return SignedTime(SignedMoment(saved.signed_us, saved.monotonic_us), floor_us)

    def compare(self, signed_us: int, arrived_us: int | None = None) -> None:
        """A signed time that was made just now. `arrived_us`: monotonic, where the middle of the request is known."""
        moment = SignedMoment(signed_us, monotonic_us(self._clock) if arrived_us is None else arrived_us)
        before = self.signed.moment
        self.signed = SignedTime(moment, max(self.signed.floor_us, signed_us))
        self._unsaved = True
        if before is None or abs(moment.present_us(moment.monotonic_us) - before.present_us(moment.monotonic_us)) > NEWS_US:
            self._save_due_s = float("-inf")
            self.on_news()

    def at_least(self, signed_us: int) -> None:
        """A signed time made some time ago."""
        if signed_us > self.signed.floor_us:
            self.signed = SignedTime(self.signed.moment, signed_us)

    @property
    def offset_us(self) -> int | None:
        """Local minus signed time, now."""
        return self.signed.offset_us(self._clock.now_us(), monotonic_us(self._clock))

    @property
    def is_right(self) -> bool:
        """Nothing speaks against our clock."""
        return judged(self.offset_us) in ("", OK)

    def facts(self) -> dict[str, str]:
        """For the announcement: `clock_offset_ms` (local minus signed) and `clock`: `ok`, `warning` (> 60 s), `stop` (> 5 min)."""
        offset = self.offset_us
        return {} if offset is None else {"clock_offset_ms": str(offset // 1000), "clock": judged(offset)}

    async def run(self) -> None:
        """For ever: says when the judgement changes, writes the newest moment down."""
        while True:
            state = judged(self.offset_us)
            if state != self._state:
                level = logging.INFO if state == OK else logging.ERROR
                event(self._log, level, "clock.judged", before=self._state, after=state, offset_ms=(self.offset_us or 0) // 1000)
                self._state = state
            if self._unsaved and self._clock.monotonic_s() >= self._save_due_s:
                self._save_due_s, self._unsaved = self._clock.monotonic_s() + SAVE_INTERVAL_S, False
                await self._save()
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _save(self) -> None:
        moment = self.signed.moment
        if moment is None:
            return
        content = msgspec.json.encode(_Saved(self._boot, moment.signed_us, moment.monotonic_us))
        try:
            await asyncio.to_thread(durable.write_file, self._file, content)
        except OSError as error:  # a full disk: only a restart would miss it
            event(self._log, logging.ERROR, "clock.not_stored", reason=str(error))
