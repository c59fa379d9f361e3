"""What the trust agent remembers of the services it asks.

Part of the trust agent process; no I/O here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from appliance.clock import Clock
from appliance.errors import UnavailableError
from appliance.trust.wire import ServiceHealth

SERVICES_MAX = 64
"""Addresses in one configuration: approved CAs times responders, authorities, sources."""


class Generation:
    """A number that others wait for. It begins with the microsecond of the start, so that no number of an earlier life comes again, however
    soon the restart and however many advances before it."""

    def __init__(self, clock: Clock) -> None:
        self.value = 0
        self._next = clock.now_us()
        self._changed = asyncio.Event()

    def advance(self) -> None:
        self._next += 1
        self.value = self._next
        self._changed.set()
        self._changed = asyncio.Event()

    async def other_than(self, known: int, wait_s: float) -> None:
        """Returns when the value is not `known`, at the latest after `wait_s`."""
        if self.value != known or wait_s <= 0:
            return
        changed = self._changed
        try:
            async with asyncio.timeout(wait_s):
                await changed.wait()
        except TimeoutError:
            return


@dataclass(slots=True)
class _Seen:
    ok_us: int | None = None
    failed_us: int | None = None
    error: str = ""


class ServiceBook:
    """Last success and last failure of each service; counters by kind of error."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[tuple[str, str], _Seen] = {}
        self.counters: dict[str, int] = {}

    def succeeded(self, name: str, url: str) -> None:
        seen = self._of(name, url)
        seen.ok_us, seen.error = self._clock.now_us(), ""

    def failed(self, name: str, url: str, kind: str) -> None:
        seen = self._of(name, url)
        seen.failed_us, seen.error = self._clock.now_us(), kind
        self.count(kind)

    def is_failing(self, name: str, url: str) -> bool:
        """Whether the last attempt failed: such a service is asked last."""
        seen = self._seen.get((name, url))
        return seen is not None and seen.error != ""

    def count(self, kind: str) -> None:
        self.counters[kind] = self.counters.get(kind, 0) + 1

    def health(self) -> list[ServiceHealth]:
        return [ServiceHealth(name, url, s.ok_us, s.failed_us, s.error) for (name, url), s in self._seen.items()]

    def _of(self, name: str, url: str) -> _Seen:
        if (name, url) not in self._seen and len(self._seen) >= SERVICES_MAX:
            self._seen.pop(next(iter(self._seen)))
        return self._seen.setdefault((name, url), _Seen())


class TsaUnreachableError(UnavailableError):
    """No approved time-stamping authority gave a stamp that holds."""

    kind = "tsa.unreachable"
