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
from appliance.net.local_client import LocalClient
from appliance.net.local_sockets import channel_path
from appliance.processes.resting import NothingToDo, Rest
from appliance.settings import provisioned
from appliance.supervision.wire import RESTING, Announcement

ANNOUNCE_INTERVAL_S = 5.0
"""A third of the time after which the supervisor calls a process silent: two announcements may be lost."""
LOOK_INTERVAL_S = 0.5
"""How soon a change of what is waited for is told."""
ANNOUNCE_CALL_S_MAX = 2.0

Describe = Callable[[], tuple[list[str], dict[str, int], dict[str, str]]]
"""Returns what the process waits for (names, empty when it serves), its counters by kind, and its facts."""


async def announce_forever(
    state: Path, process: str, clock: Clock, describe: Describe, instance: int = 0, rest: Rest | None = None
) -> None:
    """Announces every 5 s, and within 0.5 s when what it waits for changed. Ends by cancellation, or by NothingToDo when it is idle and
    the supervisor knows it (`rest`)."""
    client = LocalClient(channel_path(state, "supervisor", process))
    said_at, said = float("-inf"), None
    try:
        while True:
            waits_for, counters, facts = describe()
            if not provisioned(state):
                waits_for = ["settings", *waits_for]
            idle = rest is not None and rest.idle()
            says = (RESTING if idle else "waiting" if waits_for else "serving", list(waits_for))
            if clock.monotonic_s() - said_at >= ANNOUNCE_INTERVAL_S or says != said:
                said_at, said = clock.monotonic_s(), says
                announcement = Announcement(process, instance, os.getpid(), *says, dict(counters), dict(facts))
                try:
                    await client.call("announce", announcement, timeout_s=ANNOUNCE_CALL_S_MAX)
                except XacbeError:
                    idle = False  # told again at the next turn; the supervisor counts the silence
                if idle and rest is not None and rest.idle():  # nobody called meanwhile
                    raise NothingToDo
            await asyncio.sleep(LOOK_INTERVAL_S)
    finally:
        client.close()
