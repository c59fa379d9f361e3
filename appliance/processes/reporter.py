"""The reporter: tells CEIQROO's broker how the box is, and keeps what could not be told.

The only process that speaks with the broker. It obeys one command, rebirth. Incidents of the other processes are durable in `outbox/` when
their call is answered; reports are stored while the broker is away. No effect on exchanges: nobody waits for this process.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from appliance.clock import Clock, SystemClock
from appliance.errors import UNREADABLE, UnavailableError, UnverifiedError, XacbeError
from appliance.health import outbox
from appliance.health.edge_node import EdgeNode, Message
from appliance.health.host import host_figures
from appliance.health.outbox import INCIDENT, REPORT, Entry, Forget, Keep, Outbox, Publish, Queued
from appliance.health.outbox_files import OutboxFiles
from appliance.health.report import OutboxFigures, Report, build, incident_metrics
from appliance.health.wire import Incident
from appliance.hsm.wire import TokenStatus
from appliance.journal import event, start_journal
from appliance.messagelog.wire import LogStatus
from appliance.net import mqtt_session
from appliance.net.local_client import LocalClient
from appliance.net.local_server import LocalServer
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.net.mqtt_session import BrokerAwayError, KeyLoader, MqttSession, broker_context, in_thread, reconnect_after_s
from appliance.net.sparkplug import edge_node_of
from appliance.processes.announcing import announce_forever
from appliance.processes.report_key import EnrolmentMissingError, report_key_loader
from appliance.processes.running import Fuse, run, until_stopped
from appliance.settings import BoxSettings, ReporterSettings, load
from appliance.supervision.wire import BoxStatus
from appliance.trust.wire import TrustStatus

BROKER_CA = Path("box/broker-ca.pem")
ASK_S_MAX = 2.0
CONNECTED_S_MAX = 15.0
ENROLMENT_LOOK_S = 2.0
REBIRTH_S_MIN = 1.0
"""At most one rebirth in this time: a broker cannot make the box send without end."""
EVENTS_MAX = 500
CLOSE_S_MAX = 2.0

FindKey = Callable[[], Awaitable[KeyLoader]]
"""Finds our certificate and key for the broker. Raises EnrolmentMissingError, UnavailableError."""


class Reporter:
    """One box's voice. Invariant: an answered `incident` is on the disk until the broker acknowledged it."""

    def __init__(
        self, state: Path, box: BoxSettings, settings: ReporterSettings, clock: Clock, log: logging.Logger, find_key: FindKey
    ) -> None:
        self._state, self._settings, self._clock, self._log, self._find_key = state, settings, clock, log, find_key
        self._neighbours = {
            name: LocalClient(channel_path(state, name, "reporter")) for name in ("supervisor", "signer", "trust_agent", "recorder")
        }
        edge_node = edge_node_of(box.member_class, box.member_code, box.server_code)
        self._client_id = f"{box.instance}:{edge_node}"
        self._node = EdgeNode(box.instance, edge_node, clock.now_us() // 1_000_000)
        self._files = OutboxFiles(state / "outbox")
        self._outbox = Outbox(self._files.load())
        self._outbox.start_at(self._files.first_free)
        self._events: asyncio.Queue[mqtt_session.Event] = asyncio.Queue(EVENTS_MAX)
        self._session: MqttSession | None = None
        """The session that is live: births were sent. None: everything goes to the outbox."""
        self._tokens: dict[int, int] = {}
        self._waits_for: list[str] = ["broker"]
        self._counters: dict[str, int] = {}
        self._reborn_s = float("-inf")
        self._fuse = Fuse()

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Until cancelled. Raises SyncFailedError."""
        if self._files.damaged:
            self._take(Incident("outbox.damaged", "reporter", self._clock.now_us(), {"entries": str(self._files.damaged)}))
        server = LocalServer("reporter", {"incident": self._incident})
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(listeners))
            group.create_task(announce_forever(self._state, "reporter", self._clock, self._describe))
            group.create_task(self._report_forever())
            group.create_task(self._connect_forever())
            group.create_task(self._fuse.hold())

    def _describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        return self._waits_for, self._counters, {}

    # Incidents and the outbox

    async def _incident(self, caller: str, payload: bytes) -> None:
        incident = msgspec.msgpack.decode(payload, type=Incident)
        # The supervisor speaks for others; everybody else only for itself.
        process = incident.process if caller == "supervisor" else caller
        with self._fuse.guard():
            self._take(msgspec.structs.replace(incident, process=process))

    def _take(self, incident: Incident) -> None:
        # Whitelisted before it is stored, so that the disk holds no more than goes out.
        figures = incident_metrics(incident.kind, incident.process, incident.facts)
        content = msgspec.msgpack.encode((incident.at_us, figures))
        self._carry_out(self._outbox.handle(Queued(INCIDENT, content)))
        self._count("incident.taken")
        event(self._log, logging.WARNING, "incident.taken", kind=figures["Incident/Kind"], process=figures["Incident/Process"])

    def _carry_out(self, effects: list[outbox.Effect]) -> None:
        for effect in effects:
            match effect:
                case Keep():
                    self._files.keep(effect.entry)  # commit point: an incident is durable before its call is answered
                case Forget():
                    self._files.forget(effect.entry)
                case Publish() if self._session is not None:
                    self._publish_entry(self._session, effect.entry)

    def _publish_entry(self, session: MqttSession, entry: Entry) -> None:
        if entry.kind == REPORT:
            message = self._node.historical(msgspec.msgpack.decode(entry.content, type=Report))
        else:
            at_us, figures = msgspec.msgpack.decode(entry.content)
            message = self._node.incident(entry.number, at_us, figures)
        token = self._send(session, message)
        if token is not None:
            self._tokens[token] = entry.number

    def _send(self, session: MqttSession, message: Message) -> int | None:
        try:
            return session.publish(message.topic, message.payload, message.quality)
        except BrokerAwayError:
            self._count("broker.not_taken")  # the end of the session follows; its seq gap makes the host ask for a rebirth
            return None

    # Reports

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.report_interval_s)
            report = await self._report()
            if self._session is not None:
                for message in self._node.data(report):
                    self._send(self._session, message)
                self._count("report.published")
            else:
                content = msgspec.msgpack.encode(Report(report.at_us, report.node, {}))
                self._carry_out(self._outbox.handle(Queued(REPORT, content)))
                self._count("report.stored")

    async def _report(self) -> Report:
        async with asyncio.TaskGroup() as group:
            box = group.create_task(self._ask("supervisor", "box_status", BoxStatus))
            token = group.create_task(self._ask("signer", "token_status", TokenStatus))
            trust = group.create_task(self._ask("trust_agent", "trust_status", TrustStatus))
            log = group.create_task(self._ask("recorder", "log_status", LogStatus))
        status = box.result()
        pids = [one.pid for one in status.processes] if status is not None else []
        figures = OutboxFigures(self._outbox.reports, self._outbox.incidents, self._outbox.dropped)
        host = host_figures(self._state, pids)
        return build(self._clock.now_us(), status, token.result(), trust.result(), log.result(), host, figures)

    async def _ask(self, neighbour: str, operation: str, answer: Any) -> Any:
        try:
            return await self._neighbours[neighbour].call(operation, None, answer, ASK_S_MAX)
        except (XacbeError, *UNREADABLE):
            return None  # away: the report tells its figures as missing

    # The session

    async def _connect_forever(self) -> None:
        failures = 0
        while True:
            try:
                lived = await self._live_once()
            except EnrolmentMissingError as error:
                self._waits_for = [error.waits_for]
                await asyncio.sleep(ENROLMENT_LOOK_S)
                continue
            except (UnavailableError, UnverifiedError) as error:
                lived, self._waits_for = False, ["broker"]
                self._count(error.kind)
                event(self._log, logging.WARNING, "broker.failed", kind=error.kind, reason=str(error), failures=failures)
            failures = 0 if lived else failures + 1
            await asyncio.sleep(reconnect_after_s(failures, random.random))

    async def _live_once(self) -> bool:
        """One session from connecting to its end; True when it was live."""
        context = await self._context()
        self._events = asyncio.Queue(EVENTS_MAX)
        session = MqttSession(
            self._settings.broker_host,
            self._settings.broker_port,
            context,
            self._client_id,
            self._settings.keep_alive_s,
            self._arrived,
        )
        will = self._node.will(self._clock.now_us())
        await session.open(will.topic, will.payload, self._node.commands)
        try:
            await self._until_connected()
            await self._begin(session)
            await self._until_ended(session)
        finally:
            await self._end(session)
        return True

    async def _context(self) -> ssl.SSLContext:
        if not self._settings.broker_host:
            raise EnrolmentMissingError("settings.reporter.broker_host")
        ca = self._state / BROKER_CA
        if not ca.is_file():
            raise EnrolmentMissingError("box.broker-ca")
        loader = await self._find_key()
        return await in_thread(lambda: broker_context(ca, loader))  # the key's self-test asks the signer

    def _arrived(self, happened: mqtt_session.Event) -> None:
        if isinstance(happened, mqtt_session.Received) and self._events.qsize() > EVENTS_MAX // 2:
            self._count("command.dropped")  # a broker that floods us loses its commands, not our acknowledgements
        else:
            self._events.put_nowait(happened)

    async def _until_connected(self) -> None:
        try:
            async with asyncio.timeout(CONNECTED_S_MAX):
                first = await self._events.get()
        except TimeoutError:
            raise BrokerAwayError("no answer to CONNECT") from None
        if not isinstance(first, mqtt_session.Connected):
            raise BrokerAwayError(first.reason if isinstance(first, mqtt_session.Disconnected) else "out of order")

    async def _begin(self, session: MqttSession) -> None:
        for message in self._node.births(await self._report()):
            self._send(session, message)
        self._session, self._waits_for = session, []
        self._count("broker.connected")
        event(self._log, logging.INFO, "broker.connected", reports=self._outbox.reports, incidents=self._outbox.incidents)
        self._carry_out(self._outbox.handle(outbox.LinkUp()))

    async def _until_ended(self, session: MqttSession) -> None:
        while True:
            match await self._events.get():
                case mqtt_session.Disconnected(reason=reason):
                    event(self._log, logging.WARNING, "broker.disconnected", reason=reason)
                    return
                case mqtt_session.Acknowledged(token=token) if token in self._tokens:
                    self._carry_out(self._outbox.handle(outbox.Acknowledged(self._tokens.pop(token))))
                case mqtt_session.Received(topic=topic, payload=payload):
                    await self._command(session, topic, payload)

    async def _command(self, session: MqttSession, topic: str, payload: bytes) -> None:
        now_s = self._clock.monotonic_s()
        if not self._node.obeys(topic, payload) or now_s - self._reborn_s < REBIRTH_S_MIN:
            self._count("command.ignored")
            return
        self._reborn_s = now_s
        for message in self._node.births(await self._report()):
            self._send(session, message)
        self._count("command.rebirth")

    async def _end(self, session: MqttSession) -> None:
        live, self._session = self._session is session, None
        self._waits_for = ["broker"]
        self._tokens.clear()
        self._carry_out(self._outbox.handle(outbox.LinkDown()))
        if live:
            self._send(session, self._node.death(self._clock.now_us()))
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await session.close()
        except TimeoutError:
            event(self._log, logging.WARNING, "broker.close_timed_out")

    def _count(self, kind: str) -> None:
        self._counters[kind] = self._counters.get(kind, 0) + 1


def main(state: Path) -> int:
    """Raises SettingsError; returns the exit code of `running.run`."""
    box, settings = load(state, BoxSettings), load(state, ReporterSettings)
    log = start_journal("reporter")
    return run(log, _serve(state, box, settings, log))


async def _serve(state: Path, box: BoxSettings, settings: ReporterSettings, log: logging.Logger) -> None:
    reporter = Reporter(state, box, settings, SystemClock(), log, report_key_loader(state))
    channels = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items()}
    event(log, logging.INFO, "process.started", channels=len(channels))
    await until_stopped(reporter.serve(channels))
