"""What a process that holds a PIN does about its own memory: no core file, no other process of its user looks in, nothing goes to swap."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def protect_memory() -> dict[str, str]:
    """Called first in main. Returns what could be had: locking needs a limit (or the right) that covers the whole process.

    With a small RLIMIT_MEMLOCK nothing is locked at all: MCL_FUTURE under it would make later allocations fail.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    hidden = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    locked = unlimited and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    return {"memory_hidden": "yes" if hidden else "no", "memory_locked": "yes" if locked else "no"}
