"""The supervisor: keeps the local configuration, hears every process, derives the state of the box.

It uses no key, waits for nobody and starts nobody: systemd (the laboratory's keeper) starts processes by `supervision.policy`. Every change
is checked, then audited by the recorder, then written; without its audit record it does not happen.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance import durable, topology
from appliance.access import roles
from appliance.access.local_configuration import Change, LocalConfigurationStore
from appliance.access.roles import Account, RoleMissingError
from appliance.clock import Clock, SystemClock
from appliance.errors import UNREADABLE, UnavailableError, XacbeError
from appliance.health.horizons import TSA, has_ended, horizons
from appliance.health.wire import Incident
from appliance.hsm.wire import TokenStatus
from appliance.journal import event, start_journal
from appliance.messagelog.wire import Audit, LogStatus
from appliance.net.local_client import LocalClient
from appliance.net.local_server import Handler, LocalServer, caller_uid, caller_user
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.processes.running import Fuse, run, until_stopped
from appliance.settings import BoxSettings, SupervisorSettings, load
from appliance.supervision.announcements import Announcements
from appliance.supervision.policy import HELD_MARK
from appliance.supervision.states import BoxState, Facts, derive, steps
from appliance.supervision.trust_facts import sealing_ends_at_us, silent_services
from appliance.supervision.wire import (
    Announcement,
    BoxStatus,
    ChangeAccounts,
    ChangeClients,
    ChangeDescription,
    ChangeEnrolment,
    ChangeRights,
    ChangeServices,
    Horizon,
    LocalConfiguration,
    LocalNews,
)
from appliance.trust.standing import ABSENT, SUSPENDED, TERMINATED
from appliance.trust.wire import TrustStatus
from appliance.version import VERSION

LOOK_INTERVAL_S = 2.0
"""How often the neighbours are asked; a change of state is seen within it."""
LOOK_S_MAX = 2.0
AUDIT_S_MAX = 5.0
NEWS_S_MAX = 60.0
ISSUER_FILES = ("issuers.pem", "broker-ca.pem")
"""Written at enrolment: CEIQROO's issuing authorities vouch for the box's own certificates and for the broker's."""
INCIDENTS_MAX = 100
"""Changes of state that wait for the reporter; the oldest is dropped: the newest says what is."""
QUIET_STATES = frozenset({BoxState.UNPROVISIONED, BoxState.OPERATIONAL})
"""Told to CEIQROO only after another one was told: that it is over."""
TELL_AFTER_S = 10.0
"""How long a state must last to be an incident: a process that restarts makes none."""

Answer = TypeVar("Answer")


class AuditUnavailableError(UnavailableError):
    """The recorder did not make the audit record durable: the change did not happen."""

    kind = "audit.unavailable"


