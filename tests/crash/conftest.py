"""One guest for all power cuts; `make crash-test` runs them (marker `crash`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash import guest as guests
from tests.crash.guest import Guest


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    return guests.build(tmp_path_factory.mktemp("guest"))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """On a disk that can be written past the cache."""
    return tmp_path_factory.mktemp("disks")
