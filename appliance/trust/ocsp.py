"""OCSP: the request we make, and the numbered steps before a response is believed (RFC 6960, sheet 5.4).

Pure. CertIDs are SHA-1 throughout, as everywhere in X-Road: SHA-1 names the certificate here, it proves nothing. Order of the checks is
X-Road's, so that the first fault found is the one X-Road reports: another certificate, responder and signature, freshness, status.
A `thisUpdate` in the future is tolerated as in X-Road: the eight-hour rule looks both ways (`appliance.trust.autonomy`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.clock import to_us
from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.model.certificates import PARSER_ERRORS, CertificateMalformedError, unusual_names_allowed
from appliance.trust.chains import has_extended_usage
from appliance.trust.global_configuration import CaCertificate, SharedParameters
from appliance.trust.signatures import BY_OID, is_genuine

RESPONSE_BYTES_MAX = 64 << 10
"""A response with a delegate's certificate has 1 to 3 KiB."""
SINGLES_MAX = 16
ENCLOSED_CERTIFICATES_MAX = 4

_SIGNATURE_ERRORS: tuple[type[Exception], ...] = (InvalidSignature, *PARSER_ERRORS)


class OcspMalformedError(UnverifiedError):
    """Not an OCSP response, or one that says it has no answer (tryLater ...)."""

    kind = "ocsp.malformed"


class OcspMismatchError(UnverifiedError):
    """It speaks of another certificate, or answers another question (nonce)."""

    kind = "ocsp.mismatch"


class OcspUntrustedError(UnverifiedError):
    """Not signed by a responder that may speak for the issuer."""

    kind = "ocsp.untrusted"


class OcspStaleError(UnverifiedError):
    """Too old for the moment asked about. `facts`: what it said; its signature was good."""

    kind = "ocsp.stale"

    def __init__(self, message: str, facts: OcspFacts | None = None) -> None:
        super().__init__(message)
        self.facts = facts


class OcspRevokedError(UnverifiedError):
    """The certificate is revoked, or unknown to its issuer's responder: not good. `facts` as in OcspStaleError."""

    kind = "ocsp.revoked"

    def __init__(self, message: str, facts: OcspFacts | None = None) -> None:
        super().__init__(message)
        self.facts = facts


@dataclass(frozen=True, slots=True)
class OcspFacts:
    """What a response says; microseconds since 1970 UTC. `status`: `good`, `revoked` or `unknown`."""

    produced_at_us: int
    this_update_us: int
    next_update_us: int | None
    status: str


@dataclass(frozen=True, slots=True)
class _Single:
    """One SingleResponse, read completely."""

    certificate_id: tuple[str, bytes, bytes, int]
    facts: OcspFacts


@dataclass(frozen=True, slots=True)
class _Response:
    singles: tuple[_Single, ...]
    responder_name: bytes | None
    responder_key: bytes | None
    algorithm: str
    signature: bytes
    signed: bytes
    enclosed: tuple[bytes, ...]
    nonce: bytes | None


