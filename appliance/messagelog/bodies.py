"""Bodies beyond the inline limit: unnamed files that the relay fills and the log names.

A file without a name vanishes by itself when its last descriptor is closed: nothing is left of a body whose message was never logged. The
bytes are synced by a thread of their own before the record is queued: a large body holds no other message up. Naming, syncing the
directory and writing the record are the writer's (`store`). Each gets a key of its own, which the relay seals it with while it comes
(`stream`) and which the record keeps encrypted: no byte of a body is ever on the disk in clear, not even of one that was given up.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field

from appliance.clock import Clock
from appliance.errors import RefusedError
from appliance.messagelog.disk import Disk
from appliance.messagelog.group_commit import LogBusyError
from appliance.messagelog.groups import LogFullError
from appliance.messagelog.segments import BODIES
from appliance.messagelog.store import WriteFailedError
from appliance.messagelog.stream import KEY_BYTES, sealed_bytes

OPEN_MAX = 1024
"""As many as the relay may have exchanges in flight; each costs one descriptor here."""
UNCLAIMED_S_MAX = 900.0
"""A body that arrives more slowly than this is given up: 1 GiB in 15 minutes is 1.2 MB/s."""


class UnknownBodyError(RefusedError):
    """The message names a body that was not opened here, was claimed already, or is not what the record says."""

    kind = "log.unknown_body"


@dataclass(slots=True)
class _Open:
    handle: int
    since_s: float
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A body's file that is durable and whole. `digest`: SHA-256 of what lies in it."""

    handle: int
    key: bytes = field(repr=False)
    digest: bytes


class Bodies:
    """Opened bodies. Invariant: each is claimed by one message at most, or dropped."""

    def __init__(self, disk: Disk, clock: Clock, room: Callable[[], int], executor: Executor) -> None:
        self._disk, self._clock, self._room, self._executor = disk, clock, room, executor
        self._open: dict[int, _Open] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._open)

    def open(self, bytes_expected: int | None) -> tuple[int, bytes, int]:
        """(number, key, descriptor for the relay, which whoever sends it closes). Raises LogFullError, LogBusyError."""
        self.drop_old()
        if len(self._open) >= OPEN_MAX:
            raise LogBusyError(f"{len(self._open)} bodies are open")
        if self._room() <= (bytes_expected or 0):
            raise LogFullError("no room for the body")
        handle = self._disk.open_unnamed(BODIES)
        number = next(self._numbers)
        key = os.urandom(KEY_BYTES)
        self._open[number] = _Open(handle, self._clock.monotonic_s(), key)
        return number, key, os.dup(handle)

    async def claim(self, number: int, size: int) -> Claimed:
        """The file of a body of `size` bytes, durable; the caller closes it. Raises UnknownBodyError, SyncFailedError, WriteFailedError."""
        found = self._open.pop(number, None)
        if found is None:
            raise UnknownBodyError(f"no open body {number}")
        try:
            if self._disk.size(found.handle) != sealed_bytes(size):
                raise UnknownBodyError(f"the body's file has {self._disk.size(found.handle)} bytes, the record says {size} and their tags")
            digest = await asyncio.get_running_loop().run_in_executor(self._executor, self._durable, found.handle)
        except BaseException:
            self._disk.close(found.handle)
            raise
        return Claimed(found.handle, found.key, digest)

    def _durable(self, handle: int) -> bytes:
        """Synced, and read back: what the record names is what lies there, not what somebody says of it."""
        self._disk.sync(handle)
        try:
            return self._disk.sha256(handle)
        except OSError as error:
            raise WriteFailedError(f"reading a body back: {error.strerror}") from error

    def drop(self, number: int) -> None:
        """Gives one up; nothing where it is not open any more."""
        found = self._open.pop(number, None)
        if found is not None:
            self._disk.close(found.handle)

    def drop_old(self) -> None:
        """Gives up what nobody claimed in time."""
        limit = self._clock.monotonic_s() - UNCLAIMED_S_MAX
        for number in [number for number, each in self._open.items() if each.since_s < limit]:
            self.drop(number)

    def close(self) -> None:
        for each in self._open.values():
            self._disk.close(each.handle)
        self._open.clear()
