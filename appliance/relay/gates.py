"""How much a relay does at once: exchanges under way, messages that are still arriving, and the bytes of both that lie in memory.

Two gates, because they are held by different people: an exchange is under way once its message is complete, and costs signatures and
records; a message that still arrives costs a connection, and whoever sends it decides how long. One caller may hold a quarter of the
second gate, so that one silent or slow sender keeps nobody else out. Of the first gate a service may have as much as it leaves free, a
caller CALLER_TIMES as much: one that answers slowly, or not at all, does not keep others from being served, and two or three of them
do not either, because each leaves less to itself. A caller has more, because to the provider a whole box is one: what its own gate let
through behind three services that hang must leave it room here for a fourth. What is read of messages and answers and lies in memory
until the exchange ends (SOAP parts, heads, seals; of bodies 64 KiB at most) is counted besides: 250 SOAP parts that never end were
270 MiB.
"""

from __future__ import annotations

from collections import Counter
from contextvars import ContextVar

from appliance.errors import UnavailableError
from appliance.relay.turns import Turns

RETRY_AFTER_S = 1.0
CALLER_TIMES = 8
"""Three services that hang one after the other hold seven eighths of one box and of what it asks of another; a caller has eight ninths."""
HELD_BYTES_MAX = 32 << 20
"""Of all exchanges together; one caller may have half of it. A complete message lies in memory three times at worst (read, in the
recorder's frame, on its way out), which with an idle relay's 60 MiB stays below its 200. A usual message holds 10 KiB.
"""


class BusyError(UnavailableError):
    """As much is under way as the settings allow."""

    kind = "relay.busy"


class Gates:
    """Shared by all listeners of one relay. Invariant: what was entered or held is left once, by `Passage.leave`."""

    def __init__(self, exchanges_max: int, turns: Turns | None = None, held_bytes_max: int = HELD_BYTES_MAX) -> None:
        self._max, self._share = exchanges_max, max(1, exchanges_max // 4)
        self._turns = turns or Turns(lambda: False, lambda: 0.0)
        self.running = self.arriving = self.held_bytes = 0
        self._held_max = held_bytes_max
        self._held_by: Counter[str] = Counter()
        self._by_caller: Counter[str] = Counter()
        self._running_by: Counter[str] = Counter()

    async def arrive(self, caller: str) -> Passage:
        """A message begins to arrive, once it is its caller's turn. `caller`: an address. Raises BusyError."""
        self._check_room(caller)
        if not await self._turns.enter(caller):
            raise BusyError("others have their turn", retry_after_s=RETRY_AFTER_S)
        try:
            self._check_room(caller)  # those who waited come all at once when the pressure ends
        except BusyError:
            self._turns.leave(caller)
            raise
        self.arriving += 1
        self._by_caller[caller] += 1
        passage = Passage(self, caller)
        _current.set(passage)
        return passage

    def _check_room(self, caller: str) -> None:
        if self.arriving >= self._max or self._by_caller[caller] >= self._share:
            raise BusyError("too many messages are arriving", retry_after_s=RETRY_AFTER_S)

    def arrived(self, caller: str) -> None:
        self.arriving -= 1
        _less(self._by_caller, caller)

    def enter(self, caller: str, service: str) -> None:
        """The message is complete: the exchange goes on. Raises BusyError."""
        free, of_caller, of_service = self._max - self.running, self._running_by[caller], self._running_by[service] if service else 0
        if of_service >= free or of_caller >= CALLER_TIMES * free:
            held = f"{of_caller} of this caller, {of_service} of this service"
            raise BusyError(f"{self.running} exchanges are under way, {held}", retry_after_s=RETRY_AFTER_S)
        self.running += 1
        self._running_by[caller] += 1
        self._running_by[service] += 1

    def left(self, caller: str, service: str) -> None:
        self.running -= 1
        _less(self._running_by, caller)
        _less(self._running_by, service)

    def hold(self, caller: str, size: int) -> None:
        """So many bytes more lie in memory for this caller. Raises BusyError."""
        if self.held_bytes + size > self._held_max or self._held_by[caller] + size > self._held_max // 2:
            raise BusyError("too much of messages lies in memory", retry_after_s=RETRY_AFTER_S)
        self.held_bytes += size
        self._held_by[caller] += size

    def gone(self, caller: str, held: int) -> None:
        self.held_bytes -= held
        _less(self._held_by, caller, held)
        self._turns.leave(caller)


class Passage:
    """One message's way through both gates."""

    __slots__ = ("_caller", "_gates", "_held", "_state", "service")

    def __init__(self, gates: Gates, caller: str) -> None:
        self._gates, self._caller, self._state = gates, caller, "arriving"
        self._held = 0
        self.service = ""
        """Who is asked, once that is known."""

    def hold(self, size: int) -> None:
        """Raises BusyError; then nothing of it is counted."""
        if self._state == "left":
            return
        self._gates.hold(self._caller, size)
        self._held += size

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
            self._gates.gone(self._caller, self._held)
        self._state = "left"


_current: ContextVar[Passage | None] = ContextVar("passage", default=None)
"""Of the message that a task serves: readers of requests and of answers count into it, the ports of `exchange` need not know."""


def hold(size: int) -> None:
    """Bytes of an answer that stay in memory until the exchange under way ends. Raises BusyError, without a moment to try again: whoever
    was asked has done what the message says."""
    passage = _current.get()
    if passage is None:
        return
    try:
        passage.hold(size)
    except BusyError as error:
        raise BusyError(str(error)) from None


def _less(counter: Counter[str], name: str, by: int = 1) -> None:
    counter[name] -= by
    if not counter[name]:
        del counter[name]
