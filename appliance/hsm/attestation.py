"""What binds a box to its one TPM: endorsement key and certificate, an attestation key, the answer to a credential, quotes of PCRs,
and the word of the attestation key that another key lives in the same TPM.

I/O over a TPM context that its owner lends (`TpmToken.attest`). Both keys are primaries of the endorsement hierarchy, derived from the
chip's own seed by fixed templates at each use: nothing is stored, and two objects at once is all that it takes. CEIQROO's side, with public
software only: `provisioning.attestation`. TPM 2.0 Library part 1, 24 (credential protection);
TCG EK Credential Profile 2.5 (templates L-1 and L-2).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tpm2_pytss import (
    ESYS_TR,
    TPM2_ALG,
    TPM2_SE,
    TPM2B_ENCRYPTED_SECRET,
    TPM2B_ID_OBJECT,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_OBJECT,
    TPMT_PUBLIC,
    TPMT_SIG_SCHEME,
    TSS2_Exception,
)
from tpm2_pytss.utils import NVReadEK, create_ek_template

from appliance.errors import RefusedError
from appliance.hsm.token import MechanismMissingError

PCRS = tuple(range(8))
"""Firmware, its settings, boot loader and Secure Boot state."""
NONCE_BYTES_MIN, NONCE_BYTES_MAX = 16, 32
QUALIFYING_BYTES_MAX = 64
_EKS = ("EK-ECC256", "EK-RSA2048")
"""Templates L-2 and L-1: every maker of TPMs certifies one of them. The first with a certificate is the identity; without any, the
first."""
_FORMAT_ONE = 0x80
_RESTRICTED = TPMA_OBJECT.RESTRICTED | TPMA_OBJECT.SIGN_ENCRYPT
_INSIDE = TPMA_OBJECT.FIXEDTPM | TPMA_OBJECT.FIXEDPARENT | TPMA_OBJECT.SENSITIVEDATAORIGIN | TPMA_OBJECT.USERWITHAUTH | TPMA_OBJECT.NODA


class ChallengeError(RefusedError):
    """A credential that was not sealed for this TPM and its attestation key, or was changed on its way."""

    kind = "attestation.challenge"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the TPM is. Publics are TPM2B_PUBLIC; the certificate is DER, empty where the manufacturer left none."""

    endorsement_public: bytes
    endorsement_certificate: bytes
    attestation_public: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """`attested`: TPMS_ATTEST; `signature`: TPMT_SIGNATURE of the attestation key; `values`: SHA-256 PCRs by number."""

    attested: bytes
    signature: bytes
    values: dict[int, bytes]


@dataclass(frozen=True, slots=True)
class KeyCertification:
    """`public`: TPM2B_PUBLIC of the certified key; `attested`: TPMS_ATTEST; `signature`: TPMT_SIGNATURE of the attestation key."""

    public: bytes
    attested: bytes
    signature: bytes


def identify(context: Any) -> Identity:
    """Endorsement and attestation key of this TPM."""
    with _endorsement_key(context) as (_, endorsement, certificate), _attestation_key(context) as (_, attestation):
        return Identity(endorsement.marshal(), certificate, attestation.marshal())


def activate(context: Any, blob: bytes, secret: bytes) -> bytes:
    """The credential that somebody sealed for this endorsement key and this attestation key: only the TPM that has both can tell it.

    `blob`: TPM2B_ID_OBJECT, `secret`: TPM2B_ENCRYPTED_SECRET. Raises ChallengeError.
    """
    try:
        wanted, _ = TPM2B_ID_OBJECT.unmarshal(blob)
        sealed, _ = TPM2B_ENCRYPTED_SECRET.unmarshal(secret)
    except TSS2_Exception as error:
        raise ChallengeError(f"not a credential: {error}") from None
    with _attestation_key(context) as (attestation, _), _endorsement_key(context) as (endorsement, _, _):
        session = context.start_auth_session(ESYS_TR.NONE, ESYS_TR.NONE, TPM2_SE.POLICY, None, TPM2_ALG.SHA256)
        try:
            context.policy_secret(ESYS_TR.ENDORSEMENT, session)
            found = context.activate_credential(attestation, endorsement, wanted, sealed, session1=ESYS_TR.PASSWORD, session2=session)
        except TSS2_Exception as error:
            if not error.rc & _FORMAT_ONE:  # only errors of this form speak of what was handed over
                raise
            raise ChallengeError(f"the TPM does not open it: {error}") from None
        finally:
            with contextlib.suppress(TSS2_Exception):  # used up by the command, or of no use to anybody
                context.flush_context(session)
        return bytes(found)


