"""A received signature document, read strictly: what is signed, by whom, with which evidence.

Pure. Accepts what X-Road 7 and the DSS library write (sheet 4.3, 4.6) and refuses everything that lets one document say two things: more
than one Signature, an Id that stands twice, unknown elements in the signed structure, transforms beyond the two canonicalisations, DTDs.
Nothing here is believed: `check_value` and the steps in `appliance.seal.verify` judge.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from lxml import etree

from appliance.errors import UnverifiedError
from appliance.model.xml_input import XmlRefusedError, decoded_base64, parse_xml
from appliance.seal.chain_check import ALGORITHMS as DIGESTS
from appliance.seal.chain_check import Digest, digest_of

SIGNATURE_BYTES_MAX = 1024 * 1024
"""Real ones are 6 to 12 KB; with RSA-4096 certificates and several intermediates some 40 KB."""
DEPTH_MAX = 32
VALUES_MAX = 16
"""Certificates, OCSP responses and time stamps of each kind."""
REFERENCES_MAX = 1024
_DS = "{http://www.w3.org/2000/09/xmldsig#}"
_XADES = "{http://uri.etsi.org/01903/v1.3.2#}"
_PREFIXES = {_DS: "ds", _XADES: "xades", "{http://uri.etsi.org/01903/v1.4.1#}": "xades141"}
_ROOT = re.compile(r"\{http://uri\.etsi\.org/02918/v1\.[12]\.1#\}XAdESSignatures")
_ALL_IDS = etree.XPath("//@Id | //@ID | //@id | //@xml:id", smart_strings=False)
_PROPERTIES_TYPE = "http://uri.etsi.org/01903#SignedProperties"
_CANONICAL = {
    "http://www.w3.org/TR/2001/REC-xml-c14n-20010315": False,
    "http://www.w3.org/2001/10/xml-exc-c14n#": True,
}
"""Canonicalisation -> exclusive?"""
_INCLUSIVE = "http://www.w3.org/TR/2001/REC-xml-c14n-20010315"

_STRUCTURE = {
    name: re.compile(pattern)
    for name, pattern in {
        "ds:Signature": r"ds:SignedInfo ds:SignatureValue ds:KeyInfo (ds:Object )+",
        "ds:SignedInfo": r"ds:CanonicalizationMethod ds:SignatureMethod (ds:Reference )+",
        "ds:CanonicalizationMethod": r"",
        "ds:SignatureMethod": r"",
        "ds:Reference": r"(ds:Transforms )?ds:DigestMethod ds:DigestValue ",
        "ds:Transforms": r"(ds:Transform )+",
        "ds:Transform": r"",
        "ds:DigestMethod": r"",
        "ds:DigestValue": r"",
        "ds:SignatureValue": r"",
        "ds:KeyInfo": r"(ds:KeyName |ds:KeyValue )*ds:X509Data ",
        "ds:X509Data": r"(ds:X509(IssuerSerial|SKI|SubjectName) )*(ds:X509Certificate )+",
        "ds:X509Certificate": r"",
        "xades:QualifyingProperties": r"xades:SignedProperties (xades:UnsignedProperties )?",
        "xades:SignedProperties": r"xades:SignedSignatureProperties (xades:SignedDataObjectProperties )?",
        "xades:SignedSignatureProperties": r"(xades:SigningTime )?xades:SigningCertificate(V2)? (xades:SignaturePolicyIdentifier )?"
        r"(xades:SignatureProductionPlace(V2)? )?(xades:SignerRole(V2)? )?",
        "xades:SigningCertificate": r"(xades:Cert )+",
        "xades:SigningCertificateV2": r"(xades:Cert )+",
        "xades:Cert": r"xades:CertDigest (xades:IssuerSerial(V2)? )?",
        "xades:CertDigest": r"ds:DigestMethod ds:DigestValue ",
        "xades:UnsignedProperties": r"(xades:UnsignedSignatureProperties )?(xades:UnsignedDataObjectProperties )?",
        "xades:UnsignedSignatureProperties": r"(xades(141)?:(\w+TimeStamp|\w+Refs(V2)?|\w+Values|TimeStampValidationData) )*",
        "xades:SignatureTimeStamp": r"(ds:CanonicalizationMethod )?(xades:EncapsulatedTimeStamp )+",
        "xades:EncapsulatedTimeStamp": r"",
        "xades:RevocationValues": r"(xades:CRLValues )?(xades:OCSPValues )?",
        "xades:OCSPValues": r"(xades:EncapsulatedOCSPValue )*",
        "xades:EncapsulatedOCSPValue": r"",
        "xades:CertificateValues": r"(xades:EncapsulatedX509Certificate )*",
        "xades:EncapsulatedX509Certificate": r"",
    }.items()
}
"""Element -> its children in order. What is not listed (policy, roles, references to evidence) is signed or ignored, never read."""

_HASHES: dict[str, type[hashes.SHA256] | type[hashes.SHA384] | type[hashes.SHA512]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_SIGNATURE_METHOD = re.compile(
    r"http://www\.w3\.org/2001/04/xmldsig-more#(?P<kind>rsa|ecdsa)-sha(?P<bits>256|384|512)"
    r"|http://www\.w3\.org/2007/05/xmldsig-more#sha(?P<pss>256|384|512)-rsa-MGF1"
)


class SignatureMalformedError(UnverifiedError):
    """Not a signature document that we read: XML, structure, algorithm, Ids, references."""

    kind = "seal.malformed"


class SignatureValueError(UnverifiedError):
    """The signature value is not of this SignedInfo under this certificate's key."""

    kind = "seal.signature_value"


