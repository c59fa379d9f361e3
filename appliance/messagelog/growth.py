"""When the disk will be full, at the pace of the last day.

Pure. Looks at the room that is left, whoever takes it, so that retention and other writers count as well.
"""

from __future__ import annotations

from collections import deque

from appliance.messagelog.stamping import Now

LOOK_S = 60.0
WINDOW_S = 24 * 3600.0
KNOWN_AFTER_S = 600.0
"""A pace measured over less than ten minutes says nothing of a day."""
HORIZON_US = 100 * 365 * 86_400 * 1_000_000
"""What fills in more than a century does not fill; a large disk that loses a block a day would otherwise be full at a time that no frame
can carry."""


class Growth:
    """Room seen once a minute over the last day: 1440 numbers."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def seen(self, at_s: float, room: int) -> None:
        """The room left at a monotonic moment."""
        self._seen.append((at_s, room))
        while self._seen[0][0] < at_s - WINDOW_S:
            self._seen.popleft()

    def full_us(self, now: Now, room: int) -> int | None:
        """When nothing will be left. None: the room does not shrink, or not within HORIZON_US, or was not watched long enough; `now` where
        nothing is left."""
        if room <= 0:
            return now.us
        if not self._seen or now.s - self._seen[0][0] < KNOWN_AFTER_S:
            return None
        first_s, first_room = self._seen[0]
        lost = first_room - room
        left_us = int((now.s - first_s) * 1_000_000) * room // lost if lost > 0 else HORIZON_US
        return now.us + left_us if left_us < HORIZON_US else None
