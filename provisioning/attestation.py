"""CEIQROO's side of attestation: is this the one TPM that was enrolled, and what did it measure.

Public software only: `tpm2-pytss` to read what a TPM writes and to seal a credential, `cryptography` for every signature. Pure but for the
random credential that the caller brings.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from tpm2_pytss import TPM2_ALG, TPM2_ST, TPM2B_PUBLIC, TPMA_OBJECT, TPMS_ATTEST, TPMT_SIGNATURE, TSS2_Exception
from tpm2_pytss.utils import make_credential

from appliance.clock import to_us
from appliance.errors import UnverifiedError

CREDENTIAL_BYTES = 32
_GENERATED = 0xFF544347
"""TPM_GENERATED_VALUE: what a restricted key never signs unless the TPM wrote it."""
_INSIDE = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN
_WANTED = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.SIGN_ENCRYPT | _INSIDE
EK_PURPOSE = "2.23.133.8.1"
"""tcg-kp-EKCertificate."""
PATH_MAX = 5


class AttestationError(UnverifiedError):
    """What came does not prove that the box has the TPM, or that the TPM measured this."""

    kind = "attestation.unverified"


def check_endorsement(
    certificate: bytes, endorsement_public: bytes, manufacturers: Sequence[x509.Certificate], now_us: int
) -> x509.Certificate:
    """The endorsement certificate, believed. Raises AttestationError unless every step holds.

    (1) it is for this key and (2) for an endorsement key where it says what it is for (TCG EK Credential Profile 2.5, 3.2); (3) it
    and every authority above it is in force; (4) its path ends at a root among `manufacturers`: those that an officer added, roots and
    intermediates, never what the box sent.
    """
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        named = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        purposes = [use.dotted_string for use in _purposes(leaf)]
    except ValueError as error:
        raise AttestationError(f"the endorsement certificate cannot be read: {error}") from None
    if named != _public(endorsement_public).publicArea.to_der():
        raise AttestationError("the endorsement certificate is of another key")
    if purposes and EK_PURPOSE not in purposes:
        raise AttestationError("the certificate is not one of an endorsement key")
    below = leaf
    for _ in range(PATH_MAX):
        above = next((one for one in manufacturers if _is_issuer(one, below)), None)
        if above is None or not _in_force(below, now_us):
            raise AttestationError("the endorsement certificate is of no manufacturer that we know, or not in force")
        if above.subject == above.issuer:
            return leaf
        below = above
    raise AttestationError(f"more than {PATH_MAX} authorities above the endorsement certificate")


def _purposes(leaf: x509.Certificate) -> Sequence[x509.ObjectIdentifier]:
    try:
        return list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def _is_issuer(authority: x509.Certificate, below: x509.Certificate) -> bool:
    try:
        if not authority.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
        below.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound, UnsupportedAlgorithm):
        return False
    return True


def _in_force(certificate: x509.Certificate, now_us: int) -> bool:
    return to_us(certificate.not_valid_before_utc) <= now_us <= to_us(certificate.not_valid_after_utc)


def challenge(endorsement_public: bytes, attestation_public: bytes, credential: bytes) -> tuple[bytes, bytes]:
    """Seals a random credential (CREDENTIAL_BYTES) for the TPM that holds both keys; what `activate` takes. Raises AttestationError."""
    attestation = _attestation_public(attestation_public)
    blob, secret = make_credential(_public(endorsement_public), credential, attestation.get_name())
    return blob.marshal(), secret.marshal()


def check_answer(credential: bytes, answer: bytes) -> None:
    """Raises AttestationError."""
    if not hmac.compare_digest(credential, answer):
        raise AttestationError("the credential was not told: another TPM, or another attestation key")


def check_certified(attestation_public: bytes, public: bytes, attested: bytes, signature: bytes, qualifying: bytes) -> bytes:
    """The SubjectPublicKeyInfo of a key that lives in the attestation key's TPM and cannot leave it. Raises AttestationError unless:

    (1) to (3) as of `check_quote`, with a certification instead of a quote; (4) it was said for `qualifying`; (5) the TPM named exactly
    this public area; (6) whose key was made inside, is bound to its TPM and its parent, and signs.
    """
    said = _said(attestation_public, attested, signature, TPM2_ST.ATTEST_CERTIFY, qualifying)
    key = _public(public)
    if not hmac.compare_digest(bytes(said.attested.certify.name), bytes(key.get_name())):
        raise AttestationError("the TPM certified another key")
    attributes = int(key.publicArea.objectAttributes)
    if attributes & _INSIDE != _INSIDE or not attributes & TPMA_OBJECT.SIGN_ENCRYPT:
        raise AttestationError("the key can leave its TPM, or was brought there")
    return bytes(key.publicArea.to_der())


def check_quote(attestation_public: bytes, attested: bytes, signature: bytes, nonce: bytes, values: Mapping[int, bytes]) -> None:
    """Raises AttestationError unless every step holds.

    (1) the attestation key is restricted to its TPM; (2) it signed these bytes; (3) the TPM wrote them, as a quote; (4) our nonce is in
    them: not an old quote; (5) they are of exactly these PCRs; (6) their digest is that of the values.
    """
    said = _said(attestation_public, attested, signature, TPM2_ST.ATTEST_QUOTE, nonce)
    if _selected(said) != sorted(values):
        raise AttestationError("the quote is of other PCRs")
    digest = hashlib.sha256(b"".join(values[number] for number in sorted(values))).digest()
    if bytes(said.attested.quote.pcrDigest) != digest:
        raise AttestationError("the values are not those that were quoted")


def _said(attestation_public: bytes, attested: bytes, signature: bytes, kind: int, nonce: bytes) -> TPMS_ATTEST:
    """What the TPM said under its attestation key: steps (1) to (4)."""
    key = load_der_public_key(_attestation_public(attestation_public).publicArea.to_der())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise AttestationError("the attestation key is not on a curve")
    try:
        made, _ = TPMT_SIGNATURE.unmarshal(signature)
        said, _ = TPMS_ATTEST.unmarshal(attested)
    except TSS2_Exception as error:
        raise AttestationError(f"not a TPM's statement: {error}") from None
    if made.sigAlg != TPM2_ALG.ECDSA or made.signature.ecdsa.hash != TPM2_ALG.SHA256:
        raise AttestationError("not an ECDSA signature over SHA-256")
    r, s = (int.from_bytes(bytes(part)) for part in (made.signature.ecdsa.signatureR, made.signature.ecdsa.signatureS))
    try:
        key.verify(encode_dss_signature(r, s), attested, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise AttestationError("not signed by the attestation key") from None
    if int(said.magic) != _GENERATED or said.type != kind:
        raise AttestationError("not a statement of this kind that a TPM wrote")
    if not hmac.compare_digest(bytes(said.extraData), nonce):
        raise AttestationError("the statement was made for something else")
    return said


def _selected(said: TPMS_ATTEST) -> list[int]:
    banks = list(said.attested.quote.pcrSelect)
    if len(banks) != 1 or banks[0].hash != TPM2_ALG.SHA256:
        raise AttestationError("a quote of the SHA-256 bank is wanted, and of no other")
    bits = int.from_bytes(bytes(banks[0].pcrSelect[0 : banks[0].sizeofSelect]), "little")
    return [number for number in range(32) if bits >> number & 1]


def _attestation_public(data: bytes) -> TPM2B_PUBLIC:
    found = _public(data)
    if int(found.publicArea.objectAttributes) & _WANTED != _WANTED or int(found.publicArea.objectAttributes) & TPMA_OBJECT.DECRYPT:
        raise AttestationError("the attestation key is not one that signs for its own TPM alone")
    return found


def _public(data: bytes) -> TPM2B_PUBLIC:
    try:
        found, _ = TPM2B_PUBLIC.unmarshal(data)
    except TSS2_Exception as error:
        raise AttestationError(f"not a TPM's public area: {error}") from None
    return found
