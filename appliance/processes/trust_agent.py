"""The trust agent: the only process that speaks with CEIQROO's trust services.

It fetches and verifies the global configuration, OCSP responses for our certificates, and time stamps. It holds no key; everybody else
reads its files or asks it. Any neighbour may be away: it serves what it has and says what it waits for.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from appliance import durable
from appliance.clock import Clock, SystemClock
from appliance.errors import RefusedError
from appliance.journal import start_journal
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.local_client import LocalClient
from appliance.net.local_server import Handler, LocalServer
from appliance.net.local_sockets import channel_path, inherited_sockets
from appliance.processes.announcing import announce_forever
from appliance.processes.clock_watch import FILE_NAME, ClockWatch
from appliance.processes.configuration_fetching import ConfigurationKeeper
from appliance.processes.evidence_fetching import EvidenceKeeper
from appliance.processes.running import run, settle, until_stopped
from appliance.processes.stamping import Stamper
from appliance.processes.trust_services import ServiceBook
from appliance.settings import BoxSettings, TrustAgentSettings, load
from appliance.trust.wire import AnchorInstall, News, OwnEvidence, StampReply, StampRequest, TrustStatus, View

NAME = "trust_agent"
NEWS_S_MAX = 12.0
"""Longest wait for news: below the callers' own limit (CALL_S_MAX), so that silence means death and not patience."""
IMPRINT_BYTES = 64
STAMPS_MAX = 8
"""Stamps asked for at once: the recorder has one in flight."""
ROOT_MODE = 0o755
"""Others read `configuration/` below it; everything else there is closed to them."""


class StampRefusedError(RefusedError):
    """Not an imprint, or too many at once."""

    kind = "tsa.bad_request"


class TrustAgent:
    """The operations of the process over its three keepers."""

    def __init__(self, state: Path, box: BoxSettings, settings: TrustAgentSettings, clock: Clock, log: logging.Logger) -> None:
        root = state / "trust"
        durable.make_directory(root, ROOT_MODE)
        root.chmod(ROOT_MODE)
        self._state, self._clock = state, clock
        self._server = ServerId(ClientId(box.instance, box.member_class, box.member_code), box.server_code)
        self._book, self._watch = ServiceBook(clock), ClockWatch(root / FILE_NAME, clock, log)
        self._signer = LocalClient(channel_path(state, "signer", NAME))
        self._configuration = ConfigurationKeeper(root, self._server, settings, clock, self._book, self._watch, log)
        self._evidence = EvidenceKeeper(root, self._signer, self._configuration, settings, clock, self._book, self._watch, log)
        self._stamper = Stamper(settings, clock, self._book, self._watch, log)
        self._stamps = 0

    def load(self) -> None:
        """Takes up what was known before the restart."""
        self._configuration.load()

    def handlers(self) -> dict[str, Handler]:
        return {
            "view": self._view,
            "own_evidence": self._own_evidence,
            "stamp": self._stamp,
            "trust_status": self._trust_status,
            "install_anchor": self._install_anchor,
        }

    def parts(self, listeners: dict[str, socket.socket]) -> list[Any]:
        """The coroutines that together are this process."""
        return [
            LocalServer(NAME, self.handlers()).serve(listeners),
            self._configuration.run(),
            self._evidence.run(),
            self._watch.run(),
            announce_forever(self._state, NAME, self._clock, self.describe),
        ]

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """For announcements: what is missed, counters by kind of error, clock facts."""
        waits_for = [*self._configuration.waits_for(), *self._evidence.waits_for()]
        return waits_for, dict(self._book.counters), self._watch.facts()

    async def _view(self, _: str, payload: bytes) -> View:
        news = msgspec.msgpack.decode(payload, type=News)
        await self._configuration.generation.other_than(news.known, min(news.wait_s, NEWS_S_MAX))
        return self._configuration.view()

    async def _own_evidence(self, _: str, payload: bytes) -> OwnEvidence:
        news = msgspec.msgpack.decode(payload, type=News)
        return await self._evidence.news(news.known, min(news.wait_s, NEWS_S_MAX))

    async def _stamp(self, _: str, payload: bytes) -> StampReply:
        request = msgspec.msgpack.decode(payload, type=StampRequest)
        if len(request.imprint) != IMPRINT_BYTES or self._stamps >= STAMPS_MAX:
            raise StampRefusedError("not a SHA-512 imprint, or too many stamps at once")
        self._stamps += 1
        try:
            return await self._stamper.stamp(request.imprint, self._configuration.shared().tsas)
        finally:
            self._stamps -= 1

    async def _trust_status(self, _: str, __: bytes) -> TrustStatus:
        view = self._configuration.view()
        expires_us = view.expires_us if view.generation else None
        ends = [end for end in (self._evidence.certificates_end_us(), self._configuration.last_tsas_end_us()) if end is not None]
        return TrustStatus(
            view.generation,
            expires_us,
            self._book.health(),
            self._evidence.evidence().evidence,
            min(ends, default=None),
            self._configuration.standing(self._server),
            self._configuration.registered(),
        )

    async def _install_anchor(self, _: str, payload: bytes) -> None:
        await self._configuration.install(msgspec.msgpack.decode(payload, type=AnchorInstall).anchor)


async def _whole(agent: TrustAgent) -> None:
    listeners = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items() if name.startswith("channel.")}
    settle()
    await until_stopped(*agent.parts(listeners))


def main(state: Path) -> int:
    """Runs until SIGTERM."""
    log = start_journal(NAME)
    box, settings = load(state, BoxSettings), load(state, TrustAgentSettings)
    agent = TrustAgent(state, box, settings, SystemClock(), log)
    agent.load()
    return run(log, _whole(agent), uvloop.run)
