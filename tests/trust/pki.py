"""A small network's PKI for the tests of this folder: real keys, real DER, every fault on request."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.clock import to_us
from appliance.model import certificates
from appliance.model.certificates import unusual_names_allowed
from appliance.trust import der
from appliance.trust.global_configuration import ApprovedTsa, CaCertificate, SharedParameters

NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)
NOW_US = to_us(NOW)
EJBCA = "ee.ria.xroad.common.certificateprofile.impl.EjbcaCertificateProfileInfoProvider"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass(frozen=True)
class Holder:
    """A key with its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def base64(self) -> str:
        return base64.b64encode(self.der).decode()


def name(text: str) -> x509.Name:
    oids = {"C": NameOID.COUNTRY_NAME, "O": NameOID.ORGANIZATION_NAME, "OU": NameOID.ORGANIZATIONAL_UNIT_NAME, "CN": NameOID.COMMON_NAME}
    oids |= {"serialNumber": NameOID.SERIAL_NUMBER, "businessCategory": NameOID.BUSINESS_CATEGORY}
    oids |= {"organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER}
    pairs = (pair.split("=", 1) for pair in text.split(","))
    with unusual_names_allowed():
        return x509.Name([x509.NameAttribute(oids[kind], value, _validate=False) for kind, value in pairs])


def issue(
    subject: str,
    issuer: Holder | None = None,
    *extensions: tuple[x509.ExtensionType, bool],
    key: Key | None = None,
    begins: datetime = NOW - timedelta(days=30),
    ends: datetime = NOW + timedelta(days=365),
    digest: hashes.HashAlgorithm | None = None,
) -> Holder:
    """A certificate, self-signed without an issuer."""
    key = key or new_key()
    builder = x509.CertificateBuilder().subject_name(name(subject)).public_key(key.public_key())
    builder = builder.issuer_name(issuer.certificate.subject if issuer else name(subject))
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    made = builder.sign(issuer.key if issuer else key, digest or hashes.SHA256())
    return Holder(key, certificates.read(made.public_bytes(serialization.Encoding.DER)))


def ca(subject: str = "O=Red,CN=CA", issuer: Holder | None = None, path_length: int | None = None, **others: object) -> Holder:
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return issue(subject, issuer, (constraints, True), **others)  # type: ignore[arg-type]  # passed through


def key_usage(*bits: str) -> tuple[x509.KeyUsage, bool]:
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    names += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{one: one in bits for one in names}), True


def extended(*usages: x509.ObjectIdentifier, critical: bool = True) -> tuple[x509.ExtendedKeyUsage, bool]:
    return x509.ExtendedKeyUsage(usages), critical


def signing(issuer: Holder, subject: str = "C=XX,O=GOB,CN=SSP", **others: object) -> Holder:
    return issue(subject, issuer, key_usage("content_commitment"), **others)  # type: ignore[arg-type]  # passed through


def responder(issuer: Holder, *extensions: tuple[x509.ExtensionType, bool], **others: object) -> Holder:
    given = extensions or (extended(ExtendedKeyUsageOID.OCSP_SIGNING),)
    return issue("O=Red,CN=OCSP", issuer, *given, **others)  # type: ignore[arg-type]  # passed through


def tsa(issuer: Holder, *extensions: tuple[x509.ExtensionType, bool], subject: str = "O=Red,CN=TSA", **others: object) -> Holder:
    given = extensions or (extended(ExtendedKeyUsageOID.TIME_STAMPING),)
    return issue(subject, issuer, *given, **others)  # type: ignore[arg-type]  # passed through


def approved(holder: Holder, *listed: Holder, top: bool = True, urls: tuple[str, ...] = ()) -> CaCertificate:
    """As the global configuration names a CA; `listed`: its OCSP responders there."""
    subject = holder.certificate.subject.public_bytes()
    return CaCertificate(holder.certificate, subject, urls, tuple(one.certificate for one in listed), EJBCA, top)


