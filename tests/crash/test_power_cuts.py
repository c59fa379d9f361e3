"""The guest's power goes under load, again and again on one disk: it comes back each time, with whatever it had acknowledged (T33)."""

from __future__ import annotations

import logging
import multiprocessing
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash import machine
from tests.crash.able import EXIT_NOT_HERE
from tests.crash.guest import Guest
from tests.crash.judge import Judge
from tests.crash.machine import Machine
from tests.crash.marks import Acknowledged
from tests.crash.replay import Mounts
from tests.depth import DEEP

pytestmark = pytest.mark.crash

CHAINS, CUTS = 2, (50 if DEEP else 5)
"""Machines side by side, and how often the power of each goes."""
LOAD = (20, 80)
"""Acknowledgements in each life before the power goes: by what was done, so that a slow machine's lives are as full as a fast one's."""
AFTER_S_MAX = 0.3
"""The cut comes within this much after the last of them: between two acknowledgements as well."""
LIFE_S_MAX = 300.0
"""A life takes 15 to 60 s on two shared cores. One that takes longer is broken, or this machine is too slow to tell (SLOW)."""
SLOW = 3.0
"""A guest that hardly ran: so many seconds went by for each one that QEMU had of a CPU."""


class Cut:
    """A machine's lives on one disk."""

    def __init__(self, guest: Guest, place: Path, name: str, bug: str = "") -> None:
        self._guest, self._bug, self._life = guest, bug, 0
        self._place = place / name
        self._place.mkdir()
        self._disk = self._place / "disk.img"
        machine.new_disk(self._disk)
        self.acknowledged: list[Acknowledged] = []

    def live(self, count: int, after_s: float) -> None:
        """Boots, opens what is there, acknowledges `count` times, and is cut off so much later."""
        self._life += 1
        began_s = time.monotonic()
        running = Machine(self._guest, self._disk, f"--life,{self._life}" + (f",--bug,{self._bug}" if self._bug else ""))
        ending = threading.Timer(LIFE_S_MAX, running.process.kill)
        ending.start()
        left = count
        for line in running.read():
            left -= line.startswith(b"ACK")
            if left == 0 and line.startswith(b"ACK"):
                ending.cancel()
                ending = threading.Timer(after_s, running.process.kill)
                ending.start()
        ending.cancel()
        cpu_s = running.cut()
        told = running.acknowledged()
        if len(told) < count and (took_s := time.monotonic() - began_s) >= LIFE_S_MAX and took_s > SLOW * cpu_s:
            pytest.exit(f"this machine gave a guest {cpu_s:.0f} s of a CPU in {took_s:.0f} s: too slow to judge", EXIT_NOT_HERE)
        assert len(told) >= count, f"{len(told)} of {count} acknowledgements: " + b"".join(running.lines[-40:]).decode(errors="replace")
        self.acknowledged += told

    def broken(self) -> list[str]:
        """Of a copy: the next life finds the disk as the cut left it. In a process of its own, as every judgement."""
        with multiprocessing.get_context("spawn").Pool(1) as one:
            return one.apply(judged, (self._disk, self._place, self._life + 1, self.acknowledged))


def judged(disk: Path, place: Path, life: int, acknowledged: Sequence[Acknowledged]) -> list[str]:
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=place) as passing:
        mounts = Mounts(Path(passing))
        content = disk.read_bytes()
        mounts.write(content, [], [(0, len(content))])
        with mounts.mounted() as directory:
            return Judge(life).broken(directory / "log", acknowledged)


def lives(cut: Cut, moments: Sequence[tuple[int, float]]) -> tuple[int, list[str]]:
    found: list[str] = []
    for number, (count, after_s) in enumerate(moments, start=1):
        cut.live(count, after_s)
        found += [f"after cut {number}: {why}" for why in cut.broken()]
    return len(cut.acknowledged), found


@pytest.mark.case("T33")
@pytest.mark.rule("I.4.XV")
def test_the_power_goes_again_and_again_and_nothing_acknowledged_is_lost(guest: Guest, place: Path) -> None:
    chance = random.Random(33)  # noqa: S311  not for secrets
    moments = [[(chance.randint(*LOAD), chance.uniform(0, AFTER_S_MAX)) for _ in range(CUTS)] for _ in range(CHAINS)]
    cuts = [Cut(guest, place, f"chain{number}") for number in range(CHAINS)]

    with ThreadPoolExecutor(CHAINS) as together:
        results = list(together.map(lives, cuts, moments))

    assert [broken[:5] for _, broken in results if broken] == []
    assert sum(told for told, _ in results) >= LOAD[0] * CHAINS * CUTS


@pytest.mark.case("T33")
def test_without_fsync_the_same_cut_loses_messages(guest: Guest, place: Path) -> None:
    cut = Cut(guest, place, "control", "no-fsync")
    cut.live(60, AFTER_S_MAX)

    assert cut.broken()
