"""What happens in one run, from its seed alone: who has which right, who asks what, and what breaks when.

Pure. Everything that breaks heals at `heal_s` at the latest; then everybody asks again, and must be served within `PROGRESS_S` (I5).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PROGRESS_S = 60.0
"""I5."""
CODES = ("1001", "2002", "3003")
SERVICES = ("open", "closed")
PROCESSES = ("recorder", "relay", "signer", "trust_agent", "supervisor")
H = 3600.0

KILL, POWER, SYNC_FAILS, DISK_FULL, DISK_SLOW = "kill", "power", "sync_fails", "disk_full", "disk_slow"
HOLD, CUT, SLOW, TAMPER, REPLAY = "hold", "cut", "slow", "tamper", "replay"
CLOCK, LEAP = "clock", "leap"
TOKEN_SLOW, TOKEN_GONE, TOKEN_WRONG = "token_slow", "token_gone", "token_wrong"
OCSP, OCSP_OLD, TSA, TSA_CLOCK, CONFIGURATION, SYSTEM = "ocsp", "ocsp_old", "tsa", "tsa_clock", "configuration", "system"
RIGHT_GONE, SUSPENDED = "right_gone", "suspended"

KINDS: dict[str, int] = {
    KILL: 6,
    POWER: 5,
    SYNC_FAILS: 2,
    DISK_FULL: 1,
    DISK_SLOW: 2,
    HOLD: 3,
    CUT: 4,
    SLOW: 2,
    TAMPER: 3,
    CLOCK: 3,
    LEAP: 2,
    TOKEN_SLOW: 2,
    TOKEN_GONE: 2,
    TOKEN_WRONG: 2,
    OCSP: 2,
    OCSP_OLD: 2,
    TSA: 4,
    TSA_CLOCK: 2,
    CONFIGURATION: 2,
    SYSTEM: 2,
    RIGHT_GONE: 2,
    SUSPENDED: 3,
}
"""Kind -> weight."""
OUTAGES = 0.2
"""Of all runs have a service that is silent for hours."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`amount`: seconds, hours or bytes, by the kind. `target`: a box, a link (`a b`), a process (`box process`), or nothing."""

    at_s: float
    until_s: float
    kind: str
    target: str
    amount: float


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of an information system."""

    number: int
    at_s: float
    asker: str
    provider: str
    service: str
    body_bytes: int


@dataclass(frozen=True, slots=True)
class Scenario:
    seed: int
    boxes: tuple[str, ...]
    grace_s: int
    rights: frozenset[tuple[str, str, str]]
    """(asker, provider, service) that are served, while nobody takes them away."""
    asks: tuple[Ask, ...]
    faults: tuple[Fault, ...]
    heal_s: float
    warm_s: float
    """Until then nothing breaks, and everybody may start."""


def scenario(seed: int) -> Scenario:
    """The run of this seed."""
    chance = random.Random(f"scenario {seed}")  # noqa: S311  a simulation's dice
    boxes = CODES[: chance.choice((2, 2, 2, 3))]
    pairs = [(one, other) for one in boxes for other in boxes if one != other]
    rights = {(one, other, "open") for one, other in pairs if chance.random() < 0.8} | {(boxes[0], boxes[1], "open")}
    warm_s, length_s = 5.0, chance.choice((15.0, 30.0, 60.0))
    heal_s = warm_s + length_s
    asks = tuple(_ask(chance, number, chance.choice(pairs), chance.uniform(warm_s, heal_s)) for number in range(chance.randint(6, 18)))
    faults = tuple(_fault(chance, boxes, sorted(rights), warm_s, heal_s) for _ in range(chance.choice((0, 1, 2, 2, 3, 4, 6))))
    if chance.random() < OUTAGES:
        faults += _outage(chance, warm_s, heal_s)
    return Scenario(seed, boxes, chance.choice((0, 3600, 4 * 3600)), frozenset(rights), asks, faults, heal_s, warm_s)


def _outage(chance: random.Random, warm_s: float, heal_s: float) -> tuple[Fault, ...]:
    """A service that is silent for hours: what the eight-hour rule is about. The hours are leapt over."""
    at_s = chance.uniform(warm_s, heal_s - 8.0)
    silent = Fault(at_s, min(heal_s, at_s + 12.0), chance.choice((TSA, TSA, OCSP)), "silent", 0.0)
    hours = chance.choice((3.0, 7.9, 8.1, 9.0, 20.0))
    return silent, Fault(at_s + chance.uniform(1.0, 4.0), at_s + 5.0, LEAP, "", hours * H)


def _ask(chance: random.Random, number: int, pair: tuple[str, str], at_s: float) -> Ask:
    service = "closed" if chance.random() < 0.15 else "open"
    size = chance.choice((0, 20, 700, 700, 9_000, 9_000, 80_000))
    return Ask(number, at_s, *pair, service, size)


def _fault(chance: random.Random, boxes: tuple[str, ...], rights: list[tuple[str, str, str]], warm_s: float, heal_s: float) -> Fault:
    kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
    at_s = chance.uniform(warm_s, heal_s - 2.0)
    until_s = min(heal_s, at_s + chance.choice((0.3, 2.0, 6.0, 15.0, 60.0)))
    box = chance.choice(boxes)
    target, amount = box, 0.0
    match kind:
        case "kill":
            target = f"{box} {chance.choice(PROCESSES)}"
        case "sync_fails":
            amount = 1.0
        case "disk_slow":
            amount = chance.choice((0.1, 1.0, 8.0))
        case "disk_full":
            amount = float(chance.choice((0, 4096, 40_000)))
        case "hold" | "cut" | "slow" | "tamper":
            target = " ".join(chance.sample(boxes, 2))
            amount = chance.choice((0.5, 3.0, 20.0))
        case "clock":
            amount = chance.choice((-9 * H, -H, -200.0, -40.0, 40.0, 200.0, 400.0, H, 9 * H))
        case "leap":
            target, amount = "", chance.choice((600.0, H, 4 * H, 7.9 * H, 9 * H, 30 * H))
        case "token_slow":
            amount = chance.choice((0.1, 0.6, 4.0, 12.0))
        case "ocsp" | "tsa" | "configuration":
            target, amount = chance.choice(("silent", "down", "refuses")), 0.0
        case "ocsp_old":
            target, amount = "", chance.choice((H, 7.9 * H, 7.995 * H, 8.1 * H))
        case "tsa_clock":
            target, amount = "", chance.choice((-9 * H, -400.0, 30.0, 400.0, 9 * H, 20 * H))
        case "system":
            amount = chance.choice((0.0, 5.0, 70.0))
        case "right_gone":
            target = " ".join(chance.choice(rights))
    return Fault(at_s, until_s, kind, target, amount)
