"""The laboratory's keeper: what a unit is given before its program begins."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from appliance.clock import SystemClock
from provisioning.lab import layout
from provisioning.lab.keeper import Keeper, Plan, Unit


def test_a_unit_s_log_is_for_its_owner_alone_and_the_unit_still_writes_it(tmp_path: Path) -> None:
    fresh, old = tmp_path / "fresh.log", tmp_path / "old.log"
    old.write_text("older\n")
    old.chmod(0o644)

    async def scene() -> None:
        command = ["/bin/sh", "-c", "echo written; exec sleep 60"]
        units = [Unit(name=log.stem, argv=command, log=str(log)) for log in (fresh, old)]
        keeper = Keeper(Plan(units), SystemClock())
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, keeper.reap)
        keeper.start()
        async with asyncio.timeout(10):
            while not all(log.exists() and "written" in log.read_text() for log in (fresh, old)):
                await asyncio.sleep(0.02)
            await keeper.stop()

    asyncio.run(scene())
    assert [log.stat().st_mode & 0o777 for log in (fresh, old)] == [0o600, 0o600]


def test_the_journal_of_a_box_is_closed_to_others(tmp_path: Path) -> None:
    box = layout.boxes(tmp_path, "127.9.9", 1, separate=False)[0]
    layout.make_state(box)
    assert (box.state / "journal").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("wanted", "given"), [(64, "64 64"), (1 << 40, "100 100")])
def test_a_unit_gets_as_many_descriptors_as_the_machine_allows(wanted: int, given: str) -> None:
    script = f"""
import resource
from provisioning.lab.keeper import _limit_descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
_limit_descriptors({wanted})
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == given


def test_a_held_unit_stays_away_until_it_is_released(tmp_path: Path) -> None:
    async def scene() -> None:
        keeper = Keeper(Plan([Unit(name="one", argv=["/bin/sleep", "60"], log=str(tmp_path / "one.log"))]), SystemClock())
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, keeper.reap)
        keeper.start()
        async with asyncio.timeout(10):
            await keeper.hold("one")
            await asyncio.sleep(0.5)  # longer than a restart takes
            assert keeper.status()["one"] == {"pid": 0, "restarts": 0, "held": False}
            keeper.release("one")
            assert keeper.status()["one"]["pid"]
            await keeper.stop()

    asyncio.run(scene())


def test_what_a_unit_has_started_goes_when_it_dies(tmp_path: Path) -> None:
    """As systemd does with a unit's control group. Else a killed token's children would serve on."""

    async def scene() -> None:
        log = tmp_path / "one.log"
        keeper = Keeper(Plan([Unit(name="one", argv=["/bin/sh", "-c", "sleep 60 & echo $!; wait"], log=str(log))]), SystemClock())
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, keeper.reap)
        keeper.start()
        async with asyncio.timeout(10):
            while not (started := log.read_text() if log.exists() else ""):
                await asyncio.sleep(0.01)
            child = psutil.Process(int(started))
            await keeper.hold("one")
            while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.01)
            await keeper.stop()

    asyncio.run(scene())
