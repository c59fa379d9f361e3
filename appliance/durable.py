"""File operations that survive a power cut. The only module that calls fsync.

After a failed sync nothing about the file is known any more: callers must stop the process, not retry (SyncFailedError).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from appliance.errors import CorruptStateError


class SyncFailedError(CorruptStateError):
    """fsync or fdatasync failed: what is on the disk is unknown."""

    kind = "disk.sync_failed"


def sync_file(fd: int) -> None:
    """Makes the file's bytes and size durable (fdatasync). Raises SyncFailedError."""
    try:
        os.fdatasync(fd)
    except OSError as error:
        raise SyncFailedError(f"fdatasync: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Makes a directory's entries durable. Raises SyncFailedError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(fd, path)
    finally:
        os.close(fd)


def write_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replaces `path` as a whole: afterwards the old or the new content is there, never a part.

    The directory is held open throughout, so that an error in writing its entry is not lost.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(data)
                file.flush()
                _sync(file.fileno(), path)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync(directory, path.parent)
    finally:
        os.close(directory)


def make_directory(path: Path, mode: int = 0o700) -> None:
    """Creates a directory and makes its entry durable; does nothing where it exists."""
    if path.is_dir():
        return
    path.mkdir(mode=mode)
    sync_directory(path.parent)


def _sync(fd: int, path: Path) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        raise SyncFailedError(f"fsync of {path}: {error.strerror}") from error
