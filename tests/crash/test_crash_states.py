"""Thousands of crash states of a real disk under the real recorder: each opens, verifies and holds whatever was acknowledged (T34)."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash import machine, replay, write_log
from tests.crash.guest import Guest
from tests.crash.machine import Machine
from tests.depth import DEEP

pytestmark = pytest.mark.crash

RECORDINGS, STATES = (10, 10_000) if DEEP else (2, 1_000)
TURNS = 26
"""Some 350 acknowledgements, two days' erasures, and 700 flushes in half a minute."""


def recorded(guest: Guest, place: Path, name: str, turns: int, bug: str = "") -> tuple[Path, Path]:
    """(log of writes, disk before them) of one life of the guest."""
    disk, base, log = place / f"{name}.disk", place / f"{name}.base", place / f"{name}.writes"
    machine.new_disk(disk)
    shutil.copy(disk, base)
    running = Machine(guest, disk, f"--turns,{turns},--life,{replay.LIFE}" + (f",--bug,{bug}" if bug else ""), log)
    said = list(running.read())
    running.cut()
    assert any(line.startswith(b"DONE") for line in said), b"".join(said[-40:]).decode(errors="replace")
    disk.unlink()
    return log, base


@pytest.fixture(scope="module")
def recordings(guest: Guest, place: Path) -> list[tuple[Path, Path]]:
    with ThreadPoolExecutor(2) as two:
        return list(two.map(lambda number: recorded(guest, place, f"run{number}", TURNS), range(RECORDINGS)))


@pytest.mark.case("T34")
@pytest.mark.rule("I.4.XV")
def test_every_crash_state_opens_verifies_and_holds_what_was_acknowledged(recordings: list[tuple[Path, Path]]) -> None:
    broken = {}
    for seed, (log, base) in enumerate(recordings):
        writes = write_log.read(log)
        assert sum(len(write.acknowledged) for write in writes) > 250
        assert sum(write.is_flush for write in writes) > 400
        broken[log.name] = replay.judge_states(log, base, STATES, seed)

    assert {name: found[:5] for name, found in broken.items() if found} == {}


@pytest.mark.case("T34")
def test_a_state_without_what_was_synced_is_broken(recordings: list[tuple[Path, Path]]) -> None:
    """A disk that lies: it confirms flushes and keeps nothing since some earlier one."""
    log, base = recordings[0]
    writes = write_log.read(log)
    lying = [write_log.Write(w.offset, w.data, w.is_flush and n < len(writes) // 2, w.acknowledged) for n, w in enumerate(writes)]
    recording = write_log.Recording(base.read_bytes(), [*lying, write_log.Write(0, b"", is_flush=True)])
    last = len(recording.flushes) - 2
    state = write_log.State(recording.flushes[last], len(writes), "none", 1)

    (found,) = replay.judged_apart(recording, [(0, state)])

    assert any("is lost" in why for why in found.why)


@pytest.mark.case("T33, T34")
@pytest.mark.parametrize("bug", ["no-fsync", "acknowledge-before-append"])
def test_planted_bugs_are_found(guest: Guest, place: Path, bug: str) -> None:
    log, base = recorded(guest, place, bug, 8, bug)

    broken = replay.judge_states(log, base, 60, 1)

    assert any("lost" in why or "gone" in why or "does not" in why for each in broken for why in each.why)
