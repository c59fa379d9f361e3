"""The recorder: the one process that writes the message log. No network; it is asked over local sockets and asks for time stamps.

It serves appends while the trust agent is away: our own messages are logged and stamped later, received ones wait or are refused
(`messagelog.stamping`). It ends at once, without acknowledging anything, when the outcome of a write is unknown.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from appliance import configuration_files, durable
from appliance.access.roles import Account
from appliance.clock import Clock, SystemClock
from appliance.errors import UnavailableError, XacbeError
from appliance.health.wire import Incident
from appliance.journal import event, start_journal
from appliance.messagelog import audit
from appliance.messagelog.disk import Disk
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.stamping import AWAY, WriteUnconfirmed
from appliance.net.local_client import LocalClient, NeighbourAwayError
from appliance.net.local_server import LocalServer
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.processes.announcing import announce_forever
from appliance.processes.running import run, settle, until_stopped
from appliance.settings import RecorderSettings, load
from appliance.supervision.policy import EXIT_CORRUPT, EXIT_UNAVAILABLE
from appliance.trust.wire import News, View
from appliance.worker_thread import StartWorker, WorkerThread

CONFIGURATION_DIRECTORY = "trust/configuration"
NEWS_S = 10.0
RETRY_S = 1.0
INCIDENT_RETRY_S = 5.0
ACCOUNTS_S_MAX = 3.0
"""While the supervisor is away nobody reads."""
INCIDENTS_MAX = 100
"""Untold incidents; the newest are kept, and the log has them all."""


class Grace:
    """How long messages may wait for a stamp while every authority is silent: what CEIQROO signed in the configuration in force."""

    def __init__(self, state: Path, recorder: Recorder, log: logging.Logger) -> None:
        self._directory = state / CONFIGURATION_DIRECTORY
        self._agent = LocalClient(channel_path(state, "trust_agent", "recorder"))
        self._recorder, self._log = recorder, log
        self._grace_us = self._expires_us = 0
        self.agent_away = True

    async def follow(self) -> None:
        """For ever. Files that are already there count at once; an expired configuration grants nothing."""
        generation = 0
        await self._load()
        while True:
            stamper = self._recorder.stamper
            stamper.grace(self._grace_us if stamper.now().us < self._expires_us else 0)
            try:
                view = await self._agent.call("view", News(generation, NEWS_S), View, NEWS_S + 5.0)
                self.agent_away = False
            except XacbeError as error:
                self.agent_away = isinstance(error, NeighbourAwayError)
                await asyncio.sleep(RETRY_S)
                continue
            self._expires_us, stamper.signed = view.expires_us, view.signed
            if view.generation != generation:
                generation = view.generation
                await self._load()
            elif not generation:
                await asyncio.sleep(RETRY_S)

    async def _load(self) -> None:
        try:
            loaded = await asyncio.get_running_loop().run_in_executor(None, configuration_files.load_directory, self._directory)
        except XacbeError as error:
            event(self._log, logging.INFO, "grace.unknown", kind=error.kind)
            self._grace_us = 0
            return
        self._grace_us = loaded.shared[loaded.instance].stamp_grace_s * 1_000_000
        self._expires_us = max(self._expires_us, loaded.expires_us[loaded.instance] or 0)
        event(self._log, logging.INFO, "grace.known", grace_s=self._grace_us // 1_000_000)


class Incidents:
    """Tells the reporter, as often as it takes."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._reporter = LocalClient(channel_path(state, "reporter", "recorder"))
        self._clock = clock
        self._untold: deque[Incident] = deque(maxlen=INCIDENTS_MAX)
        self._told = asyncio.Event()

    def unconfirmed(self, records: WriteUnconfirmed) -> None:
        facts = {"records": str(len(records.messages)), "delivered": str(len(records.delivered)), "first": str(min(records.messages))}
        self.tell(audit.UNCONFIRMED, facts)

    def rolled_back(self, facts: dict[str, str]) -> None:
        self.tell(audit.ROLLED_BACK, facts)

    def tell(self, kind: str, facts: dict[str, str]) -> None:
        self._untold.append(Incident(kind, "recorder", self._clock.now_us(), facts))
        self._told.set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._told.wait()
            self._told.clear()
            while self._untold:
                try:
                    await self._reporter.call("incident", self._untold[0])
                    self._untold.popleft()
                except XacbeError:
                    await asyncio.sleep(INCIDENT_RETRY_S)


