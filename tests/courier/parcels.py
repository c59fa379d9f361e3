"""An encrypted archive to carry, and a target that dies at its n-th act."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.courier.target import Parcel

NAME = "mlog-QROO_GOB ñ-20260101000000-20260101010000-0123456789abcdef.zip.age"


class Cut(BaseException):
    """The courier dies here."""


def parcel(directory: Path, size: int = 300_000, name: str = NAME) -> Parcel:
    data = os.urandom(size)
    (directory / "parcel").write_bytes(data)
    descriptor = os.open(directory / "parcel", os.O_RDONLY)
    return Parcel(descriptor, name, size, hashlib.sha256(data).hexdigest())


class Dying:
    """In front of a client: before or after its n-th act the courier dies, and the connection with it."""

    def __init__(self, client: Any, acts: tuple[str, ...], at: int, after: bool) -> None:
        self._client, self._acts, self._at, self._after, self.done = client, acts, at, after, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._client, name)
        return self._act(real) if name in self._acts else real

    def _act(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(*values: Any, **named: Any) -> Any:
            self.done += 1
            if self.done != self._at:
                return real(*values, **named)
            if self._after:
                real(*values, **named)
            raise Cut

        return act
