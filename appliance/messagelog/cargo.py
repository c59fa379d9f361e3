"""Archives that wait for the courier: the archivist's counter towards the process that has the network.

The courier sees names, sizes, digests, and a descriptor to read the encrypted file; neither the outbox nor the log. An archive is on offer
from its manifest until every remote target has it; nothing is kept here: a courier that is asked again looks first
whether it is there.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.errors import RefusedError, UnavailableError
from appliance.net.local_server import Handler, Reply

CARRIED_S_MAX = 30.0
"""So long a run waits for an archive's arrival; a longer way is gone on with, and the next run finds it arrived."""
ASK_S_MAX = 10.0
"""A courier without work waits so long in its question."""


class NotCarriedYetError(UnavailableError):
    """A remote target does not have the archive yet."""

    kind = "archive.on_its_way"


class NoSuchCargoError(RefusedError):
    """No such archive is on offer: it arrived, or never was one."""

    kind = "archive.no_such_cargo"


class Cargo(msgspec.Struct, array_like=True):
    """One archive for one target."""

    file: str
    sha256: str
    bytes: int


class NextCargo(msgspec.Struct, array_like=True):
    """`next_cargo`: what this target lacks; None after ASK_S_MAX without any."""

    target: str


class OpenCargo(msgspec.Struct, array_like=True):
    """`open_cargo`: the encrypted file as a descriptor."""

    file: str


class CargoArrived(msgspec.Struct, array_like=True):
    """`cargo_arrived`: whole, under its name, read back. Asking again changes nothing."""

    target: str
    file: str
    sha256: str


@dataclass(slots=True)
class _Due:
    path: Path
    cargo: Cargo
    lacking: set[str]


class CargoCounter:
    """`targets`: names of the remote targets in the settings. Invariant: an archive leaves only when all of them said its digest."""

    def __init__(self, targets: list[str]) -> None:
        self.targets = targets
        self.all_arrived = asyncio.Event()
        """Set when an archive is at its last target: the archivist's next run need not wait."""
        self._due: dict[str, _Due] = {}
        self._arrived: set[tuple[str, str]] = set()
        self._changed = asyncio.Condition()

    def handlers(self) -> dict[str, Handler]:
        return {"next_cargo": self.next_cargo, "open_cargo": self.open_cargo, "cargo_arrived": self.cargo_arrived}

    async def carried(self, path: Path, sha256: str, wait_s: float = CARRIED_S_MAX) -> None:
        """Returns when every remote target has it. Raises NotCarriedYetError; it stays on offer."""
        if not self.targets or (path.name, sha256) in self._arrived:
            return
        if path.name not in self._due:
            size = await asyncio.to_thread(os.path.getsize, path)
            self._due[path.name] = _Due(path, Cargo(path.name, sha256, size), set(self.targets))
        async with self._changed:
            self._changed.notify_all()
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait_for(lambda: path.name not in self._due)
            except TimeoutError:
                raise NotCarriedYetError(f"{path.name}: {', '.join(sorted(self._due[path.name].lacking))}") from None

    def confirmed(self, file: str, sha256: str) -> None:
        """The recorder knows: forgotten here."""
        self._arrived.discard((file, sha256))

    # -- the courier's questions

    async def next_cargo(self, caller: str, payload: bytes) -> Cargo | None:
        target = msgspec.msgpack.decode(payload, type=NextCargo).target
        async with self._changed:
            try:
                async with asyncio.timeout(ASK_S_MAX):
                    await self._changed.wait_for(lambda: self._next(target) is not None)
            except TimeoutError:
                return None
            return self._next(target)

    async def open_cargo(self, caller: str, payload: bytes) -> Reply:
        due = self._due.get(msgspec.msgpack.decode(payload, type=OpenCargo).file)
        if due is None:
            raise NoSuchCargoError("not on offer")
        return Reply(due.cargo, os.open(due.path, os.O_RDONLY | os.O_CLOEXEC))

    async def cargo_arrived(self, caller: str, payload: bytes) -> None:
        told = msgspec.msgpack.decode(payload, type=CargoArrived)
        due = self._due.get(told.file)
        if due is None or due.cargo.sha256 != told.sha256:
            return
        async with self._changed:
            due.lacking.discard(told.target)
            if not due.lacking:
                del self._due[told.file]
                self._arrived.add((told.file, told.sha256))
                self.all_arrived.set()
                self._changed.notify_all()

    def _next(self, target: str) -> Cargo | None:
        return next((due.cargo for due in self._due.values() if target in due.lacking), None)
