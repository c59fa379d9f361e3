"""The relay's view of the global configuration and of its own OCSP responses, kept up to date by the trust agent."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

from appliance import configuration_files
from appliance.clock import Clock
from appliance.errors import UnavailableError, XacbeError
from appliance.exchange.routing import InstanceUnknownError
from appliance.journal import event
from appliance.model.identifiers import ClientId
from appliance.net.local_client import LocalClient
from appliance.trust import signed_time
from appliance.trust.global_configuration import SharedParameters
from appliance.trust.signed_time import NOTHING_SIGNED
from appliance.trust.wire import Evidence, News, OwnEvidence, View

RETRY_S = 0.5
WAIT_S = 10.0
CONFIGURATION_DIRECTORY = "trust/configuration"


class ConfigurationExpiredError(UnavailableError):
    """There is no global configuration, or its signed validity has ended: nothing may be exchanged (II.2.II)."""

    kind = "configuration.expired"


class TrustView:
    """What may be believed now. `follow` keeps it current; `shared` refuses as soon as the signed validity ends."""

    def __init__(self, state: Path, clock: Clock, log: logging.Logger, agent: LocalClient, on_change: Callable[[], None]) -> None:
        self._directory = state / CONFIGURATION_DIRECTORY
        self._clock, self._log, self._agent, self._on_change = clock, log, agent, on_change
        self._shared: SharedParameters | None = None
        self._expires_us = 0
        self._monitoring_client: ClientId | None = None
        self._foreign: dict[str, SharedParameters] = {}
        self._foreign_expires_us: dict[str, int] = {}
        self._evidence: dict[bytes, Evidence] = {}
        self._evidence_by_sha1: dict[bytes, Evidence] = {}
        self._signed = NOTHING_SIGNED

    def shared(self, instance: str | None = None) -> SharedParameters:
        """The shared parameters of our instance, or of one that it federates with. Raises ClockUntrustedError,
        ConfigurationExpiredError, InstanceUnknownError.

        By a clock that is far off nothing is valid, so that nothing is sealed, sent, received or delivered (T40).
        Ours must be valid for the other's to count: it is ours that vouches for the other's anchor.
        """
        signed_time.check(self._signed, self._clock)
        now_us = self._clock.now_us()
        if self._shared is None or now_us >= self._expires_us:
            raise ConfigurationExpiredError("no valid global configuration")
        if instance is None or instance == self._shared.instance:
            return self._shared
        if now_us >= self._foreign_expires_us.get(instance, 0) or instance not in self._foreign:
            raise InstanceUnknownError(f"no valid configuration of the instance {instance[:80]}")
        return self._foreign[instance]

    def instances(self) -> list[SharedParameters]:
        """All that are valid now, ours first. Raises ConfigurationExpiredError."""
        own, now_us = self.shared(), self._clock.now_us()
        return [own, *(one for name, one in self._foreign.items() if now_us < self._foreign_expires_us.get(name, 0))]

    def monitoring_client(self) -> ClientId | None:
        """Whom our instance lets ask every server for monitoring data. Raises as `shared`."""
        self.shared()
        return self._monitoring_client

    def current(self) -> SharedParameters | None:
        """The last parameters seen of our instance, valid or not."""
        return self._shared

    def known(self) -> list[SharedParameters]:
        """All that were last seen, valid or not: for setting up TLS contexts."""
        return [*([self._shared] if self._shared else []), *self._foreign.values()]

    def evidence(self, certificate_sha256: bytes) -> Evidence | None:
        """Our newest good OCSP response for one of our own certificates."""
        return self._evidence.get(certificate_sha256)

    def evidence_by_sha1(self, certificate_sha1: bytes) -> Evidence | None:
        """The same, by the hash that peers ask with on port 5577 (sheet 3.3)."""
        return self._evidence_by_sha1.get(certificate_sha1)

    async def follow_configuration(self) -> None:
        """Waits for each new configuration and loads it in a worker thread; for ever."""
        known = 0
        while True:
            try:
                view: View = await self._agent.call("view", News(known, WAIT_S), View, timeout_s=WAIT_S + 5)
                if view.generation != known and view.generation:
                    loaded = await asyncio.get_running_loop().run_in_executor(None, configuration_files.load_directory, self._directory)
                    self._shared = loaded.shared.pop(view.instance)
                    self._foreign = loaded.shared
                    self._monitoring_client = loaded.optional.monitoring_client
                    self._take_expiries(view)
                    event(self._log, logging.INFO, "configuration.loaded", generation=view.generation, servers=len(self._shared.servers))
                    self._on_change()
                    known = view.generation
                self._take_expiries(view)
            except (KeyError, ssl.SSLError) as error:  # signed, but of no use to us: the old one stays in force until it expires
                event(self._log, logging.ERROR, "configuration.unusable", reason=repr(error))
                await asyncio.sleep(WAIT_S)
            except XacbeError as error:
                event(self._log, logging.INFO, "configuration.awaited", kind=error.kind)
                await asyncio.sleep(RETRY_S)

    def _take_expiries(self, view: View) -> None:
        self._expires_us, self._foreign_expires_us = view.expires_us, view.foreign_expires_us

    async def follow_evidence(self) -> None:
        """Waits for each refresh of our own OCSP responses; for ever."""
        known = 0
        while True:
            try:
                own: OwnEvidence = await self._agent.call("own_evidence", News(known, WAIT_S), OwnEvidence, timeout_s=WAIT_S + 5)
                if own.generation == 0:
                    await asyncio.sleep(RETRY_S)  # the agent has only just started: what we hold stays good until it knows
                    continue
                known, self._signed = own.generation, own.signed
                self._evidence = {one.certificate_sha256: one for one in own.evidence}
                self._evidence_by_sha1 = {one.certificate_sha1: one for one in own.evidence}
            except XacbeError:
                await asyncio.sleep(RETRY_S)