def approved_tsa(holder: Holder, url: str = "http://127.0.0.1:1", called: str = "TSA") -> ApprovedTsa:
    return ApprovedTsa(called, url, holder.certificate)


def shared(*cas: CaCertificate, tsas: tuple[ApprovedTsa, ...] = (), freshness_s: int = 3600) -> SharedParameters:
    return SharedParameters("QROO-TEST", 6, cas, tsas, {}, (), {}, freshness_s)


@dataclass(frozen=True)
class Statement:
    """One SingleResponse to be made."""

    subject: Holder
    issuer: Holder
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD
    this_update: datetime = NOW
    next_update: datetime | None = NOW + timedelta(hours=9)
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA1)


def ocsp_response(
    statement: Statement,
    signer: Holder,
    *,
    enclosed: tuple[Holder, ...] = (),
    nonce: bytes | None = None,
    by_name: bool = True,
    produced: datetime = NOW,
) -> bytes:
    """A response with one answer. `cryptography` says that it was produced now; `produced_at` puts the moment in afterwards."""
    encoding = ocsp.OCSPResponderEncoding.NAME if by_name else ocsp.OCSPResponderEncoding.HASH
    is_revoked = statement.status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=statement.subject.certificate,
        issuer=statement.issuer.certificate,
        algorithm=statement.digest,
        cert_status=statement.status,
        this_update=statement.this_update,
        next_update=statement.next_update,
        revocation_time=NOW if is_revoked else None,
        revocation_reason=None,
    )
    builder = builder.responder_id(encoding, signer.certificate)
    if enclosed:
        builder = builder.certificates([one.certificate for one in enclosed])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return produced_at(builder.sign(signer.key, hashes.SHA256()), signer, produced)


def produced_at(response: ocsp.OCSPResponse, signer: Holder, produced: datetime) -> bytes:
    """The same response, produced at another moment, signed again."""
    from asn1crypto import ocsp as asn1_ocsp

    whole = asn1_ocsp.OCSPResponse.load(response.public_bytes(serialization.Encoding.DER))
    basic = whole["response_bytes"]["response"].parsed
    data = basic["tbs_response_data"]
    data["produced_at"] = produced
    return resigned(whole, basic, signer)


def resigned(whole: object, basic: object, signer: Holder, **changed: object) -> bytes:
    """Signs the (changed) response data again."""
    data = basic["tbs_response_data"]  # type: ignore[index]  # asn1crypto has no types
    for key, value in changed.items():
        data[key] = value
    basic["signature"] = sign(signer.key, data.dump(force=True))  # type: ignore[index]  # asn1crypto has no types
    whole["response_bytes"]["response"] = core.ParsableOctetString(basic.dump(force=True))  # type: ignore[index, attr-defined]
    return bytes(whole.dump(force=True))  # type: ignore[attr-defined]  # asn1crypto has no types


def sign(key: Key, data: bytes, digest: hashes.HashAlgorithm | None = None) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), digest or hashes.SHA256())
    return key.sign(data, ec.ECDSA(digest or hashes.SHA256()))


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A token to be made; each field may be made wrong."""

    data: bytes = b"seal"
    imprint: bytes | None = None
    imprint_digest: str = "sha512"
    gen_time: datetime = NOW
    accuracy: dict[str, int] | None = field(default_factory=lambda: {"seconds": 1})
    nonce: int | None = None
    ordering: bool = False
    signers: int = 1
    enclosed: tuple[Holder, ...] | None = None
    named: Holder | None = None
    """Whose certificate ESSCertID names; the signer's by default."""
    ess_version: int | None = 2
    content_type: str = "tst_info"
    message_digest: bytes | None = None
    digest: str = "sha256"
    by_key_identifier: bytes | None = None
    broken: bool = False
    version: str = "v1"


