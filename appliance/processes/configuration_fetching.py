"""Keeps the global configuration current: fetches, has it verified, makes it durable, tells the generation.

Part of the trust agent process. What to believe is decided by `trust.trusted_configuration`; a failure of any kind leaves the last good
configuration in force until it expires.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urljoin

from appliance import durable
from appliance.clock import Clock, to_us
from appliance.configuration_files import INSTANCES_MAX, AcceptedStore, write_layout
from appliance.errors import UnavailableError, UnverifiedError, XacbeError
from appliance.journal import event
from appliance.model.identifiers import ServerId
from appliance.net import fetch
from appliance.net.fetch import FetchError, FetchLimits, FetchStatusError
from appliance.processes.clock_watch import ClockWatch
from appliance.processes.trust_services import Generation, ServiceBook
from appliance.settings import TrustAgentSettings
from appliance.trust.directory import DIRECTORY_BYTES_MAX
from appliance.trust.global_configuration import SHARED_BYTES_MAX, Anchor, AnchorSource, SharedParameters, parse_anchor
from appliance.trust.trusted_configuration import (
    ConfigurationAbsentError,
    ConfigurationFromFutureError,
    ConfigurationInForce,
    ConfigurationWrongInstanceError,
    TrustedConfiguration,
)
from appliance.trust.wire import Registered, View

VERSIONS = (6, 5, 4, 3)
"""Probed in this order; version 2 has SHA-1 hashes of certificates and is not used (sheet 6.2)."""


class AnchorNotStoredError(UnavailableError):
    """The disk did not take the anchor."""

    kind = "anchor.not_stored"


class AuthoritiesUnreadableError(UnavailableError):
    """The file of authorities for https sources cannot be read: those sources are passed over."""

    kind = "configuration.authorities_unreadable"


class ConfigurationKeeper:
    """Our instance's configuration and those of the instances that it federates with."""

    def __init__(
        self,
        root: Path,
        server: ServerId,
        settings: TrustAgentSettings,
        clock: Clock,
        book: ServiceBook,
        watch: ClockWatch,
        log: logging.Logger,
    ) -> None:
        self._root, self._server, self._settings, self._clock, self._book, self._log = root, server, settings, clock, book, log
        self._instance = server.owner.instance
        self._watch = watch
        self.generation = Generation(clock)
        self._store = AcceptedStore(root)
        self._trusted: dict[str, TrustedConfiguration] = {}
        self._versions: dict[str, int] = {}
        self._last_good_url: dict[str, str] = {}
        self._fetched_us = 0
        self._published: dict[str, frozenset[tuple[str, bytes]]] = {}
        self._published_expires_us = 0
        self._foreign_expires_us: dict[str, int] = {}
        self._registered_since_s: dict[bytes, float] = {}
        """Our TLS certificates by SHA-256, and since when what others read of the configuration has named each, without a gap."""
        self._https: ssl.SSLContext | None = None
        self._wake = asyncio.Event()

    @property
    def has_anchor(self) -> bool:
        return self._instance in self._trusted

    def load(self) -> None:
        """At start: anchor and last good configuration from our own files. A damaged one is as good as none: it is fetched again."""
        file = self._root / "anchor.xml"
        if not file.is_file():
            return
        try:
            anchor = self._checked_anchor(file.read_bytes())
        except UnverifiedError as error:  # then a person has to give it again; stopping would take that way as well
            event(self._log, logging.ERROR, "anchor.damaged", kind=error.kind, reason=str(error))
            return
        self._trusted[self._instance] = TrustedConfiguration(anchor)
        self._reload(self._instance)
        own = self._own.in_force
        if own is None:
            return
        for anchor in self._federated(own):
            self._trusted[anchor.instance] = TrustedConfiguration(anchor, own=False)
            self._reload(anchor.instance)
        self._publish()

    def _reload(self, instance: str) -> None:
        saved = self._store.saved(instance)
        if saved is None:
            return
        try:
            self._watch.at_least(self._trusted[instance].reloaded(*saved).generated_us)
        except UnverifiedError as error:
            event(self._log, logging.WARNING, "configuration.not_reloaded", instance=instance, kind=error.kind, reason=str(error))

    async def install(self, xml: bytes) -> None:
        """A person gives the anchor, first or anew. Raises ConfigurationMalformedError, CertificateMalformedError,
        ConfigurationWrongInstanceError, AnchorNotStoredError; then nothing changed.

        A new anchor is a new beginning: what was in force stays only until the first configuration under it.
        """
        anchor = self._checked_anchor(xml)
        try:
            await asyncio.to_thread(durable.write_file, self._root / "anchor.xml", xml)
        except OSError as error:
            raise AnchorNotStoredError(f"anchor.xml: {error.strerror}") from None
        if self.has_anchor:
            self._own.anchored_anew(anchor)
        else:
            self._trusted[self._instance] = TrustedConfiguration(anchor)
        self._versions.clear()
        self._last_good_url.clear()
        event(self._log, logging.INFO, "anchor.installed", instance=anchor.instance, sources=len(anchor.sources))
        self._wake.set()

    def shared(self) -> SharedParameters:
        """Our instance's shared parameters. Raises ConfigurationAbsentError, ConfigurationExpiredError."""
        if not self.has_anchor:
            raise ConfigurationAbsentError("no configuration anchor yet")
        return self._own.view(self._clock.now_us()).shared

    def standing(self, server: ServerId) -> str:
        """What the newest configuration says of a box, also when it has expired; empty before there is one."""
        own = self._own.in_force if self.has_anchor else None
        return "" if own is None else own.shared.standing_of(server)

    def registered(self) -> list[Registered]:
        """Our TLS certificates that CEIQROO has published. Known here and not by whoever asks, since a person's command comes and goes."""
        now_s = self._clock.monotonic_s()
        return [Registered(sha256, now_s - since_s) for sha256, since_s in self._registered_since_s.items()]

    def last_tsas_end_us(self) -> int | None:
        """When the certificate of the last time-stamping authority runs out."""
        own = self._own.in_force if self.has_anchor else None
        ends = [] if own is None else [to_us(tsa.certificate.not_valid_after_utc) for tsa in own.shared.tsas]
        return max(ends, default=None)

    def view(self) -> View:
        """What other processes see: what the files say, never a later expiry than theirs. Generation 0 before the first configuration."""
        return View(
            self.generation.value,
            self._instance,
            self._published_expires_us,
            self._fetched_us,
            self._foreign_expires_us,
            self._watch.signed,
        )

    def ocsp_fetch_interval_s(self, wanted_s: int) -> int:
        """How often to ask for OCSP responses: as often as this box wants to, or as its instance asks (sheet 6.6), the oftener."""
        own = self._own.in_force if self.has_anchor else None
        return wanted_s if own is None else min(wanted_s, own.optional.ocsp_fetch_interval_s)

    def waits_for(self) -> list[str]:
        if not self.has_anchor:
            return ["anchor"]
        own = self._own.in_force
        if own is None:
            return ["configuration"]
        return ["configuration.expired"] if own.expires_us <= self._clock.now_us() else []

    async def run(self) -> None:
        """Fetches for ever: at the interval with jitter while it works, sooner with back-off up to the interval while it does not."""
        failures = 0
        while True:
            if self.has_anchor:
                failures = 0 if await self.fetch_all() else failures + 1
            interval = float(self._settings.configuration_fetch_interval_s)
            wait_s = interval if failures == 0 else min(interval, 2.0 ** min(failures, 10))
            self._wake.clear()
            try:
                async with asyncio.timeout(wait_s * random.uniform(0.8, 1.0)):  # noqa: S311  jitter
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def fetch_all(self) -> bool:
        """One round over all instances; whether our own came."""
        good = await self._fetch(self._instance)
        own = self._own.in_force
        if good and own is not None:
            self._fetched_us = self._clock.now_us()
            anchors = {anchor.instance: anchor for anchor in self._federated(own)}
            for instance in [name for name in self._trusted if name != self._instance and name not in anchors]:
                del self._trusted[instance]  # CEIQROO no longer vouches for it
            for instance, anchor in anchors.items():
                if instance not in self._trusted:
                    self._trusted[instance] = TrustedConfiguration(anchor, own=False)
                await self._fetch(instance)
            await self._publish_in_thread()
        return good

    async def _fetch(self, instance: str) -> bool:
        trusted = self._trusted[instance]
        for source in self._in_order(instance, trusted.sources()):
            name = "configuration" if instance == self._instance else f"configuration {instance}"
            try:
                url, body = await self._directory(source.url)
                needed = trusted.directory_received(body, source, self._clock.now_us())
                contents = {entry: await self._part(urljoin(url, entry.location)) for entry in needed}
                configuration = trusted.parts_received(contents)
            except XacbeError as error:
                if isinstance(error, ConfigurationFromFutureError):
                    self._watch.at_least(error.generated_us)  # its signature was good: a word about our clock, if nothing live says more
                self._book.failed(name, source.url, error.kind)
                level = logging.WARNING if isinstance(error, UnverifiedError) else logging.INFO
                event(self._log, level, "configuration.not_fetched", url=source.url, kind=error.kind, reason=str(error))
                continue
            self._book.succeeded(name, source.url)
            self._watch.at_least(configuration.generated_us)
            self._last_good_url[instance] = source.url
            return await self._saved(configuration)
        return False

    async def _saved(self, configuration: ConfigurationInForce) -> bool:
        try:
            await asyncio.to_thread(self._store.save, configuration)
        except OSError as error:
            self._book.count("configuration.not_stored")
            event(self._log, logging.ERROR, "configuration.not_stored", reason=str(error))
            return False
        return True

    def _in_order(self, instance: str, sources: Iterable[AnchorSource]) -> list[AnchorSource]:
        """The last successful one first, then as given."""
        return sorted(sources, key=lambda source: source.url != self._last_good_url.get(instance))

    async def _directory(self, url: str) -> tuple[str, bytes]:
        """The directory in the newest version that the place has. Raises FetchError, FetchStatusError, AuthoritiesUnreadableError."""
        self._secured(url)
        limits = self._limits(DIRECTORY_BYTES_MAX)
        if "version=" in url.partition("?")[2]:
            return url, self._body(url, await fetch.get(url, limits))
        known = self._versions.get(url)
        for version in (known, *VERSIONS) if known is not None else VERSIONS:
            asked = f"{url}{'&' if '?' in url else '?'}version={version}"
            answer = await fetch.get(asked, limits)
            if answer.status == 404:
                continue
            self._versions[url] = version
            return asked, self._body(asked, answer)
        raise FetchError(f"{url}: no version that we read")

    async def _part(self, url: str) -> bytes:
        return self._body(url, await fetch.get(url, self._limits(SHARED_BYTES_MAX)))

    @staticmethod
    def _body(url: str, answer: fetch.FetchAnswer) -> bytes:
        if answer.status != 200:
            raise FetchStatusError(f"{url}: status {answer.status}")
        return answer.body

    def _limits(self, bytes_max: int) -> FetchLimits:
        return FetchLimits(self._settings.connect_s_max, self._settings.read_s_max, bytes_max, self._https)

    def _secured(self, url: str) -> None:
        """Before an https address is asked its authorities are read, once: most boxes need none. Raises AuthoritiesUnreadableError."""
        if self._https is None and url.startswith("https:"):
            file = self._settings.https_authorities
            try:
                self._https = ssl.create_default_context(cafile=file or None)
            except OSError as error:  # also what is no PEM
                raise AuthoritiesUnreadableError(f"trust_agent.https_authorities: {file}: {error.strerror or error}") from None

    async def _publish_in_thread(self) -> None:
        try:
            await asyncio.to_thread(self._write_layout)
        except OSError as error:  # a full disk: what others read stays as it was, the next round tries again
            self._book.count("configuration.not_stored")
            event(self._log, logging.ERROR, "configuration.not_stored", reason=str(error))
            return
        self._tell()

    def _publish(self) -> None:
        self._write_layout()
        self._tell()

    def _tell(self) -> None:
        """A new generation only where content changed: a later expiry alone is no reason to read everything again."""
        own = self._own.in_force
        self._published_expires_us = 0 if own is None else own.expires_us
        self._foreign_expires_us = {one.instance: one.expires_us for one in self._in_force() if one.instance != self._instance}
        named = [] if own is None else own.shared.auth_hashes_of(self._server)
        now_s = self._clock.monotonic_s()
        self._registered_since_s = {sha256: self._registered_since_s.get(sha256, now_s) for sha256 in named}
        contents = self._contents()
        if contents != self._published:
            self._published = contents
            self.generation.advance()
            event(self._log, logging.INFO, "configuration.changed", generation=self.generation.value)

    def _write_layout(self) -> None:
        in_force = self._in_force()
        write_layout(self._root / "configuration", self._instance, in_force)
        self._store.forget_unused(in_force)

    def _in_force(self) -> list[ConfigurationInForce]:
        return [trusted.in_force for trusted in self._trusted.values() if trusted.in_force is not None]

    def _contents(self) -> dict[str, frozenset[tuple[str, bytes]]]:
        return {configuration.instance: configuration.content for configuration in self._in_force()}

    def _federated(self, own: ConfigurationInForce) -> list[Anchor]:
        """Other instances that CEIQROO vouches for in the private parameters (II.2.X)."""
        anchors = () if own.private is None else own.private.anchors
        return [anchor for anchor in anchors if anchor.instance != self._instance][:INSTANCES_MAX]

    @property
    def _own(self) -> TrustedConfiguration:
        return self._trusted[self._instance]

    def _checked_anchor(self, xml: bytes) -> Anchor:
        anchor = parse_anchor(xml)
        if anchor.instance != self._instance:
            raise ConfigurationWrongInstanceError(f"the anchor is of {anchor.instance[:80]}, this box belongs to {self._instance}")
        return anchor
