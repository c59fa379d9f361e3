"""The load of the crash guest: the real recorder over `/data/log`, with everything that it writes, and a mark for whatever it acknowledged.

    python -m tests.crash.load DIRECTORY [--disk DEVICE] [--life N] [--turns N] [--bug NAME]

Several senders at once: groups, shared signatures, bodies in the record and in files, audit records, time stamps, checkpoints and tiles,
segments that end after a few groups, data keys of a new day, and every few turns an archive is confirmed and what is due is erased.
"""

from __future__ import annotations

import argparse
import asyncio
import mmap
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from appliance import durable
from appliance.messagelog import custodian
from appliance.messagelog.archive_wire import ChangeTerm, ConfirmArchive, ListArchivable
from appliance.messagelog.wire import Append, Audit, BodyFile, OpenBody
from appliance.net.local_server import called_by
from appliance.settings import RecorderSettings
from tests.crash.marks import (
    AUDIT,
    ERASED,
    FILE_SYSTEM_BYTES,
    LARGE,
    MARK_BYTES,
    MARK_MAX,
    MESSAGE,
    Acknowledged,
    body_of,
    encode,
    query_id,
)
from tests.messagelog.log_box import SUBSYSTEMS, LogBox, written
from tests.messagelog.log_key import certificate_of
from tests.seal.workshop import NOON_US

SETTINGS = RecorderSettings(segment_bytes_max=60_000, reserve_bytes=1 << 20, checkpoint_s=1, checkpoint_records=100)
TOKEN_SECRET = b"the token of the crash guest    "
"""Known to the judge, which has to open what the guest's recorder encrypted."""
DAY_S = 86_400.0
LIFE_US = 30 * 86_400_000_000
"""Wall time between two starts: more than the days that one life plays."""
SENDERS = 4
TURNS_PER_DAY = 12
BUGS = ("", "no-fsync", "acknowledge-before-append")


def crash_box(root: Path, life: int) -> LogBox:
    """A box whose token is the same in every life, and whose clock is later in each."""
    box = LogBox(root, SETTINGS)
    box.signer.token._secret = TOKEN_SECRET
    box.signer.key = ec.derive_private_key(7, ec.SECP256R1())
    box.signer.certificate = certificate_of(box.signer.key)
    box.clock.us = NOON_US + life * LIFE_US
    return box


class Tells(Protocol):
    """Where acknowledgements are told."""

    def put(self, acknowledged: list[Acknowledged]) -> None: ...


class Marks:
    """Tells what was acknowledged: the disk's sector, then the serial line."""

    def __init__(self, device: str) -> None:
        self._fd = os.open(device, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC) if device else -1
        self._page = mmap.mmap(-1, MARK_BYTES)

    def put(self, acknowledged: list[Acknowledged]) -> None:
        for at in range(0, len(acknowledged), MARK_MAX):
            some = acknowledged[at : at + MARK_MAX]
            if self._fd >= 0:
                self._page[:] = encode(some)
                os.pwrite(self._fd, self._page, FILE_SYSTEM_BYTES)
            lines = "".join(f"ACK {each.kind.decode()} {each.number} {each.sequence}\n" for each in some)
            os.write(1, lines.encode())


