"""The guest's power goes under load, again and again on one disk: it comes back each time, with whatever it had acknowledged (T33)."""

from __future__ import annotations

import logging
import multiprocessing
import random
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.crash import machine
from tests.crash.guest import Guest
from tests.crash.judge import Judge
from tests.crash.machine import Machine
from tests.crash.marks import Acknowledged
from tests.crash.replay import Mounts
from tests.depth import DEEP

pytestmark = pytest.mark.crash

CHAINS, CUTS = 2, (50 if DEEP else 5)
"""Machines side by side, and how often the power of each goes."""
LOAD_S = (0.5, 4.0)
UP_S_MAX = 120.0
"""A guest under emulation, on a machine that does other things too, that does not come up is broken."""


class Cut:
    """A machine's lives on one disk."""

    def __init__(self, guest: Guest, place: Path, name: str, bug: str = "") -> None:
        self._guest, self._bug, self._life = guest, bug, 0
        self._place = place / name
        self._place.mkdir()
        self._disk = self._place / "disk.img"
        machine.new_disk(self._disk)
        self.acknowledged: list[Acknowledged] = []

    def live(self, seconds: float) -> None:
        """Boots, opens what is there, works so long, and is cut off."""
        self._life += 1
        running = Machine(self._guest, self._disk, f"--life,{self._life}" + (f",--bug,{self._bug}" if self._bug else ""))
        ended = threading.Timer(UP_S_MAX, running.process.kill)
        ended.start()
        is_open = False
        for line in running.read():
            if line.startswith(b"OPENED"):
                is_open = True
            if is_open and line.startswith(b"ACK"):
                ended.cancel()
                ended = threading.Timer(seconds, running.process.kill)
                ended.start()
                is_open = False
        ended.cancel()
        running.cut()
        told = running.acknowledged()
        assert told, "not up again: " + b"".join(running.lines[-40:]).decode(errors="replace")
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


def lives(cut: Cut, seconds: Sequence[float]) -> tuple[int, list[str]]:
    found: list[str] = []
    for number, each in enumerate(seconds, start=1):
        cut.live(each)
        found += [f"after cut {number}: {why}" for why in cut.broken()]
    return len(cut.acknowledged), found


@pytest.mark.case("T33")
@pytest.mark.rule("I.4.XV")
def test_the_power_goes_again_and_again_and_nothing_acknowledged_is_lost(guest: Guest, place: Path) -> None:
    chance = random.Random(33)  # noqa: S311  not for secrets
    moments = [[chance.uniform(*LOAD_S) for _ in range(CUTS)] for _ in range(CHAINS)]
    cuts = [Cut(guest, place, f"chain{number}") for number in range(CHAINS)]

    with ThreadPoolExecutor(CHAINS) as together:
        results = list(together.map(lives, cuts, moments))

    assert [broken[:5] for _, broken in results if broken] == []
    assert sum(told for told, _ in results) > 20 * CHAINS * CUTS


@pytest.mark.case("T33")
def test_without_fsync_the_same_cut_loses_messages(guest: Guest, place: Path) -> None:
    cut = Cut(guest, place, "control", "no-fsync")
    cut.live(3.0)

    assert cut.broken()
