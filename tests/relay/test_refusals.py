"""What happens when an exchange fails while the recorder is away."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path

import pytest

from appliance.access.rights import NoRightError
from appliance.clock import SystemClock
from appliance.net import faults
from appliance.net.local_client import LocalClient
from appliance.relay.refusals import Refusals


@pytest.mark.case("T42")
def test_while_the_recorder_is_away_a_refusal_is_answered_by_name_and_the_system_log_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by the simulation: the fact's own name in the way of the reason why it was not written, and a bare 500 for the peer."""
    counters: Counter[str] = Counter()
    refusals = Refusals(logging.getLogger("relay"), LocalClient(tmp_path / "nobody.sock"), counters, "7.8", SystemClock())
    facts = {"client": "QROO-TEST/GOV/1001/solomon", "service": "QROO-TEST/GOV/2002/geoportal/incidents"}

    with caplog.at_level(logging.WARNING, "relay"):
        fault = asyncio.run(refusals.fault(NoRightError("no right"), faults.PROVIDER_SIDE, "request-1", facts))

    assert fault.kind == "access.no_right"
    assert counters["access.no_right"] == 1
    assert not counters["box.bug"]
    (unwritten,) = [record for record in caplog.records if record.getMessage() == "audit.not_written"]
    assert unwritten.facts["kind"] == "access.no_right"  # type: ignore[attr-defined]
    assert unwritten.facts["because"] == "process.away"  # type: ignore[attr-defined]