class Load:
    """One life of a recorder under load."""

    def __init__(
        self, box: LogBox, marks: Tells, life: int, bug: str, *, senders: int = SENDERS, turns_per_day: int = TURNS_PER_DAY
    ) -> None:
        self._box, self._marks, self._bug = box, marks, bug
        self._senders, self._turns_per_day = senders, turns_per_day
        self._next = life * 1_000_000

    def _number(self) -> int:
        self._next += 1
        return self._next

    async def run(self, turns: int) -> None:
        async with self._box.opened() as recorder:
            self._recorder = recorder
            print("OPENED", recorder.store.position.sequence, recorder.store.repaired_bytes, flush=True)
            await self._set_terms()
            for turn in range(turns):
                batches = [self._send(1 + (turn + sender) % 5, is_received=(turn + sender) % 2 == 0) for sender in range(self._senders)]
                await asyncio.gather(*batches, self._send_large(turn), self._audit())
                if turn % self._turns_per_day == self._turns_per_day - 1:
                    await self._next_day()
        if self._box.stopped:
            raise self._box.stopped[0]

    async def _append(self, request: Append, number: int, kind: bytes) -> None:
        payload = msgspec.msgpack.encode(request)
        if self._bug == "acknowledge-before-append":
            self._marks.put([Acknowledged(kind, number, 0)])
            await self._recorder.append("relay", payload)
            return
        sequence = (await self._recorder.append("relay", payload)).sequence
        self._marks.put([Acknowledged(kind, number, sequence)])

    async def _send(self, count: int, *, is_received: bool) -> None:
        """A batch under one signature; what was received is stamped before the answer."""
        numbers = [self._number() for _ in range(count)]
        requests = self._box.appends([query_id(each) for each in numbers], received=is_received, body=body_of(numbers[0], MESSAGE))
        await asyncio.gather(*(self._append(request, number, MESSAGE) for request, number in zip(requests, numbers, strict=True)))

    async def _send_large(self, turn: int) -> None:
        if turn % 3:
            return
        number = self._number()
        body = body_of(number, LARGE)
        request = self._box.appends([query_id(number)], body=body)[0]
        reply = await self._recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(len(body))))
        assert isinstance(reply.value, BodyFile)
        with os.fdopen(reply.descriptor, "wb") as file:
            file.write(written(reply.value, body))
        request.body, request.body_file = None, reply.value.body
        await self._append(request, number, LARGE)

    async def _audit(self) -> None:
        number = self._number()
        told = Audit("access.refused", {"number": str(number)})
        await self._recorder.audit("relay", msgspec.msgpack.encode(told))
        self._marks.put([Acknowledged(AUDIT, number, 0)])

    # -- retention

    async def _set_terms(self) -> None:
        """One is kept longer than the other: segments lose some contents a day before the rest."""
        with called_by(0):
            for days, subsystem in enumerate(SUBSYSTEMS, start=1):
                await self._recorder.custodian.change_term("console", msgspec.msgpack.encode(ChangeTerm(subsystem, days, True)))

    async def _next_day(self) -> None:
        """Everything so far is stamped and archived; a day later it is due, and the keys are a new day's."""
        while self._recorder.stamper.stamps.waiting:
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.05)
        await self._recorder.checkpoints.make()
        keeper = self._recorder.custodian
        found = await keeper.list_archivable("archivist", msgspec.msgpack.encode(ListArchivable("", 5000, 1 << 30)))
        if found.records:
            sequences = [one.sequence for one in found.records]
            told = ConfirmArchive("", "mlog.zip.age", "00" * 32, "11" * 64, sequences, found.last, ["directory"])
            await keeper.confirm_archive("archivist", msgspec.msgpack.encode(told))
        self._marks.put([Acknowledged(ERASED, 0, self._recorder.store.position.sequence)])
        self._box.clock.pass_s(1.05 * DAY_S)
        erased = await keeper.erase_due("console", b"")
        print("ERASED", erased.contents, erased.bodies, erased.keys, flush=True)


def plant(bug: str) -> None:
    """Makes the recorder as bad as the name says."""
    if bug == "no-fsync":
        nothing: Callable[[int], None] = lambda fd: None  # noqa: E731
        durable.sync_file = nothing


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("directory")
    words.add_argument("--disk", default="")
    words.add_argument("--life", type=int, default=1)
    words.add_argument("--turns", type=int, default=1 << 30)
    words.add_argument("--bug", default="", choices=BUGS)
    given = words.parse_args()
    custodian.SEGMENT_PAUSE_S = 0.0
    plant(given.bug)
    root = Path(given.directory) / "log"
    asyncio.run(Load(crash_box(root, given.life), Marks(given.disk), given.life, given.bug).run(given.turns))
    print("DONE", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
