"""A process without work ends itself: its sockets stay with whoever starts it, and the next call or new settings start it again.

It goes only when the supervisor took its word for it, so nobody mistakes rest for silence. What it frees is an interpreter: 14 to 20 MB.
"""

from __future__ import annotations

from appliance.clock import Clock
from appliance.net.local_server import LocalServer

REST_AFTER_S = 5.0
"""Without a caller: a person's next command finds it still there, and at start everybody who asks has asked."""


class NothingToDo(Exception):  # no XacbeError: nobody answers with it, it ends the process
    """Leaves the process's tasks; `running.run` makes EXIT_RESTS of it."""


class Rest:
    """Whether a process may go. `idle` is asked twice a second (`announce_forever`)."""

    def __init__(self, server: LocalServer, clock: Clock, *, work: bool) -> None:
        """`work`: the settings give it something to do besides answering."""
        self._server, self._clock, self._work = server, clock, work
        self._quiet_since_s, self._calls = clock.monotonic_s(), 0

    def idle(self) -> bool:
        """Nobody is connected, and nobody called for REST_AFTER_S."""
        now_s, calls = self._clock.monotonic_s(), sum(self._server.counts.values())
        if self._work or self._server.callers_connected or calls != self._calls:
            self._quiet_since_s, self._calls = now_s, calls
        return now_s - self._quiet_since_s >= REST_AFTER_S


async def wake(caller: str, payload: bytes) -> None:
    """The supervisor's operation `wake`: being there is the answer."""
