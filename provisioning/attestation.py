"""CEIQROO's side of attestation: is this the one TPM that was enrolled, and what did it measure.

Public software only: `tpm2-pytss` to read what a TPM writes and to seal a credential, `cryptography` for every signature. Pure but for the
random credential that the caller brings.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from tpm2_pytss import TPM2_ALG, TPM2_ST, TPM2B_PUBLIC, TPMA_OBJECT, TPMS_ATTEST, TPMT_SIGNATURE, TSS2_Exception
from tpm2_pytss.utils import make_credential

from appliance.errors import UnverifiedError

CREDENTIAL_BYTES = 32
_GENERATED = 0xFF544347
"""TPM_GENERATED_VALUE: what a restricted key never signs unless the TPM wrote it."""
_WANTED = (
    TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.SIGN_ENCRYPT | TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN
)


class AttestationError(UnverifiedError):
    """What came does not prove that the box has the TPM, or that the TPM measured this."""

    kind = "attestation.unverified"


def check_endorsement(certificate: bytes, endorsement_public: bytes, manufacturers: Sequence[x509.Certificate]) -> None:
    """The endorsement certificate is for this key and was issued by one of the manufacturers' authorities. Raises AttestationError."""
    try:
        leaf = x509.load_der_x509_certificate(certificate)
        named = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise AttestationError(f"the endorsement certificate cannot be read: {error}") from None
    if named != _public(endorsement_public).publicArea.to_der():
        raise AttestationError("the endorsement certificate is of another key")
    for authority in manufacturers:
        try:
            leaf.verify_directly_issued_by(authority)
            return
        except (ValueError, TypeError, InvalidSignature):
            continue
    raise AttestationError("the endorsement certificate is of no manufacturer that we know")


def challenge(endorsement_public: bytes, attestation_public: bytes, credential: bytes) -> tuple[bytes, bytes]:
    """Seals a random credential (CREDENTIAL_BYTES) for the TPM that holds both keys; what `activate` takes. Raises AttestationError."""
    attestation = _attestation_public(attestation_public)
    blob, secret = make_credential(_public(endorsement_public), credential, attestation.get_name())
    return blob.marshal(), secret.marshal()


def check_answer(credential: bytes, answer: bytes) -> None:
    """Raises AttestationError."""
    if not hmac.compare_digest(credential, answer):
        raise AttestationError("the credential was not told: another TPM, or another attestation key")


def check_quote(attestation_public: bytes, attested: bytes, signature: bytes, nonce: bytes, values: Mapping[int, bytes]) -> None:
    """Raises AttestationError unless every step holds.

    (1) the attestation key is restricted to its TPM; (2) it signed these bytes; (3) the TPM wrote them, as a quote; (4) our nonce is in
    them: not an old quote; (5) they are of exactly these PCRs; (6) their digest is that of the values.
    """
    key = load_der_public_key(_attestation_public(attestation_public).publicArea.to_der())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise AttestationError("the attestation key is not on a curve")
    try:
        made, _ = TPMT_SIGNATURE.unmarshal(signature)
        said, _ = TPMS_ATTEST.unmarshal(attested)
    except TSS2_Exception as error:
        raise AttestationError(f"not a quote: {error}") from None
    if made.sigAlg != TPM2_ALG.ECDSA or made.signature.ecdsa.hash != TPM2_ALG.SHA256:
        raise AttestationError("not an ECDSA signature over SHA-256")
    r, s = (int.from_bytes(bytes(part)) for part in (made.signature.ecdsa.signatureR, made.signature.ecdsa.signatureS))
    try:
        key.verify(encode_dss_signature(r, s), attested, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise AttestationError("the quote is not signed by the attestation key") from None
    if int(said.magic) != _GENERATED or said.type != TPM2_ST.ATTEST_QUOTE:
        raise AttestationError("not a quote that a TPM wrote")
    if not hmac.compare_digest(bytes(said.extraData), nonce):
        raise AttestationError("the quote answers another nonce")
    if _selected(said) != sorted(values):
        raise AttestationError("the quote is of other PCRs")
    digest = hashlib.sha256(b"".join(values[number] for number in sorted(values))).digest()
    if bytes(said.attested.quote.pcrDigest) != digest:
        raise AttestationError("the values are not those that were quoted")


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