class WrongDigestError(UnverifiedError):
    """A referenced part has another digest than the one that was signed."""

    kind = "seal.wrong_digest"


class SigningCertificateError(UnverifiedError):
    """The signed properties name another certificate than the one that came."""

    kind = "seal.signing_certificate"


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature document says. DER stays bytes; times and names inside are claims."""

    signed_info: bytes
    """Canonical."""
    method: str
    value: bytes
    certificate: bytes
    """The signing certificate, DER."""
    references: dict[str, Digest]
    """External files by name (`/message.xml`), without the signed properties."""
    properties: bytes
    """Canonical SignedProperties."""
    properties_digest: Digest
    certificate_digests: tuple[Digest, ...]
    """Of the signing certificate first, as the signed properties state them."""
    signing_time: str
    ocsp_responses: tuple[bytes, ...]
    intermediates: tuple[bytes, ...]
    stamps: tuple[bytes, ...]
    """RFC 3161 tokens over the signature value."""


def parse(signature_xml: bytes) -> Signature:
    """Reads META-INF/signatures.xml or the signature part of a message. Raises SignatureMalformedError."""
    try:
        root = parse_xml(signature_xml, bytes_max=SIGNATURE_BYTES_MAX, depth_max=DEPTH_MAX)
    except XmlRefusedError as error:
        raise SignatureMalformedError(str(error)) from None
    signature = _signature_element(root)
    _check_ids(root)
    for element in signature.iter():
        _check_structure(element)
    info, value, key_info = signature[0], signature[1], signature[2]
    properties = _signed_properties(signature)
    references, properties_digest, canonical_properties = _references(info, properties)
    canonicalisation = info[0].get("Algorithm", "")
    if canonicalisation not in _CANONICAL:
        raise SignatureMalformedError(f"canonicalisation {canonicalisation!r}")
    return Signature(
        signed_info=_canonical(info, canonicalisation),
        method=info[1].get("Algorithm", ""),
        value=_decoded(value),
        certificate=_decoded(_all(key_info, "ds:X509Certificate")[0]),
        references=references,
        properties=canonical_properties,
        properties_digest=properties_digest,
        certificate_digests=tuple(_digest(certificate[0][0], certificate[0][1]) for certificate in properties[0].iter(_XADES + "Cert")),
        signing_time=properties[0].findtext(_XADES + "SigningTime", ""),
        ocsp_responses=tuple(_decoded(item) for item in _all(signature, "xades:EncapsulatedOCSPValue")),
        intermediates=tuple(_decoded(item) for item in _all(signature, "xades:EncapsulatedX509Certificate")),
        stamps=tuple(
            _decoded(item) for stamp in _all(signature, "xades:SignatureTimeStamp") for item in stamp.iter(_XADES + "EncapsulatedTimeStamp")
        ),
    )


def check_value(signature: Signature, certificate: x509.Certificate) -> None:
    """The signed properties are those signed and name this certificate; the value is of SignedInfo under its key.

    Raises WrongDigestError, SigningCertificateError, SignatureValueError, SignatureMalformedError (a method that we do not read).
    """
    check_digest("the signed properties", signature.properties, signature.properties_digest)
    # (1) a certificate that came beside the signature is no evidence until the signature names it
    named = signature.certificate_digests[0]
    if digest_of(named.algorithm, signature.certificate) != named.value:
        raise SigningCertificateError("the signed properties name another certificate")
    method = _SIGNATURE_METHOD.fullmatch(signature.method)
    if method is None:
        raise SignatureMalformedError(f"signature method {signature.method!r}")
    algorithm = _HASHES[method["bits"] or method["pss"]]()
    try:
        key = certificate.public_key()
        if isinstance(key, rsa.RSAPublicKey) and method["kind"] != "ecdsa":
            pss = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
            key.verify(signature.value, signature.signed_info, pss if method["pss"] else padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and method["kind"] == "ecdsa":
            key.verify(_der_ecdsa(signature.value, key), signature.signed_info, ec.ECDSA(algorithm))
        else:
            raise SignatureValueError("the signature method does not fit the key")
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        raise SignatureValueError("the signature value does not hold") from None


def check_digest(name: str, data: bytes, expected: Digest) -> None:
    """Raises WrongDigestError."""
    if digest_of(expected.algorithm, data) != expected.value:
        raise WrongDigestError(f"{name} has another digest than the signed one")


def _signature_element(root: etree._Element) -> etree._Element:
    """The one Signature: the root itself (DSS) or the only child of XAdESSignatures."""
    if root.tag == _DS + "Signature":
        signature = root
    elif _ROOT.fullmatch(root.tag) and len(root) == 1 and root[0].tag == _DS + "Signature":
        signature = root[0]
    else:
        raise SignatureMalformedError("neither XAdESSignatures with one Signature nor a Signature")
    # a second one could be the one that is verified while this one is read (signature wrapping)
    if sum(1 for _ in root.iter(_DS + "Signature")) != 1:
        raise SignatureMalformedError("more than one Signature")
    return signature


def _check_ids(root: etree._Element) -> None:
    """No Id stands twice: a reference then means one element for every reader."""
    found = cast("list[str]", _ALL_IDS(root))
    if len(set(found)) != len(found):
        raise SignatureMalformedError("an Id stands twice")


def _check_structure(element: etree._Element) -> None:
    pattern = _STRUCTURE.get(_name(element))
    if pattern and not pattern.fullmatch("".join([_short_name(child.tag) + " " for child in element])):
        raise SignatureMalformedError(f"unexpected children in {_name(element)}")


def _signed_properties(signature: etree._Element) -> etree._Element:
    holders = _all(signature, "xades:QualifyingProperties")
    if len(holders) != 1 or holders[0].getparent() not in list(signature)[3:]:
        raise SignatureMalformedError("not exactly one QualifyingProperties")
    if holders[0].get("Target") != "#" + signature.get("Id", ""):
        raise SignatureMalformedError("the properties are of another signature")
    return holders[0][0]


def _references(info: etree._Element, properties: etree._Element) -> tuple[dict[str, Digest], Digest, bytes]:
    """External references by name, and the one of the signed properties with their canonical form."""
    external: dict[str, Digest] = {}
    own: list[tuple[Digest, bytes]] = []
    for reference in list(info)[2:]:
        uri, children = reference.get("URI", ""), list(reference)
        transforms = [step.get("Algorithm", "") for step in children[0]] if len(children) == 3 else []
        digest = _digest(children[-2], children[-1])
        if reference.get("Type") == _PROPERTIES_TYPE:
            if uri != "#" + properties.get("Id", "") or len(transforms) > 1 or not set(transforms) <= _CANONICAL.keys():
                raise SignatureMalformedError("the reference to the signed properties")
            own.append((digest, _canonical(properties, transforms[0] if transforms else _INCLUSIVE)))
        elif not uri.startswith("/") or transforms or uri in external or len(external) >= REFERENCES_MAX:
            raise SignatureMalformedError("a reference to a file names it once, as it is")
        else:
            external[uri] = digest
    if len(own) != 1:
        raise SignatureMalformedError("the signed properties are not referenced exactly once")
    return external, *own[0]


def _canonical(element: etree._Element, algorithm: str) -> bytes:
    """C14N of the subtree within the parsed document: the root's namespaces count. Its tail does not."""
    try:
        data: bytes = etree.tostring(element, method="c14n", exclusive=_CANONICAL[algorithm], with_comments=False, with_tail=False)
    except etree.C14NError:
        raise SignatureMalformedError("cannot be canonicalised: a relative namespace") from None
    return data


