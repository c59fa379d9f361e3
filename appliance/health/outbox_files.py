"""The outbox on the disk: one file an entry in `<state>/outbox/`, written whole or not at all.

Names are `<kind>-<number>`, contents carry their digest; a file that does not hold it is set aside, said by `damaged`, and the next start
tells CEIQROO. A number is never used twice because the highest one stands in a file of its own, a block ahead.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from appliance import durable
from appliance.health.outbox import INCIDENT, REPORT, Entry

_NAME = re.compile(rf"({REPORT}|{INCIDENT})-(\d{{1,18}})")
_DIGEST_BYTES = 32
_NUMBERS = "numbers"
_BLOCK = 1000
"""Numbers reserved with one write."""


class OutboxFiles:
    """Only the reporter opens it. Raises SyncFailedError: then what is on the disk is unknown and the process stops."""

    def __init__(self, directory: Path) -> None:
        durable.make_directory(directory)
        self._directory = directory
        self.damaged = 0
        self._reserved = self._read_number()

    @property
    def first_free(self) -> int:
        """A number above every one that was ever used."""
        return self._reserved + 1

    def load(self) -> list[Entry]:
        """Every entry that was kept and not forgotten."""
        entries = []
        for file in sorted(self._directory.iterdir()):
            name = _NAME.fullmatch(file.name)
            if name is not None:
                content = _checked(file.read_bytes())
                if content is None:
                    self.damaged += 1
                    file.rename(file.with_name(f"damaged-{file.name}"))
                else:
                    entries.append(Entry(int(name[2]), name[1], content))
            elif file.name.startswith("."):
                file.unlink(missing_ok=True)  # a write that a power cut ended
        return entries

    def keep(self, entry: Entry) -> None:
        """Durable when it returns."""
        if entry.number > self._reserved:
            self._reserved = entry.number + _BLOCK
            durable.write_file(self._directory / _NUMBERS, str(self._reserved).encode())
        durable.write_file(self._path(entry), hashlib.sha256(entry.content).digest() + entry.content)

    def forget(self, entry: Entry) -> None:
        """Not synced: an entry that comes back after a power cut is published twice under the same number."""
        self._path(entry).unlink(missing_ok=True)

    def _path(self, entry: Entry) -> Path:
        return self._directory / f"{entry.kind}-{entry.number}"

    def _read_number(self) -> int:
        try:
            text = (self._directory / _NUMBERS).read_text("ascii", "replace")
        except FileNotFoundError:
            return 0
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def _checked(data: bytes) -> bytes | None:
    content = data[_DIGEST_BYTES:]
    return content if hashlib.sha256(content).digest() == data[:_DIGEST_BYTES] else None
