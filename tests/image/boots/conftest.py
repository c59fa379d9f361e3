"""Machines for the boot tests: each is started once, in the order of the tests, and ends before the next begins."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image import build, inside, machine
from provisioning.lab import manufacturer, network
from tests.image.boots.guest import Guest

BASE = "127.0.50"
ADDRESS = f"{BASE}.40"
"""Where this machine's processes reach the guest."""
FORWARDS = tuple((ADDRESS, port, port) for port in (8080, 5500, 5577))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not build.FACTS.exists():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no image: make image"))


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for disks; emptied at the end, they are large."""
    place = tmp_path_factory.mktemp("machines")
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def screens() -> Path:
    """Pictures that a person may want to see: `build/image/screens`."""
    place = build.OUT / "screens"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="module")
def guest(machines: Path, lab: Path) -> Iterator[Guest]:
    """The test profile, with a TPM from the laboratory's manufacturer. The laboratory is up before, or both would starve each other."""
    plan = inside.plan(machines / "guest", FORWARDS)
    (plan.directory / "tpm").mkdir()
    manufacturer.make_tpm(plan.directory / "tpm", machines / "manufacturer")
    with machine.running(plan) as running:
        box = Guest(running)
        yield box
        box.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Path]:
    """CEIQROO, its broker and two boxes on this machine, where the boxes' own users can reach it: pytest's directory is closed to them."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-image-"))
    try:
        network.up(directory, 2, "software", BASE, 1, lambda _: None)
        yield directory
    finally:
        network.down(directory)
        shutil.rmtree(directory)