def _all(element: etree._Element, name: str) -> list[etree._Element]:
    prefix, _, local = name.partition(":")
    found = list(element.iter((_DS if prefix == "ds" else _XADES) + local))
    if len(found) > VALUES_MAX:
        raise SignatureMalformedError(f"more than {VALUES_MAX} of {name}")
    return found


def _name(element: etree._Element) -> str:
    return _short_name(element.tag)


@lru_cache(maxsize=512)
def _short_name(tag: str) -> str:
    namespace, brace, local = tag.rpartition("}")
    return f"{_PREFIXES.get(namespace + brace, '?')}:{local}"


def _digest(method: etree._Element, value: etree._Element) -> Digest:
    algorithm = method.get("Algorithm", "")
    if algorithm not in DIGESTS:
        raise SignatureMalformedError(f"digest algorithm {algorithm!r}")
    return Digest(_decoded(value), algorithm)


def _decoded(element: etree._Element) -> bytes:
    try:
        return decoded_base64(element.text or "")
    except ValueError:
        raise SignatureMalformedError(f"{_name(element)} is not base64") from None


def _der_ecdsa(raw: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    size = (key.key_size + 7) // 8
    if len(raw) != 2 * size:
        raise SignatureValueError("r and s do not have the length of the curve")
    return encode_dss_signature(int.from_bytes(raw[:size], "big"), int.from_bytes(raw[size:], "big"))
