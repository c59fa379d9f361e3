"""The tree's tiles as files, in the layout of C2SP tlog-tiles below `log/tiles`: whoever holds them can make every proof.

Derived from the segments and rebuilt from them where anything is missing, so that nothing here is on an append's way. Tiles are written
after the sync of the records that they cover, and made durable before a checkpoint over them is signed (`sync`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import msgspec

from appliance import durable
from appliance.errors import UNREADABLE, CorruptStateError
from appliance.messagelog.merkle import HASH_BYTES, TILE_WIDTH, Tile, tile_path

CHECKPOINT, PLACE = "checkpoint", "place"
TILES_UNSYNCED_MAX = 4096
"""Paths of written tiles that wait for a checkpoint, a million records; what is beyond is synced at once."""


class Place(msgspec.Struct, array_like=True):
    """Where the log goes on behind a checkpoint's records, and the certificate that it was signed under."""

    size: int
    offset: int | None
    """Of record `size` in its segment."""
    certificate: bytes
    before: tuple[int, ...] = ()
    """Sizes of the checkpoints before it, the newest last: from each of them the health report proves on (`log_tree`)."""


class TileMissingError(CorruptStateError):
    """A tile that the tree needs is not there, or is shorter than it was: the tiles are made again from the segments."""

    kind = "log.tile_missing"


class TileFiles:
    """Used by one thread (the index's), but for `read`, which any may call."""

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._unsynced: list[Path] = []

    def discard(self) -> None:
        """Deletes every tile; the checkpoint stays: it says what the log must still contain."""
        shutil.rmtree(self._root / "tile", ignore_errors=True)
        self._unsynced = []

    def write(self, tile: Tile) -> None:
        """One tile; the full one takes the place of its partial ones, a partial one that of narrower ones."""
        path = self._root / tile.path
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        passing = path.with_name(f"{path.name}.new")
        passing.write_bytes(tile.hashes)
        os.replace(passing, path)
        self._unsynced.append(path)
        if tile.width == TILE_WIDTH:
            shutil.rmtree(path.with_name(f"{path.name}.p"), ignore_errors=True)
        if len(self._unsynced) >= TILES_UNSYNCED_MAX:
            self.sync()

    def sync(self) -> None:
        """Everything written so far is durable afterwards. Raises SyncFailedError."""
        directories = set()
        for path in self._unsynced:
            with contextlib.suppress(FileNotFoundError):  # a partial tile that became full since
                fd = os.open(path, os.O_RDONLY)
                try:
                    durable.sync_file(fd)
                finally:
                    os.close(fd)
                directories |= {parent for parent in path.parents if parent.is_relative_to(self._root)}
        for directory in directories:
            if directory.is_dir():
                durable.sync_directory(directory)
        self._unsynced = []

    def drop_narrower(self, tile: Tile) -> None:
        """Partial tiles of earlier checkpoints, once a wider one is durable."""
        directory = (self._root / tile.path).parent
        for name in os.listdir(directory) if tile.width < TILE_WIDTH and directory.is_dir() else ():
            if name.isdecimal() and int(name) < tile.width:
                (directory / name).unlink(missing_ok=True)

    def read(self, level: int, index: int, width: int) -> bytes:
        """At least `width` hashes of a tile: of the full one, or of a partial one that is wide enough. Raises TileMissingError."""
        full = self._root / tile_path(level, index)
        candidates = [full]
        if width < TILE_WIDTH:
            partial = full.with_name(f"{full.name}.p")
            names = sorted((int(name) for name in os.listdir(partial) if name.isdecimal()), reverse=True) if partial.is_dir() else []
            candidates += [partial / str(name) for name in names if name >= width]
        for path in candidates:
            with contextlib.suppress(OSError):
                data = path.read_bytes()
                if len(data) >= width * HASH_BYTES:
                    return data
        raise TileMissingError(f"{tile_path(level, index, width)} is missing or too short")

    def write_checkpoint(self, note: bytes, place: Place) -> None:
        """Durable. The place first: without the checkpoint of its size it says nothing."""
        durable.make_directory(self._root)
        durable.write_file(self._root / PLACE, msgspec.msgpack.encode(place))
        durable.write_file(self._root / CHECKPOINT, note)

    def checkpoint(self) -> tuple[bytes, Place | None] | None:
        """The newest signed checkpoint as it was written, and its place where that is known."""
        try:
            note = (self._root / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError, *UNREADABLE):
            return note, msgspec.msgpack.decode((self._root / PLACE).read_bytes(), type=Place)
        return note, None
