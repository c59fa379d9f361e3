"""Makes archives and hands them over: the archivist's hands. No network, no key of the log.

    archive/outbox/tmp-*.tmp            an archive that is being made
    archive/outbox/<name>.zip.age       made, durable
    archive/outbox/<name>.zip.age.json  its manifest: from here on it is handed over and confirmed, however often we start
    archive/state.json                  the newest archives, for people

The end of each group's chain is what the log says of the newest archive that was confirmed (`custody`): a `state.json` that is lost forks
no chain. Each group has one archive at most on its way. In clear an archive exists in a pipe only: what reaches the disk is encrypted with
age. An archive is confirmed to the recorder only when every target has it whole, under its name, durable; then it leaves the outbox.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from appliance import durable
from appliance.clock import Clock, iso
from appliance.errors import UNREADABLE, CorruptStateError, UnavailableError, XacbeError
from appliance.journal import event
from appliance.messagelog.archive import ENCRYPTED, ArchiveWriter, Hashed, Link, archive_name, container_name, missing_name
from appliance.messagelog.archive_wire import Archivable, ConfirmArchive, ListArchivable, MadeArchive, MissingRecord, ReadArchivable
from appliance.messagelog.cargo import CargoCounter
from appliance.messagelog.wire import RecordContent, RecordSummary

OUTBOX, STATE = "outbox", "state.json"
KEPT_MAX = 1000
"""Archives that `archive list` shows; the audit log has them all."""
RECORDS_MAX = 5000
READ_S_MAX = 60.0
JUDGED_S_MAX = 300.0
"""A body of a GiB is read whole on a slow disk."""
PASSING = ("process.away", "log.key_absent", "log.index_unavailable", "frame.malformed")
"""Says nothing about the message that was asked for."""
_COPY_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class TargetAwayError(UnavailableError):
    """A target does not take the archive now: it waits in the outbox."""

    kind = "archive.target_away"


class NoRoomError(UnavailableError):
    """No room for an archive on our own disk: messages go first."""

    kind = "archive.no_room"


class ArchiveStateError(CorruptStateError):
    """The list of archives is damaged. It may be removed: the chain goes on from what the log says."""

    kind = "archive.state_corrupt"


class UnreadableMessageError(UnavailableError):
    """Of this message no container can be made: it, or its body, cannot be read, or is not what was logged."""

    kind = "archive.unreadable"

    def __init__(self, sequence: int, why: XacbeError) -> None:
        super().__init__(f"record {sequence}: {why.kind}: {why}")
        self.sequence = sequence


class Recorder(Protocol):
    """The way to the recorder: `net.local_sockets.LocalClient`."""

    async def call(self, operation: str, request: Any = None, answer: Any = None, timeout_s: float = READ_S_MAX) -> Any: ...

    async def call_for_descriptor(self, operation: str, request: Any, answer: Any, timeout_s: float = READ_S_MAX) -> tuple[Any, int]: ...


class Target(Protocol):
    """Where archives go. `put` returns when the file is there whole and durable; doing it again changes nothing. Raises TargetAwayError."""

    name: str

    def put(self, file: Path, sha256: str) -> None: ...


class State(msgspec.Struct):
    """For people: what is listed."""

    archives: list[MadeArchive] = []


class Archiving:
    """One archivist. Invariant: a file of the outbox with a manifest holds exactly what the manifest says."""

    def __init__(
        self,
        root: Path,
        recorder: Recorder,
        targets: list[Target],
        recipients: list[Any],
        grouping: str,
        bytes_max: int,
        clock: Clock,
        log: logging.Logger,
        cargo: CargoCounter | None = None,
    ) -> None:
        """Raises ArchiveStateError, SyncFailedError."""
        self._root, self._outbox, self._cargo = root, root / OUTBOX, cargo or CargoCounter([])
        self._recorder, self._targets, self._recipients = recorder, targets, recipients
        self._grouping, self._bytes_max, self._clock, self._log = grouping, bytes_max, clock, log
        durable.make_directory(self._outbox)
        for unfinished in self._outbox.glob("tmp-*"):
            unfinished.unlink()
        for unnamed in self._outbox.glob(f"*{ENCRYPTED}"):
            if not _manifest(unnamed).exists():
                unnamed.unlink()
        try:
            self.state = msgspec.json.decode((root / STATE).read_bytes(), type=State)
        except FileNotFoundError:
            self.state = State()
        except UNREADABLE as error:
            raise ArchiveStateError(f"{root / STATE}: {error}") from None

    async def run_once(self) -> list[MadeArchive]:
        """Everything final is archived, handed over and confirmed. Raises TargetAwayError, NotCarriedYetError, NoRoomError, log.*.

        A message that cannot be read holds up its own group alone, until the recorder has said that it is missing.
        """
        done = []
        for manifest in sorted(self._outbox.glob(f"*{ENCRYPTED}.json")):
            done.append(await self._hand_over(msgspec.json.decode(manifest.read_bytes(), type=MadeArchive)))
        unreadable: UnreadableMessageError | None = None
        for group in await self._groups():
            try:
                while (made := await self._make(group)) is not None:
                    done.append(await self._hand_over(made))
            except UnreadableMessageError as error:
                unreadable = error
        if unreadable is not None:
            raise unreadable
        return done

    async def _groups(self) -> list[str]:
        subsystems: list[str] = await self._recorder.call("archive_groups", None, list[str])
        match self._grouping:
            case "subsystem":
                return subsystems
            case "member":
                return sorted({name.rpartition("/")[0] for name in subsystems})
            case _:
                return [""] if subsystems else []

    # -- making

    async def _make(self, group: str) -> MadeArchive | None:
        """The group's next archive, in the outbox; None where there is nothing to archive. Raises UnreadableMessageError."""
        made = None
        while made is None:
            asked = ListArchivable(group, RECORDS_MAX, self._bytes_max)
            found: Archivable = await self._recorder.call("list_archivable", asked, Archivable)
            if not found.records:
                return None
            free = os.statvfs(self._outbox)
            if free.f_bavail * free.f_frsize < 4 * self._bytes_max + sum(one.bytes for one in found.records):
                raise NoRoomError("no room for an archive beside the log")
            loop, before = asyncio.get_running_loop(), Link(found.digest, found.file)
            try:
                made = await loop.run_in_executor(None, self._written, loop, group, before, found)
            except UnreadableMessageError as error:
                named = await self._recorder.call("archive_unreadable", ReadArchivable(error.sequence), bool, JUDGED_S_MAX)
                if not named:  # each time that it is, there is one message less to fail at
                    raise
        event(self._log, logging.INFO, "archive.made", group=group, file=made.file, records=len(made.records))
        return made

    def _written(self, loop: asyncio.AbstractEventLoop, group: str, before: Link, found: Archivable) -> MadeArchive:
        """In a worker thread, with one more that feeds it: the archive in clear is in a pipe between the two."""
        import pyrage  # 8 MB that an archivist without work does not carry

        passing = self._outbox / f"tmp-{os.getpid()}.tmp"
        reading, writing = os.pipe()
        ends: list[Link] = []
        failed: list[BaseException] = []

        def feed() -> None:
            try:
                with os.fdopen(writing, "wb") as pipe:
                    ends.append(self._feed(cast(BinaryIO, pipe), loop, before, found))
            except BaseException as error:  # told to the thread that made this one
                failed.append(error)

        feeder = threading.Thread(target=feed, name="archive-feed", daemon=True)
        feeder.start()
        try:
            with os.fdopen(reading, "rb") as pipe, passing.open("wb") as file:
                hashed = Hashed(file, "sha256")
                pyrage.encrypt_io(pipe, hashed, self._recipients)
                feeder.join()
                if failed:
                    raise failed[0]
                file.flush()
                durable.sync_file(file.fileno())
        except OSError as error:
            passing.unlink(missing_ok=True)
            if error.errno in _FULL:
                raise NoRoomError("no room for an archive beside the log") from None
            raise
        except BaseException:
            passing.unlink(missing_ok=True)
            raise
        first, last = found.records[0], found.records[-1]
        name = archive_name(group, first.at_us, last.at_us, ends[0].digest) + ENCRYPTED
        sequences = [one.sequence for one in found.records]
        sha256, at_us = hashed.digest().hex(), self._clock.now_us()
        made = MadeArchive(group, name, sha256, ends[0].digest, before.digest, sequences, found.last, hashed.bytes, at_us)
        os.rename(passing, self._outbox / name)
        durable.sync_directory(self._outbox)
        durable.write_file(_manifest(self._outbox / name), msgspec.json.encode(made))  # commit point: from here on it is handed over
        return made

    def _feed(self, pipe: BinaryIO, loop: asyncio.AbstractEventLoop, before: Link, found: Archivable) -> Link:
        from appliance.messagelog import containers  # XML and X.509: six megabytes, for a box that has archives to make

        writer = ArchiveWriter(pipe, before)
        try:
            for record in found.records:
                self._feed_one(writer, loop, record, containers.write_to)
            for one in found.missing:
                writer.add(missing_name(one.sequence), one.at_us, lambda output, one=one: output.write(_note(one)))  # type: ignore[misc]
            return writer.close(found.records[-1].at_us)
        except BaseException:
            writer.abandon()
            raise

    def _feed_one(
        self,
        writer: ArchiveWriter,
        loop: asyncio.AbstractEventLoop,
        record: RecordSummary,
        write: Callable[[BinaryIO, RecordContent, int], None],
    ) -> None:
        asked = self._recorder.call_for_descriptor("read_archivable", ReadArchivable(record.sequence), RecordContent, READ_S_MAX)
        try:
            content, descriptor = asyncio.run_coroutine_threadsafe(asked, loop).result(READ_S_MAX + 5)
            try:
                name = container_name(record.query_id, record.direction, record.sequence)
                writer.add(name, record.at_us, lambda output: write(output, content, descriptor))
            finally:
                os.close(descriptor)
        except XacbeError as error:
            if error.kind in PASSING:
                raise
            raise UnreadableMessageError(record.sequence, error) from error

    # -- handing over

    async def _hand_over(self, made: MadeArchive) -> MadeArchive:
        """To every target, then to the recorder's audit log, then out of the outbox. Each step may be done again."""
        file = self._outbox / made.file
        loop = asyncio.get_running_loop()
        for target in self._targets:
            await loop.run_in_executor(None, target.put, file, made.sha256)
        await self._cargo.carried(file, made.sha256)
        names = [*(target.name for target in self._targets), *self._cargo.targets]
        told = ConfirmArchive(made.group, made.file, made.sha256, made.digest, made.records, made.last, names)
        await self._recorder.call("confirm_archive", told)
        known = [one for one in self.state.archives if one.file != made.file]
        self.state.archives = [*known, msgspec.structs.replace(made, targets=names, records=[len(made.records)])][-KEPT_MAX:]
        durable.write_file(self._root / STATE, msgspec.json.encode(self.state))
        self._cargo.confirmed(made.file, made.sha256)
        file.unlink(missing_ok=True)
        _manifest(file).unlink(missing_ok=True)
        durable.sync_directory(self._outbox)
        event(self._log, logging.INFO, "archive.handed_over", file=made.file, targets=len(names))
        return made


