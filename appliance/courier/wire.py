"""What the courier says to the console. Pure. Operations: `list_targets` (as it stands), `check_targets` (after trying each)."""

from __future__ import annotations

import msgspec


class TargetState(msgspec.Struct):
    """One remote target. Times in microseconds since 1970; 0: never."""

    name: str
    failing: str = ""
    """The last error's kind; empty: the last try went well, or there was none."""
    detail: str = ""
    since_us: int = 0
    """When it began to fail."""
    tries: int = 0
    """That failed, one after the other."""
    carried: int = 0
    """Archives since the process started."""
    carried_us: int = 0
    next_us: int = 0
    """When it is tried again."""
