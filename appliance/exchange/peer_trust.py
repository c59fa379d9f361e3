"""Is the box at the other end of a TLS connection who it must be: the three-part check of authentication certificates.

Pure. Rules I.4.XVIII, IV.2.I; sheet 3.2: (1) issued by an approved CA, (2) equal to the one registered with CEIQROO, (3) a valid OCSP
response. TLS itself has only proved that the peer holds the key. Every message is checked again, also on resumed connections: a finding
holds for RECHECK_US and never longer than the global configuration it was made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509

from appliance.clock import Clock
from appliance.errors import RefusedError, UnverifiedError, XacbeError
from appliance.model import certificates
from appliance.model.identifiers import ClientId
from appliance.trust import chains, ocsp
from appliance.trust.global_configuration import CaCertificate, SecurityServer, SharedParameters

RECHECK_US = 60_000_000
"""X-Road's own period for verified OCSP responses (sheet 10.3)."""
FINDINGS_MAX = 4096


class PeerNotRegisteredError(RefusedError):
    """The certificate is not one that CEIQROO registered for this purpose."""

    kind = "peer.not_registered"


class PeerEvidenceMissingError(UnverifiedError):
    """No OCSP response for the peer's certificate came along or could be fetched."""

    kind = "peer.evidence_missing"


class PeerCertificateError(UnverifiedError):
    """The peer's authentication certificate or its OCSP response is not acceptable; the message says why, for our own log."""

    kind = "peer.certificate_refused"


@dataclass(frozen=True, slots=True)
class _Finding:
    server: SecurityServer
    until_us: int


class PeerTrust:
    """Judges authentication certificates; remembers good findings for a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._findings: dict[str, tuple[SharedParameters, dict[bytes, _Finding]]] = {}
        """By instance, with the configuration that they were made with."""

    def check_registered(self, certificate: bytes, *instances: SharedParameters) -> SecurityServer:
        """At the end of a handshake: the certificate is that of some server of these instances. Raises PeerNotRegisteredError."""
        key = _key(certificate)
        for shared in instances:
            if (server := shared.server_by_auth_hash(key)) is not None:
                return server
        raise PeerNotRegisteredError("the certificate is not registered for any security server")

    def check_sender(self, certificate: bytes, responses: Sequence[bytes], client: ClientId, shared: SharedParameters) -> None:
        """At the provider, for each message: the connection's box is one on which the client is registered."""
        server = self._believed(certificate, responses, shared)
        if server not in shared.servers_of(client):
            raise PeerNotRegisteredError(f"{client} is not registered on {server.id}")

    def check_provider(self, certificate: bytes, responses: Sequence[bytes], provider: ClientId, shared: SharedParameters) -> None:
        """At the client, before anything is sent: the connection's box serves this provider."""
        server = self._believed(certificate, responses, shared)
        if server not in shared.servers_of(provider):
            raise PeerNotRegisteredError(f"{server.id} does not serve {provider}")

    def known(self, certificate: bytes, shared: SharedParameters) -> bool:
        """Whether a finding still holds, so that no OCSP response need be fetched."""
        return self._finding(certificate, shared) is not None

    def _believed(self, certificate: bytes, responses: Sequence[bytes], shared: SharedParameters) -> SecurityServer:
        finding = self._finding(certificate, shared)
        if finding is not None:
            return finding.server
        server = self.check_registered(certificate, shared)
        now_us = self._clock.now_us()
        leaf = _parse(certificate)
        if not chains.is_authentication_certificate(leaf):
            raise PeerNotRegisteredError("not an authentication certificate")
        try:
            for subject, issuer in chains.check_path(leaf, (), shared, now_us):
                _check_responses(responses, subject, issuer, shared, now_us)
        except PeerEvidenceMissingError:
            raise
        except UnverifiedError as error:
            raise PeerCertificateError(f"{error.kind}: {error}") from error
        findings = self._of(shared)
        if len(findings) >= FINDINGS_MAX:
            findings.clear()
        findings[certificate] = _Finding(server, now_us + RECHECK_US)
        return server

    def _finding(self, certificate: bytes, shared: SharedParameters) -> _Finding | None:
        """By the certificate's bytes: those of one connection are one object, whose hash Python keeps."""
        finding = self._of(shared).get(certificate)
        return finding if finding is not None and self._clock.now_us() < finding.until_us else None

    def _of(self, shared: SharedParameters) -> dict[bytes, _Finding]:
        made_with, findings = self._findings.get(shared.instance, (None, {}))
        if made_with is not shared:
            findings = {}
            self._findings[shared.instance] = shared, findings
        return findings


def _key(certificate: bytes) -> bytes:
    return hashlib.sha256(certificate).digest()


def _parse(certificate: bytes) -> x509.Certificate:
    try:
        return certificates.read(certificate)
    except certificates.CertificateMalformedError as error:
        raise PeerNotRegisteredError(str(error)) from None


def _check_responses(
    responses: Sequence[bytes],
    certificate: x509.Certificate,
    issuer: CaCertificate,
    shared: SharedParameters,
    at_us: int,
) -> None:
    """One of the responses vouches for the certificate; otherwise the finding about the last one is raised."""
    refusal: XacbeError = PeerEvidenceMissingError("no OCSP response for the peer's certificate")
    for response in responses:
        try:
            ocsp.check_response(response, certificate, issuer, shared, at_us)
        except UnverifiedError as error:
            refusal = error
        else:
            return
    raise refusal
