"""RFC 3161 time stamps: the request we send, and the numbered steps before a token is believed (sheet 4.8, 5.6).

Pure. Stricter than X-Road, whose tokens pass all the same: X-Road checks neither purpose nor validity of the authority's certificate. Our
request asks for the certificate inside the token; where an authority leaves it out it is added, as X-Road does, so that a stored token
stands alone.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.errors import UnverifiedError
from appliance.model import certificates
from appliance.trust import der
from appliance.trust.chains import has_extended_usage
from appliance.trust.der import DerError, Element, Reader
from appliance.trust.global_configuration import ApprovedTsa
from appliance.trust.signatures import BY_OID, HASHES, Scheme, is_genuine

TOKEN_BYTES_MAX = 64 << 10
"""Tokens with one certificate have 1.5 to 3 KiB, with a whole chain below 10."""

_SIGNED_DATA = "1.2.840.113549.1.7.2"
_TST_INFO = "1.2.840.113549.1.9.16.1.4"
_CONTENT_TYPE, _MESSAGE_DIGEST = "1.2.840.113549.1.9.3", "1.2.840.113549.1.9.4"
_SIGNING_CERTIFICATE, _SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.12", "1.2.840.113549.1.9.16.2.47"
_RSA, _RSA_PSS = "1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10"
_SHA512 = "2.16.840.1.101.3.4.2.3"
_CONTEXT_0, _CONTEXT_1 = 0xA0, 0xA1
_SKI, _MILLIS, _MICROS = 0x80, 0x80, 0x81


class TsaMalformedError(UnverifiedError):
    """Not a time-stamp response or token."""

    kind = "tsa.malformed"


class TsaRejectedError(UnverifiedError):
    """The authority answered that it does not stamp."""

    kind = "tsa.rejected"


class TsaMismatchError(UnverifiedError):
    """A stamp over something else, or an answer to another request; X-Road: `malformed_signature`."""

    kind = "tsa.mismatch"


class TsaUntrustedError(UnverifiedError):
    """Not signed by an approved authority, or not as one may sign."""

    kind = "tsa.untrusted"


class TsaNotApprovedError(TsaUntrustedError):
    """The signer is not in the global configuration; X-Road: `mlog.tsp_certificate_not_found`."""


@dataclass(frozen=True, slots=True)
class StampFacts:
    """What a verified token proves. `accuracy_us`: as stated in it, 0 where it states none. `authority`: the approved TSA's name."""

    gen_time_us: int
    accuracy_us: int
    authority: str


@dataclass(frozen=True, slots=True)
class _Info:
    """TSTInfo."""

    digest: str
    imprint: bytes
    gen_time_us: int
    accuracy_us: int
    nonce: int | None


@dataclass(frozen=True, slots=True)
class _Token:
    """A token taken apart; nothing checked yet."""

    content: bytes
    info: _Info
    certificates: tuple[bytes, ...]
    signer: Element
    digest: str
    attributes: Element
    scheme: Scheme
    signature: bytes


def build_request(imprint_sha512: bytes, nonce: int | None = None) -> bytes:
    """A request for a stamp over a SHA-512 digest (64 bytes), asking for the certificate inside (DER)."""
    if len(imprint_sha512) != 64:
        raise RuntimeError("a SHA-512 imprint has 64 bytes")
    algorithm = der.encode(der.SEQUENCE, der.encode_oid(_SHA512), der.encode(der.NULL))
    imprint = der.encode(der.SEQUENCE, algorithm, der.encode(der.OCTET_STRING, imprint_sha512))
    asked = b"" if nonce is None else der.encode_integer(nonce)
    return der.encode(der.SEQUENCE, der.encode_integer(1), imprint, asked, der.encode(der.BOOLEAN, b"\xff"))


def token_of_response(response: bytes, imprint: bytes, tsas: Sequence[ApprovedTsa], *, nonce: int | None = None) -> bytes:
    """The token of `stamp_of_response`."""
    return stamp_of_response(response, imprint, tsas, nonce=nonce)[0]