class DirectoryTarget:
    """A directory: another disk, a stick, a mounted share. It must exist: a mount that is missing is no target."""

    def __init__(self, directory: Path) -> None:
        self.name, self._directory = f"directory {directory}", directory

    def put(self, file: Path, sha256: str) -> None:
        """Raises TargetAwayError."""
        passing, place = self._directory / f"tmp-{file.name}.tmp", self._directory / file.name
        try:
            if place.exists() and _sha256(place) == sha256:
                return
            with file.open("rb") as source, passing.open("wb") as copy:
                while piece := source.read(_COPY_BYTES):
                    copy.write(piece)
                copy.flush()
                durable.sync_file(copy.fileno())
            if _sha256(passing) != sha256:
                raise TargetAwayError(f"{self._directory} did not keep what was written")
            os.rename(passing, place)
            durable.sync_directory(self._directory)
        except (OSError, durable.SyncFailedError) as error:
            with suppress(OSError):
                passing.unlink(missing_ok=True)
            raise TargetAwayError(f"{self._directory}: {error}") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _note(one: MissingRecord) -> bytes:
    """What stands in an archive for what it lacks; the log's `archive.missing` says why."""
    told = {"record": one.sequence, "at": iso(one.at_us), "missing": "body" if one.body else "message"}
    return msgspec.json.encode(told) + b"\n"


def _manifest(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")
