"""Runs a workload on a failing disk, reopens what is left, and says what was promised and not kept."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

from appliance.durable import SyncFailedError
from appliance.errors import XacbeError
from appliance.messagelog import record
from appliance.messagelog.groups import Draft, Written
from appliance.messagelog.record import MessageEntry
from appliance.messagelog.segments import BODIES, body_path
from appliance.messagelog.store import Limits, Store
from tests.fakes.disk import Disk, Inode
from tests.messagelog.drafts import StillClock, audit, message, signature

LIMITS = Limits(segment_bytes_max=6000, reserve_bytes=50_000)


class PowerCut(BaseException):
    """The machine stops at this operation."""


class CuttingDisk(Disk):
    """Stops the world before the n-th operation."""

    cut_at = 0

    def _step(self, name: str) -> bool:
        if self.operations + 1 == self.cut_at:
            raise PowerCut
        return super()._step(name)


class ForgetfulDisk(CuttingDisk):
    """The planted bug "no fsync": sync says yes and does nothing."""

    def sync(self, handle: int) -> None:
        return


class RetryingDisk(CuttingDisk):
    """The planted bug "retry after a failed sync"."""

    def sync(self, handle: int) -> None:
        try:
            super().sync(handle)
        except SyncFailedError:
            super().sync(handle)


class EagerDisk(CuttingDisk):
    """The planted bug "acknowledge before append": what is told at once reaches the disk only some operations later."""

    BEHIND = 3

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self._late: list[tuple[int, Inode]] = []

    def sync(self, handle: int) -> None:
        self._late.append((self.operations + self.BEHIND, self._handles[handle]))

    def _step(self, name: str) -> bool:
        due = [inode for at, inode in self._late if at <= self.operations]
        self._late = [(at, inode) for at, inode in self._late if at > self.operations]
        for inode in due:
            for offset, data in inode.dirty:
                inode.apply(offset, data)
            inode.dirty.clear()
        return super()._step(name)


class NamelessDisk(CuttingDisk):
    """The planted bug "names are not synced"."""

    def sync_directory(self, path: str) -> None:
        return


@dataclass
class Promises:
    """What the log acknowledged: payloads by sequence, and bodies."""

    records: dict[int, tuple[int, bytes]] = field(default_factory=dict)
    bodies: dict[int, bytes] = field(default_factory=dict)

    def acknowledged(self, written: Written) -> None:
        assert written.sequence not in self.records, f"sequence {written.sequence} was given twice"
        self.records[written.sequence] = (written.kind, record.encode_entry(written.entry))


def opened(disk: Disk) -> Store:
    salt = itertools.count()
    store = Store(disk, LIMITS, StillClock(), lambda: next(salt).to_bytes(16, "big"))
    store.open()
    return store


def workload(store: Store, disk: Disk, promises: Promises, *, rounds: int = 4) -> None:
    """Groups of several sizes, shared signatures, bodies, several rolls of the segment."""
    for turn in range(rounds):
        shared = signature(f"batch {turn}")
        drafts: list[Draft] = [message(f"{turn}-{n}", shared) for n in range(3)]
        drafts.append(audit("access.refused"))
        body = f"body of {turn}".encode() * 100
        if turn % 2:
            handle = disk.open_unnamed(BODIES)
            disk.write(handle, body)
            disk.sync(handle)
            drafts.append(message(f"{turn}-body", shared, body=handle))
        for result in store.write(drafts).results:
            if isinstance(result, XacbeError):
                continue
            promises.acknowledged(result)
            if isinstance(result.entry, MessageEntry) and result.entry.body_file:
                promises.bodies[result.sequence] = body


def broken_promises(disk: Disk, promises: Promises) -> list[str]:
    """Opens the log, which checks its links, and compares. Empty: everything was kept."""
    try:
        store = opened(disk)
    except XacbeError as error:
        return [f"does not open: {error.kind}: {error}"]
    found = {r.sequence: (r.kind, r.payload) for _, r in store.records_from(1)}
    lost = [f"record {sequence} is lost" for sequence, kept in promises.records.items() if found.get(sequence) != kept]
    lost += [f"body {s} is lost" for s, body in promises.bodies.items() if _body(disk, s) != body]
    fresh = store.write([audit("box.checked")]).results[0]
    if isinstance(fresh, XacbeError) or fresh.sequence in promises.records:
        lost.append(f"after the restart: {fresh}")
    store.close()
    return lost


def _body(disk: Disk, sequence: int) -> bytes | None:
    try:
        return disk.view(body_path(sequence))
    except FileNotFoundError:
        return None
