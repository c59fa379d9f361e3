"""How a process tells the supervisor that it lives, what it waits for and what it counted.

A missing supervisor changes nothing for the process that announces: it goes on serving and tries again at the next turn.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from appliance.clock import Clock
from appliance.errors import XacbeError
from appliance.net.local_sockets import LocalClient, channel_path
from appliance.settings import provisioned
from appliance.supervision.wire import Announcement

ANNOUNCE_INTERVAL_S = 5.0
"""A third of the time after which the supervisor calls a process silent: two announcements may be lost."""
LOOK_INTERVAL_S = 0.5
"""How soon a change of what is waited for is told."""
ANNOUNCE_CALL_S_MAX = 2.0

Describe = Callable[[], tuple[list[str], dict[str, int], dict[str, str]]]
"""Returns what the process waits for (names, empty when it serves), its counters by kind, and its facts."""


async def announce_forever(state: Path, process: str, clock: Clock, describe: Describe, instance: int = 0) -> None:
    """Announces every 5 s, and within 0.5 s when what it waits for changed. Ends only by cancellation."""
    client = LocalClient(channel_path(state, "supervisor", process))
    said_at, said_waits = float("-inf"), None
    try:
        while True:
            waits_for, counters, facts = describe()
            if not provisioned(state):
                waits_for = ["settings", *waits_for]
            if clock.monotonic_s() - said_at >= ANNOUNCE_INTERVAL_S or waits_for != said_waits:
                said_at, said_waits = clock.monotonic_s(), list(waits_for)
                serving = "waiting" if waits_for else "serving"
                announcement = Announcement(process, instance, os.getpid(), serving, said_waits, dict(counters), dict(facts))
                try:
                    await client.call("announce", announcement, timeout_s=ANNOUNCE_CALL_S_MAX)
                except XacbeError:
                    pass  # told again at the next turn; the supervisor counts the silence
            await asyncio.sleep(LOOK_INTERVAL_S)
    finally:
        client.close()