class Supervisor:
    """One box. Invariant: what `local_configuration` answers is on the disk."""

    def __init__(self, state: Path, box: BoxSettings, settings: SupervisorSettings, clock: Clock, log: logging.Logger) -> None:
        self._run, self._box, self._clock, self._log = state / "run", state / "box", clock, log
        self._server_id = "/".join((box.instance, box.member_class, box.member_code, box.server_code))
        self._store = LocalConfigurationStore(state / "box", box.instance)
        self._heard = Announcements(tuple(topology.BY_NAME), settings.announcement_s_max, clock.monotonic_s(), topology.RESTING)
        self._ways = {name: channel_path(state, name, "supervisor") for name in topology.RESTING}
        self._started_us = clock.now_us()
        self._neighbours = {name: LocalClient(channel_path(state, name, "supervisor")) for name in topology.BY_NAME}
        self._changed, self._changing = asyncio.Event(), asyncio.Lock()
        self._token: TokenStatus | None = None
        self._trust: TrustStatus | None = None
        self._log_status: LogStatus | None = None
        self._state, self._advice = BoxState.UNPROVISIONED, list[str]()
        self._since_s, self._told = clock.monotonic_s(), BoxState.OPERATIONAL
        self._incidents: deque[Incident] = deque(maxlen=INCIDENTS_MAX)
        self._counters: dict[str, int] = {}
        self._fuse = Fuse()

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Until cancelled. Raises CorruptStateError leaves."""
        if self._store.fell_back:
            event(self._log, logging.ERROR, "local_configuration.fell_back", generation=self._store.generation)
            self._tell("local.fell_back", {"generation": str(self._store.generation)})
        handlers: dict[str, Handler] = {
            "announce": self._announce,
            "box_status": self._box_status,
            "local_configuration": self._local_configuration,
            "list_configuration": self._list_configuration,
            "change_clients": self._change_clients,
            "change_services": self._change_services,
            "change_description": self._change_description,
            "change_rights": self._change_rights,
            "change_enrolment": self._change_enrolment,
            "list_accounts": self._list_accounts,
            "change_accounts": self._change_accounts,
        }
        server = LocalServer("supervisor", handlers)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve(listeners))
            group.create_task(self._look_forever())
            group.create_task(self._fuse.hold())

    # What others ask

    async def _announce(self, caller: str, payload: bytes) -> None:
        self._heard.take(caller, msgspec.msgpack.decode(payload, type=Announcement), self._clock.monotonic_s())

    async def _box_status(self, caller: str, payload: bytes) -> BoxStatus:
        self._judge()
        own = Announcement("supervisor", 0, os.getpid(), "serving", [], self._counters, {"generation": str(self._store.generation)})
        self._heard.take("supervisor", own, self._clock.monotonic_s())
        return BoxStatus(
            self._server_id,
            str(self._state),
            list(self._advice),
            self._heard.statuses(self._clock.monotonic_s()),
            VERSION,
            self._started_us,
            sealing_ends_at_us(self._trust),
            None if self._trust is None else self._trust.expires_us,
            list(self._silent()),
            self._horizons(),
        )

    async def _local_configuration(self, caller: str, payload: bytes) -> LocalConfiguration:
        news = msgspec.msgpack.decode(payload, type=LocalNews)
        if news.known == self._store.generation and news.wait_s > 0:
            changed = self._changed
            try:
                async with asyncio.timeout(min(news.wait_s, NEWS_S_MAX)):
                    await changed.wait()
            except TimeoutError:
                pass  # answered with what is known already
        return self._configuration()

    async def _list_configuration(self, caller: str, payload: bytes) -> LocalConfiguration:
        return self._configuration()

    def _configuration(self) -> LocalConfiguration:
        store = self._store
        return LocalConfiguration(store.generation, list(store.clients), list(store.services), list(store.rights))

    # What the technician changes

    async def _change_clients(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeClients)
        await self._change(caller, lambda: self._store.plan_client(asked.client, asked.remove))

    async def _change_services(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeServices)
        await self._change(caller, lambda: self._store.plan_service(asked.service, asked.remove, asked.document))

    async def _change_description(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeDescription)
        await self._change(caller, lambda: self._store.plan_description(asked.services, asked.gone, asked.document))

    async def _change_rights(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeRights)
        await self._change(caller, lambda: self._store.plan_right(asked.right, asked.remove))

    async def _list_accounts(self, caller: str, payload: bytes) -> list[Account]:
        return list(self._store.accounts)

    async def _change_accounts(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeAccounts)
        try:
            roles.check_change(caller_user(), caller_uid(), self._store.accounts)
        except RoleMissingError:
            refused = Audit("account.change_refused", {"by": caller, "user": caller_user(), "account": asked.account.user})
            await self._neighbours["recorder"].call("audit", refused, timeout_s=AUDIT_S_MAX)
            raise
        await self._change(caller, lambda: self._store.plan_account(asked.account, asked.remove))

    async def _change_enrolment(self, caller: str, payload: bytes) -> None:
        asked = msgspec.msgpack.decode(payload, type=ChangeEnrolment)
        await self._change(caller, lambda: self._store.plan_enrolment(asked.enrolled))
        pem = "".join(ssl.DER_cert_to_PEM_cert(issuer) for issuer in asked.issuers).encode()
        for name in ISSUER_FILES if pem else ():
            durable.write_file(self._box / name, pem, 0o644)

    async def _change(self, caller: str, plan: Callable[[], Change]) -> None:
        async with self._changing:  # a plan holds for the generation that it was made on
            change = plan()
            try:
                audit = Audit(change.event, {"by": caller, "user": caller_user(), **change.facts})
                await self._neighbours["recorder"].call("audit", audit, timeout_s=AUDIT_S_MAX)
            except XacbeError as error:
                self._count("audit.unavailable")
                raise AuditUnavailableError(f"the change was not made: {error.kind}: {error}") from None
            with self._fuse.guard():
                self._store.commit(change)  # commit point: from here on the change is in force
            self._count(change.event)
            event(self._log, logging.INFO, change.event, generation=self._store.generation)
            self._changed.set()
            self._changed = asyncio.Event()
        self._judge()

    # What the supervisor sees

    async def _look_forever(self) -> None:
        while True:
            async with asyncio.TaskGroup() as group:
                token = group.create_task(self._ask("signer", "token_status", TokenStatus))
                trust = group.create_task(self._ask("trust_agent", "trust_status", TrustStatus))
                recorder = group.create_task(self._ask("recorder", "log_status", LogStatus))
                for name in self._heard.without_word(self._clock.monotonic_s()):
                    group.create_task(self._wake(name))
            now_s = self._clock.monotonic_s()
            # A killed signer is back within 3 s: until its announcements are overdue its last word stands.
            self._token = token.result() or (self._token if self._heard.facts_of("signer", now_s) is not None else None)
            self._trust = trust.result() or self._trust
            self._log_status = recorder.result() or self._log_status
            self._judge()
            await self._tell_waiting()
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _ask(self, neighbour: str, operation: str, answer: type[Answer]) -> Answer | None:
        try:
            found: Answer = await self._neighbours[neighbour].call(operation, None, answer, LOOK_S_MAX)
        except (XacbeError, *UNREADABLE):
            return None  # away: its silence is in the announcements
        return found

    async def _wake(self, name: str) -> None:
        """A process that rests told it to the supervisor before this one, perhaps: called, it starts and says it again."""
        client = LocalClient(self._ways[name])
        try:
            await client.call("wake", timeout_s=LOOK_S_MAX)
        except XacbeError:
            pass  # asked again at the next look, until it is heard
        finally:
            client.close()  # else it would have a caller for ever, and never rest

    def _judge(self) -> None:
        """Derives the state; says and counts every step of a change."""
        wanted, self._advice = derive(self._facts())
        for following in steps(self._state, wanted):
            event(self._log, logging.WARNING, "box.state_changed", before=str(self._state), after=str(following))
            self._count(f"state.{following.lower()}")
            self._state, self._since_s = following, self._clock.monotonic_s()
        lasts = self._clock.monotonic_s() - self._since_s >= TELL_AFTER_S or self._state is BoxState.HELD
        if lasts and self._state is not self._told and not {self._state, self._told} <= QUIET_STATES:
            self._tell("box.state_changed", {"before": str(self._told), "after": str(self._state)})
            self._told = self._state

    def _facts(self) -> Facts:
        now_s, now_us = self._clock.monotonic_s(), self._clock.now_us()
        statuses = self._heard.statuses(now_s)
        standing = "" if self._trust is None else self._trust.standing
        ended = {one.service for one in self._horizons() if has_ended(one, now_us)}
        return Facts(
            now_us=now_us,
            enrolled=self._store.enrolled,
            token=None if self._token is None else self._token.state,
            sealing_ends_us=sealing_ends_at_us(self._trust),
            configuration_expires_us=None if self._trust is None else self._trust.expires_us,
            silent_services=self._silent(),
            held=tuple(name for name in topology.BY_NAME if (self._run / name / HELD_MARK).exists()),
            silent_processes=tuple(one.process for one in statuses if one.state == "silent" and one.process != "supervisor"),
            waiting_processes=tuple(one.process for one in statuses if one.state == "waiting"),
            log_full=self._log_status is not None and self._log_status.state == "full",
            clock=(self._heard.facts_of("trust_agent", now_s) or {}).get("clock", ""),
            local_fell_back=self._store.fell_back,
            suspended=standing == SUSPENDED,
            terminated=standing == TERMINATED,
            unregistered=standing == ABSENT,
            stamps_ended=TSA in ended and self._log_status is not None,
            certificates_end_us=None if self._trust is None else self._trust.certificates_end_us,
            notices_waiting=self._log_status is not None and self._log_status.notices_due > 0,
        )

    def _silent(self) -> tuple[str, ...]:
        """The recorder meets a silent time-stamping authority first: it asks whenever a message waits."""
        silent = set(silent_services(self._trust, self._clock.now_us()))
        if self._log_status is not None and self._log_status.outage_since_us is not None:
            silent.add(TSA)
        return tuple(sorted(silent))

    def _horizons(self) -> list[Horizon]:
        return horizons(self._clock.now_us(), self._trust, self._log_status, self._silent())

    def _tell(self, kind: str, facts: dict[str, str]) -> None:
        self._incidents.append(Incident(kind, "supervisor", self._clock.now_us(), facts))

    async def _tell_waiting(self) -> None:
        while self._incidents:
            incident = self._incidents.popleft()
            try:
                await self._neighbours["reporter"].call("incident", incident, timeout_s=LOOK_S_MAX)
            except XacbeError:
                self._incidents.appendleft(incident)
                return  # the reporter is away: told at the next look

    def _count(self, kind: str) -> None:
        self._counters[kind] = self._counters.get(kind, 0) + 1


def main(state: Path) -> int:
    """Raises SettingsError; returns the exit code of `running.run`."""
    box, settings = load(state, BoxSettings), load(state, SupervisorSettings)
    log = start_journal("supervisor")
    return run(log, _serve(state, box, settings, log))


async def _serve(state: Path, box: BoxSettings, settings: SupervisorSettings, log: logging.Logger) -> None:
    supervisor = Supervisor(state, box, settings, SystemClock(), log)
    channels = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items()}
    event(log, logging.INFO, "process.started", channels=len(channels))
    parts: list[Coroutine[Any, Any, None]] = [supervisor.serve(channels)]
    await until_stopped(*parts)