def quote(context: Any, nonce: bytes, pcrs: Sequence[int] = PCRS) -> Quote:
    """PCRs signed together with the asker's nonce. Raises MechanismMissingError for a nonce or a choice that is none."""
    if not NONCE_BYTES_MIN <= len(nonce) <= NONCE_BYTES_MAX or not pcrs or any(not 0 <= one < 24 for one in pcrs):
        raise MechanismMissingError(f"a quote takes a nonce of {NONCE_BYTES_MIN} to {NONCE_BYTES_MAX} bytes and PCRs 0 to 23")
    selection = f"sha256:{','.join(map(str, sorted(set(pcrs))))}"
    with _attestation_key(context) as (key, _):
        attested, signature = context.quote(key, selection, nonce)
    return Quote(bytes(attested), signature.marshal(), _values(context, sorted(set(pcrs))))


def certify(context: Any, handle: Any, public: bytes, qualifying: bytes) -> KeyCertification:
    """TPM2_Certify: the attestation key says that the loaded key `handle` (`public`: its TPM2B_PUBLIC) is an object of this TPM.

    `qualifying` is signed along with it: what the statement is made for. Raises MechanismMissingError where that is no digest.
    """
    if not NONCE_BYTES_MIN <= len(qualifying) <= QUALIFYING_BYTES_MAX:
        raise MechanismMissingError(f"a key is certified for a digest of {NONCE_BYTES_MIN} to {QUALIFYING_BYTES_MAX} bytes")
    with _attestation_key(context) as (key, _):
        attested, signature = context.certify(handle, key, qualifying, TPMT_SIG_SCHEME(scheme=TPM2_ALG.NULL))
    return KeyCertification(public, bytes(attested), signature.marshal())


def _values(context: Any, pcrs: Sequence[int]) -> dict[int, bytes]:
    """A TPM tells eight at a time at most."""
    found: dict[int, bytes] = {}
    for number in pcrs:
        _, _, digests = context.pcr_read(f"sha256:{number}")
        found[number] = bytes(digests[0])
    return found


@contextlib.contextmanager
def _endorsement_key(context: Any) -> Iterator[tuple[Any, Any, bytes]]:
    read = NVReadEK(context)
    known = [create_ek_template(name, read) for name in _EKS]
    certificate, template = next((one for one in known if one[0]), known[0])
    handle, public, *_ = context.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
    try:
        yield handle, public, _without_padding(bytes(certificate or b""))
    finally:
        context.flush_context(handle)


@contextlib.contextmanager
def _attestation_key(context: Any) -> Iterator[tuple[Any, Any]]:
    """Restricted: it signs what the TPM itself wrote, and no digest that somebody brings."""
    template = TPM2B_PUBLIC(TPMT_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=_RESTRICTED | _INSIDE))
    handle, public, *_ = context.create_primary(TPM2B_SENSITIVE_CREATE(), template, ESYS_TR.ENDORSEMENT)
    try:
        yield handle, public
    finally:
        context.flush_context(handle)


def _without_padding(certificate: bytes) -> bytes:
    """Some makers' NV index is longer than the certificate in it. A DER sequence of 256 to 65535 bytes says its length in bytes 2 and 3."""
    return certificate[: 4 + int.from_bytes(certificate[2:4])] if certificate[:2] == b"\x30\x82" else certificate
