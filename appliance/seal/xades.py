"""The signature document that we emit: XAdES in X-Road's shape, canonical by construction.

Pure. Sheet 4.3: prefixes `ds` and `xades`, this order, one line, no white space in the certificate references. SignedInfo and
SignedProperties are written as their own canonical form (inclusive C14N 1.0); what is hashed differs from what stands in the document
only by the four namespaces of the root, which canonicalisation repeats on the element that it begins with. So nothing is parsed or
serialised while sealing.

`read` takes such a document apart again without a parser; whatever differs from the template by one byte goes to `signature.parse`.

The signer makes the fragment (`prepare`, `finish`: up to and including SignedProperties), the relay adds what is not signed (`complete`).
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from appliance.clock import iso
from appliance.model import certificates
from appliance.seal.chain_check import Digest
from appliance.seal.hash_chain import CHAIN_RESULT, MESSAGE, SHA512, is_encoded, sha512
from appliance.seal.signature import Signature, SignatureMalformedError, parse
from appliance.seal.strict_form import wrong_in_signature

__all__ = [
    "ALGORITHMS",
    "SIGNED_CHAIN",
    "SIGNED_MESSAGE",
    "Prepared",
    "Signature",
    "base64_text",
    "complete",
    "embed_stamp",
    "parse",
    "prepare",
    "read",
    "read_strictly",
    "signature_value",
]

SIGNED_CHAIN, SIGNED_MESSAGE = "chain", "message"
"""What SignedInfo refers to; the words of `appliance.hsm.wire`."""
ALGORITHMS = {
    "ecdsa-sha512": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512",
    "rsa-sha512": "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512",
    "rsa-pss-sha512": "http://www.w3.org/2007/05/xmldsig-more#sha512-rsa-MGF1",
}
_CONTENT = {
    SIGNED_CHAIN: (CHAIN_RESULT, "application/hash-chain-result"),
    SIGNED_MESSAGE: (MESSAGE, "text/xml"),
}
_C14N = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"
# In the order in which canonicalisation writes them: by prefix.
_NAMESPACES = (
    ' xmlns:asic="http://uri.etsi.org/02918/v1.2.1#" xmlns:ds="http://www.w3.org/2000/09/xmldsig#"'
    ' xmlns:xades="http://uri.etsi.org/01903/v1.3.2#" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
)
_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="no"?><asic:XAdESSignatures' + _NAMESPACES + '><ds:Signature Id="signature">'
_DIGEST = f'<ds:DigestMethod Algorithm="{SHA512}"></ds:DigestMethod><ds:DigestValue>%s</ds:DigestValue>'
_POLICY = (
    "<xades:SignaturePolicyIdentifier><xades:SignaturePolicyId><xades:SigPolicyId>"
    '<xades:Identifier Qualifier="OIDAsURN">urn:oid:1.3.6.1.4.1.3516.16.2</xades:Identifier>'
    "<xades:Description>Profile for High Performance Digital Signatures (version 1.2)</xades:Description></xades:SigPolicyId>"
    "<xades:SigPolicyHash>"
    + _DIGEST
    % "BuO0EDNfkxSVlUbxCzmQPzX1AUF1/xx9ytWHk3/6SAOePxQiniEfDYk+90QeYb3lWpV3Izhuz9fKaYyE+lTcXw=="
    + "</xades:SigPolicyHash><xades:SigPolicyQualifiers><xades:SigPolicyQualifier>"
    "<xades:SPURI>https://repo.cyber.ee/dsig-profile-1.2.pdf</xades:SPURI></xades:SigPolicyQualifier></xades:SigPolicyQualifiers>"
    "</xades:SignaturePolicyId></xades:SignaturePolicyIdentifier>"
)
"""The policy that X-Road names in every signature; verifiers do not check it, readers look for it."""
_TAIL = b"</xades:QualifyingProperties></ds:Object></ds:Signature></asic:XAdESSignatures>"
_UNSIGNED = re.compile(rb"<xades:UnsignedSignatureProperties(?:[ \t\r\n][^<>]*)?>")
_TEXT, _BASE64 = "[ -%'-;=?-~]*", "([A-Za-z0-9+/]+={0,2})"
"""ASCII without markup, which is its own canonical form; base64 on one line."""
_READ_BYTES_MAX = 64 * 1024


def _template() -> re.Pattern[bytes]:
    """What `prepare` and `complete` write for one OCSP response and no intermediates. Every slot is a group; all else is literal."""
    escape, digest = re.escape, re.escape(_DIGEST).replace("%s", _BASE64)
    properties = (
        "(?P<properties><xades:SignedSignatureProperties><xades:SigningTime>(?P<time>[0-9TZ:.+-]{10,40})</xades:SigningTime>"
        f"<xades:SigningCertificate><xades:Cert><xades:CertDigest>{digest}</xades:CertDigest><xades:IssuerSerial>"
        f"<ds:X509IssuerName>{_TEXT}</ds:X509IssuerName><ds:X509SerialNumber>[0-9]+</ds:X509SerialNumber></xades:IssuerSerial></xades:Cert>"
        f"</xades:SigningCertificate>{escape(_POLICY)}</xades:SignedSignatureProperties><xades:SignedDataObjectProperties>"
        '<xades:DataObjectFormat ObjectReference="\\#signature-reference-0"><xades:MimeType>[a-z/-]+</xades:MimeType>'
        "</xades:DataObjectFormat></xades:SignedDataObjectProperties></xades:SignedProperties>)"
    )
    methods = "|".join(escape(method) for method in ALGORITHMS.values())
    signed_info = (
        f'(?P<info><ds:CanonicalizationMethod Algorithm="{escape(_C14N)}"></ds:CanonicalizationMethod>'
        f'<ds:SignatureMethod Algorithm="(?P<method>{methods})"></ds:SignatureMethod>'
        f'<ds:Reference Id="signature-reference-0" URI="(?P<uri>{escape(CHAIN_RESULT)}|{escape(MESSAGE)})">{digest}</ds:Reference>'
        '<ds:Reference Id="signature-reference-1" Type="http://uri\\.etsi\\.org/01903\\#SignedProperties" URI="\\#signed-properties">'
        f"{digest}</ds:Reference></ds:SignedInfo>)"
    )
    written = (
        f'{escape(_HEAD)}<ds:SignedInfo>{signed_info}<ds:SignatureValue Id="signature-value">{_BASE64}</ds:SignatureValue>'
        f"<ds:KeyInfo><ds:X509Data><ds:X509Certificate>{_BASE64}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"
        '<ds:Object><xades:QualifyingProperties Target="\\#signature">'
        f'<xades:SignedProperties Id="signed-properties">{properties}'
        "<xades:UnsignedProperties><xades:UnsignedSignatureProperties><xades:RevocationValues><xades:OCSPValues>"
        f'<xades:EncapsulatedOCSPValue Id="ocsp-response-1">{_BASE64}</xades:EncapsulatedOCSPValue></xades:OCSPValues>'
        f"</xades:RevocationValues></xades:UnsignedSignatureProperties></xades:UnsignedProperties>{escape(_TAIL.decode())}"
    )
    return re.compile(written.encode())


_NOT_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


_TEMPLATE = _template()
_SLOTS = (4, 5, 6, 7, 10, 11)
"""Groups of the template: digests of content and properties, value, certificate, its digest, OCSP response."""
_SIGNED_INFO_BEGIN = f"<ds:SignedInfo{_NAMESPACES}>".encode()
_PROPERTIES_BEGIN = f'<xades:SignedProperties{_NAMESPACES} Id="signed-properties">'.encode()


@dataclass(frozen=True, slots=True)
class Prepared:
    """A signature without its value. `finish(value)` returns the fragment; an ECDSA value is given as DER."""

    to_sign: bytes
    """Canonical SignedInfo: the token signs its SHA-512."""
    finish: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class _SignerText:
    """What one signing certificate always writes."""

    reference: str
    encoded: str
    coordinate_bytes: int | None
    """Length of r and of s; None for RSA."""


def prepare(certificate_der: bytes, signed: str, content_digest: bytes, signing_time_us: int, algorithm: str) -> Prepared:
    """The signature over one message (`signed` = SIGNED_MESSAGE, SHA-512 of /message.xml) or batch (SIGNED_CHAIN, of the chain result).

    `algorithm`: a key of ALGORITHMS that fits the certificate's key; anything else is a bug (RuntimeError).
    """
    signer = _signer_text(certificate_der)
    if algorithm not in ALGORITHMS or len(content_digest) != 64 or algorithm.startswith("ecdsa") != (signer.coordinate_bytes is not None):
        raise RuntimeError("the algorithm does not fit the signing certificate, or the digest is not SHA-512")
    uri, mime_type = _CONTENT[signed]
    properties = (
        "<xades:SignedSignatureProperties><xades:SigningTime>"
        f"{iso(signing_time_us)}</xades:SigningTime><xades:SigningCertificate><xades:Cert>{signer.reference}</xades:Cert>"
        f"</xades:SigningCertificate>{_POLICY}</xades:SignedSignatureProperties><xades:SignedDataObjectProperties>"
        f'<xades:DataObjectFormat ObjectReference="#signature-reference-0"><xades:MimeType>{mime_type}</xades:MimeType>'
        "</xades:DataObjectFormat></xades:SignedDataObjectProperties></xades:SignedProperties>"
    )
    properties_digest = sha512(_PROPERTIES_BEGIN + properties.encode())
    signed_info = (
        f'<ds:CanonicalizationMethod Algorithm="{_C14N}"></ds:CanonicalizationMethod>'
        f'<ds:SignatureMethod Algorithm="{ALGORITHMS[algorithm]}"></ds:SignatureMethod>'
        f'<ds:Reference Id="signature-reference-0" URI="{uri}">{_DIGEST % base64_text(content_digest)}</ds:Reference>'
        '<ds:Reference Id="signature-reference-1" Type="http://uri.etsi.org/01903#SignedProperties" URI="#signed-properties">'
        f"{_DIGEST % base64_text(properties_digest)}</ds:Reference></ds:SignedInfo>"
    )

    def finish(value: bytes) -> bytes:
        raw = value if signer.coordinate_bytes is None else _raw_ecdsa(value, signer.coordinate_bytes)
        return (
            f'{_HEAD}<ds:SignedInfo>{signed_info}<ds:SignatureValue Id="signature-value">{base64_text(raw)}</ds:SignatureValue>'
            f"<ds:KeyInfo><ds:X509Data><ds:X509Certificate>{signer.encoded}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"
            '<ds:Object><xades:QualifyingProperties Target="#signature">'
            f'<xades:SignedProperties Id="signed-properties">{properties}'
        ).encode()

    return Prepared(_SIGNED_INFO_BEGIN + signed_info.encode(), finish)


def complete(fragment: bytes, ocsp_responses: Sequence[bytes], intermediates: Sequence[bytes] = ()) -> bytes:
    """The whole META-INF/signatures.xml: the fragment with OCSP responses (the signing certificate's first) and intermediates, DER."""
    written = ["<xades:UnsignedProperties><xades:UnsignedSignatureProperties>"]
    if intermediates:
        references = "".join(
            f'<xades:Cert URI="#encapsulated-cert-{at}">{_certificate_reference(der)}</xades:Cert>'
            for at, der in enumerate(intermediates, 1)
        )
        values = "".join(
            f'<xades:EncapsulatedX509Certificate Id="encapsulated-cert-{at}">{base64_text(der)}</xades:EncapsulatedX509Certificate>'
            for at, der in enumerate(intermediates, 1)
        )
        written.append(
            f'<xades:CompleteCertificateRefs Id="complete-certificate-refs"><xades:CertRefs>{references}</xades:CertRefs>'
            f"</xades:CompleteCertificateRefs><xades:CertificateValues>{values}</xades:CertificateValues>"
        )
    written.append("<xades:RevocationValues><xades:OCSPValues>")
    written += [
        f'<xades:EncapsulatedOCSPValue Id="ocsp-response-{at}">{base64_text(der)}</xades:EncapsulatedOCSPValue>'
        for at, der in enumerate(ocsp_responses, 1)
    ]
    written.append("</xades:OCSPValues></xades:RevocationValues></xades:UnsignedSignatureProperties></xades:UnsignedProperties>")
    return b"".join((fragment, "".join(written).encode(), _TAIL))


def read(signature_xml: bytes) -> Signature:
    """As `signature.parse`, whose answer it is for every document; faster for those of our own form. Raises SignatureMalformedError."""
    return _own(signature_xml) or parse(signature_xml)


def read_strictly(signature_xml: bytes) -> Signature:
    """As `read`, for documents whose unsigned bytes must be as a security server writes them, too (`strict_form`)."""
    signature = _own(signature_xml)
    if signature is None:
        signature = parse(signature_xml)
        if wrong := wrong_in_signature(signature_xml):
            raise SignatureMalformedError(wrong)
    return signature


def _own(document: bytes) -> Signature | None:
    """What a document exactly as `prepare` and `complete` write it says; None for every other one."""
    found = _TEMPLATE.fullmatch(document) if len(document) <= _READ_BYTES_MAX else None
    if found is None:
        return None
    try:
        content, properties, value, certificate, named, ocsp = (b64decode(found[group], validate=True) for group in _SLOTS)
    except ValueError:
        return None
    if not all(is_encoded(found[group]) for group in _SLOTS):
        return None
    return Signature(
        signed_info=_SIGNED_INFO_BEGIN + found["info"],
        method=found["method"].decode(),
        value=value,
        certificate=certificate,
        references={found["uri"].decode(): Digest(content)},
        properties=_PROPERTIES_BEGIN + found["properties"],
        properties_digest=Digest(properties),
        certificate_digests=(Digest(named),),
        signing_time=found["time"].decode(),
        ocsp_responses=(ocsp,),
        intermediates=(),
        stamps=(),
    )


def embed_stamp(signature_xml: bytes, token: bytes) -> bytes:
    """The document with a time stamp over its SignatureValue as first unsigned property. All other bytes stay as they are.

    Raises SignatureMalformedError where the document is not one of X-Road's shape.
    """
    before = parse(signature_xml)
    places = list(_UNSIGNED.finditer(signature_xml))
    if len(places) != 1:
        raise SignatureMalformedError("no single place for the time stamp")
    at = places[0].end()
    encoded = f"<xades:EncapsulatedTimeStamp>{base64_text(token)}</xades:EncapsulatedTimeStamp>"
    stamp = f"<xades:SignatureTimeStamp>{encoded}</xades:SignatureTimeStamp>"
    stamped = signature_xml[:at] + stamp.encode() + signature_xml[at:]
    after = parse(stamped)
    # The place was found among bytes: read back, so that one inside a comment or CDATA section is noticed.
    if after.stamps != (token, *before.stamps) or after.signed_info != before.signed_info:
        raise SignatureMalformedError("the time stamp did not land among the unsigned properties")
    return stamped


def signature_value(signature_xml: bytes) -> bytes:
    """The decoded SignatureValue: what a single time stamp covers (sheet 4.8). Raises SignatureMalformedError."""
    return read(signature_xml).value


@lru_cache(maxsize=32)
def _signer_text(certificate_der: bytes) -> _SignerText:
    """Kept for the certificates in use: one for each member of the box."""
    key = certificates.public_key(certificates.read(certificate_der))
    size = (key.key_size + 7) // 8 if isinstance(key, ec.EllipticCurvePublicKey) else None
    return _SignerText(_certificate_reference(certificate_der), base64_text(certificate_der), size)


def _certificate_reference(der: bytes) -> str:
    """CertDigest and IssuerSerial; the issuer's name as RFC 2253 writes it (nobody compares it, sheet 12)."""
    certificate = certificates.read(der)
    with certificates.unusual_names_allowed():
        issuer = _NOT_XML.sub("\ufffd", certificate.issuer.rfc4514_string())
    return (
        f"<xades:CertDigest>{_DIGEST % base64_text(sha512(der))}</xades:CertDigest><xades:IssuerSerial>"
        f"<ds:X509IssuerName>{_escaped(issuer)}</ds:X509IssuerName>"
        f"<ds:X509SerialNumber>{certificate.serial_number}</ds:X509SerialNumber></xades:IssuerSerial>"
    )


def _escaped(text: str) -> str:
    """Character data as canonicalisation writes it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def _raw_ecdsa(der: bytes, coordinate_bytes: int) -> bytes:
    """r and s side by side, as XML signatures have them."""
    r, s = decode_dss_signature(der)
    return r.to_bytes(coordinate_bytes, "big") + s.to_bytes(coordinate_bytes, "big")


def base64_text(data: bytes) -> str:
    """On one line."""
    return b64encode(data).decode()
