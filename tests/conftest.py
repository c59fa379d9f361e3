"""What every test may rely on: hypothesis profiles, and the record of rules and cases for the table."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

from tests.depth import DEEP
from tests.report.keeping import MARKED as MARKED
from tests.report.keeping import Keeper

settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
"""The same examples each day: a change is judged by what it does, not by luck. The night looks for what nobody has thought of."""
settings.register_profile("deep", max_examples=20_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("deep" if DEEP else "fast")


def pytest_collection_modifyitems(session: pytest.Session, items: list[pytest.Item]) -> None:
    """Keeps what each test holds, before any deselection, for `tests/test_rules.py`."""
    session.config.stash[MARKED] = [
        (kind, held, item.nodeid)
        for item in items
        for kind in ("rule", "case")
        for marker in item.iter_markers(kind)
        for value in marker.args
        for held in str(value).split(", ")
    ]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Keeper(), "xacbe-results")
