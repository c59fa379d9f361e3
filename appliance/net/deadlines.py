"""One timer for all waits of a listener or a dialer.

A timer per connection costs a handle each and a cancel per message; walking all waiting connections four times a second costs one
comparison each. A deadline is noticed up to TICK_S late.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

TICK_S = 0.25
NEVER = float("inf")


class Waiting(Protocol):
    """Something with a deadline, in the loop's time; `NEVER` while it waits for nothing."""

    deadline: float

    def expired(self) -> None:
        """The deadline has passed. Called once for it: `deadline` is NEVER again."""
        ...


class Deadlines:
    """The waiting ones of one event loop. The timer runs only while there are any."""

    __slots__ = ("_items", "_loop", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: dict[Waiting, None] = {}
        """In the order in which they came: who expires together hears it in that order, in every run."""
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: Waiting) -> None:
        self._items[item] = None
        if self._timer is None:
            self._timer = self._loop.call_later(TICK_S, self._tick)

    def discard(self, item: Waiting) -> None:
        self._items.pop(item, None)

    def _tick(self) -> None:
        now = self._loop.time()
        due = [item for item in self._items if item.deadline <= now]
        self._timer = self._loop.call_later(TICK_S, self._tick) if self._items else None
        for item in due:
            item.deadline = NEVER
            item.expired()
