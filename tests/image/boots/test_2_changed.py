"""The image with one thing changed: it boots no more. The machines run side by side: firmware keeps one processor busy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image import build, inside, keys, machine, testing
from image.machine import BOOT_S_MAX, Machine, Plan
from image.root import ROOT_TYPE, partition
from tests.image.boots.guest import release_plan

CREDENTIALS = b"systemd.import_credentials=no"
PAGE = "CAJA XACBE"


def _root(place: Path) -> Plan:
    """One bit of the root's file system."""
    disk = testing.disk(build.OUT, place / "disk.raw", build.OUT / "xacbe.efi")
    with disk.open("r+b") as file:
        at = partition(build.OUT, ROOT_TYPE)["offset"] + 4096 * 8 + 17
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return release_plan(place, disk)


def _command_line(place: Path) -> Plan:
    """Two letters of the kernel's command line: the door for credentials from outside."""
    whole, kernel = (build.OUT / "xacbe.efi").read_bytes(), place / "xacbe.efi"
    assert whole.count(CREDENTIALS) == 1
    kernel.write_bytes(whole.replace(CREDENTIALS, CREDENTIALS[:-2] + b"on"))
    return release_plan(place, testing.disk(build.OUT, place / "disk.raw", kernel))


def _another_key(place: Path) -> Plan:
    """The test profile's kernel image, whose key no box's firmware knows."""
    return release_plan(place, testing.disk(build.OUT, place / "disk.raw", build.OUT / "xacbe.test.efi"))


def _emergency(place: Path) -> Plan:
    """The test profile, sent where systemd goes when nothing else can be done."""
    name = "xacbe.emergency.efi"
    testing.kernel_image(build.OUT, keys.keys(build.KEYS)["test"], "systemd.unit=emergency.target", name)
    return inside.plan(place, kernel=name)


CHANGES: dict[str, Callable[[Path], Plan]] = {
    "command line": _command_line,
    "signed by another key": _another_key,
    "root": _root,
    "emergency": _emergency,
}


@pytest.fixture(scope="module")
def changed(machines: Path) -> Iterator[dict[str, Machine]]:
    with contextlib.ExitStack() as stack:
        started = {}
        for change, make in CHANGES.items():
            place = machines / change.replace(" ", "-")
            place.mkdir()
            started[change] = stack.enter_context(machine.running(make(place)))
        yield started


@pytest.mark.parametrize("change", ["command line", "signed by another key"])
def test_another_kernel_image_is_refused_by_the_firmware(changed: dict[str, Machine], change: str) -> None:
    running = changed[change]
    running.wait_for(r"(?i)access denied|security violation", BOOT_S_MAX)
    print(f"{change}: refused after {running.age_s():.0f} s")
    running.stop()

    assert PAGE not in running.text()
    assert "Linux version" not in running.text()


def test_one_byte_of_the_root_changed_and_it_does_not_boot(changed: dict[str, Machine]) -> None:
    running = changed["root"]
    running.until(lambda: "verity" in running.text() or not running.running(), BOOT_S_MAX, "word of verity")
    running.until(lambda: not running.running(), BOOT_S_MAX, "reset")
    print(f"root: reset after {running.age_s():.0f} s")

    assert re.search(r"verity: .*(data|metadata) block \d+ is corrupted", running.text())
    assert PAGE not in running.text()


def test_an_emergency_restarts_the_machine_instead_of_waiting_for_somebody_to_type(changed: dict[str, Machine]) -> None:
    running = changed["emergency"]
    running.until(lambda: not running.running(), BOOT_S_MAX, "restart")
    print(f"emergency: restarted after {running.age_s():.0f} s")

    assert "reboot: Restarting system" in running.text()
    assert not re.search(r"corrupted|panic", running.text())
    assert PAGE not in running.text()