def stamp_of_response(
    response: bytes, imprint: bytes, tsas: Sequence[ApprovedTsa], *, nonce: int | None = None
) -> tuple[bytes, StampFacts]:
    """The verified token of an authority's answer to `build_request(imprint, nonce)`, with the authority's certificate inside, and what
    it proves.

    Raises TsaMalformedError, TsaRejectedError, TsaMismatchError, TsaUntrustedError.
    """
    try:
        parts = der.parse(response, TOKEN_BYTES_MAX).children()
        status = parts.take(der.SEQUENCE).children().take().integer()
        token = parts.optional(der.SEQUENCE)
        parts.finish()
    except DerError as error:
        raise TsaMalformedError(f"not a time-stamp response: {error}") from None
    if status not in (0, 1):
        raise TsaRejectedError(f"the time-stamping authority answered with status {status}")
    if token is None:
        raise TsaMalformedError("granted, but no token")
    found = _take_apart(token.encoded)
    if found.info.digest != _SHA512 or not hmac.compare_digest(found.info.imprint, imprint):
        raise TsaMismatchError("a stamp over something else")
    if nonce is not None and found.info.nonce != nonce:
        raise TsaMismatchError("an answer to another request")
    tsa = _check_signer(found, tsas)
    given = token.encoded
    kept = _with_certificate(given, found, tsa)
    # a token that was put together anew is read once more: what is kept must hold by itself
    return kept, _facts(found, tsa) if kept is given else check_imprint(kept, imprint, tsas)


def check_token(token: bytes, data: bytes, tsas: Sequence[ApprovedTsa]) -> StampFacts:
    """What a token proves about `data`, hashed as the token says. Raises TsaMalformedError, TsaMismatchError, TsaUntrustedError."""
    found = _take_apart(token)
    # (1) over these very bytes
    if not hmac.compare_digest(_digest(found.info.digest, data), found.info.imprint):
        raise TsaMismatchError("a stamp over something else")
    return _facts(found, _check_signer(found, tsas))


def check_imprint(token: bytes, imprint_sha512: bytes, tsas: Sequence[ApprovedTsa]) -> StampFacts:
    """As check_token, for whoever holds only the SHA-512 of the data."""
    found = _take_apart(token)
    if found.info.digest != _SHA512 or not hmac.compare_digest(imprint_sha512, found.info.imprint):
        raise TsaMismatchError("a stamp over something else")
    return _facts(found, _check_signer(found, tsas))


def _facts(token: _Token, tsa: ApprovedTsa) -> StampFacts:
    return StampFacts(token.info.gen_time_us, token.info.accuracy_us, tsa.name)


def _check_signer(token: _Token, tsas: Sequence[ApprovedTsa]) -> ApprovedTsa:
    try:
        return _signer(token, tsas)
    except DerError as error:
        raise TsaMalformedError(f"not a time-stamp token: {error}") from None


def _signer(token: _Token, tsas: Sequence[ApprovedTsa]) -> ApprovedTsa:
    # (2) the signer is an approved authority: found by its name in the token, believed as pinned in the global configuration
    tsa = next((tsa for tsa in tsas if _is_named(token.signer, tsa.certificate)), None)
    if tsa is None:
        raise TsaNotApprovedError("the time-stamping authority is not in the global configuration")
    pinned = certificates.der(tsa.certificate)
    # (3) whose certificate is for this purpose (a critical one), and was valid then
    if not has_extended_usage(tsa.certificate, ExtendedKeyUsageOID.TIME_STAMPING, critical=True):
        raise TsaUntrustedError("the authority's certificate is not for time stamps")
    if not certificates.is_valid_at(tsa.certificate, token.info.gen_time_us):
        raise TsaUntrustedError("the authority's certificate was not valid at the time of the stamp")
    # (4) the signed attributes bind the content, its type and this certificate (a substituted certificate fails here)
    found = _attributes(token.attributes)
    if _one(found, _CONTENT_TYPE).oid() != _TST_INFO:
        raise TsaUntrustedError("signed as something else than a time stamp")
    if not hmac.compare_digest(_one(found, _MESSAGE_DIGEST).octets(), _digest(token.digest, token.content)):
        raise TsaUntrustedError("the signed digest is not that of the content")
    _check_signing_certificate(found, pinned)
    # (5) the signature, over the attributes as a SET
    signed = bytes((der.SET,)) + token.attributes.encoded[1:]
    if not is_genuine(certificates.public_key(tsa.certificate), token.scheme, token.signature, signed):
        raise TsaUntrustedError("the authority did not sign this token")
    return tsa