def _stop(log: logging.Logger, error: BaseException) -> None:
    """In whatever thread: nothing is acknowledged, synced or closed after this line (T35)."""
    event(log, logging.CRITICAL, "process.held", kind=getattr(error, "kind", type(error).__name__), reason=str(error))
    os._exit(EXIT_CORRUPT)


def parts(
    state: Path,
    settings: RecorderSettings,
    clock: Clock,
    log: logging.Logger,
    listeners: dict[str, socket.socket],
    stop: Callable[[BaseException], None],
    *,
    disk: Disk | None = None,
    start_worker: StartWorker = WorkerThread,
) -> tuple[Recorder, list[Coroutine[Any, Any, None]]]:
    """The open log, and the coroutines that together are this process. Raises what opening a log raises."""
    trust, signer = (LocalClient(channel_path(state, owner, "recorder")) for owner in ("trust_agent", "signer"))
    incidents = Incidents(state, clock)
    supervisor = LocalClient(channel_path(state, "supervisor", "recorder"))

    async def accounts() -> list[Account]:
        found: list[Account] = await supervisor.call("list_accounts", None, list[Account], ACCOUNTS_S_MAX)
        return found

    told = (incidents.unconfirmed, incidents.rolled_back)
    where, asks = state / "log", (trust, signer)
    recorder = Recorder(
        where, settings, clock, *asks, log, stop, *told, accounts, on_damage=incidents.tell, disk=disk, start_worker=start_worker
    )
    grace = Grace(state, recorder, log)
    server = LocalServer("recorder", recorder.handlers(), at_once={"append": recorder.append_at_once})

    def describe() -> tuple[list[str], dict[str, int], dict[str, str]]:
        return _describe(recorder, grace, server)

    return recorder, [
        server.serve(listeners),
        recorder.run(),
        grace.follow(),
        incidents.run(),
        announce_forever(state, "recorder", clock, describe),
    ]


async def _serve(state: Path, log: logging.Logger) -> None:
    settings = load(state, RecorderSettings)
    durable.make_directory(state / "log")
    listeners = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items() if name.startswith("channel.")}
    recorder, coroutines = parts(state, settings, SystemClock(), log, listeners, partial(_stop, log))
    opened = recorder.status()
    event(log, logging.INFO, "log.opened", sequence=opened.last_sequence, segments=opened.segments, repaired_bytes=opened.repaired_bytes)
    settle()
    try:
        await until_stopped(*coroutines)
    finally:
        await recorder.close()


def _describe(recorder: Recorder, grace: Grace, server: LocalServer) -> tuple[list[str], dict[str, int], dict[str, str]]:
    """For the supervisor: what is waited for, counters, facts."""
    status, stamper = recorder.status(), recorder.stamper
    is_agent_away = grace.agent_away or stamper.stamps.failing == AWAY
    waits_for = [*(["trust_agent"] if is_agent_away else []), *(["disk"] if status.state == "full" else [])]
    if not recorder.keys.ready:
        waits_for.append("token")
    if stamper.stamps.outage_since_us is not None:
        waits_for.append("tsa")
    counters = {
        "records": status.records,
        "appends.refused": recorder.refused,
        "stamps.requested": stamper.requests,
        "stamps.failed": stamper.failures,
        "checkpoints": recorder.checkpoints.made,
        "checkpoints.failed": recorder.checkpoints.failed,
        "audit": server.counts.get("audit", 0),
        "operations.taken": recorder.monitoring.taken,
        "operations.dropped": recorder.monitoring.dropped,
    }
    facts = {
        "log": status.state,
        "waiting_for_stamp": str(status.waiting_for_stamp),
        "oldest_waiting_us": str(status.oldest_waiting_us or ""),
        "free_bytes": str(status.free_bytes),
        "last_stamp_us": str(status.last_stamp_us or ""),
        "repaired_bytes": str(status.repaired_bytes),
    }
    return waits_for, counters, facts


def main(state: Path) -> int:
    """Exit codes as `processes.running.run`, and EXIT_UNAVAILABLE: another writer, or a disk that is full to the last byte. SettingsError
    is left to the caller.
    """
    log = start_journal("recorder")
    try:
        return run(log, _serve(state, log), uvloop.run)
    except UnavailableError as error:
        event(log, logging.CRITICAL, "log.not_opened", kind=error.kind, reason=str(error))
        return EXIT_UNAVAILABLE
