"""What waits for the broker, and what is dropped first when it is away: reports yes, incidents never.

Pure. Events in, effects out; `health.outbox_files` keeps the entries. Bounds (reliability T41): 1,000 reports, the oldest dropped
and counted (8 hours at one in 30 s); 10,000 incidents, the next one refused so that its reporter knows; 20 messages unacknowledged
at once.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import assert_never

from appliance.errors import UnavailableError

REPORTS_MAX = 1000
INCIDENTS_MAX = 10_000
IN_FLIGHT_MAX = 20
REPORT, INCIDENT = "report", "incident"


class OutboxFullError(UnavailableError):
    """10,000 incidents wait: the new one is not taken."""

    kind = "outbox.full"


@dataclass(frozen=True, slots=True)
class Entry:
    """`number` rises for ever and is never used twice, so that CEIQROO knows a repeated incident."""

    number: int
    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Queued:
    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class LinkUp:
    pass


@dataclass(frozen=True, slots=True)
class LinkDown:
    """Everything unacknowledged is published again after the next LinkUp."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    number: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Make the entry durable before anything else happens with it."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Forget:
    entry: Entry


@dataclass(frozen=True, slots=True)
class Publish:
    entry: Entry


Event = Queued | LinkUp | LinkDown | Acknowledged
Effect = Keep | Forget | Publish


class Outbox:
    """Invariants: an incident that was kept is published until acknowledged; at most IN_FLIGHT_MAX are unacknowledged; order is by
    number, incidents before reports."""

    def __init__(self, kept: list[Entry], reports_max: int = REPORTS_MAX, incidents_max: int = INCIDENTS_MAX) -> None:
        self._limits = {REPORT: reports_max, INCIDENT: incidents_max}
        self._waiting: dict[str, OrderedDict[int, Entry]] = {INCIDENT: OrderedDict(), REPORT: OrderedDict()}
        for entry in sorted(kept, key=lambda entry: entry.number):
            self._waiting[entry.kind][entry.number] = entry
        self._next = max((entry.number for entry in kept), default=0) + 1
        self._in_flight: set[int] = set()
        self._up = False
        self.dropped = 0
        """Reports dropped since start; told in every report."""

    def start_at(self, number: int) -> None:
        """Numbers from here on: the start-up gives one above every number used before, also by entries already forgotten."""
        self._next = max(self._next, number)

    @property
    def reports(self) -> int:
        return len(self._waiting[REPORT])

    @property
    def incidents(self) -> int:
        return len(self._waiting[INCIDENT])

    def handle(self, event: Event) -> list[Effect]:
        """Raises OutboxFullError for an incident too many."""
        match event:
            case Queued():
                return [*self._keep(event), *self._publish()]
            case LinkUp():
                self._up = True
                return self._publish()
            case LinkDown():
                self._up = False
                self._in_flight.clear()
                return []
            case Acknowledged():
                return [*self._forget(event.number), *self._publish()]
            case _:
                assert_never(event)

    def _keep(self, event: Queued) -> list[Effect]:
        waiting, effects = self._waiting[event.kind], list[Effect]()
        if len(waiting) >= self._limits[event.kind]:
            if event.kind == INCIDENT:
                raise OutboxFullError(f"{len(waiting)} incidents wait for the broker")
            _, oldest = waiting.popitem(last=False)
            self._in_flight.discard(oldest.number)
            self.dropped += 1
            effects.append(Forget(oldest))
        entry = Entry(self._next, event.kind, event.content)
        self._next += 1
        waiting[entry.number] = entry
        return [*effects, Keep(entry)]

    def _publish(self) -> list[Effect]:
        if not self._up:
            return []
        effects: list[Effect] = []
        for waiting in self._waiting.values():
            for number, entry in waiting.items():
                if len(self._in_flight) >= IN_FLIGHT_MAX:
                    return effects
                if number not in self._in_flight:
                    self._in_flight.add(number)
                    effects.append(Publish(entry))
        return effects

    def _forget(self, number: int) -> list[Effect]:
        self._in_flight.discard(number)
        for waiting in self._waiting.values():
            entry = waiting.pop(number, None)
            if entry is not None:
                return [Forget(entry)]
        return []
