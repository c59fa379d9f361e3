"""CEIQROO's time-stamping authority: a query's bytes in, an RFC 3161 answer's bytes out.

Pure: key, moment and serial number are given. ECDSA P-256 with SHA-256 over signed attributes with ESSCertIDv2 (RFC 5816), policy of our
own, genTime in milliseconds with a stated accuracy. One answer costs about 0.1 ms. Rules IV.3.V-VI.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier

from appliance.clock import from_us
from appliance.errors import PeerProtocolError
from provisioning.authority import structures as der

QUERY_BYTES_MAX = 16384
"""A query is about 100 bytes; this leaves room for extensions that we then refuse by name."""

POLICY = ObjectIdentifier("2.25.320388084738665053190745906975274698085")
"""Ours, below the arc of UUIDs, which needs no registration (X.667)."""

ACCURACY_MS = 100
"""What the machine's clock, kept by NTP, may be off; counts against a seal's eight hours (IV.3.V)."""

NONCE_BITS_MAX = 512

_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")
_TST_INFO = ObjectIdentifier("1.2.840.113549.1.9.16.1.4")
_CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")
_MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")
_SIGNING_CERTIFICATE_V2 = ObjectIdentifier("1.2.840.113549.1.9.16.2.47")

_IMPRINT_BYTES = {
    ObjectIdentifier("2.16.840.1.101.3.4.2.1"): 32,
    ObjectIdentifier("2.16.840.1.101.3.4.2.2"): 48,
    ObjectIdentifier("2.16.840.1.101.3.4.2.3"): 64,
}
"""SHA-256, SHA-384, SHA-512. SHA-1 is refused: a collision would be a stamp on two messages."""

_SHA256 = der.AlgorithmIdentifier(algorithm=ObjectIdentifier("2.16.840.1.101.3.4.2.1"), parameters=None)
_ECDSA_SHA256 = der.AlgorithmIdentifier(algorithm=ObjectIdentifier("1.2.840.10045.4.3.2"), parameters=None)

_GRANTED = der.PkiStatusInfo(status=0, status_string=None, fail_info=None)
_REJECTION = 2
BAD_ALGORITHM = 0
BAD_REQUEST = 2
BAD_DATA_FORMAT = 5
UNACCEPTED_POLICY = 15
UNACCEPTED_EXTENSION = 16
_HTTP_MEANING = {
    BAD_ALGORITHM: "imprint must be SHA-256, SHA-384 or SHA-512",
    BAD_REQUEST: "version must be 1",
    BAD_DATA_FORMAT: "not a time-stamp query",
    UNACCEPTED_POLICY: "policy not offered",
    UNACCEPTED_EXTENSION: "extensions are not accepted",
}


class QueryRejectedError(PeerProtocolError):
    """A query that gets no stamp; `failure` is its PKIFailureInfo bit."""

    kind = "tsa.query_rejected"

    def __init__(self, failure: int) -> None:
        super().__init__(_HTTP_MEANING[failure])
        self.failure = failure


@dataclass(frozen=True, slots=True)
class StampingKey:
    """The authority's key with everything of an answer that never changes."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    _signer: der.IssuerAndSerialNumber = field(init=False)
    _fixed_attributes: tuple[asn1.TLV, ...] = field(init=False)

    def __post_init__(self) -> None:
        issuer = asn1.decode_der(asn1.TLV, self.certificate.issuer.public_bytes())
        signer = der.IssuerAndSerialNumber(issuer=issuer, serial_number=self.certificate.serial_number)
        fingerprint = hashlib.sha256(self.certificate.public_bytes(Encoding.DER)).digest()
        named = der.SigningCertificateV2(certs=[der.EssCertIdV2(cert_hash=fingerprint)])
        fixed = (
            _element(der.OidAttribute(attr_type=_CONTENT_TYPE, attr_values=asn1.SetOf([_TST_INFO]))),
            _element(der.CertificateAttribute(attr_type=_SIGNING_CERTIFICATE_V2, attr_values=asn1.SetOf([named]))),
        )
        object.__setattr__(self, "_signer", signer)
        object.__setattr__(self, "_fixed_attributes", fixed)

    def sign(self, info: bytes, with_certificate: bool) -> der.ContentInfo:
        """The token over an encoded TSTInfo."""
        digest = der.DigestAttribute(attr_type=_MESSAGE_DIGEST, attr_values=asn1.SetOf([hashlib.sha256(info).digest()]))
        attributes = asn1.SetOf([*self._fixed_attributes, _element(digest)])
        # What is signed carries the tag of a SET; inside the token the same attributes carry [0] (RFC 5652 5.4).
        signature = self.key.sign(asn1.encode_der(attributes), ec.ECDSA(hashes.SHA256()))
        signer = der.SignerInfo(
            version=1,
            sid=self._signer,
            digest_algorithm=_SHA256,
            signed_attrs=attributes,
            signature_algorithm=_ECDSA_SHA256,
            signature=signature,
        )
        signed = der.SignedData(
            version=3,
            digest_algorithms=asn1.SetOf([_SHA256]),
            encap_content_info=der.EncapsulatedContentInfo(content_type=_TST_INFO, content=info),
            certificates=asn1.SetOf([self.certificate]) if with_certificate else None,
            signer_infos=asn1.SetOf([signer]),
        )
        return der.ContentInfo(content_type=_DATA, content=signed)