def _is_named(signer: Element, certificate: x509.Certificate) -> bool:
    """SignerIdentifier: issuer and serial number, or subject key identifier."""
    if signer.tag == _SKI:
        try:
            identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
        except x509.ExtensionNotFound:
            return False
        return signer.content == identifier
    parts = signer.children()
    issuer, serial = parts.take().encoded, parts.take(der.INTEGER).integer()
    return (issuer, serial) == (certificate.issuer.public_bytes(), certificate.serial_number)


def _attributes(attributes: Element) -> dict[str, Element]:
    """Attribute type -> its only value. An attribute twice, or with two values, says nothing certain."""
    found: dict[str, Element] = {}
    for attribute in attributes.children().rest():
        parts = attribute.children()
        kind = parts.take().oid()
        values = parts.take(der.SET).children()
        parts.finish()
        if kind in found:
            raise TsaMalformedError("a signed attribute twice")
        found[kind] = values.take()
        values.finish()
    return found


def _one(found: dict[str, Element], kind: str) -> Element:
    if kind not in found:
        raise TsaUntrustedError(f"the signed attribute {kind} is missing")
    return found[kind]


def _check_signing_certificate(found: dict[str, Element], pinned: bytes) -> None:
    """ESSCertID (SHA-1) or ESSCertIDv2: the first one names the signer. The pinned bytes prove it, so SHA-1 does no harm here."""
    if (attribute := found.get(_SIGNING_CERTIFICATE_V2)) is not None:
        first = attribute.children().take(der.SEQUENCE).children().take(der.SEQUENCE).children()
        algorithm = first.optional(der.SEQUENCE)
        digest = hashlib.sha256(pinned).digest() if algorithm is None else _digest(algorithm.children().take().oid(), pinned)
    else:
        attribute = _one(found, _SIGNING_CERTIFICATE)
        first = attribute.children().take(der.SEQUENCE).children().take(der.SEQUENCE).children()
        digest = hashlib.sha1(pinned, usedforsecurity=False).digest()
    if not hmac.compare_digest(first.take().octets(), digest):
        raise TsaUntrustedError("signed with another certificate")


def _take_apart(token: bytes) -> _Token:
    try:
        return _read_token(token)
    except DerError as error:
        raise TsaMalformedError(f"not a time-stamp token: {error}") from None


def _read_token(token: bytes) -> _Token:
    outer = der.parse(token, TOKEN_BYTES_MAX).children()
    if outer.take().oid() != _SIGNED_DATA:
        raise TsaMalformedError("not signed data")
    wrapped = outer.take(_CONTEXT_0).children()
    outer.finish()
    parts = wrapped.take(der.SEQUENCE).children()
    wrapped.finish()
    parts.take(der.INTEGER)
    parts.take(der.SET)
    content = _content(parts.take(der.SEQUENCE).children())
    enclosed = parts.optional(_CONTEXT_0)
    parts.optional(_CONTEXT_1)
    signers = parts.take(der.SET).children()
    parts.finish()
    signer = signers.take(der.SEQUENCE).children()
    signers.finish()  # exactly one signer: a second one could be anybody
    return _with_signer(content, () if enclosed is None else tuple(c.encoded for c in enclosed.children().rest()), signer)


def _with_signer(content: bytes, enclosed: tuple[bytes, ...], signer: Reader) -> _Token:
    signer.take(der.INTEGER)
    identifier = signer.take()
    if identifier.tag not in (der.SEQUENCE, _SKI):
        raise TsaMalformedError("a signer without a name")
    if identifier.tag == der.SEQUENCE:
        named = identifier.children()
        named.take(der.SEQUENCE)
        named.take(der.INTEGER).integer()
        named.finish()
    digest = signer.take(der.SEQUENCE).children().take().oid()
    attributes = signer.take(_CONTEXT_0)
    _attributes(attributes)
    algorithm = signer.take(der.SEQUENCE).children().take().oid()
    signature = signer.take().octets()
    signer.optional(_CONTEXT_1)
    signer.finish()
    return _Token(
        content=content,
        info=_info(content),
        certificates=enclosed,
        signer=identifier,
        digest=digest,
        attributes=attributes,
        scheme=_scheme(algorithm, digest),
        signature=signature,
    )


