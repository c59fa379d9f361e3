"""What the processes said of themselves, and who has fallen silent.

Pure; monotonic seconds are given in.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import RefusedError
from appliance.supervision.wire import RESTING, Announcement, ProcessStatus

INSTANCES_MAX = 16
"""As many relays as the settings allow."""
ENTRIES_MAX = 256
"""Counters, facts and names of one announcement: every error kind of the box is below 150."""
CHARACTERS_MAX = 400


class AnnouncementError(RefusedError):
    """An announcement that does not belong to its channel, or is larger than one can be."""

    kind = "announcement.refused"


@dataclass(frozen=True, slots=True)
class _Heard:
    announcement: Announcement
    at_s: float


class Announcements:
    """The last word of each process instance. Invariant: at most INSTANCES_MAX entries a process, each of bounded size."""

    def __init__(self, expected: tuple[str, ...], silent_after_s: float, started_s: float, may_rest: frozenset[str] = frozenset()) -> None:
        self._expected, self._silent_after_s, self._started_s, self._may_rest = expected, silent_after_s, started_s, may_rest
        self._heard: dict[tuple[str, int], _Heard] = {}

    def take(self, caller: str, announcement: Announcement, now_s: float) -> None:
        """Raises AnnouncementError: a process speaks for itself only."""
        if announcement.process != caller or not 0 <= announcement.instance < INSTANCES_MAX:
            raise AnnouncementError(f"{caller} announced as {announcement.process[:40]} {announcement.instance}")
        if announcement.state == RESTING and caller not in self._may_rest:
            raise AnnouncementError(f"{caller} does not rest")
        words = [*announcement.waits_for, *announcement.counters, *announcement.facts, *announcement.facts.values()]
        if len(words) > 4 * ENTRIES_MAX or any(len(word) > CHARACTERS_MAX for word in words):
            raise AnnouncementError(f"announcement of {caller} with {len(words)} words")
        self._heard[caller, announcement.instance] = _Heard(announcement, now_s)

    def statuses(self, now_s: float) -> list[ProcessStatus]:
        """One line a process instance, in a fixed order. A process never heard of is silent once it had time to start."""
        found = [self._status(heard, now_s) for _, heard in sorted(self._heard.items())]
        known = {process for process, _ in self._heard}
        if now_s - self._started_s > self._silent_after_s:
            missing = (process for process in self._expected if process not in known)
            found += [ProcessStatus(name, 0, 0, "silent", [], now_s - self._started_s, {}, {}) for name in missing]
        return found

    def without_word(self, now_s: float) -> set[str]:
        """Processes that may rest, and of which it is not known whether they do: their silence would say nothing."""
        return {name for name in self._may_rest if (heard := self._heard.get((name, 0))) is None or self._state(heard, now_s) == "silent"}

    def facts_of(self, process: str, now_s: float) -> dict[str, str] | None:
        """The facts of a process that still speaks; None where it is silent."""
        heard = self._heard.get((process, 0))
        return None if heard is None or now_s - heard.at_s > self._silent_after_s else heard.announcement.facts

    def _status(self, heard: _Heard, now_s: float) -> ProcessStatus:
        said, age_s = heard.announcement, now_s - heard.at_s
        pid = 0 if said.state == RESTING else said.pid
        return ProcessStatus(said.process, said.instance, pid, self._state(heard, now_s), said.waits_for, age_s, said.counters, said.facts)

    def _state(self, heard: _Heard, now_s: float) -> str:
        """What rests has said its last word; it does not grow old."""
        said = heard.announcement.state
        return "silent" if said != RESTING and now_s - heard.at_s > self._silent_after_s else said
