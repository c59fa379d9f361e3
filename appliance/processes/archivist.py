"""The archivist: final messages become encrypted archives at the targets. It sees what was said, so it has no network.

Remote targets are the courier's. Without targets or recipients it rests until somebody asks. A target that is away holds up archives,
never messages; what is not archived is not erased.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance.clock import Clock, SystemClock
from appliance.errors import CorruptStateError, RefusedError, SettingsError, XacbeError
from appliance.health.wire import Incident
from appliance.journal import event, start_journal
from appliance.messagelog.archive_wire import MadeArchive
from appliance.messagelog.archiving import Archiving, DirectoryTarget, Target
from appliance.messagelog.cargo import CargoCounter
from appliance.net.local_client import LocalClient
from appliance.net.local_server import LocalServer
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.processes.announcing import announce_forever
from appliance.processes.resting import Rest, wake
from appliance.processes.running import run, until_stopped
from appliance.settings import ArchivistSettings, CourierSettings, load

NAME = "archivist"
RETRY_S = 300.0
"""After a target was away, or the recorder."""
FAILING = "archive.failing"
"""The incident: for `alarm_s` nothing could be archived, so nothing is erased, and the disk fills."""


class ArchivesOffError(RefusedError):
    """The settings name no target or no recipient."""

    kind = "archive.off"


class Archivist:
    """Runs by the clock and when asked; one run at a time."""

    def __init__(
        self, state: Path, settings: ArchivistSettings, remote: list[str], log: logging.Logger, clock: Clock | None = None
    ) -> None:
        """`remote`: names of the courier's targets."""
        self._clock, self._settings, self._log = clock or SystemClock(), settings, log
        recorder = LocalClient(channel_path(state, "recorder", NAME))
        targets: list[Target] = [DirectoryTarget(Path(settings.directory))] if settings.directory else []
        self._cargo = CargoCounter(remote)
        self._reporter = LocalClient(channel_path(state, "reporter", NAME))
        self.on = bool((targets or remote) and settings.recipients)
        recipients = _recipients(settings.recipients) if self.on else []
        size = settings.archive_bytes_max
        root = state / "archive"
        self.archiving = Archiving(root, recorder, targets, recipients, settings.grouping, size, self._clock, log, self._cargo)
        self._running = asyncio.Lock()
        self.failing = ""
        self._failing_s: float | None = None
        self._told = False

    def handlers(self) -> dict[str, Any]:
        return {"wake": wake, "run_archive": self.run_archive, "list_archives": self.list_archives, **self._cargo.handlers()}

    async def run_archive(self, caller: str, payload: bytes) -> list[MadeArchive]:
        if not self.on:
            raise ArchivesOffError("no target or no recipients in the settings")
        return await self._once()

    async def list_archives(self, caller: str, payload: bytes) -> list[MadeArchive]:
        return self.archiving.state.archives

    async def _once(self) -> list[MadeArchive]:
        async with self._running:
            try:
                done = await self.archiving.run_once()
            except XacbeError as error:
                self.failing = error.kind
                self._failing_s = self._clock.monotonic_s() if self._failing_s is None else self._failing_s
                raise
            self.failing, self._failing_s, self._told = "", None, False
            return done

    async def run(self) -> None:
        """For ever, while archives are on."""
        while True:
            wait_s = float(self._settings.interval_s)
            self._cargo.all_arrived.clear()  # before the run: what arrives in it makes one more
            if self.on:
                try:
                    await self._once()
                except CorruptStateError:
                    raise
                except XacbeError as error:
                    event(self._log, logging.WARNING, "archive.put_off", kind=error.kind, reason=str(error))
                    wait_s = min(RETRY_S, wait_s)
                    await self.tell_lasting(error)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._cargo.all_arrived.wait()

    async def tell_lasting(self, error: XacbeError) -> None:
        """An incident when it has failed for `alarm_s`: once, until it went well again."""
        if self._told or self._failing_s is None or self._clock.monotonic_s() - self._failing_s < self._settings.alarm_s:
            return
        facts = {"kind": error.kind, "for_s": str(int(self._clock.monotonic_s() - self._failing_s))}
        try:
            await self._reporter.call("incident", Incident(FAILING, NAME, self._clock.now_us(), facts))
        except XacbeError:
            return  # told with the next try
        self._told = True

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        return [], {"archives": len(self.archiving.state.archives)}, {"archive": self.failing or ("on" if self.on else "off")}


def _recipients(spelled: str) -> list[Any]:
    """age's own recipients (`age1...`). Raises SettingsError."""
    import pyrage

    try:
        return [pyrage.x25519.Recipient.from_str(word) for word in spelled.split()]
    except pyrage.RecipientError as error:
        raise SettingsError(f"archivist.recipients: {error}") from None


async def _serve(state: Path, settings: ArchivistSettings, log: logging.Logger) -> None:
    archivist = Archivist(state, settings, load(state, CourierSettings).target_names(), log)
    listeners = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items() if name.startswith("channel.")}
    server, clock = LocalServer(NAME, archivist.handlers()), SystemClock()
    rest = Rest(server, clock, work=archivist.on)
    event(log, logging.INFO, "archivist.started", on=archivist.on)
    await until_stopped(server.serve(listeners), archivist.run(), announce_forever(state, NAME, clock, archivist.describe, rest=rest))


def main(state: Path) -> int:
    """Exit codes as `processes.running.run`; SettingsError is left to the caller."""
    log = start_journal(NAME)
    return run(log, _serve(state, load(state, ArchivistSettings), log))
