"""Restart, hold, tell: what happens when a process of the box ends.

Pure. Carried out by whoever starts processes (the laboratory's keeper, systemd units rendered from the same numbers). A killed process
must serve again within 3 s, so the first restart comes at once; one that cannot stay up is slowed down and in the end held, because a
process that dies in a loop hides what is wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

EXIT_SETTINGS = 78
"""EX_CONFIG: the settings are wrong; a restart cannot help."""
EXIT_CORRUPT = 70
"""A CorruptStateError reached the outermost loop: starting again would act on state that contradicts itself."""

EXIT_UNAVAILABLE = 75
"""EX_TEMPFAIL: what it needs is held or full; a later start may succeed, and is tried by itself."""
EXIT_RESTS = 79
"""Nothing to do for now: not started again until somebody calls one of its sockets. Of ours alone, beyond those of sysexits."""

KILLED = 9
"""SIGKILL."""

HELD_MARK = "held"
"""The starter leaves `<state>/run/<process>/held` with the reason, and removes it when a person starts the process again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartBudget:
    """All in seconds of monotonic time."""

    first_after_s: float = 0.1
    after_s_max: float = 30.0
    settled_s: float = 2.0
    """A run of this length was a working process: the next end starts from `first_after_s` again."""
    unsettled_max: int = 10
    """Runs in a row that did not settle."""
    ends_max: int = 300
    """Ends of any kind within `window_s`: one every 2 s is not an accident any more."""
    window_s: float = 600.0


@dataclass(frozen=True, slots=True)
class ProcessEnded:
    """`code`: exit status, negative for a signal, as subprocess gives it."""

    process: str
    code: int
    ran_s: float
    now_s: float


@dataclass(frozen=True, slots=True)
class Released:
    """A person has looked and wants the process started again."""

    process: str


@dataclass(frozen=True, slots=True)
class RestartAfter:
    process: str
    seconds: float


@dataclass(frozen=True, slots=True)
class StartWhenCalled:
    """It rests: the starter keeps its sockets and watches them."""

    process: str


@dataclass(frozen=True, slots=True)
class Hold:
    process: str
    reason: str


@dataclass(frozen=True, slots=True)
class RaiseIncident:
    """For CEIQROO: `kind` is `process.ended` or `process.held`."""

    process: str
    kind: str
    facts: dict[str, str]


Effect = RestartAfter | StartWhenCalled | Hold | RaiseIncident


@dataclass(slots=True)
class _History:
    unsettled: int = 0
    ends: deque[float] = field(default_factory=deque)
    held: bool = False


class RestartPolicy:
    """Decides for each process (name with instance) by itself. Invariant: a held process is never restarted until Released."""

    def __init__(self, budget: RestartBudget | None = None) -> None:
        self._budget = budget or RestartBudget()
        self._histories: dict[str, _History] = {}

    def handle(self, event: ProcessEnded | Released) -> list[Effect]:
        if isinstance(event, Released):
            self._histories.pop(event.process, None)
            return [RestartAfter(event.process, 0.0)]
        history = self._histories.setdefault(event.process, _History())
        if history.held:
            return []
        reason = self._reason_to_hold(event, history)
        facts = {"process": event.process, "code": str(event.code), "ran_s": f"{event.ran_s:.1f}"}
        if reason:
            history.held = True
            held = RaiseIncident(event.process, "process.held", facts | {"reason": reason})
            return [Hold(event.process, reason), held]
        if event.code == EXIT_RESTS:
            return [StartWhenCalled(event.process)]
        delay = self._budget.first_after_s * 2 ** max(0, history.unsettled - 1)
        ended = RaiseIncident(event.process, "process.ended", facts)
        return [RestartAfter(event.process, min(delay, self._budget.after_s_max)), ended]

    def _reason_to_hold(self, event: ProcessEnded, history: _History) -> str:
        budget = self._budget
        # Killed from outside (an operator, the kernel's memory limit) says little of the process itself: it comes back at once.
        sick = event.ran_s < budget.settled_s and event.code not in (-KILLED, EXIT_RESTS)
        history.unsettled = history.unsettled + 1 if sick else 0
        history.ends.append(event.now_s)
        while history.ends[0] < event.now_s - budget.window_s:
            history.ends.popleft()
        if event.code == EXIT_SETTINGS:
            return "settings"
        if event.code == EXIT_CORRUPT:
            return "corrupt_state"
        if history.unsettled > budget.unsettled_max:
            return "does_not_stay_up"
        return "ends_too_often" if len(history.ends) > budget.ends_max else ""