def token(signer: Holder, stamp: Stamp) -> bytes:
    """An RFC 3161 token as asn1crypto writes it."""
    info = tst_info(stamp)
    content = info.dump()
    signed = [_signer_info(signer, stamp, content) for _ in range(stamp.signers)]
    enclosed = (signer,) if stamp.enclosed is None else stamp.enclosed
    signed_data = cms.SignedData(
        {
            "version": "v3",
            "digest_algorithms": [{"algorithm": stamp.digest}],
            "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(content)},
            "signer_infos": signed,
        }
    )
    if enclosed:
        signed_data["certificates"] = [asn1_x509.Certificate.load(one.der) for one in enclosed]
    return bytes(cms.ContentInfo({"content_type": "signed_data", "content": signed_data}).dump())


def tst_info(stamp: Stamp) -> tsp.TSTInfo:
    imprint = hashlib.new(stamp.imprint_digest, stamp.data).digest() if stamp.imprint is None else stamp.imprint
    info = {
        "version": stamp.version,
        "policy": "1.2.3.4",
        "message_imprint": {"hash_algorithm": {"algorithm": stamp.imprint_digest}, "hashed_message": imprint},
        "serial_number": 7,
        "gen_time": stamp.gen_time,
        "ordering": stamp.ordering,
    }
    if stamp.accuracy is not None:
        info["accuracy"] = stamp.accuracy
    if stamp.nonce is not None:
        info["nonce"] = stamp.nonce
    return tsp.TSTInfo(info)


def _signer_info(signer: Holder, stamp: Stamp, content: bytes) -> cms.SignerInfo:
    digest = {"sha1": hashes.SHA1, "sha256": hashes.SHA256, "sha512": hashes.SHA512}[stamp.digest]()
    attributes = _attributes(signer, stamp, hashlib.new(stamp.digest, content).digest())
    family = "rsa" if isinstance(signer.key, rsa.RSAPrivateKey) else "ecdsa"
    certificate = asn1_x509.Certificate.load(signer.der)
    named = {"issuer": certificate.issuer, "serial_number": certificate.serial_number}
    identifier = cms.SignerIdentifier("issuer_and_serial_number", cms.IssuerAndSerialNumber(named))
    if stamp.by_key_identifier is not None:
        identifier = cms.SignerIdentifier("subject_key_identifier", stamp.by_key_identifier)
    signature = sign(signer.key, attributes.dump(), digest)
    return cms.SignerInfo(
        {
            "version": "v1",
            "sid": identifier,
            "digest_algorithm": {"algorithm": stamp.digest},
            "signed_attrs": attributes,
            "signature_algorithm": {"algorithm": f"{stamp.digest}_{family}"},
            "signature": signature[:-1] + bytes((signature[-1] ^ stamp.broken,)),
        }
    )


def _attributes(signer: Holder, stamp: Stamp, digest: bytes) -> cms.CMSAttributes:
    found = [
        {"type": "content_type", "values": [stamp.content_type]},
        {"type": "message_digest", "values": [stamp.message_digest or digest]},
    ]
    named = (stamp.named or signer).der
    if stamp.ess_version == 1:
        one = {"cert_hash": hashlib.sha1(named, usedforsecurity=False).digest()}
        found.append({"type": "signing_certificate", "values": [tsp.SigningCertificate({"certs": [one]})]})
    if stamp.ess_version == 2:
        two = {"hash_algorithm": algos.DigestAlgorithm({"algorithm": "sha512"}), "cert_hash": hashlib.sha512(named).digest()}
        found.append({"type": "signing_certificate_v2", "values": [tsp.SigningCertificateV2({"certs": [two]})]})
    return cms.CMSAttributes([cms.CMSAttribute(one) for one in found])


def stamp_response(content: bytes | None, status: str = "granted") -> bytes:
    """TimeStampResp around a token."""
    return der.encode(der.SEQUENCE, tsp.PKIStatusInfo({"status": status}).dump(), content or b"")
