"""What a process that holds a PIN does about its own memory: no core file, no other process of its user looks in, nothing goes to swap."""

from __future__ import annotations

import ctypes
import resource
from collections.abc import Iterator
from pathlib import Path

_PR_SET_DUMPABLE = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def protect_memory() -> dict[str, str]:
    """Called first in main. Returns what could be had: locking needs a limit (or the right) that covers the whole process.

    With a small RLIMIT_MEMLOCK nothing is locked at all: MCL_FUTURE under it would make later allocations fail. Programs and libraries,
    read-only pages of files, are let go again: no secret is in them, and locked they would take 20 MiB of a box's 512 from everybody.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    hidden = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    locked = unlimited and libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0
    if locked:
        for start, end in _read_only_files(Path("/proc/self/maps").read_text()):
            libc.munlock(ctypes.c_void_p(start), ctypes.c_size_t(end - start))
    return {"memory_hidden": "yes" if hidden else "no", "memory_locked": "yes" if locked else "no"}


def _read_only_files(maps: str) -> Iterator[tuple[int, int]]:
    """Addresses of the mappings that show a file and cannot be written, from /proc/<pid>/maps (proc(5))."""
    for line in maps.splitlines():
        addresses, mode, _, _, _, *path = line.split(maxsplit=5)
        if path and path[0].startswith("/") and "w" not in mode:
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)
