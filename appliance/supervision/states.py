"""The states of a box, what they follow from, and which may follow which.

Pure. `derive` says what the facts ask for; `steps` leads there through allowed changes only. Advice is a list of catalogue keys, the most
urgent first: what a technician should do now.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum


class BoxState(StrEnum):
    """What the box can do for its information systems."""

    UNPROVISIONED = "UNPROVISIONED"
    """No certificates, no anchor: waiting for enrolment."""
    LOCKED = "LOCKED"
    """Enrolled, but the token does not sign: it needs a person, or the signer."""
    OPERATIONAL = "OPERATIONAL"
    AUTONOMOUS = "AUTONOMOUS"
    """Works on evidence at hand while a trust service is silent; a countdown runs."""
    SEALING_STOPPED = "SEALING_STOPPED"
    """The countdown has ended, or nothing may be trusted any more: no new seal."""
    SUSPENDED = "SUSPENDED"
    """By CEIQROO, reversible."""
    TERMINATED = "TERMINATED"
    """By CEIQROO, for good: only a new enrolment leads on."""
    HELD = "HELD"
    """A process contradicted itself or used up its restarts: a person must look."""


_EVERYDAY = frozenset({BoxState.LOCKED, BoxState.OPERATIONAL, BoxState.AUTONOMOUS, BoxState.SEALING_STOPPED})
_BY_OTHERS = frozenset({BoxState.SUSPENDED, BoxState.TERMINATED, BoxState.HELD})

ALLOWED: dict[BoxState, frozenset[BoxState]] = {
    # Work begins behind the lock: a box that was enrolled a moment ago has not signed anything yet.
    BoxState.UNPROVISIONED: _BY_OTHERS | {BoxState.LOCKED},
    BoxState.LOCKED: _BY_OTHERS | _EVERYDAY - {BoxState.LOCKED} | {BoxState.UNPROVISIONED},
    BoxState.OPERATIONAL: _BY_OTHERS | _EVERYDAY - {BoxState.OPERATIONAL} | {BoxState.UNPROVISIONED},
    BoxState.AUTONOMOUS: _BY_OTHERS | _EVERYDAY - {BoxState.AUTONOMOUS} | {BoxState.UNPROVISIONED},
    BoxState.SEALING_STOPPED: _BY_OTHERS | _EVERYDAY - {BoxState.SEALING_STOPPED} | {BoxState.UNPROVISIONED},
    BoxState.SUSPENDED: _BY_OTHERS - {BoxState.SUSPENDED} | {BoxState.LOCKED, BoxState.UNPROVISIONED},
    BoxState.HELD: _BY_OTHERS - {BoxState.HELD} | {BoxState.LOCKED, BoxState.UNPROVISIONED},
    BoxState.TERMINATED: frozenset({BoxState.UNPROVISIONED}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the supervisor knows at one moment. Times in microseconds of wall time; None: not known."""

    now_us: int
    enrolled: bool
    token: str | None = None
    """State of the token as the signer tells it; None: the signer is silent."""
    sealing_ends_us: int | None = None
    configuration_expires_us: int | None = None
    silent_services: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    silent_processes: tuple[str, ...] = ()
    waiting_processes: tuple[str, ...] = ()
    log_full: bool = False
    clock: str = ""
    """Our clock against signed time: `ok`, `warning` (> 60 s), `stop` (> 5 min, T40); empty: nothing to compare with yet."""
    local_fell_back: bool = False
    suspended: bool = False
    terminated: bool = False
    unregistered: bool = False
    """The global configuration in force does not name this box."""
    stamps_ended: bool = False
    """Every time-stamping authority is silent, and the grace for messages without a stamp is over."""
    certificates_end_us: int | None = None
    notices_waiting: bool = False


_TOKEN_ADVICE = {
    None: "advice.signer_away",
    "absent": "advice.token_absent",
    "locked": "advice.unlock",
    "pin_rejected": "advice.pin_rejected",
    "pin_locked": "advice.pin_locked",
    "uninitialised": "advice.token_uninitialised",
}