class SerialNumbers:
    """Numbers that no other start of this authority uses: 96 random bits chosen at start, then a count (RFC 3161: up to 160 bits)."""

    def __init__(self) -> None:
        self._next = (1 << 143) | (secrets.randbits(96) << 40)

    def take(self) -> int:
        self._next += 1
        return self._next


def answer(query: bytes, stamping: StampingKey, now_us: int, serial: int) -> bytes:
    """The DER of a TimeStampResp: granted, or a rejection with its reason. Never raises for what the query says."""
    try:
        request = _checked(query)
    except QueryRejectedError as rejected:
        return _rejection(rejected)
    info = der.TstInfo(
        version=1,
        policy=POLICY,
        message_imprint=request.message_imprint,
        serial_number=serial,
        gen_time=asn1.GeneralizedTime(from_us(now_us - now_us % 1000)),
        accuracy=der.Accuracy(seconds=None, millis=ACCURACY_MS, micros=None),
        ordering=False,
        nonce=request.nonce,
    )
    token = stamping.sign(asn1.encode_der(info), request.cert_req)
    return asn1.encode_der(der.TimeStampResp(status=_GRANTED, time_stamp_token=token))


def _checked(query: bytes) -> der.TimeStampReq:
    if len(query) > QUERY_BYTES_MAX:
        raise QueryRejectedError(BAD_DATA_FORMAT)
    try:
        request = asn1.decode_der(der.TimeStampReq, query)
    except Exception:  # what hostile bytes make a parser raise is open; the answer is the same
        raise QueryRejectedError(BAD_DATA_FORMAT) from None
    if request.version != 1:
        raise QueryRejectedError(BAD_REQUEST)
    imprint = request.message_imprint
    length = _IMPRINT_BYTES.get(imprint.hash_algorithm.algorithm)
    if length is None:
        raise QueryRejectedError(BAD_ALGORITHM)
    if len(imprint.hashed_message) != length or (request.nonce or 0).bit_length() > NONCE_BITS_MAX:
        raise QueryRejectedError(BAD_DATA_FORMAT)
    if request.req_policy not in (None, POLICY):
        raise QueryRejectedError(UNACCEPTED_POLICY)
    if request.extensions:
        raise QueryRejectedError(UNACCEPTED_EXTENSION)
    return request


def _rejection(rejected: QueryRejectedError) -> bytes:
    octets = bytearray(rejected.failure // 8 + 1)
    octets[-1] = 0x80 >> rejected.failure % 8
    fail_info = asn1.BitString(bytes(octets), 7 - rejected.failure % 8)
    status = der.PkiStatusInfo(status=_REJECTION, status_string=[str(rejected)], fail_info=fail_info)
    return asn1.encode_der(der.TimeStampResp(status=status, time_stamp_token=None))


def _element(value: object) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, asn1.encode_der(value))
