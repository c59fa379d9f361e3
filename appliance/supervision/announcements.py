"""What the processes said of themselves, and who has fallen silent.

Pure; monotonic seconds are given in.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.errors import RefusedError
from appliance.supervision.wire import Announcement, ProcessStatus

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

    def __init__(self, expected: tuple[str, ...], silent_after_s: float, started_s: float) -> None:
        self._expected, self._silent_after_s, self._started_s = expected, silent_after_s, started_s
        self._heard: dict[tuple[str, int], _Heard] = {}

    def take(self, caller: str, announcement: Announcement, now_s: float) -> None:
        """Raises AnnouncementError: a process speaks for itself only."""
        if announcement.process != caller or not 0 <= announcement.instance < INSTANCES_MAX:
            raise AnnouncementError(f"{caller} announced as {announcement.process[:40]} {announcement.instance}")
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

    def facts_of(self, process: str, now_s: float) -> dict[str, str] | None:
        """The facts of a process that still speaks; None where it is silent."""
        heard = self._heard.get((process, 0))
        return None if heard is None or now_s - heard.at_s > self._silent_after_s else heard.announcement.facts

    def _status(self, heard: _Heard, now_s: float) -> ProcessStatus:
        said, age_s = heard.announcement, now_s - heard.at_s
        state = "silent" if age_s > self._silent_after_s else said.state
        return ProcessStatus(said.process, said.instance, said.pid, state, said.waits_for, age_s, said.counters, said.facts)
