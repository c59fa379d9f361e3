"""Who has to wait while there is more to do than the machine can: a caller that asks for far more than all others waits, the others do not.

Every exchange passes one event loop, and whoever has two hundred under way stands there two hundred times before somebody who has one.
So under pressure a caller that has EVEN or more under way, and TIMES as much as any other, waits for one of its own to end. Nobody waits
while the processor has time left (a slow token needs many at once to be used well), nor who is alone. A multiple that grows and shrinks
with the pressure was tried: steps of 1.5 were worse for the others on a busy machine (their p99 1.9 to 3.2 times what it is without the
heavy caller, here 1.4 to 1.5); steps of 1.1 better on an idle one (2.2 to 2.7; here 4.7 to 6.5), but they made a burst wait ten seconds
after a pressure that had long ended.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable

import psutil

EVEN = 4
"""Exchanges that anybody may have under way, whatever the others have: they cost the next one in the row some milliseconds."""
TIMES = 2
"""A caller may have so many times what the next one has."""
WAIT_S_MAX = 10.0
"""Then it is told that we are busy, and somebody else may serve it. Far below the 90 s that a box waits for another's answer, and long
enough for a burst of some hundred to pass four at a time; with 2 s a twentieth of such a burst was refused.
"""
WAITING_MAX = 256
"""Of one caller: as many connections as a box opens to another (`net.dialer`). Each may hold 256 KiB that nobody has read yet."""
RECENT_S = 5.0
"""Who has asked within this time counts as there."""
PRESSED_SHARE = 0.85
"""Of the machine, or of the one processor that runs the loop."""
SAMPLE_S = 0.5
CALLERS_MAX = 4096
"""Remembered; beyond that whoever has nothing under way is forgotten."""


class Pressure:
    """Whether processors are short, looked at twice a second."""

    def __init__(self) -> None:
        self.high = False

    async def run(self, turned: Callable[[], None]) -> None:
        """For ever. `turned` is called after each look."""
        before = _processors()
        own_s, at_s = time.process_time(), time.monotonic()
        while True:
            await asyncio.sleep(SAMPLE_S)
            now_own_s, now_s, now = time.process_time(), time.monotonic(), _processors()
            own = (now_own_s - own_s) / (now_s - at_s)
            self.high = max(own, _share(before, now)) >= PRESSED_SHARE
            own_s, at_s, before = now_own_s, now_s, now
            turned()


def _processors() -> tuple[float, float] | None:
    """Seconds of all processors since boot: busy, and all. None: not readable now, as without a descriptor, when it matters most.

    Not `cpu_percent`: it has one memory for the whole thread, which `machine` uses.
    """
    try:
        times = psutil.cpu_times()
    except (OSError, psutil.Error):
        return None
    idle = times.idle + times.iowait
    whole = idle + times.user + times.nice + times.system + times.irq + times.softirq + times.steal  # guests are in `user`
    return whole - idle, whole


def _share(before: tuple[float, float] | None, now: tuple[float, float] | None) -> float:
    """Of the machine's time between two looks, how much was busy; 0 where it is not known."""
    if before is None or now is None or now[1] <= before[1]:
        return 0.0
    return (now[0] - before[0]) / (now[1] - before[1])


class Turns:
    """Invariant: who `enter`ed is counted until it `leave`s; a caller's messages enter in the order in which they came."""

    def __init__(self, pressed: Callable[[], bool], now_s: Callable[[], float]) -> None:
        self._pressed, self._now_s = pressed, now_s
        self._under_way: Counter[str] = Counter()
        self._seen_s: dict[str, float] = {}
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    def under_way(self, who: str) -> int:
        return self._under_way[who]

    async def enter(self, who: str) -> bool:
        """Waits for a turn; False where none comes within WAIT_S_MAX, or too many wait."""
        self._see(who)
        queue = self._waiting.get(who)
        if queue is None and self._may(who):
            self._under_way[who] += 1
            return True
        if queue is not None and len(queue) >= WAITING_MAX:
            return False
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(who, deque()).append(turn)
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await turn
        except BaseException as error:
            self._given_up(who, turn)
            if isinstance(error, TimeoutError):
                return False
            raise
        return True

    def leave(self, who: str) -> None:
        self._under_way[who] -= 1
        if not self._under_way[who]:
            del self._under_way[who]
        self._next(who)

    def look_again(self) -> None:
        """Pressure or neighbours may have gone."""
        for who in list(self._waiting):
            self._next(who)

    def _see(self, who: str) -> None:
        if len(self._seen_s) >= CALLERS_MAX:
            self._seen_s = {one: at_s for one, at_s in self._seen_s.items() if one in self._under_way}
        self._seen_s[who] = self._now_s()

    def _may(self, who: str) -> bool:
        own = self._under_way[who]
        if own < EVEN or not self._pressed():
            return True
        since_s = self._now_s() - RECENT_S
        others = [self._under_way[one] for one, at_s in self._seen_s.items() if one != who and at_s >= since_s]
        return not others or own < TIMES * max(others)

    def _next(self, who: str) -> None:
        queue = self._waiting.get(who)
        while queue and self._may(who):
            turn = queue.popleft()
            if not turn.done():
                turn.set_result(None)
                self._under_way[who] += 1
        if queue is not None and not queue:
            del self._waiting[who]

    def _given_up(self, who: str, turn: asyncio.Future[None]) -> None:
        if turn.done() and not turn.cancelled():
            self.leave(who)  # its turn came in the same moment
            return
        queue = self._waiting.get(who)
        if queue is not None and turn in queue:
            queue.remove(turn)
            if not queue:
                del self._waiting[who]
