"""Keeps OCSP responses for our own certificates: the evidence that goes into every seal and every TLS handshake.

Part of the trust agent process. Responses live on disk, so that the time until which we can seal survives a restart (T38). A response that
says revoked takes the evidence away at once (T22); one that is older than what we hold changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from appliance import durable
from appliance.clock import Clock, to_us
from appliance.errors import UnavailableError, UnverifiedError, XacbeError
from appliance.hsm.wire import KeyRecord
from appliance.journal import event
from appliance.model import certificates
from appliance.model.certificates import CertificateMalformedError
from appliance.net import fetch
from appliance.net.fetch import FetchLimits
from appliance.net.local_client import LocalClient
from appliance.processes.clock_watch import ClockWatch
from appliance.processes.configuration_fetching import ConfigurationKeeper
from appliance.processes.trust_services import Generation, ServiceBook
from appliance.settings import TrustAgentSettings
from appliance.trust import autonomy, chains, ocsp
from appliance.trust.global_configuration import CaCertificate, SharedParameters
from appliance.trust.ocsp import OcspFacts, OcspRevokedError, OcspStaleError
from appliance.trust.signed_time import CLOCK_STOP_US
from appliance.trust.wire import Evidence, OwnEvidence

LOOK_INTERVAL_S = 2.0
"""How soon a new certificate is noticed; a new configuration wakes at once."""
SIGNER_CALL_S_MAX = 5.0
CLOCK_ASK_S = 20.0
"""While our clock is off signed time: sealing may have stopped, so that no stamp brings a newer one. Back within 60 s (T40)."""
RETRY_STOPPED_S = 3
"""The longest pause once sealing has stopped: service is back within 5 s of the first good response (T38)."""
CERTIFICATES_MAX = 64
"""Own certificates; more than any shared box has."""
NONCE_BYTES = 16
_FILE_NAME = re.compile(r"[0-9a-f]{64}")


class OcspFromFutureError(UnverifiedError):
    """Genuine, but more than five minutes ahead of our now: held, it would keep every right one out until its moment comes."""

    kind = "ocsp.from_future"


@dataclass(slots=True)
class _Held:
    """A certificate, its issuer, and the newest good response about it."""

    certificate: x509.Certificate
    issuer: CaCertificate
    due_s: float
    """Monotonic: when to ask next."""
    response: bytes = b""
    facts: OcspFacts | None = None
    failures: int = 0
    """In a row: the pause doubles from one second to the settings' retry, so that a responder that was only starting is soon asked
    again."""


class EvidenceKeeper:
    """Invariant: a response is held only after its signature was verified under the configuration in force and its status was good."""

    def __init__(
        self,
        root: Path,
        signer: LocalClient,
        configuration: ConfigurationKeeper,
        settings: TrustAgentSettings,
        clock: Clock,
        book: ServiceBook,
        watch: ClockWatch,
        log: logging.Logger,
    ) -> None:
        self._folder, self._signer, self._configuration, self._settings = root / "ocsp", signer, configuration, settings
        self._clock, self._book, self._watch, self._log = clock, book, watch, log
        self.generation = Generation(clock)
        self._held: dict[bytes, _Held] = {}
        self._certificates: list[bytes] = []
        self._seen_generation = 0
        self._signer_away = self._signer_unheard = True
        watch.on_news = self._clock_news
        self._asked_s = float("-inf")
        durable.make_directory(self._folder)

    async def news(self, known: int, wait_s: float) -> OwnEvidence:
        """What is held, as soon as it is not `known`, at the latest after `wait_s`. Generation 0, until what is stored was taken up (that
        takes the signer's list of certificates and a configuration), is never news: it says nothing about evidence."""
        await self.generation.other_than(known if self.generation.value else 0, wait_s)
        return self.evidence()

    def evidence(self) -> OwnEvidence:
        """Everything held, fresh or not."""
        found = [
            Evidence(
                certificate_sha256=digest,
                certificate_sha1=certificates.sha1(held.certificate),
                response=held.response,
                produced_at_us=held.facts.produced_at_us,
                this_update_us=held.facts.this_update_us,
                next_update_us=held.facts.next_update_us,
            )
            for digest, held in self._held.items()
            if held.facts is not None
        ]
        return OwnEvidence(self.generation.value, found, self._watch.signed)

    def certificates_end_us(self) -> int | None:
        """When the first certificate runs out that cannot be replaced by another one at hand: the latest of each subject and purpose, and
        those of their issuers. None: no certificate of ours is known yet."""
        latest: dict[tuple[bytes, bool], int] = {}
        for held in self._held.values():
            kind = held.certificate.subject.public_bytes(), chains.is_authentication_certificate(held.certificate)
            end_us = min(to_us(held.certificate.not_valid_after_utc), to_us(held.issuer.certificate.not_valid_after_utc))
            latest[kind] = max(latest.get(kind, 0), end_us)
        return min(latest.values(), default=None)

    def _clock_news(self) -> None:
        if self.generation.value:  # generation 0 says nothing yet
            self.generation.advance()

    def waits_for(self) -> list[str]:
        return ["signer"] if self._signer_away else []

    async def run(self) -> None:
        """Looks for new certificates and due responses, for ever."""
        while True:
            seen = self._configuration.generation.value
            await self._look()
            try:
                await self._refresh(self._configuration.shared())
            except UnavailableError:
                pass  # no configuration in force: the keeper of the configuration says so
            await self._configuration.generation.other_than(seen, LOOK_INTERVAL_S)

    async def _look(self) -> None:
        """Asks the signer for our certificates; without an answer the last ones stay."""
        try:
            keys: list[KeyRecord] = await self._signer.call("list_keys", None, list[KeyRecord], SIGNER_CALL_S_MAX)
        except XacbeError:
            self._signer_away = True
        else:
            self._signer_away = self._signer_unheard = False
            self._certificates = [der for key in keys if key.use in ("seal", "tls") for der in key.certificates][:CERTIFICATES_MAX]
        try:
            shared = self._configuration.shared()
        except UnavailableError:
            return
        self._adopt(shared)

    def _adopt(self, shared: SharedParameters) -> None:
        """Brings the list up to the certificates and the configuration of now."""
        wanted = self._wanted(shared)
        is_new = self._configuration.generation.value != self._seen_generation
        self._seen_generation = self._configuration.generation.value
        before = {digest: held.response for digest, held in self._held.items()}
        now_s = self._clock.monotonic_s()
        for digest, (certificate, issuer) in wanted.items():
            held = self._held.get(digest)
            if held is None or is_new:
                response = self._stored(digest) if held is None else held.response
                facts = self._proven(response, certificate, issuer, shared)
                self._held[digest] = _Held(certificate, issuer, now_s, response if facts else b"", facts)
        for digest in [digest for digest in self._held if digest not in wanted]:
            del self._held[digest]
        self._remove_unused(wanted)
        is_first = self.generation.value == 0 and not self._signer_unheard  # also with nothing stored: from now on that is the truth
        if is_first or {digest: held.response for digest, held in self._held.items()} != before:
            self.generation.advance()

    def _wanted(self, shared: SharedParameters) -> dict[bytes, tuple[x509.Certificate, CaCertificate]]:
        """Own certificates of approved CAs. Not the CAs above them: a peer asks for what was sent in the handshake (sheet 3.2), and a box
        sends its own certificate alone; the anchor is the issuer itself (sheet 5.3).
        """
        found: dict[bytes, tuple[x509.Certificate, CaCertificate]] = {}
        for der in self._certificates:
            try:
                certificate = certificates.read(der)
            except CertificateMalformedError:
                continue  # the signer checked it at import; nothing to ask about it
            issuer = shared.ca_by_subject(certificate.issuer.public_bytes())
            if issuer is not None and len(found) < CERTIFICATES_MAX:
                found[certificates.sha256(certificate)] = (certificate, issuer)
        return found

    async def _refresh(self, shared: SharedParameters) -> None:
        now_s = self._clock.monotonic_s()
        due = [digest for digest, held in self._held.items() if held.due_s <= now_s]
        if not due and not self._watch.is_right and now_s - self._asked_s >= CLOCK_ASK_S:
            due = list(self._held)[:1]  # whose clock is wrong, and is it still: any answer tells
        if due:
            self._asked_s = now_s
        async with asyncio.TaskGroup() as group:
            for digest in due:
                group.create_task(self._refresh_one(digest, self._held[digest], shared))

    async def _refresh_one(self, digest: bytes, held: _Held, shared: SharedParameters) -> None:
        good = False
        for url in sorted(_responders(held), key=lambda url: self._book.is_failing("ocsp", url)):
            try:
                await self._ask(url, digest, held, shared)
            except XacbeError as error:
                if isinstance(error, durable.SyncFailedError):
                    raise
                self._book.failed("ocsp", url, error.kind)
                event(self._log, logging.WARNING, "ocsp.not_fetched", url=url, kind=error.kind, reason=str(error))
                if isinstance(error, OcspRevokedError):
                    self._withdraw(digest, held, error.facts)
                    break
                continue
            self._book.succeeded("ocsp", url)
            good = True
            break
        held.failures = 0 if good else held.failures + 1
        retry_s = min(self._settings.ocsp_retry_s, 2 ** min(held.failures - 1, 10)) if held.failures else 0
        if self._is_stopped(held, shared):
            retry_s = min(retry_s, RETRY_STOPPED_S)
        wait_s = self._configuration.ocsp_fetch_interval_s(self._settings.ocsp_fetch_interval_s) if good else retry_s
        if good and (left_us := self._sealing_left_us(held, shared)) is not None:  # a good one that is nearly too old: not for 20 minutes
            wait_s = min(wait_s, max(RETRY_STOPPED_S, left_us / 2_000_000))
        held.due_s = self._clock.monotonic_s() + wait_s

    def _is_stopped(self, held: _Held, shared: SharedParameters) -> bool:
        """Nothing can be sealed with what we hold: the first good response brings the box back."""
        left_us = self._sealing_left_us(held, shared)
        return left_us is None or left_us <= 0

    def _sealing_left_us(self, held: _Held, shared: SharedParameters) -> int | None:
        """For how long what we hold is good to seal with; below zero: no more. None: we hold nothing."""
        facts = held.facts
        if facts is None:
            return None
        ends_us = autonomy.sealing_ends_at_us(facts.produced_at_us, facts.this_update_us, facts.next_update_us, shared.ocsp_freshness_s)
        return ends_us - self._clock.now_us()

    async def _ask(self, url: str, digest: bytes, held: _Held, shared: SharedParameters) -> None:
        """One request to one responder. A nonce goes along; a responder that has none prepares its answers, and then the rule that evidence
        never gets older keeps a replayed answer out."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        request = ocsp.build_request(held.certificate, held.issuer, nonce)
        limits = FetchLimits(self._settings.connect_s_max, self._settings.read_s_max, ocsp.RESPONSE_BYTES_MAX)
        response = await fetch.post(url, "application/ocsp-request", request, limits)
        now_us = self._clock.now_us()
        is_live = ocsp.nonce_of(response) is not None
        try:
            facts = ocsp.check_response(response, held.certificate, held.issuer, shared, now_us, nonce=nonce if is_live else None)
        except (OcspStaleError, OcspRevokedError) as error:  # its signature was good, so its time is signed time
            self._compare(error.facts, is_live)
            raise
        self._compare(facts, is_live)
        ahead_us = max(_age_order(facts)) - now_us
        if ahead_us > CLOCK_STOP_US:
            raise OcspFromFutureError(f"an OCSP response of a moment {ahead_us // 1_000_000} s from now")
        if held.facts is not None and _age_order(facts) < _age_order(held.facts):
            return
        try:
            await asyncio.to_thread(durable.write_file, self._folder / digest.hex(), response)
        except OSError as error:  # a full disk: the response serves until the next restart
            self._book.count("ocsp.not_stored")
            event(self._log, logging.ERROR, "ocsp.not_stored", reason=str(error))
        held.response, held.facts = response, facts
        self.generation.advance()

    def _compare(self, facts: OcspFacts | None, is_live: bool) -> None:
        if facts is not None and is_live:
            self._watch.compare(facts.produced_at_us)
        elif facts is not None:
            self._watch.at_least(facts.produced_at_us)

    def _withdraw(self, digest: bytes, held: _Held, facts: OcspFacts | None) -> None:
        """Revoked, or unknown to its issuer: no further seal with this certificate, unless what we hold is the newer word."""
        if held.facts is None or (facts is not None and _age_order(facts) < _age_order(held.facts)):
            return
        held.response, held.facts = b"", None
        (self._folder / digest.hex()).unlink(missing_ok=True)
        event(self._log, logging.ERROR, "ocsp.evidence_withdrawn", certificate=digest.hex())
        self.generation.advance()

    def _stored(self, digest: bytes) -> bytes:
        file = self._folder / digest.hex()
        return file.read_bytes()[: ocsp.RESPONSE_BYTES_MAX + 1] if file.is_file() else b""

    def _proven(self, response: bytes, certificate: x509.Certificate, issuer: CaCertificate, shared: SharedParameters) -> OcspFacts | None:
        """What a held or stored response still proves: also a stale one, if it was good."""
        if not response:
            return None
        try:
            facts = ocsp.check_response(response, certificate, issuer, shared, self._clock.now_us())
            self._watch.at_least(facts.produced_at_us)
            return facts
        except OcspStaleError as error:
            return error.facts if error.facts is not None and error.facts.status == "good" else None
        except UnverifiedError as error:
            event(self._log, logging.WARNING, "ocsp.evidence_dropped", kind=error.kind, reason=str(error))
            return None

    def _remove_unused(self, wanted: dict[bytes, tuple[x509.Certificate, CaCertificate]]) -> None:
        """Only while the signer speaks: without its list nothing is known to be unused."""
        if self._signer_away:
            return
        names = {digest.hex() for digest in wanted}
        for file in self._folder.iterdir():
            if _FILE_NAME.fullmatch(file.name) and file.name not in names:
                file.unlink()


def _age_order(facts: OcspFacts) -> tuple[int, int]:
    return facts.this_update_us, facts.produced_at_us


def _responders(held: _Held) -> list[str]:
    """The configuration's responders, then the one that the certificate itself names (sheet 5.4)."""
    urls = list(held.issuer.ocsp_urls)
    try:
        access = held.certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return urls
    for description in access:
        location = description.access_location
        if description.access_method == AuthorityInformationAccessOID.OCSP and isinstance(location, x509.UniformResourceIdentifier):
            urls.append(location.value)
    return list(dict.fromkeys(urls))