def _content(parts: Reader) -> bytes:
    if parts.take().oid() != _TST_INFO:
        raise TsaMalformedError("the signed content is not a time stamp")
    wrapped = parts.take(_CONTEXT_0).children()
    parts.finish()
    content = wrapped.take().octets()
    wrapped.finish()
    return content


def _info(content: bytes) -> _Info:
    parts = der.parse(content, TOKEN_BYTES_MAX).children()
    if parts.take().integer() != 1:
        raise TsaMalformedError("an unknown version of TSTInfo")
    parts.take().oid()
    imprint = parts.take(der.SEQUENCE).children()
    digest = imprint.take(der.SEQUENCE).children().take().oid()
    hashed = imprint.take().octets()
    imprint.finish()
    parts.take().integer()
    gen_time_us = parts.take().time_us()
    accuracy = parts.optional(der.SEQUENCE)
    parts.optional(der.BOOLEAN)
    nonce = parts.optional(der.INTEGER)
    parts.optional(_CONTEXT_0)
    extensions = parts.optional(_CONTEXT_1)
    parts.finish()
    for extension in [] if extensions is None else list(extensions.children().rest()):
        fields = extension.children()
        fields.take().oid()
        if (critical := fields.optional(der.BOOLEAN)) is not None and critical.content != b"\x00":
            raise TsaMalformedError("an unknown critical extension")
    return _Info(
        digest=digest,
        imprint=hashed,
        gen_time_us=gen_time_us,
        accuracy_us=0 if accuracy is None else _accuracy_us(accuracy.children()),
        nonce=None if nonce is None else nonce.integer(),
    )


def _accuracy_us(parts: Reader) -> int:
    total = 0
    for tag, unit in ((der.INTEGER, 1_000_000), (_MILLIS, 1000), (_MICROS, 1)):
        part = parts.optional(tag)
        if part is None:
            continue
        value = int.from_bytes(part.content, "big")
        if len(part.content) > 5 or part.content[:1] >= b"\x80" or (unit < 1_000_000 and value > 999):
            raise TsaMalformedError("an impossible accuracy")
        total += value * unit
    parts.finish()
    return total


def _scheme(algorithm: str, digest: str) -> Scheme:
    """CMS names either key type and digest apart, or both at once; they must agree."""
    by_digest = HASHES.get(digest)
    if by_digest is None:
        _refuse_algorithm()
    if algorithm in (_RSA, _RSA_PSS):
        return Scheme("rsa" if algorithm == _RSA else "rsa-pss", by_digest)
    scheme = BY_OID.get(algorithm)
    if scheme is None or scheme.digest is not by_digest:
        _refuse_algorithm()
    return scheme


def _digest(oid: str, data: bytes) -> bytes:
    algorithm = HASHES.get(oid)
    if algorithm is None:
        _refuse_algorithm()
    return hashlib.new(algorithm().name, data).digest()


def _refuse_algorithm() -> NoReturn:
    raise TsaUntrustedError("an algorithm that this network does not use")


def _with_certificate(token: bytes, found: _Token, tsa: ApprovedTsa) -> bytes:
    """The token with the authority's certificate inside: certificates are not signed, so the set may grow."""
    pinned = certificates.der(tsa.certificate)
    if pinned in found.certificates:
        return token
    outer = der.parse(token, TOKEN_BYTES_MAX).children()
    kind, wrapped = outer.take().encoded, outer.take()
    parts = wrapped.children().take().children()
    before = b"".join(parts.take().encoded for _ in range(3))
    parts.optional(_CONTEXT_0)
    after = b"".join(part.encoded for part in parts.rest())
    enclosed = der.encode(_CONTEXT_0, *found.certificates, pinned)
    return der.encode(der.SEQUENCE, kind, der.encode(_CONTEXT_0, der.encode(der.SEQUENCE, before, enclosed, after)))
