"""UNIX socket paths for C libraries: the kernel takes 107 bytes, state directories may be longer.

The directory is held open and the library is given its short name below /proc/self/fd. One descriptor per distinct directory stays open
for the life of the process, on purpose: the library connects again whenever its token comes back.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

PATH_BYTES_MAX = 107


def reachable(path: str) -> str:
    """The path itself, or the same socket under a name that fits; unchanged as well where the directory is missing."""
    if len(path.encode()) <= PATH_BYTES_MAX:
        return path
    try:
        return f"/proc/self/fd/{_held(str(Path(path).parent))}/{Path(path).name}"
    except OSError:
        return path


@cache
def _held(directory: str) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
