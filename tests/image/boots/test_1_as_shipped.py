"""The image as it is shipped: it boots to UNPROVISIONED and shows it, and boots no more when one byte is another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.version import VERSION
from image import build, machine, testing
from image.machine import Machine
from image.root import ROOT_TYPE, partition
from tests.image.boots.guest import BOOT_S_MAX, release_plan, unprovisioned

MEMORY_MIB_MAX = 250
SETTLED_S_MAX = 120.0
"""What processes needed while they started goes back."""
BEFORE_THE_PAGE = r"BdsDxe: starting"


@pytest.fixture(scope="module")
def shipped(machines: Path) -> Iterator[Machine]:
    with machine.running(release_plan(machines / "shipped")) as running:
        yield running


def test_it_boots_to_unprovisioned_with_every_process_waiting_by_name(shipped: Machine) -> None:
    page = unprovisioned(shipped)

    assert re.search(r"^  signer +en servicio|^  signer +en espera", page, re.MULTILINE)
    assert "Qué hacer:" in page


def test_the_serial_line_tells_address_versions_image_and_memory(shipped: Machine) -> None:
    shipped.wait_for(r"Direcciones: 10\.0\.2\.\d+", BOOT_S_MAX)
    page = unprovisioned(shipped)

    assert f"programa {VERSION}, imagen {VERSION}" in page
    root_hash = testing.command_line(build.OUT / "xacbe.efi").partition("roothash=")[2].split()[0]
    assert root_hash[:32] in page
    assert root_hash[32:] in page

    def settled() -> tuple[int, int] | None:
        used, total = map(int, re.findall(r"Memoria: (\d+) de (\d+) MiB", shipped.text())[-1])
        return (used, total) if used <= MEMORY_MIB_MAX else None

    used, total = shipped.until(settled, SETTLED_S_MAX, f"memory of at most {MEMORY_MIB_MAX} MiB")
    print(f"memory: {used} of {total} MiB; page after {shipped.age_s():.0f} s; QEMU holds {shipped.resident_mib()} MiB")
    assert total <= 512


def test_the_screen_has_the_page(shipped: Machine, screens: Path) -> None:
    """Read by the next module, which learns the console's font."""
    assert shipped.screen(screens / "shipped.png").stat().st_size > 1000


def _changed(file: Path, at: int) -> None:
    with file.open("r+b") as disk:
        disk.seek(at)
        byte = disk.read(1)[0]
        disk.seek(at)
        disk.write(bytes([byte ^ 1]))


def _copy(target: Path) -> Path:
    target.parent.mkdir()
    return testing.disk(build.OUT, target, build.OUT / "xacbe.efi")


def test_one_byte_of_the_root_changed_and_it_does_not_boot(machines: Path) -> None:
    disk = _copy(machines / "other-root" / "disk.raw")
    _changed(disk, partition(build.OUT, ROOT_TYPE)["offset"] + 4096 * 8 + 17)

    with machine.running(release_plan(disk.parent, disk)) as running:
        running.until(lambda: "verity" in running.text() or not running.running(), BOOT_S_MAX, "word of verity")
        running.until(lambda: not running.running(), BOOT_S_MAX, "reset")

        assert re.search(r"verity: .*(data|metadata) block \d+ is corrupted", running.text())
        assert "CAJA XACBE" not in running.text()


@pytest.mark.parametrize("change", ["command line", "signed by another key"])
def test_another_kernel_image_is_refused_by_the_firmware(machines: Path, change: str) -> None:
    kernel = machines / f"{change.replace(' ', '-')}" / "xacbe.efi"
    kernel.parent.mkdir()
    if change == "command line":
        whole = (build.OUT / "xacbe.efi").read_bytes()
        assert whole.count(b"systemd.import_credentials=no") == 1
        kernel.write_bytes(whole.replace(b"systemd.import_credentials=no", b"systemd.import_credentials=on"))
    else:
        kernel.write_bytes((build.OUT / "xacbe.test.efi").read_bytes())
    disk = testing.disk(build.OUT, kernel.parent / "disk.raw", kernel)

    with machine.running(release_plan(disk.parent, disk)) as running:
        running.wait_for(r"(?i)access denied|security violation", BOOT_S_MAX)

        assert "CAJA XACBE" not in running.text()
        assert "Linux version" not in running.text()
