"""CEIQROO's OCSP responder: a request's bytes in, an answer's bytes out (RFC 6960; as RFC 5019, one certificate a request).

Pure: what the registry knows, the key and the moment are given. `producedAt` and `thisUpdate` are that moment in whole seconds:
boxes count the eight hours of IV.3.V from them. Encoded here because cryptography's own builder reads the machine's clock.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier, ocsp

from appliance.clock import from_us
from provisioning.authority import structures as der

REQUEST_BYTES_MAX = 8192
"""A request for one certificate is about 100 bytes; a nonce of RFC 9654's 128 bytes and a signature still fit."""
NONCE_BYTES_MAX = 128

_SECOND_US = 1_000_000
_BASIC = ObjectIdentifier("1.3.6.1.5.5.7.48.1.1")
_NONCE = ObjectIdentifier("1.3.6.1.5.5.7.48.1.2")
_ECDSA_SHA256 = der.AlgorithmIdentifier(algorithm=ObjectIdentifier("1.2.840.10045.4.3.2"), parameters=None)
_SUCCESSFUL = asn1.decode_der(asn1.TLV, b"\x0a\x01\x00")

_DIGESTS = {
    # A name for an issuer, not a signature: X-Road asks with SHA-1 only (sheet 5.4).
    "sha1": (ObjectIdentifier("1.3.14.3.2.26"), hashes.SHA1()),  # noqa: S303  # nosec B303
    "sha256": (ObjectIdentifier("2.16.840.1.101.3.4.2.1"), hashes.SHA256()),
}

REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""Why a certificate was revoked, by RFC 5280's numbers. `certificateHold` is missing: suspension is the configuration's, not OCSP's."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """What the registry knows of a certificate that was issued: `revoked_us` None means good."""

    revoked_us: int | None = None
    reason: str = "unspecified"


Lookup = Callable[[int], CertificateStatus | None]
"""By serial number; None: never issued, which is answered `unknown`."""


@dataclass(frozen=True, slots=True)
class Delegate:
    """The responder's key, delegated by the issuing authority, with what names that authority in requests."""

    issuer: x509.Certificate
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    _key_hash: bytes = field(init=False)
    _authority: dict[str, tuple[bytes, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_key_hash", x509.SubjectKeyIdentifier.from_public_key(self.certificate.public_key()).digest)
        named = {name: _issuer_hashes(self.certificate, self.issuer, digest) for name, (_, digest) in _DIGESTS.items()}
        object.__setattr__(self, "_authority", named)

    def answers_for(self, request: ocsp.OCSPRequest) -> bool:
        """Whether the request names our authority, in a digest that we know."""
        hashes_of = self._authority.get(request.hash_algorithm.name)
        return hashes_of == (request.issuer_name_hash, request.issuer_key_hash)

    def sign(self, single: der.SingleResponse, nonce: bytes | None, produced_at: asn1.GeneralizedTime) -> bytes:
        extensions = None
        if nonce is not None:
            extensions = [der.Extension(extn_id=_NONCE, critical=False, extn_value=asn1.encode_der(nonce))]
        data = der.ResponseData(responder_key_hash=self._key_hash, produced_at=produced_at, responses=[single], extensions=extensions)
        basic = der.BasicOcspResponse(
            response_data=data,
            signature_algorithm=_ECDSA_SHA256,
            signature=asn1.BitString(self.key.sign(asn1.encode_der(data), ec.ECDSA(hashes.SHA256())), 0),
            certs=[self.certificate],
        )
        body = der.ResponseBytes(response_type=_BASIC, response=asn1.encode_der(basic))
        return asn1.encode_der(der.OcspResponse(response_status=_SUCCESSFUL, response_bytes=body))


def answer(request: bytes, lookup: Lookup, delegate: Delegate, now_us: int, validity_s: int) -> bytes:
    """The DER of an OCSPResponse: good, revoked or unknown; `malformedRequest` or `unauthorized`. Never raises for what the request says.

    (1) one certificate and a nonce of at most 128 bytes, else malformedRequest;
    (2) asked about our own authority, else unauthorized: a signed answer about a stranger's certificate would be a false statement;
    (3) a serial that was never issued is `unknown`, never `good`.
    """
    try:
        asked = ocsp.load_der_ocsp_request(request) if len(request) <= REQUEST_BYTES_MAX else None
        nonce = _nonce(asked) if asked else None
        algorithm = asked.hash_algorithm if asked else None
    except Exception:  # what hostile bytes make a parser raise is open; the answer is the same
        asked = nonce = algorithm = None
    if asked is None or algorithm is None or len(nonce or b"") > NONCE_BYTES_MAX:
        return _unsuccessful(ocsp.OCSPResponseStatus.MALFORMED_REQUEST)
    if not delegate.answers_for(asked):
        return _unsuccessful(ocsp.OCSPResponseStatus.UNAUTHORIZED)
    this_update_us = now_us - now_us % _SECOND_US
    moment = asn1.GeneralizedTime(from_us(this_update_us))
    single = der.SingleResponse(
        cert_id=der.CertId(
            hash_algorithm=der.AlgorithmIdentifier(algorithm=_DIGESTS[algorithm.name][0], parameters=asn1.Null()),
            issuer_name_hash=asked.issuer_name_hash,
            issuer_key_hash=asked.issuer_key_hash,
            serial_number=asked.serial_number,
        ),
        cert_status=_status(lookup(asked.serial_number)),
        this_update=moment,
        next_update=asn1.GeneralizedTime(from_us(this_update_us + validity_s * _SECOND_US)),
    )
    return delegate.sign(single, nonce, moment)


def _status(known: CertificateStatus | None) -> der.CertStatus:
    if known is None:
        return asn1.Variant(asn1.Null(), "unknown")
    if known.revoked_us is None:
        return asn1.Variant(asn1.Null(), "good")
    reason = asn1.decode_der(asn1.TLV, bytes((0x0A, 1, REASONS[known.reason])))
    at = asn1.GeneralizedTime(from_us(known.revoked_us - known.revoked_us % _SECOND_US))
    return asn1.Variant(der.RevokedInfo(revocation_time=at, revocation_reason=reason), "revoked")


def _nonce(request: ocsp.OCSPRequest) -> bytes | None:
    try:
        return request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None


def _issuer_hashes(issued: x509.Certificate, issuer: x509.Certificate, digest: hashes.HashAlgorithm) -> tuple[bytes, bytes]:
    """Name and key hash of the issuer, as cryptography computes them for a request about one of its certificates."""
    probe = ocsp.OCSPRequestBuilder().add_certificate(issued, issuer, digest).build()
    return probe.issuer_name_hash, probe.issuer_key_hash


def _unsuccessful(status: ocsp.OCSPResponseStatus) -> bytes:
    return ocsp.OCSPResponseBuilder.build_unsuccessful(status).public_bytes(Encoding.DER)
