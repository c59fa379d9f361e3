"""What the other processes say to the reporter.

Pure. Operation: `incident` (callers: `appliance.topology`), answered when the incident is durable.
"""

from __future__ import annotations

import msgspec


class Incident(msgspec.Struct, array_like=True):
    """Something CEIQROO must know at once (IV.1.VIII). Never content of messages; what is not on the whitelist is dropped."""

    kind: str
    """Stable, with a dot: `process.held`, `box.state_changed`, an error's kind."""
    process: str
    at_us: int
    facts: dict[str, str] = {}
