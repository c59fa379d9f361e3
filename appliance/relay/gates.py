"""How much a relay does at once: exchanges under way, and messages that are still arriving.

Two gates, because they are held by different people: an exchange is under way once its message is complete, and costs signatures and
records; a message that still arrives costs a connection and up to 64 KiB, and whoever sends it decides how long. One caller may hold a
quarter of the second gate, so that one silent or slow sender keeps nobody else out. Of the first gate half is for everybody; of the other
half nobody gets anything who has a quarter of the whole already, neither as the caller nor as the service that is asked: one that
answers slowly, or not at all, does not keep others from being served.
"""

from __future__ import annotations

from collections import Counter

from appliance.errors import UnavailableError
from appliance.relay.turns import Turns

RETRY_AFTER_S = 1.0


class BusyError(UnavailableError):
    """As much is under way as the settings allow."""

    kind = "relay.busy"


class Gates:
    """Shared by all listeners of one relay. Invariant: what was entered is left once, by `Passage.leave`."""

    def __init__(self, exchanges_max: int, turns: Turns | None = None) -> None:
        self._max, self._share = exchanges_max, max(1, exchanges_max // 4)
        self._turns = turns or Turns(lambda: False, lambda: 0.0)
        self.running = self.arriving = 0
        self._by_caller: Counter[str] = Counter()
        self._running_by: Counter[str] = Counter()

    async def arrive(self, caller: str) -> Passage:
        """A message begins to arrive, once it is its caller's turn. `caller`: an address. Raises BusyError."""
        if self.arriving >= self._max or self._by_caller[caller] >= self._share:
            raise BusyError("too many messages are arriving", retry_after_s=RETRY_AFTER_S)
        if not await self._turns.enter(caller):
            raise BusyError("others have their turn", retry_after_s=RETRY_AFTER_S)
        self.arriving += 1
        self._by_caller[caller] += 1
        return Passage(self, caller)

    def arrived(self, caller: str) -> None:
        self.arriving -= 1
        _less(self._by_caller, caller)

    def enter(self, caller: str, service: str) -> None:
        """The message is complete: the exchange goes on. Raises BusyError."""
        held = max(self._running_by[caller], self._running_by[service] if service else 0)
        if self.running >= self._max or (self.running >= self._max // 2 and held >= self._share):
            raise BusyError(f"{self.running} exchanges are under way, {held} of this caller or service", retry_after_s=RETRY_AFTER_S)
        self.running += 1
        self._running_by[caller] += 1
        self._running_by[service] += 1

    def left(self, caller: str, service: str) -> None:
        self.running -= 1
        _less(self._running_by, caller)
        _less(self._running_by, service)

    def gone(self, caller: str) -> None:
        self._turns.leave(caller)


class Passage:
    """One message's way through both gates."""

    __slots__ = ("_caller", "_gates", "_state", "service")

    def __init__(self, gates: Gates, caller: str) -> None:
        self._gates, self._caller, self._state = gates, caller, "arriving"
        self.service = ""
        """Who is asked, once that is known."""

    def complete(self) -> None:
        """From arriving to under way. Raises BusyError: then it is neither."""
        self._gates.arrived(self._caller)
        self._state = "between"
        self._gates.enter(self._caller, self.service)
        self._state = "running"

    def leave(self) -> None:
        if self._state == "arriving":
            self._gates.arrived(self._caller)
        elif self._state == "running":
            self._gates.left(self._caller, self.service)
        if self._state != "left":
            self._gates.gone(self._caller)
        self._state = "left"


def _less(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
