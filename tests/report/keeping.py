"""Keeps what each test came to in `build/tests.json`, for `make report`: outcome, seconds, rules, cases, and figures that it measured.

A run of a few tests replaces what was known of these and of no others. What a test printed and why it failed is not kept: the report goes
to people who need not see a laboratory's output.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.clock import SystemClock, iso

FILE = Path(__file__).resolve().parents[2] / "build" / "tests.json"
MARKED = pytest.StashKey[list[tuple[str, str, str]]]()
"""(`rule` or `case`, which, test) of all that was collected."""
_WORST = ("passed", "skipped", "failed")


class Keeper:
    """A pytest plugin of one session."""

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._found: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        known = self._found.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "figures": {}})
        known["outcome"] = max(known["outcome"], report.outcome, key=_WORST.index)
        known["seconds"] = round(known["seconds"] + report.duration, 3)
        known["figures"] |= {name: value for name, value in report.user_properties if isinstance(value, int | float)}

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self._found:
            return
        at = iso(SystemClock().now_us())
        held = session.config.stash.get(MARKED, [])
        for name, one in self._found.items():
            one |= {"at": at, "rules": [], "cases": []}
            for kind, which, test in held:
                if test == name:
                    one[f"{kind}s"].append(which)
        known = {name: one for name, one in load(self._file).items() if (FILE.parents[1] / name.partition("::")[0]).exists()}
        self._file.parent.mkdir(exist_ok=True)
        written = self._file.with_suffix(f".{os.getpid()}")
        written.write_text(json.dumps(known | self._found, indent=1, sort_keys=True) + "\n")
        os.replace(written, self._file)


def load(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """By test; empty where nothing was kept, or what was cannot be read."""
    try:
        kept = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
