"""One Chromium for all tests of the page, and the page as it is built now."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning.verifier.build import build
from tests.verifier import chromium
from tests.verifier.page import Page


@pytest.fixture(scope="session")
def chromium_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    if chromium.PROGRAM is None:
        pytest.skip("no Chromium installed")
    with chromium.browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="session")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "verify.html"
    file.write_bytes(build())
    return file


@pytest.fixture
def page(chromium_browser: chromium.Browser, page_file: Path) -> Page:
    """Freshly opened: nothing of an earlier test is left in it."""
    chromium_browser.events.clear()
    return Page(chromium_browser, page_file)
