"""One initialised instance for the whole run of these tests (30 ms to make); tests that change the registry make their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.clock import SystemClock
from provisioning.authority import ca
from provisioning.centre import Centre


@pytest.fixture(scope="session")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Centre:
    return ca.initialise(tmp_path_factory.mktemp("centre") / "QROO-TEST", "QROO-TEST", "127.0.11.1", SystemClock())


@pytest.fixture
def own_centre(tmp_path: Path) -> Centre:
    return ca.initialise(tmp_path / "QROO-TEST", "QROO-TEST", "127.0.11.1", SystemClock())
