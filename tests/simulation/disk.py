"""The disk of one box's log: a volatile cache over a platter (`tests/fakes/disk.py`), mounted by one recorder after the other.

What a killed recorder does with it afterwards counts for nothing. Bodies have real descriptors, because the relay writes into them; what
it wrote is on the platter after the recorder's sync. The platter keeps its own account of invariant I3: whatever was ever synced into a
segment stays, byte for byte, at its place.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from tests.fakes.disk import Directory, Disk, Inode
from tests.simulation.virtual_time import SimProcess

SEGMENTS = "segments"
BODY_HANDLES = 1 << 20
"""Handles of files without a descriptor begin here."""


class Platter:
    """What survives. `grown`: for each segment, as much as was ever synced."""

    def __init__(self, note: Callable[..., None]) -> None:
        self.note = note
        self.directories: dict[str, Directory] = {"": Directory()}
        self.capacity = 1 << 40
        self.fail_syncs = 0
        self.lies = False
        """The planted bug: a sync that does nothing and says that it did."""
        self.grown: dict[str, bytes] = {}
        self.shrunk: list[str] = []

    def mount(self, process: SimProcess) -> SimDisk:
        """As a process finds it, also after the one before was killed: all that was written is seen."""
        return SimDisk(self, process)

    def lose_power(self, chance: random.Random) -> None:
        """What was not synced stays or goes, sector by sector and name by name."""
        self._crash(chance, chance.choice((0.0, 0.5, 0.9)))

    def keep_synced(self) -> None:
        """What was not synced is gone."""
        self._crash(random.Random(0), 0.0)  # noqa: S311  nothing is left to chance

    def _crash(self, chance: random.Random, kept: float) -> None:
        before = Disk()
        before.directories = self.directories
        self.directories = before.crashed(chance, kept=kept).directories
        self.check_grown("after the power went")

    def account(self) -> None:
        """After a sync: what is durable now must begin with what was durable before."""
        directory = self.directories.get(SEGMENTS)
        for name, inode in directory.durable.items() if directory else ():
            if name.endswith(".log"):
                self._compare(name, bytes(inode.durable), "was overwritten")
                self.grown[name] = bytes(inode.durable)

    def check_grown(self, when: str) -> None:
        """Every segment as it is seen now begins with everything that was ever durable in it."""
        directory = self.directories.get(SEGMENTS)
        for name in list(self.grown):
            inode = directory.seen.get(name) if directory else None
            self._compare(name, b"" if inode is None else bytes(inode.seen), f"lost synced bytes {when}")

    def _compare(self, name: str, found: bytes, how: str) -> None:
        kept = self.grown.get(name, b"")
        if not found.startswith(kept):
            self.shrunk.append(f"segment {name} {how}: {len(kept)} bytes were durable, {len(found)} are there")
            del self.grown[name]

    def copy_to(self, root: Path) -> None:
        """The files as a directory, for tools that read one."""
        for path, directory in self.directories.items():
            (root / path).mkdir(parents=True, exist_ok=True)
            for name, inode in directory.seen.items():
                (root / path / name).write_bytes(inode.seen)


class SimDisk(Disk):
    """The port `messagelog.disk.Disk` of one process."""

    def __init__(self, platter: Platter, process: SimProcess) -> None:
        super().__init__()
        self._platter, self._process = platter, process
        self.directories = platter.directories
        self._next = BODY_HANDLES
        self._bodies: dict[int, Inode] = {}
        process.on_death.append(self._let_go)

    def _let_go(self) -> None:
        """After the end of its process nothing that this object is asked for happens any more."""
        for descriptor in self._bodies:
            os.close(descriptor)
        self._bodies = {}
        self.directories = {path: Directory(dict(each.seen), dict(each.durable)) for path, each in self.directories.items()}
        self._handles = {number: Inode(bytearray(each.seen)) for number, each in self._handles.items()}

    def lock(self, path: str) -> None:
        """One process at a time: the parent starts no second one."""

    def sync(self, handle: int) -> None:
        platter = self._platter
        if self._process.dead:
            return
        if platter.fail_syncs:
            platter.fail_syncs -= 1
            platter.note("disk", "a sync fails")
            self.fail_at = self.operations + 1
        if platter.lies:
            return
        if handle in self._bodies:
            self._read_body(handle)
        super().sync(handle)
        platter.account()

    def sync_directory(self, path: str) -> None:
        if self._platter.lies or self._process.dead:
            return
        super().sync_directory(path)
        self._platter.account()

    def truncate(self, handle: int, size: int) -> None:
        super().truncate(handle, size)
        if not self._process.dead:
            self._platter.check_grown("by a truncation")

    def remove(self, path: str) -> None:
        super().remove(path)
        if not self._process.dead:
            self._platter.check_grown("by a removal")

    def free_bytes(self) -> int:
        self.capacity = self._platter.capacity
        return super().free_bytes()

    # bodies

    def open_unnamed(self, directory: str) -> int:
        if self.free_bytes() <= 0:
            raise OSError(errno.ENOSPC, "ENOSPC")
        descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
        self._bodies[descriptor] = self._handles[descriptor] = Inode()
        return descriptor

    def _read_body(self, handle: int) -> None:
        """What the relay wrote through its own descriptor."""
        inode = self._bodies[handle]
        data = os.pread(handle, os.fstat(handle).st_size, 0)
        inode.dirty.append((0, data))
        inode.seen[:] = data

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size if handle in self._bodies else super().size(handle)

    def link(self, handle: int, path: str) -> None:
        if not self._bodies[handle].seen:
            self._read_body(handle)
        super().link(handle, path)

    def open(self, path: str) -> int:
        if not path.endswith(".body"):
            return super().open(path)
        descriptor = os.memfd_create("body", os.MFD_CLOEXEC)
        inode = self._inode(path)
        os.pwrite(descriptor, bytes(inode.seen), 0)
        self._bodies[descriptor] = self._handles[descriptor] = inode
        return descriptor

    def close(self, handle: int) -> None:
        self._handles.pop(handle, None)
        if self._bodies.pop(handle, None) is not None:
            os.close(handle)
