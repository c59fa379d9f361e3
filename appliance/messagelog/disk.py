"""The few disk operations of the message log, as a seam: the real ones here, a disk that loses and tears writes in the tests.

Paths are relative to the log's directory. Nothing is durable before `sync` (a file's bytes) and `sync_directory` (its name).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import secrets
from pathlib import Path
from typing import Protocol

from appliance import durable
from appliance.errors import UnavailableError
from appliance.messagelog.record import Buffer

READ_BYTES, PAGE_BYTES = 1 << 20, 4096


class LogLockedError(UnavailableError):
    """Another process writes this log (T28): this one must not start."""

    kind = "log.locked"


class Disk(Protocol):
    """What the log asks of a disk. Failures are OSError, but a failed sync is durable.SyncFailedError."""

    def make_directory(self, path: str) -> None:
        """Durable; nothing where it exists."""
        ...

    def lock(self, path: str) -> None:
        """Held until the process ends or `release`. Raises LogLockedError."""
        ...

    def names(self, directory: str) -> list[str]: ...

    def create(self, path: str) -> int:
        """A new empty file, opened for appending; the caller syncs its directory."""
        ...

    def open(self, path: str) -> int:
        """An existing file, opened for appending."""
        ...

    def open_to_read(self, path: str) -> int:
        """An existing file that whoever is handed it cannot change."""
        ...

    def write(self, handle: int, data: bytes) -> int:
        """Appends; returns how many bytes went out, as write(2)."""
        ...

    def truncate(self, handle: int, size: int) -> None: ...

    def sync(self, handle: int) -> None: ...

    def reload(self, path: str) -> None:
        """Syncs a file and forgets what the cache holds of it: what is read next is what the disk has.

        After a failed sync the cache shows bytes that never reached the disk, and calls them clean (Linux): a process that started anew
        would take them for durable. Raises SyncFailedError.
        """
        ...

    def close(self, handle: int) -> None: ...

    def view(self, path: str, begin: int = 0) -> Buffer:
        """The whole file for reading; memory is the page cache's.

        Head and whatever lies from `begin` on are read once before, so that what the disk fails at raises OSError: in a map it is a signal
        that ends the process. Nothing before `begin` may be looked at.
        """
        ...

    def read(self, path: str, offset: int, size: int) -> bytes: ...

    def rename(self, old: str, new: str) -> None: ...

    def remove(self, path: str) -> None:
        """Nothing where it does not exist."""
        ...

    def sync_directory(self, path: str) -> None: ...

    def open_unnamed(self, directory: str) -> int:
        """A file without a name, read-write: it vanishes unless it is linked."""
        ...

    def link(self, handle: int, path: str) -> None:
        """Gives an unnamed file its name; the caller syncs its directory."""
        ...

    def size(self, handle: int) -> int: ...

    def sha256(self, handle: int) -> bytes:
        """Of all of the file's bytes, a piece at a time."""
        ...

    def allocate(self, path: str, size: int) -> None:
        """A file that occupies `size` bytes."""
        ...

    def free_bytes(self) -> int: ...

    def release(self) -> None:
        """Gives the lock back."""
        ...


class OsDisk:
    """The operating system's files below one directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = -1
        self._named: dict[int, str] = {}
        """Of file systems without unnamed files (O_TMPFILE): the passing name of each, which no start-up takes for a body."""

    def path(self, path: str) -> Path:
        return self._root / path

    def make_directory(self, path: str) -> None:
        durable.make_directory(self._root / path)

    def lock(self, path: str) -> None:
        fd = os.open(self._root / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise LogLockedError(f"{self._root} is written by another process ({error.strerror})") from None
        self._lock = fd

    def release(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def names(self, directory: str) -> list[str]:
        return sorted(os.listdir(self._root / directory))

    def create(self, path: str) -> int:
        return os.open(self._root / path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def open(self, path: str) -> int:
        return os.open(self._root / path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)

    def open_to_read(self, path: str) -> int:
        return os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)

    def write(self, handle: int, data: bytes) -> int:
        return os.write(handle, data)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        durable.sync_file(handle)

    def reload(self, path: str) -> None:
        fd = os.open(self._root / path, os.O_RDWR | os.O_CLOEXEC)
        try:
            durable.sync_file(fd)  # a killed process's bytes are dirty still: those are written, and kept
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # clean pages alone are dropped, and all are clean now
        finally:
            os.close(fd)

    def close(self, handle: int) -> None:
        os.close(handle)
        if (name := self._named.pop(handle, None)) is not None:
            self.remove(name)

    def view(self, path: str, begin: int = 0) -> Buffer:
        with open(self._root / path, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return b""
            piece = bytearray(READ_BYTES)
            try:
                os.preadv(file.fileno(), [memoryview(piece)[:PAGE_BYTES]], 0)
                for at in range(begin, size, READ_BYTES):
                    os.preadv(file.fileno(), [piece], at)
            except OSError as error:
                raise OSError(error.errno, error.strerror, path) from None
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def read(self, path: str, offset: int, size: int) -> bytes:
        fd = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, size, offset)
        finally:
            os.close(fd)

    def rename(self, old: str, new: str) -> None:
        os.rename(self._root / old, self._root / new)

    def remove(self, path: str) -> None:
        (self._root / path).unlink(missing_ok=True)

    def sync_directory(self, path: str) -> None:
        durable.sync_directory(self._root / path)

    def open_unnamed(self, directory: str) -> int:
        try:
            return os.open(self._root / directory, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
        name = f"{directory}/.unnamed-{secrets.token_hex(8)}"
        handle = os.open(self._root / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._named[handle] = name
        return handle

    def link(self, handle: int, path: str) -> None:
        if (name := self._named.pop(handle, None)) is not None:
            self.rename(name, path)
            return
        # linkat with AT_SYMLINK_FOLLOW over /proc: the way for unnamed files that needs no capability (open(2)). Python calls linkat,
        # not link, only where a directory is given; the path is absolute, so which one does not matter.
        directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY)
        try:
            os.link(f"/proc/self/fd/{handle}", self._root.absolute() / path, src_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(directory)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def sha256(self, handle: int) -> bytes:
        hashed, at = hashlib.sha256(), 0
        while piece := os.pread(handle, READ_BYTES, at):
            hashed.update(piece)
            at += len(piece)
        return hashed.digest()

    def allocate(self, path: str, size: int) -> None:
        fd = os.open(self._root / path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, size)
        finally:
            os.close(fd)

    def free_bytes(self) -> int:
        found = os.statvfs(self._root)
        return found.f_bavail * found.f_frsize
