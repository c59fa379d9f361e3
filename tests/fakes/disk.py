"""A disk with a volatile cache: what was not synced may be lost, torn or reordered when the power goes.

It keeps the promises of a real one and no more: a file's bytes survive after `sync`, a name after `sync_directory`, each alone.
A failed sync behaves as Linux does: the pages count as clean afterwards, so that a second sync succeeds and persists nothing.
"""

from __future__ import annotations

import errno
import hashlib
import random
from dataclasses import dataclass, field

from appliance.durable import SyncFailedError
from appliance.messagelog.disk import LogLockedError

SECTOR_BYTES = 512


@dataclass
class Inode:
    """A file: what programs see, what is on the platter, and what is between (extent by extent, in order)."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    dirty: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes) of a write; (size, None) of a truncation."""

    def apply(self, offset: int, data: bytes | None) -> None:
        _apply(self.durable, offset, data)


@dataclass
class Directory:
    seen: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    pending: list[dict[str, Inode | None]] = field(default_factory=list)
    """Changes that are not synced: each a set of names that appear or (None) vanish together."""

    def change(self, names: dict[str, Inode | None]) -> None:
        _rename(self.seen, names)
        self.pending.append(names)


class Disk:
    """`fail_at`: which mutating operation fails (1 is the first); `but_persist`: it took effect although it says that it failed."""

    def __init__(self, *, capacity: int = 1 << 40, fail_at: int = 0, but_persist: bool = False, code: int = errno.EIO) -> None:
        self.directories: dict[str, Directory] = {"": Directory()}
        self.capacity, self.fail_at, self.but_persist, self.code = capacity, fail_at, but_persist, code
        self.operations = 0
        self.log: list[str] = []
        self._handles: dict[int, Inode] = {}
        self._next = 3
        self._locked = False

    # -- failures

    def _step(self, name: str) -> bool:
        """Counts one mutating operation; True: it has to report failure."""
        self.operations += 1
        self.log.append(name)
        return self.operations == self.fail_at

    def _failed(self) -> OSError:
        return OSError(self.code, errno.errorcode[self.code])

    # -- Disk protocol

    def make_directory(self, path: str) -> None:
        self.directories.setdefault(path, Directory())

    def lock(self, path: str) -> None:
        if self._locked:
            raise LogLockedError("another writer holds the lock")
        self._locked = True

    def release(self) -> None:
        self._locked = False

    def names(self, directory: str) -> list[str]:
        return sorted(self.directories[directory].seen)

    def create(self, path: str) -> int:
        directory, name = self._split(path)
        assert name not in directory.seen, f"{path} exists"
        failing = self._step(f"create {path}")
        inode = Inode()
        if not failing or self.but_persist:
            directory.change({name: inode})
        if failing:
            raise self._failed()
        return self._handle(inode)

    def open(self, path: str) -> int:
        return self._handle(self._inode(path))

    def open_to_read(self, path: str) -> int:
        return self.open(path)

    def write(self, handle: int, data: bytes) -> int:
        inode = self._handles[handle]
        failing = self._step("write")
        room = max(0, self.free_bytes())
        part = data[: room if len(data) > room else len(data)]
        if failing and not self.but_persist:
            part = part[: len(part) // 2]  # a failed write may have gone half way
        if part:
            inode.dirty.append((len(inode.seen), part))
            inode.seen += part
        if failing:
            raise self._failed()
        if data and not part:
            raise OSError(errno.ENOSPC, "ENOSPC")
        return len(part)

    def truncate(self, handle: int, size: int) -> None:
        inode = self._handles[handle]
        failing = self._step("truncate")
        if not failing or self.but_persist:
            del inode.seen[size:]
            inode.dirty.append((size, None))
        if failing:
            raise self._failed()

    def sync(self, handle: int) -> None:
        inode = self._handles[handle]
        failing = self._step("sync")
        if not failing or self.but_persist:
            for offset, data in inode.dirty:
                inode.apply(offset, data)
        inode.dirty.clear()
        if failing:
            raise SyncFailedError("fdatasync")

    def reload(self, path: str) -> None:
        inode = self._inode(path)
        handle = self._handle(inode)
        try:
            self.sync(handle)
        finally:
            self.close(handle)
        inode.seen[:] = inode.durable

    def close(self, handle: int) -> None:
        del self._handles[handle]

    def view(self, path: str, begin: int = 0) -> bytes:
        return bytes(self._inode(path).seen)

    def read(self, path: str, offset: int, size: int) -> bytes:
        return bytes(self._inode(path).seen[offset : offset + size])

    def rename(self, old: str, new: str) -> None:
        directory, old_name = self._split(old)
        _, new_name = self._split(new)
        failing = self._step(f"rename {new}")
        if not failing or self.but_persist:
            directory.change({old_name: None, new_name: directory.seen[old_name]})
        if failing:
            raise self._failed()

    def remove(self, path: str) -> None:
        directory, name = self._split(path)
        if name not in directory.seen:
            return
        failing = self._step(f"remove {path}")
        if not failing or self.but_persist:
            directory.change({name: None})
        if failing:
            raise self._failed()

    def sync_directory(self, path: str) -> None:
        directory = self.directories[path]
        failing = self._step(f"sync_directory {path}")
        if not failing or self.but_persist:
            for names in directory.pending:
                _rename(directory.durable, names)
        directory.pending.clear()
        if failing:
            raise SyncFailedError("fsync of a directory")

    def open_unnamed(self, directory: str) -> int:
        return self._handle(Inode())

    def link(self, handle: int, path: str) -> None:
        directory, name = self._split(path)
        assert name not in directory.seen, f"{path} exists"
        failing = self._step(f"link {path}")
        if not failing or self.but_persist:
            directory.change({name: self._handles[handle]})
        if failing:
            raise self._failed()

    def size(self, handle: int) -> int:
        return len(self._handles[handle].seen)

    def sha256(self, handle: int) -> bytes:
        return hashlib.sha256(self._handles[handle].seen).digest()

    def allocate(self, path: str, size: int) -> None:
        directory, name = self._split(path)
        failing = self._step("allocate")
        if not failing or self.but_persist:
            inode = Inode(bytearray(size), bytearray(size))
            directory.change({name: inode})
        if failing:
            raise self._failed()

    def free_bytes(self) -> int:
        return self.capacity - sum(len(i.seen) for d in self.directories.values() for i in d.seen.values())

    # -- the end of power

    def crashed(self, chance: random.Random, *, kept: float = 0.5) -> Disk:
        """The disk after a power cut: synced things, and of the rest each sector and each name with probability `kept`."""
        after = Disk(capacity=self.capacity)
        copies: dict[int, Inode] = {}
        for path, directory in self.directories.items():
            names = dict(directory.durable)
            for change in directory.pending:
                if chance.random() < kept:
                    _rename(names, change)
            found = {name: copies.setdefault(id(inode), _after(inode, chance, kept)) for name, inode in names.items()}
            after.directories[path] = Directory(dict(found), dict(found))
        return after

    def restarted(self) -> Disk:
        """The disk as the next process finds it when only the process died: everything seen is still there."""
        after = Disk(capacity=self.capacity)
        after.directories = self.directories
        return after

    # -- within

    def _split(self, path: str) -> tuple[Directory, str]:
        directory, _, name = path.rpartition("/")
        return self.directories[directory], name

    def _inode(self, path: str) -> Inode:
        directory, name = self._split(path)
        if name not in directory.seen:
            raise FileNotFoundError(path)
        return directory.seen[name]

    def _handle(self, inode: Inode) -> int:
        self._next += 1
        self._handles[self._next] = inode
        return self._next


def _apply(target: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del target[offset:]
        return
    if len(target) < offset:
        target += bytes(offset - len(target))
    target[offset : offset + len(data)] = data


def _rename(names: dict[str, Inode], change: dict[str, Inode | None]) -> None:
    for name, inode in change.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _after(inode: Inode, chance: random.Random, kept: float) -> Inode:
    content = bytearray(inode.durable)
    for offset, data in inode.dirty:
        if data is None:
            if chance.random() < kept:
                _apply(content, offset, None)
            continue
        at = 0
        while at < len(data):  # sector by sector, as a disk writes
            step = min(SECTOR_BYTES - (offset + at) % SECTOR_BYTES, len(data) - at)
            if chance.random() < kept:
                _apply(content, offset + at, data[at : at + step])
            at += step
    return Inode(bytearray(content), bytearray(content))
