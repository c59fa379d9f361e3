"""The relay: both sides of an exchange. It faces the network and holds no key, no device and no directory.

Shell: it wires the conversations (`appliance.exchange`) to sockets, signer, recorder, trust agent and supervisor, and decides nothing.
Kill it at any moment: what it had not acknowledged is known to the log or to nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import uvloop

from appliance import settings
from appliance.clock import Clock, SystemClock
from appliance.errors import SettingsError, XacbeError
from appliance.exchange import notices
from appliance.exchange.client_side import ClientSide
from appliance.exchange.foreign import ForeignServers
from appliance.exchange.metadata import Metadata
from appliance.exchange.monitoring import MonitoringServices
from appliance.exchange.peer_trust import PeerTrust
from appliance.exchange.provider_side import ProviderSide
from appliance.hsm.client import SignerClient
from appliance.journal import event, start_journal
from appliance.messagelog.wire import Append, Appended
from appliance.model.identifiers import ClientId, ServerId
from appliance.net import token_key
from appliance.net.connection import StreamLimits
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.http1 import HeadLimits
from appliance.net.listener import Listener, ListenerLimits
from appliance.net.local_client import LocalClient
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.net.tls_engine import HandshakeThreads
from appliance.processes.announcing import announce_forever
from appliance.processes.running import settle
from appliance.relay import client_front, peer_front
from appliance.relay.bodies import BodyStore
from appliance.relay.client_front import ClientFront
from appliance.relay.contexts import Contexts
from appliance.relay.gates import Gates
from appliance.relay.health_front import HealthFront, health_socket
from appliance.relay.kept_descriptions import KeptDescriptions
from appliance.relay.local_follow import LocalFollow
from appliance.relay.local_services import LocalServices
from appliance.relay.machine import MachineFigures
from appliance.relay.monitoring import Monitoring, RecorderDesk, internal_address
from appliance.relay.notice_courier import Desk, NoticeCourier
from appliance.relay.ocsp_front import OcspFront
from appliance.relay.peer_front import PeerFront
from appliance.relay.peer_link import PeerLink
from appliance.relay.refusals import Refusals
from appliance.relay.sealing import Sealing
from appliance.relay.system_call import SystemCaller
from appliance.relay.trust_view import TrustView
from appliance.relay.turns import Pressure, Turns
from appliance.settings import BoxSettings, RelaySettings
from appliance.trust.signed_time import ClockUntrustedError

APPEND_S_MAX = 15.0
"""A slow disk's turn, then the recorder's own patience for a time stamp (5 s): what takes longer hangs."""
BODY_BYTES_PER_S = 20 << 20
"""A slow card. The recorder syncs a large body and reads it back before its record is written: 50 s for a GiB that memory does not hold."""
STOP_S_MAX = 2.0
LARGE_BYTES, LARGE_AT_ONCE = 256 << 10, 3
"""SOAP parts beyond this go to the recorder three at a time: each lies there three times, and five of 3 MiB took half of its memory."""


class RecorderLog:
    """The port `Log`: the recorder over its local socket."""

    def __init__(self, recorder: LocalClient) -> None:
        self._recorder, self._large = recorder, asyncio.Semaphore(LARGE_AT_ONCE)

    async def append(self, record: Append) -> Appended:
        if len(record.message) <= LARGE_BYTES:
            return await self._append(record)
        async with self._large:
            return await self._append(record)

    async def _append(self, record: Append) -> Appended:
        of_body_s = 0.0 if record.body_file is None else record.body_bytes / BODY_BYTES_PER_S
        appended: Appended = await self._recorder.call("append", record, Appended, timeout_s=APPEND_S_MAX + of_body_s)
        return appended


@dataclass(frozen=True, slots=True)
class Network:
    """What a relay reaches others with and is reached by, and what it feels of its machine. A simulation has one of its own."""

    contexts: type[Contexts] = Contexts
    dialer: type[Dialer] = Dialer
    listener: type[Listener] = Listener
    pressure: type[Pressure] = Pressure


NETWORK = Network()


class Relay:
    """Everything that one relay process consists of."""

    def __init__(
        self,
        state: Path,
        box: BoxSettings,
        relay: RelaySettings,
        clock: Clock,
        log: logging.Logger,
        group: asyncio.TaskGroup,
        network: Network = NETWORK,
    ) -> None:
        server = ServerId(ClientId(box.instance, box.member_class, box.member_code), box.server_code)
        self._settings, self._group, self._log, self._network = relay, group, log, network
        self.counters: Counter[str] = Counter()
        recorder = LocalClient(channel_path(state, "recorder", "relay"))
        signer = SignerClient(state, "relay")
        self.trust = TrustView(state, clock, log, LocalClient(channel_path(state, "trust_agent", "relay")), self._configuration_changed)
        self.local = LocalFollow(LocalClient(channel_path(state, "supervisor", "relay")), self.trust)
        foreign = ForeignServers(relay.foreign_servers)
        self.contexts = network.contexts(state, log, signer, foreign=bool(foreign))
        self.threads = HandshakeThreads()
        self.sealing = Sealing(clock, log, signer, self.trust, group)
        self.pressure = network.pressure()
        self.turns = Turns(lambda: self.pressure.high, clock.monotonic_s)
        self.gates = Gates(relay.exchanges_max, self.turns)
        self.peers = PeerTrust(clock)
        self.refusals = Refusals(log, recorder, self.counters, relay.fault_spelling, clock)
        store = BodyStore(recorder, relay.body_inline_bytes_max, relay.body_bytes_max)
        messages = RecorderLog(recorder)
        dialer = network.dialer(
            DialerLimits(
                connect_s_max=relay.peer_connect_s_max, idle_s_max=relay.peer_idle_s_max, connections_per_route_max=relay.exchanges_max
            ),
            self.threads,
        )
        link = PeerLink(
            clock,
            dialer,
            self.contexts,
            self.trust,
            self.peers,
            store,
            peer_port=relay.peer_port,
            ocsp_port=relay.ocsp_port,
            answer_s_max=relay.answer_s_max,
            body_bytes_max=relay.body_bytes_max,
            foreign=foreign,
        )
        system_dialer = network.dialer(
            DialerLimits(idle_s_max=relay.system_idle_s_max, connections_per_route_max=relay.exchanges_max), self.threads
        )
        self.dialers = (dialer, system_dialer)
        system = SystemCaller(system_dialer, store, None, relay.system_ca_file)
        client_side = ClientSide(server, clock, self.trust, self.sealing, messages, link)
        self.machine = MachineFigures(state, clock)
        services = MonitoringServices(server, RecorderDesk(recorder), self.machine, self.trust.monitoring_client)
        built_ins = {**notices.built_in(Desk(recorder)), **Metadata(KeptDescriptions(state)).built_in(), **services.built_in()}
        provider_side = ProviderSide(server, clock, self.trust, self.peers, self.sealing, messages, system, built_ins)
        self.courier = NoticeCourier(box.instance, recorder, client_side, system, self.local.view, log)
        bound = relay.client_http.rpartition(":")[0]
        self.monitor = Monitoring(server, clock, self.trust, recorder, lambda: internal_address(bound))
        common = (store, self.local.view, self.refusals, self.gates, self.counters, self.monitor)
        own = LocalServices(state, self.trust, recorder, client_side.check_client, self.local.view, self.refusals, self.gates)
        self.client_front = ClientFront(box.instance, client_side, *common, own)
        self.peer_front = PeerFront(provider_side, self.trust, self.peers, *common, relay.body_bytes_max, foreign)
        self.ocsp_front = OcspFront(self.trust)
        self.health_front = HealthFront(server, clock, self.trust, self.local.view, self.contexts)
        self.listeners: list[Listener] = []
        self._open: list[asyncio.Task[None]] = []

    def start(self, sockets: dict[str, socket.socket]) -> None:
        """Every listener and every follower as a task of the group."""
        follow = (self.trust.follow_configuration(), self.trust.follow_evidence(), self.local.follow(), self.contexts.follow_keys())
        for part in follow:
            self._group.create_task(part)
        self._group.create_task(self.courier.run())
        self._group.create_task(self.monitor.run())
        self._group.create_task(self.machine.run())
        self._group.create_task(self.pressure.run(self.turns.look_again))
        limits, for_systems = _limits(self._settings), _limits(self._settings, absolute_targets=True)
        listener = self._network.listener
        plain = listener(
            sockets["tcp.client_http"],
            self.client_front.serve,
            for_systems,
            on_refused=self._connection_refused,
            on_bug=self._bug,
            malformed=client_front.malformed,
        )
        ocsp = listener(sockets["tcp.ocsp"], self.ocsp_front.serve, limits, on_refused=self._connection_refused, on_bug=self._bug)
        https = listener(
            sockets["tcp.client_https"],
            self.client_front.serve,
            for_systems,
            context=self.contexts.https_context,
            threads=self.threads,
            malformed=client_front.malformed,
            on_refused=self._connection_refused,
            on_bug=self._bug,
        )
        peer = listener(
            sockets["tcp.peer"],
            self.peer_front.serve,
            limits,
            context=self.contexts.peer_server_context,
            threads=self.threads,
            malformed=peer_front.malformed,
            on_refused=self._peer_refused,
            on_bug=self._bug,
        )
        open_at_once = [plain, ocsp]
        if (health := self._health_socket()) is not None:
            open_at_once.append(listener(health, self.health_front.serve, limits, on_refused=self._connection_refused, on_bug=self._bug))
        self.listeners = [*open_at_once, https, peer]
        self._open = [self._group.create_task(one.serve(STOP_S_MAX)) for one in open_at_once]
        self._group.create_task(self._serve_when(self.contexts.https_ready, https))
        self._group.create_task(self._serve_when(self.contexts.peer_ready, peer))

    def _health_socket(self) -> socket.socket | None:
        """A port that somebody else holds costs the balancer its answer, never an exchange."""
        try:
            return health_socket(self._settings.health) if self._settings.health else None
        except SettingsError as error:
            event(self._log, logging.ERROR, "health.not_listening", reason=str(error))
            self.counters["health.not_listening"] += 1
            return None

    async def stop(self) -> None:
        """Takes no further requests; what runs may end, for STOP_S_MAX."""
        for listener in self.listeners:
            listener.stop()
        await asyncio.wait(self._open, timeout=STOP_S_MAX + 0.5)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.monitor.send(), STOP_S_MAX)
        for dialer in self.dialers:
            await dialer.close()

    async def _serve_when(self, ready: asyncio.Event, listener: Listener) -> None:
        """A TLS port answers as soon as there is a certificate; until then callers wait in the backlog."""
        await ready.wait()
        self._open.append(self._group.create_task(listener.serve(STOP_S_MAX)))

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """What the relay waits for, its counters and facts, for the supervisor."""
        waits = []
        try:
            self.trust.shared()
        except XacbeError as error:
            waits.append("clock" if isinstance(error, ClockUntrustedError) else "configuration")
        try:
            self.local.view()
        except XacbeError:
            waits.append("supervisor")
        if not (self.contexts.peer_ready.is_set() and self.contexts.https_ready.is_set()):
            waits.append("certificates")
        certificate = self.contexts.own_certificate()
        if certificate is not None and self.trust.evidence(hashlib.sha256(certificate).digest()) is None:
            waits.append("ocsp")
        counters = dict(self.counters)
        for listener in self.listeners:
            for kind, count in listener.refusals.items():
                counters[kind] = counters.get(kind, 0) + count
        if self.monitor.dropped:
            counters["operations.dropped"] = self.monitor.dropped
        counters |= {"seal.signatures": self.sealing.signatures, "seal.messages": self.sealing.messages}
        facts = {
            "exchanges_running": str(self.gates.running),
            "arriving": str(self.gates.arriving),
            "held_bytes": str(self.gates.held_bytes),
            "connections": str(sum(one.connections for one in self.listeners)),
        }
        return waits, counters, facts

    def _configuration_changed(self) -> None:
        self.contexts.configuration_changed(self.trust.known())
        self.local.rebuild()

    def _connection_refused(self, address: str, error: XacbeError) -> None:
        self.refusals.strangers_event("connection.refused", error.kind, address, str(error))

    def _peer_refused(self, address: str, error: XacbeError) -> None:
        if self.refusals.strangers_event("connection.refused", error.kind, address, str(error)) and error.kind == "peer.tls_rejected":
            self._group.create_task(self.refusals.stranger("peer.tls_rejected", error.kind, address, str(error)))

    def _bug(self, address: str, error: Exception) -> None:
        self.refusals.bug(error, address=address)


def _limits(relay: RelaySettings, *, absolute_targets: bool = False) -> ListenerLimits:
    stream = StreamLimits(
        head=HeadLimits(head_bytes_max=relay.head_bytes_max, absolute_targets=absolute_targets),
        head_s_max=relay.head_s_max,
        body_stall_s_max=relay.body_stall_s_max,
        idle_s_max=relay.peer_idle_s_max,
    )
    return ListenerLimits(
        connections_max=relay.connections_max,
        connections_per_address_max=relay.connections_per_address_max,
        handshakes_max=relay.handshakes_max,
        handshake_s_max=relay.handshake_s_max,
        stream=stream,
    )


async def _serve(state: Path, box: BoxSettings, relay: RelaySettings, log: logging.Logger) -> None:
    clock = SystemClock()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with asyncio.TaskGroup() as group:
        whole = Relay(state, box, relay, clock, log, group)
        whole.start(inherited_sockets())
        settle()
        group.create_task(announce_forever(state, "relay", clock, whole.describe))
        await stop.wait()
        await whole.stop()
        raise asyncio.CancelledError  # ends the group: followers have no end of their own


def main(state: Path) -> int:
    """Runs until SIGTERM. Refuses to start where a TLS key cannot stay in the token (`net/token_key.py`)."""
    log = start_journal("relay")
    box, relay = settings.load(state, BoxSettings), settings.load(state, RelaySettings)
    token_key.self_test()
    try:
        uvloop.run(_serve(state, box, relay, log))
    except asyncio.CancelledError:
        pass
    return 0
