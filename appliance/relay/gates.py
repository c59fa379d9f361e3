"""How much a relay does at once: exchanges under way, and messages that are still arriving.

Two gates, because they are held by different people: an exchange is under way once its message is complete, and costs signatures and
records; a message that still arrives costs a connection and up to 64 KiB, and whoever sends it decides how long. One address may hold a
quarter of the second gate, so that one silent or slow sender keeps nobody else out.
"""

from __future__ import annotations

from collections import Counter

from appliance.errors import UnavailableError

RETRY_AFTER_S = 1.0


class BusyError(UnavailableError):
    """As much is under way as the settings allow."""

    kind = "relay.busy"


class Gates:
    """Shared by all listeners of one relay. Invariant: what was entered is left once, by `Passage.leave`."""

    def __init__(self, exchanges_max: int) -> None:
        self._max, self._address_max = exchanges_max, max(1, exchanges_max // 4)
        self.running = self.arriving = 0
        self._by_address: Counter[str] = Counter()

    def arrive(self, address: str) -> Passage:
        """A message begins to arrive. Raises BusyError."""
        if self.arriving >= self._max or self._by_address[address] >= self._address_max:
            raise BusyError("too many messages are arriving", retry_after_s=RETRY_AFTER_S)
        self.arriving += 1
        self._by_address[address] += 1
        return Passage(self, address)

    def arrived(self, address: str) -> None:
        self.arriving -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]

    def enter(self) -> None:
        """The message is complete: the exchange goes on. Raises BusyError."""
        if self.running >= self._max:
            raise BusyError(f"{self._max} exchanges are under way", retry_after_s=RETRY_AFTER_S)
        self.running += 1


class Passage:
    """One message's way through both gates."""

    __slots__ = ("_address", "_gates", "_state")

    def __init__(self, gates: Gates, address: str) -> None:
        self._gates, self._address, self._state = gates, address, "arriving"

    def complete(self) -> None:
        """From arriving to under way. Raises BusyError: then it is neither."""
        self._gates.arrived(self._address)
        self._state = "left"
        self._gates.enter()
        self._state = "running"

    def leave(self) -> None:
        if self._state == "arriving":
            self._gates.arrived(self._address)
        elif self._state == "running":
            self._gates.running -= 1
        self._state = "left"
