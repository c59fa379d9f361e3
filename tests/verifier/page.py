"""The page as a person uses it: files through its inputs, reports out of its document."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from appliance.seal.report import Report
from tests.verifier.chromium import Browser


class Page:
    """`verify.html` opened from disk."""

    def __init__(self, browser: Browser, file: Path) -> None:
        self.browser = browser
        browser.open(file.as_uri())

    def trust(self, files: Sequence[Path]) -> str:
        """Chooses trust material; returns what the page says about it."""
        before = "document.querySelector('#trust-state').firstChild.seen = true"
        self.browser.run(before)
        self.browser.choose("#trust-files", files)
        self.browser.wait("document.querySelector('#trust-state').firstChild.seen !== true")
        return str(self.browser.run("document.querySelector('#trust-state').textContent"))

    def verify(self, files: Sequence[Path]) -> list[dict[str, Any]]:
        """Chooses containers; returns the reports in their order, as the page prints them for programs."""
        self.browser.run("document.documentElement.dataset.state = 'asked'")
        self.browser.choose("#containers", files)
        self.browser.wait(f"document.documentElement.dataset.state === 'done {len(files)}'")
        return [json.loads(found) for found in self.browser.run("[...document.querySelectorAll('pre.json')].map((one) => one.textContent)")]

    def text(self, selector: str) -> str:
        return str(self.browser.run(f"document.querySelector({json.dumps(selector)}).innerText"))


def comparable(report: Report | dict[str, Any]) -> dict[str, Any]:
    """A report without the details, which are each program's own words."""
    found = json.loads(json.dumps(dataclasses.asdict(report) if isinstance(report, Report) else report))
    for step in found["steps"]:
        del step["detail"]
    return dict(found)
