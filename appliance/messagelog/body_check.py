"""Whether the files of large bodies are the ones that their records name: for `xacbe log audit`.

The record holds the SHA-256 of its body's file, encrypted as it lies, so that no key is needed. Reads a file a MiB at a time; memory: 16
bytes for each file. What a start or the recorder is about to put right is no damage: files of records that are not written yet, and what an
erasure that `retention.json` names has not come to.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from appliance.errors import UNREADABLE
from appliance.messagelog.custody import PENDING
from appliance.messagelog.record import MessageEntry
from appliance.messagelog.segments import BODIES, body_path
from appliance.messagelog.stream import sealed_bytes

READ_BYTES = 1 << 20
SUFFIX = ".body"


class BodyCheck:
    """The directory of bodies as it was at the beginning, and what the records say of it, in order."""

    def __init__(self, root: Path, read: Callable[[int], None] = lambda count: None) -> None:
        """`read`: told how many bytes were done with. Raises OSError where the directory cannot be read."""
        self._root, self._read = root, read
        self._found, self.bytes = array("Q"), 0
        if (root / BODIES).is_dir():
            with os.scandir(root / BODIES) as files:
                for file in files:
                    number = file.name.removesuffix(SUFFIX)
                    if file.name.endswith(SUFFIX) and number.isascii() and number.isdecimal() and len(number) == 20:
                        self._found.append(int(number))
                        self.bytes += _size(Path(file.path)) or 0
        self._found = array("Q", sorted(self._found))
        self._named = array("Q")
        self.whole = self.undecided = 0
        """Files that were compared; of these, the ones of records without a digest: their size alone was."""

    def look(self, sequence: int, entry: MessageEntry) -> tuple[bool, str]:
        """(whether the file of this message's body is there, why it does not fit)."""
        self._named.append(sequence)
        file = self._root / body_path(sequence)
        try:
            with open(file, "rb", buffering=0) as body:
                size = os.fstat(body.fileno()).st_size
                if size != sealed_bytes(entry.body_bytes):
                    self._read(size)
                    return True, f"its body's file has {size} bytes, it was written with {sealed_bytes(entry.body_bytes)}"
                digest = self._digest(body.fileno(), size)
        except FileNotFoundError:
            return False, ""
        except OSError as error:
            return True, f"its body's file cannot be read: {error.strerror}"
        self.whole += 1
        self.undecided += entry.file_digest is None
        return True, "" if entry.file_digest in (None, digest) else "its body's file is not the one that was written"

    def _digest(self, descriptor: int, size: int) -> bytes:
        hashed, at = hashlib.sha256(), 0
        while at < size and (piece := os.pread(descriptor, READ_BYTES, at)):
            hashed.update(piece)
            at += len(piece)
            self._read(len(piece))
        return hashed.digest()

    def stray(self, firsts: Sequence[int], last: int) -> int | None:
        """After record `last`: the first file that no record names and that is still there. `firsts`: where segments begin."""
        being_cut = self._being_cut(firsts, last)
        for number in self._found[: bisect_right(self._found, last)]:
            at = bisect_left(self._named, number)
            is_named = at < len(self._named) and self._named[at] == number
            if not is_named and number not in being_cut and (self._root / body_path(number)).exists():
                return number
        return None

    def _being_cut(self, firsts: Sequence[int], last: int) -> range:
        """The records of the segment whose contents are being erased."""
        try:
            first = msgspec.json.decode((self._root / PENDING).read_bytes(), type=int)
        except (OSError, *UNREADABLE):
            return range(0)
        return range(first, min((other for other in firsts if other > first), default=last + 1))


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:  # erased meanwhile; what cannot be read is said when its record comes
        return None
