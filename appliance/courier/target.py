"""What a remote target is to the courier. Pure.

`carry` may be cut off at any moment and begun again: it goes on where it was, and returns only when the file is at the target whole, under
its name, with the digest that was read back there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Parcel:
    """An encrypted archive: `descriptor` is read with offsets, never moved; `sha256` in hex."""

    descriptor: int
    name: str
    bytes: int
    sha256: str


class RemoteTarget(Protocol):
    """Blocking calls, for one worker thread; `abort` from any thread ends what is going on. Raises the leaves of `courier.errors`."""

    name: str

    def carry(self, parcel: Parcel) -> None: ...

    def check(self) -> None:
        """Whether it could be carried now: reached, known, let in, and the place is there. Writes nothing."""
        ...

    def abort(self) -> None: ...