ADVICE = (
    "advice.terminated",
    "advice.held",
    "advice.suspended",
    "advice.not_registered",
    "advice.enrol",
    *_TOKEN_ADVICE.values(),
    "advice.token_unknown",
    "advice.log_full",
    "advice.configuration_missing",
    "advice.configuration_expired",
    "advice.evidence_missing",
    "advice.evidence_ended",
    "advice.stamps_ended",
    "advice.certificates_ended",
    "advice.clock_stopped",
    "advice.clock_off",
    "advice.centre_silent",
    "advice.process_silent",
    "advice.process_waiting",
    "advice.local_fell_back",
    "advice.notices_waiting",
)
"""Every key that `derive` gives."""


def derive(facts: Facts) -> tuple[BoxState, list[str]]:
    """The state that the facts ask for, and what to do about it."""
    advice: list[str] = []
    state = _state(facts, advice)
    unprovisioned = state is BoxState.UNPROVISIONED
    extra = {
        "advice.log_full": facts.log_full,
        "advice.clock_off": facts.clock == "warning",
        "advice.centre_silent": bool(facts.silent_services) and not unprovisioned,
        "advice.process_silent": bool(facts.silent_processes),
        "advice.process_waiting": bool(facts.waiting_processes) and not unprovisioned,
        "advice.local_fell_back": facts.local_fell_back,
        "advice.notices_waiting": facts.notices_waiting,
    }
    return state, advice + [key for key, true in extra.items() if true and key not in advice]


def _state(facts: Facts, advice: list[str]) -> BoxState:
    if facts.terminated:
        advice.append("advice.terminated")
        return BoxState.TERMINATED
    if facts.held:
        advice.append("advice.held")
        return BoxState.HELD
    if facts.suspended:
        advice.append("advice.suspended")
        return BoxState.SUSPENDED
    if not facts.enrolled:
        advice.append("advice.enrol")
        return BoxState.UNPROVISIONED
    if facts.unregistered:  # nobody in the network believes its seals: the same as a suspension, whatever CEIQROO's reason
        advice.append("advice.not_registered")
        return BoxState.SUSPENDED
    if facts.token != "ready":  # noqa: S105  a state, not a secret
        advice.append(_TOKEN_ADVICE.get(facts.token, "advice.token_unknown"))
        return BoxState.LOCKED
    advice += _sealing_obstacles(facts)
    if advice:
        return BoxState.SEALING_STOPPED
    return BoxState.AUTONOMOUS if facts.silent_services else BoxState.OPERATIONAL


def _sealing_obstacles(facts: Facts) -> list[str]:
    """What forbids exchanges: a full log, no valid configuration, no OCSP response that a stamp could still stand beside (IV.3.V), a
    certificate that has run out, no stamps and no grace (IV.3.VI), a clock that cannot be right."""
    found = ["advice.log_full"] if facts.log_full else []
    for ends, missing, ended in (
        (facts.configuration_expires_us, "advice.configuration_missing", "advice.configuration_expired"),
        (facts.sealing_ends_us, "advice.evidence_missing", "advice.evidence_ended"),
    ):
        if ends is None:
            found.append(missing)
        elif ends <= facts.now_us:
            found.append(ended)
    if facts.certificates_end_us is not None and facts.certificates_end_us <= facts.now_us:
        found.append("advice.certificates_ended")
    return found + ["advice.stamps_ended"] * facts.stamps_ended + ["advice.clock_stopped"] * (facts.clock == "stop")


def steps(current: BoxState, wanted: BoxState) -> list[BoxState]:
    """The shortest allowed way from the current state to the wanted one, without the current; every state reaches every other."""
    ways: dict[BoxState, list[BoxState]] = {current: []}
    waiting = deque([current])
    while wanted not in ways:
        at = waiting.popleft()
        for following in sorted(ALLOWED[at] - ways.keys()):
            ways[following] = [*ways[at], following]
            waiting.append(following)
    return ways[wanted]
