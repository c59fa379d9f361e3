"""The courier: carries encrypted archives to remote targets. The network, and nothing else: no key of the log, no way to the recorder.

It asks the archivist for what a target lacks, gets a descriptor of the encrypted file, and says when it is there. It keeps nothing: killed
at any point it asks again, and the target tells how far it came. Where no remote target is set it rests until somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

from appliance.clock import Clock, SystemClock
from appliance.courier.target import Parcel, RemoteTarget
from appliance.courier.wire import TargetState
from appliance.errors import XacbeError
from appliance.journal import event, start_journal
from appliance.messagelog.cargo import Cargo, CargoArrived, NextCargo, OpenCargo
from appliance.net.local_client import LocalClient
from appliance.net.local_server import LocalServer
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.processes.announcing import announce_forever
from appliance.processes.resting import Rest, wake
from appliance.processes.running import run, until_stopped
from appliance.settings import CourierSettings, load

NAME = "courier"
ASK_AGAIN_S = 5.0
"""After the archivist did not answer."""
DETAIL_CHARACTERS_MAX = 300
CHECK_S_MAX = 30.0


class Courier:
    """One round for each target; what one target does holds up no other. Invariant: one act at a time with each target."""

    def __init__(self, state: Path, targets: list[RemoteTarget], settings: CourierSettings, clock: Clock, log: logging.Logger) -> None:
        self._targets, self._settings, self._clock, self._log = targets, settings, clock, log
        self._archivists = [LocalClient(channel_path(state, "archivist", NAME)) for _ in targets]
        self._busy = [asyncio.Lock() for _ in targets]
        self.states = [TargetState(target.name) for target in targets]

    def handlers(self) -> dict[str, Any]:
        return {"wake": wake, "list_targets": self.list_targets, "check_targets": self.check_targets}

    async def list_targets(self, caller: str, payload: bytes) -> list[TargetState]:
        return self.states

    async def check_targets(self, caller: str, payload: bytes) -> list[TargetState]:
        """Tries each now, all at once; one that is carrying is judged by its last try."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._targets)):
                group.create_task(self._check(number))
        return self.states

    async def _check(self, number: int) -> None:
        if self._busy[number].locked():
            return
        async with self._busy[number]:
            try:
                async with asyncio.timeout(CHECK_S_MAX):
                    await self._in_thread(self._targets[number], self._targets[number].check)
            except (XacbeError, TimeoutError) as error:
                self._failed(number, error)
            else:
                self._went_well(number)

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._targets)):
                group.create_task(self._serve(number))
            await asyncio.Event().wait()

    async def _serve(self, number: int) -> None:
        archivist, target, state = self._archivists[number], self._targets[number], self.states[number]
        while True:
            try:
                cargo = await archivist.call("next_cargo", NextCargo(target.name), Cargo | None)
                if cargo is None:
                    continue
                known, descriptor = await archivist.call_for_descriptor("open_cargo", OpenCargo(cargo.file), Cargo)
            except XacbeError:  # it restarts, or the archive arrived meanwhile
                await asyncio.sleep(ASK_AGAIN_S)
                continue
            try:
                async with self._busy[number]:
                    parcel = Parcel(descriptor, known.file, known.bytes, known.sha256)
                    await self._in_thread(target, lambda: target.carry(parcel))  # noqa: B023  awaited here
            except XacbeError as error:
                await asyncio.sleep(self._failed(number, error))
                continue
            finally:
                os.close(descriptor)
            self._went_well(number)
            state.carried, state.carried_us = state.carried + 1, self._clock.now_us()
            event(self._log, logging.INFO, "courier.carried", target=target.name, file=known.file, bytes=known.bytes)
            try:
                await archivist.call("cargo_arrived", CargoArrived(target.name, known.file, known.sha256))
            except XacbeError:
                await asyncio.sleep(ASK_AGAIN_S)  # it will offer it again, and we find it there

    async def _in_thread(self, target: RemoteTarget, act: Any) -> None:
        """Cancelled: the connection is cut, so that the thread ends too."""
        running = asyncio.get_running_loop().run_in_executor(None, act)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            target.abort()
            await asyncio.wait([running], timeout=2.0)
            if running.done() and not running.cancelled():
                running.exception()  # looked at: it only says that we cut the line
            raise

    def _failed(self, number: int, error: Exception) -> float:
        """Notes it; how long to wait before the next try, in seconds."""
        state, kind = self.states[number], getattr(error, "kind", "courier.unreachable")
        now_us = self._clock.now_us()
        state.since_us = state.since_us or now_us
        state.failing, state.detail, state.tries = kind, str(error)[:DETAIL_CHARACTERS_MAX], state.tries + 1
        wait_s = float(min(self._settings.retry_s_max, self._settings.retry_s * 2 ** min(state.tries - 1, 16)))
        state.next_us = now_us + int(wait_s * 1_000_000)
        event(self._log, logging.WARNING, "courier.put_off", target=state.name, kind=kind, reason=state.detail, wait_s=wait_s)
        return wait_s

    def _went_well(self, number: int) -> None:
        state = self.states[number]
        state.failing, state.detail, state.since_us, state.tries, state.next_us = "", "", 0, 0, 0

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        counters = {f"target.{number}.carried": state.carried for number, state in enumerate(self.states)}
        facts = {f"target.{number}": state.failing or "on" for number, state in enumerate(self.states)}
        return [], counters, facts or {"targets": "none"}


def remote_targets(state: Path, settings: CourierSettings, clock: Clock) -> list[RemoteTarget]:
    """What the settings name, in the order of `CourierSettings.target_names`. What a target needs is loaded for it alone."""
    credentials = state / "credentials" / NAME
    found: list[RemoteTarget] = []
    if settings.sftp_host:
        from appliance.courier.sftp import SftpTarget

        where = (settings.sftp_host, settings.sftp_port, settings.sftp_user, settings.sftp_directory)
        found.append(SftpTarget(*where, settings.sftp_host_key, credentials / "sftp_key"))
    if settings.s3_endpoint:
        from appliance.courier.s3 import S3Target

        authorities = Path(settings.s3_authorities) if settings.s3_authorities else None
        place = (settings.s3_endpoint, settings.s3_bucket, settings.s3_prefix, settings.s3_region)
        found.append(S3Target(*place, authorities, credentials / "s3_key", clock))
    return found


async def _serve(state: Path, settings: CourierSettings, log: logging.Logger) -> None:
    clock = SystemClock()
    courier = Courier(state, remote_targets(state, settings, clock), settings, clock, log)
    listeners = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items() if name.startswith("channel.")}
    server = LocalServer(NAME, courier.handlers())
    rest = Rest(server, clock, work=bool(courier.states))
    event(log, logging.INFO, "courier.started", targets=len(courier.states))
    await until_stopped(server.serve(listeners), courier.run(), announce_forever(state, NAME, clock, courier.describe, rest=rest))


def main(state: Path) -> int:
    """Exit codes as `processes.running.run`; SettingsError is left to the caller."""
    log = start_journal(NAME)
    return run(log, _serve(state, load(state, CourierSettings), log))