def build_request(certificate: x509.Certificate, issuer: CaCertificate, nonce: bytes | None = None) -> bytes:
    """An unsigned request for one certificate, CertID by SHA-1 as X-Road asks (DER). `nonce`: 16 to 32 bytes (RFC 9654)."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer.certificate, hashes.SHA1())  # noqa: S303 # nosec B303  a name
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def facts(der: bytes) -> OcspFacts:
    """What the first SingleResponse says, unchecked. Raises OcspMalformedError."""
    return _read(der).singles[0].facts


def nonce_of(der: bytes) -> bytes | None:
    """The nonce inside a response; many responders leave it out. Raises OcspMalformedError."""
    return _read(der).nonce


def check_response(
    der: bytes,
    certificate: x509.Certificate,
    issuer: CaCertificate,
    shared: SharedParameters,
    at_us: int,
    *,
    nonce: bytes | None = None,
) -> OcspFacts:
    """What a response proves about `certificate` at the moment `at_us`. `shared` gives freshness and responders.

    `nonce`: the one of our request; given, the response must carry it. Raises, in this order: OcspMalformedError, OcspMismatchError,
    OcspUntrustedError, OcspStaleError, OcspRevokedError.
    """
    # (1) a successful basic response within our bounds
    response = _read(der)
    # (2) it speaks of this certificate: SHA-1 CertID, in the first SingleResponse, the only one that X-Road reads
    wanted = certificate_id(certificate, issuer)
    if response.singles[0].certificate_id != wanted:
        raise OcspMismatchError("the OCSP response is about another certificate")
    # (3) it answers our question and no earlier one
    if nonce is not None and response.nonce != nonce:
        raise OcspMismatchError("the OCSP response does not carry the nonce of the request")
    # (4) signed by a responder that may speak for the issuer
    _check_responder(response, issuer, shared, at_us)
    # (5) fresh: neither too old for the instance nor past its own end
    found = response.singles[0].facts
    if found.this_update_us < at_us - shared.ocsp_freshness_s * 1_000_000:
        raise OcspStaleError(f"the OCSP response is older than {shared.ocsp_freshness_s} s", found)
    if shared.checks_next_update and found.next_update_us is not None and found.next_update_us < at_us:
        raise OcspStaleError("the OCSP response's next update has passed", found)
    # (6) good, and no second statement about the same certificate says otherwise
    for single in response.singles:
        if single.certificate_id == wanted and single.facts.status != "good":
            raise OcspRevokedError(f"the certificate's status is {single.facts.status}", single.facts)
    return found


def check_genuine(der: bytes, shared: SharedParameters, at_us: int) -> OcspFacts:
    """What a responder of an approved CA signed, about whatever certificate: freshness and status are the caller's to judge.

    For captured messages, where the certificate is not at hand: the CA is found by the CertID inside. Raises OcspMalformedError,
    OcspMismatchError (no approved CA is meant), OcspUntrustedError.
    """
    response = _read(der)
    for ca in shared.cas:
        name = hashlib.sha1(ca.subject, usedforsecurity=False).digest()
        if response.singles[0].certificate_id[:3] == ("sha1", name, _key_hash(ca.certificate)):
            _check_responder(response, ca, shared, at_us)
            return response.singles[0].facts
    raise OcspMismatchError("the OCSP response is about a certificate of no approved CA")


def certificate_id(certificate: x509.Certificate, issuer: CaCertificate) -> tuple[str, bytes, bytes, int]:
    """The CertID that stands for a certificate: digest name, SHA-1 of issuer name and issuer key, serial number."""
    name = hashlib.sha1(certificate.issuer.public_bytes(), usedforsecurity=False).digest()
    return "sha1", name, _key_hash(issuer.certificate), certificate.serial_number


def _check_responder(response: _Response, issuer: CaCertificate, shared: SharedParameters, at_us: int) -> None:
    scheme = BY_OID.get(response.algorithm)
    if scheme is None:
        raise OcspUntrustedError("signed with an algorithm that this network does not use")
    found = False
    for candidate in _candidates(response, issuer, shared):
        if not _is_named(candidate, response):
            continue
        found = True
        key = certificates.public_key(candidate)
        if is_genuine(key, scheme, response.signature, response.signed) and _is_authorised(candidate, issuer, at_us):
            return
    raise OcspUntrustedError("no authorised responder signed the response" if found else "the responder is not known")


def _candidates(response: _Response, issuer: CaCertificate, shared: SharedParameters) -> Iterator[x509.Certificate]:
    yield from issuer.ocsp_certificates
    yield issuer.certificate
    for ca in shared.cas:
        if ca is not issuer:
            yield from ca.ocsp_certificates
    for der in response.enclosed:
        try:
            yield certificates.read(der)
        except CertificateMalformedError:
            continue  # a certificate that we cannot read signs nothing


def _is_named(candidate: x509.Certificate, response: _Response) -> bool:
    if response.responder_name is not None:
        return candidate.subject.public_bytes() == response.responder_name
    return _key_hash(candidate) == response.responder_key


def _is_authorised(responder: x509.Certificate, issuer: CaCertificate, at_us: int) -> bool:
    """Listed under the issuer, or the issuer itself, or its delegate: issued by it for this purpose and valid at that moment."""
    der = certificates.der(responder)
    if der == certificates.der(issuer.certificate) or any(der == certificates.der(c) for c in issuer.ocsp_certificates):
        return True
    if not has_extended_usage(responder, ExtendedKeyUsageOID.OCSP_SIGNING) or not certificates.is_valid_at(responder, at_us):
        return False
    try:
        responder.verify_directly_issued_by(issuer.certificate)
    except _SIGNATURE_ERRORS:
        return False
    return True


def _key_hash(certificate: x509.Certificate) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(certificates.public_key(certificate)).digest


def _read(der: bytes) -> _Response:
    """Everything that is ever asked of a response, read at once: afterwards nothing can fail on it."""
    if len(der) > RESPONSE_BYTES_MAX:
        raise OcspMalformedError(f"an OCSP response of {len(der)} bytes, at most {RESPONSE_BYTES_MAX}")
    try:
        with unusual_names_allowed():
            return _read_all(der)
    except PARSER_ERRORS as error:
        raise OcspMalformedError(f"not an OCSP response: {error}") from None


def _read_all(der: bytes) -> _Response:
    response = ocsp.load_der_ocsp_response(der)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise OcspMalformedError(f"the responder has no answer: {response.response_status.name}")
    produced_at_us = to_us(response.produced_at_utc)
    singles: list[_Single] = []
    for single in response.responses:
        if len(singles) == SINGLES_MAX:
            raise OcspMalformedError(f"more than {SINGLES_MAX} answers in one response")
        singles.append(_read_single(single, produced_at_us))
    if not singles:
        raise OcspMalformedError("an OCSP response without an answer")
    enclosed = response.certificates
    if len(enclosed) > ENCLOSED_CERTIFICATES_MAX:
        raise OcspMalformedError(f"more than {ENCLOSED_CERTIFICATES_MAX} certificates in one response")
    return _Response(
        singles=tuple(singles),
        responder_name=None if response.responder_name is None else response.responder_name.public_bytes(),
        responder_key=response.responder_key_hash,
        algorithm=response.signature_algorithm_oid.dotted_string,
        signature=response.signature,
        signed=response.tbs_response_bytes,
        enclosed=tuple(certificate.public_bytes(Encoding.DER) for certificate in enclosed),
        nonce=_nonce(response),
    )


def _read_single(single: ocsp.OCSPSingleResponse, produced_at_us: int) -> _Single:
    next_update: datetime | None = single.next_update_utc
    return _Single(
        (single.hash_algorithm.name, single.issuer_name_hash, single.issuer_key_hash, single.serial_number),
        OcspFacts(
            produced_at_us=produced_at_us,
            this_update_us=to_us(single.this_update_utc),
            next_update_us=None if next_update is None else to_us(next_update),
            status=single.certificate_status.name.lower(),
        ),
    )


def _nonce(response: ocsp.OCSPResponse) -> bytes | None:
    for extension in response.extensions:
        if isinstance(extension.value, x509.OCSPNonce):
            return extension.value.nonce
        if extension.critical:
            raise OcspMalformedError("an unknown critical extension")
    return None
