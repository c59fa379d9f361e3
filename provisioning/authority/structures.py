"""ASN.1 of the answers that we give and of the time-stamp query, in RFC 6960's, RFC 3161's and RFC 5652's own field order.

Pure. Encoded and decoded by cryptography's Rust code from these declarations (3 us a structure): a field that is wrong here is wrong on
the wire, and anything that is not strict DER is one ValueError. Only what we use is declared.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509 import ObjectIdentifier

Octets = bytes


@asn1.sequence
class AlgorithmIdentifier:
    algorithm: ObjectIdentifier
    parameters: asn1.Null | None


# --- RFC 3161 ---------------------------------------------------------------------------------------------------------------------


@asn1.sequence
class MessageImprint:
    hash_algorithm: AlgorithmIdentifier
    hashed_message: bytes


@asn1.sequence
class Extension:
    extn_id: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(False)]
    extn_value: bytes


@asn1.sequence
class TimeStampReq:
    version: int
    message_imprint: MessageImprint
    req_policy: ObjectIdentifier | None
    nonce: int | None
    cert_req: Annotated[bool, asn1.Default(False)]
    extensions: Annotated[list[Extension] | None, asn1.Implicit(0)]


@asn1.sequence
class Accuracy:
    seconds: int | None
    millis: Annotated[int | None, asn1.Implicit(0)]
    micros: Annotated[int | None, asn1.Implicit(1)]


@asn1.sequence
class TstInfo:
    version: int
    policy: ObjectIdentifier
    message_imprint: MessageImprint
    serial_number: int
    gen_time: asn1.GeneralizedTime
    accuracy: Accuracy
    ordering: Annotated[bool, asn1.Default(False)]
    nonce: int | None


@asn1.sequence
class PkiStatusInfo:
    status: int
    status_string: list[str] | None
    fail_info: asn1.BitString | None


# --- RFC 5652 (CMS) and RFC 5035 (ESSCertIDv2) ------------------------------------------------------------------------------------


@asn1.sequence
class EssCertIdV2:
    """Hash algorithm left out: SHA-256 is the default."""

    cert_hash: bytes


@asn1.sequence
class SigningCertificateV2:
    certs: list[EssCertIdV2]


@asn1.sequence
class OidAttribute:
    attr_type: ObjectIdentifier
    attr_values: asn1.SetOf[ObjectIdentifier]


@asn1.sequence
class DigestAttribute:
    attr_type: ObjectIdentifier
    attr_values: asn1.SetOf[Octets]


@asn1.sequence
class CertificateAttribute:
    attr_type: ObjectIdentifier
    attr_values: asn1.SetOf[SigningCertificateV2]


@asn1.sequence
class IssuerAndSerialNumber:
    issuer: asn1.TLV
    serial_number: int


@asn1.sequence
class SignerInfo:
    version: int
    sid: IssuerAndSerialNumber
    digest_algorithm: AlgorithmIdentifier
    signed_attrs: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]
    signature_algorithm: AlgorithmIdentifier
    signature: bytes


@asn1.sequence
class EncapsulatedContentInfo:
    content_type: ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class SignedData:
    version: int
    digest_algorithms: asn1.SetOf[AlgorithmIdentifier]
    encap_content_info: EncapsulatedContentInfo
    certificates: Annotated[asn1.SetOf[x509.Certificate] | None, asn1.Implicit(0)]
    signer_infos: asn1.SetOf[SignerInfo]


@asn1.sequence
class ContentInfo:
    content_type: ObjectIdentifier
    content: Annotated[SignedData, asn1.Explicit(0)]


@asn1.sequence
class TimeStampResp:
    status: PkiStatusInfo
    time_stamp_token: ContentInfo | None


# --- RFC 6960 ---------------------------------------------------------------------------------------------------------------------


@asn1.sequence
class CertId:
    hash_algorithm: AlgorithmIdentifier
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial_number: int


@asn1.sequence
class RevokedInfo:
    revocation_time: asn1.GeneralizedTime
    revocation_reason: Annotated[asn1.TLV, asn1.Explicit(0)]


CertStatus = (
    Annotated[asn1.Variant[asn1.Null, Literal["good"]], asn1.Implicit(0)]
    | Annotated[asn1.Variant[RevokedInfo, Literal["revoked"]], asn1.Implicit(1)]
    | Annotated[asn1.Variant[asn1.Null, Literal["unknown"]], asn1.Implicit(2)]
)


@asn1.sequence
class SingleResponse:
    cert_id: CertId
    cert_status: CertStatus
    this_update: asn1.GeneralizedTime
    next_update: Annotated[asn1.GeneralizedTime | None, asn1.Explicit(0)]


@asn1.sequence
class ResponseData:
    """Responder named by the SHA-1 of its key."""

    responder_key_hash: Annotated[bytes, asn1.Explicit(2)]
    produced_at: asn1.GeneralizedTime
    responses: list[SingleResponse]
    extensions: Annotated[list[Extension] | None, asn1.Explicit(1)]


@asn1.sequence
class BasicOcspResponse:
    response_data: ResponseData
    signature_algorithm: AlgorithmIdentifier
    signature: asn1.BitString
    certs: Annotated[list[x509.Certificate], asn1.Explicit(0)]


@asn1.sequence
class ResponseBytes:
    response_type: ObjectIdentifier
    response: bytes


@asn1.sequence
class OcspResponse:
    """`response_status` is an ENUMERATED, given as its encoding."""

    response_status: asn1.TLV
    response_bytes: Annotated[ResponseBytes, asn1.Explicit(0)]
