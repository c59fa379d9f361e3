"""The shipped image with one thing changed: it boots no more. Three machines run side by side: firmware keeps one processor busy."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image import build, machine, testing
from image.machine import Machine
from image.root import ROOT_TYPE, partition
from tests.image.boots.guest import BOOT_S_MAX, release_plan

CREDENTIALS = b"systemd.import_credentials=no"
PAGE = "CAJA XACBE"


def _root(place: Path) -> Path:
    """One bit of the root's file system."""
    disk = testing.disk(build.OUT, place / "disk.raw", build.OUT / "xacbe.efi")
    with disk.open("r+b") as file:
        at = partition(build.OUT, ROOT_TYPE)["offset"] + 4096 * 8 + 17
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return disk


def _command_line(place: Path) -> Path:
    """Two letters of the kernel's command line: the door for credentials from outside."""
    whole, kernel = (build.OUT / "xacbe.efi").read_bytes(), place / "xacbe.efi"
    assert whole.count(CREDENTIALS) == 1
    kernel.write_bytes(whole.replace(CREDENTIALS, CREDENTIALS[:-2] + b"on"))
    return testing.disk(build.OUT, place / "disk.raw", kernel)


def _another_key(place: Path) -> Path:
    """The test profile's kernel image, whose key no box's firmware knows."""
    return testing.disk(build.OUT, place / "disk.raw", build.OUT / "xacbe.test.efi")


CHANGES: dict[str, Callable[[Path], Path]] = {"command line": _command_line, "signed by another key": _another_key, "root": _root}


@pytest.fixture(scope="module")
def changed(machines: Path) -> Iterator[dict[str, Machine]]:
    with contextlib.ExitStack() as stack:
        started = {}
        for change, make in CHANGES.items():
            place = machines / change.replace(" ", "-")
            place.mkdir()
            started[change] = stack.enter_context(machine.running(release_plan(place, make(place))))
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
