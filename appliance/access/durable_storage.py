"""The file below the local configuration: TinyDB's storage, made to survive a power cut.

Every commit keeps the generation before it in a second file; each file carries its number and digest. A torn or damaged current file is
noticed and the previous generation is in force, said by `fell_back`. Nothing is written in place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinydb.storages import Storage

from appliance import durable
from appliance.errors import CorruptStateError

_MAGIC = b"xacbe-local-1"
FILE_MODE = 0o640


class LocalCorruptError(CorruptStateError):
    """Neither generation of the local configuration can be read."""

    kind = "local.corrupt"


def encode(generation: int, content: bytes) -> bytes:
    """A generation as it lies on the disk: one line with number and digest, then the JSON."""
    number = b"%d" % generation
    return b" ".join((_MAGIC, number, _digest(number, content))) + b"\n" + content


def decode(data: bytes) -> tuple[int, bytes] | None:
    """(generation, JSON) of a whole file; None where it is torn or damaged anywhere."""
    head, found, content = data.partition(b"\n")
    words = head.split(b" ")
    if not found or len(words) != 3 or words[0] != _MAGIC or not words[1].isdigit() or len(words[1]) > 18:
        return None
    return (int(words[1]), content) if words[2] == _digest(words[1], content) else None


def _digest(number: bytes, content: bytes) -> bytes:
    return hashlib.sha256(number + b"\n" + content).hexdigest().encode()


class DurableStorage(Storage):
    """Two generations in `<path>` and `<path>.previous`. One process writes, one change at a time.

    Invariant: after a commit returned, its content is read by every later start; after one that did not, the old or the new is.
    Raises LocalCorruptError where files exist and none can be read.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._previous = path, path.with_name(path.name + ".previous")
        self.fell_back = False
        self._pending: bytes | None = None
        self.generation, self._committed = self._load()

    def _load(self) -> tuple[int, bytes]:
        current, previous = _read(self._path), _read(self._previous)
        if current is None and previous is None:
            return 0, b"{}"
        found = decode(current) if current is not None else None
        if found is not None:
            return found
        self.fell_back = True
        found = decode(previous) if previous is not None else None
        if found is None:
            raise LocalCorruptError(f"{self._path}: neither generation can be read")
        generation, content = found
        # The lost generation's number is never used again: a reader may still know its content by that number.
        durable.write_file(self._path, encode(generation + 2, content), FILE_MODE)
        return generation + 2, content

    @contextmanager
    def change(self) -> Iterator[None]:
        """All writes inside become one generation; none of them where the block raises."""
        if self._pending is not None:
            raise RuntimeError("a change inside a change")
        self._pending = self._committed
        try:
            yield
            content = self._pending
        finally:
            self._pending = None
        if content != self._committed:
            self._commit(content)

    def _commit(self, content: bytes) -> None:
        durable.write_file(self._previous, encode(self.generation, self._committed), FILE_MODE)
        durable.write_file(self._path, encode(self.generation + 1, content), FILE_MODE)
        self.generation, self._committed = self.generation + 1, content

    def read(self) -> dict[str, Any] | None:
        content = self._committed if self._pending is None else self._pending
        parsed: dict[str, Any] = json.loads(content)
        return parsed or None

    def write(self, data: dict[str, Any]) -> None:
        if self._pending is None:
            raise RuntimeError("a write outside a change")
        self._pending = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
