"""The image as it is shipped: it boots to UNPROVISIONED and shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.version import VERSION
from image import build, machine, testing
from image.inside import unprovisioned
from image.machine import BOOT_S_MAX, Machine
from tests.image.boots.guest import release_plan

MEMORY_MIB_MAX = 238
"""250 MB."""
SETTLED_S_MAX = 120.0
"""What processes needed while they started goes back."""


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
    """Read by the last module, which learns the console's font."""
    assert shipped.screen(screens / "shipped.png").stat().st_size > 1000
