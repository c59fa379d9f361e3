"""A box's TPM at its enrolment: challenged, believed, remembered; from then on its keys are certified only with that TPM's word.

I/O through the registry. A request with a TPM is approved only
with the answer to a challenge of ours for this very request; a box that was enrolled with a TPM is never certified without it again, nor
with another one unless an officer says so. Requests without a TPM (a USB HSM) pass as before, and the approval says so. Rules IV.3.II,
II.2.III.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.errors import UNREADABLE, RefusedError
from provisioning import attestation
from provisioning.attestation import AttestationError
from provisioning.registry import Registry
from provisioning.tpm_registry import Pending, Tpm, TpmRegistry

ANSWER_US_MAX = 7 * 86400 * 1_000_000
"""A challenge and its answer may travel on a stick; one that is older is made anew."""
NONCE_BYTES = 32
DOCUMENT_BYTES_MAX = 1 << 20


class TpmRefusedError(RefusedError):
    """The box must prove its TPM, and did not, or proved another one. Kinds: attestation.no_answer, .no_tpm, .other_tpm."""

    kind = "attestation.no_answer"


class KeyClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TPM2B_PUBLIC of a key, TPMS_ATTEST and TPMT_SIGNATURE of its certification for the SHA-256 of its PKCS#10 request."""

    public: bytes
    attested: bytes
    signature: bytes


class TpmClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a request says of its TPM; `keys` by label."""

    endorsement_public: bytes
    endorsement_certificate: bytes
    attestation_public: bytes
    keys: dict[str, KeyClaim]


class QuoteClaim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    attested: bytes
    signature: bytes
    values: dict[int, bytes]


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `xacbe attestation answer` writes."""

    server: str
    request_sha256: bytes
    credential: bytes
    quote: QuoteClaim


def read_answer(document: bytes) -> Answer:
    """Raises AttestationError."""
    if len(document) > DOCUMENT_BYTES_MAX:
        raise AttestationError(f"an answer longer than {DOCUMENT_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(document, type=Answer)
    except UNREADABLE as error:
        raise AttestationError(f"not an answer to a challenge: {error}") from None


def request_sha256(request: Any) -> bytes:
    """Of an enrolment request as we understood it: challenge, answer and approval speak of the same one."""
    return hashlib.sha256(msgspec.json.encode(request, order="sorted")).digest()


def challenge(
    registry: Registry,
    server: str,
    claim: TpmClaim,
    request: Any,
    makers: list[x509.Certificate],
    now_us: int,
    vouched_sha256: bytes = b"",
) -> dict[str, Any]:
    """A challenge that only the TPM of this request can answer; an earlier one for the same box ends.

    Raises AttestationError unless the endorsement certificate is of a manufacturer that we know, or an officer vouches for the key itself.
    """
    if not vouched_sha256:
        attestation.check_endorsement(claim.endorsement_certificate, claim.endorsement_public, makers, now_us)
    elif not hmac.compare_digest(vouched_sha256, hashlib.sha256(claim.endorsement_public).digest()):
        raise AttestationError("not the endorsement key that the officer vouches for")
    pending = Pending(request_sha256(request), os.urandom(attestation.CREDENTIAL_BYTES), os.urandom(NONCE_BYTES), now_us)
    blob, secret = attestation.challenge(claim.endorsement_public, claim.attestation_public, pending.credential)
    TpmRegistry(registry).expect(server, pending)
    return {"server": server, "request_sha256": pending.request_sha256, "blob": blob, "secret": secret, "nonce": pending.nonce}


def check_enrolment(
    registry: Registry,
    server: str,
    claim: TpmClaim | None,
    request: Any,
    requests: Mapping[str, bytes],
    answer: Answer | None,
    now_us: int,
    *,
    replace_tpm: bool = False,
) -> Tpm | None:
    """What is to be remembered of the box's TPM; None where it has none. `requests`: PKCS#10 in DER by label.

    (1) a box that had a TPM still has it, and the same one; (2) the answer is to our last challenge for this very request, whose
    endorsement key was believed when it was made, and in time; (3) it tells the credential: attestation and endorsement key are of one
    TPM; (4) the quote holds; (5) every key of the request lives in that TPM; (6) no other box has it. Raises AttestationError,
    TpmRefusedError.
    """
    tpms = TpmRegistry(registry)
    known = tpms.of(server)
    if claim is None:
        if known is not None and not replace_tpm:
            raise TpmRefusedError(f"{server} was enrolled with a TPM", kind="attestation.no_tpm")
        return None
    if known is not None and known.endorsement_public != claim.endorsement_public and not replace_tpm:
        raise TpmRefusedError(f"{server} was enrolled with another TPM", kind="attestation.other_tpm")
    pending = tpms.expected(server)
    if answer is None or pending is None:
        raise TpmRefusedError(f"{server}: its TPM is proven by the answer to a challenge")
    if answer.request_sha256 != pending.request_sha256 or pending.request_sha256 != request_sha256(request):
        raise AttestationError("the answer is to the challenge of another request")
    if now_us - pending.made_us > ANSWER_US_MAX:
        raise AttestationError("the challenge is too old")
    attestation.check_answer(pending.credential, answer.credential)
    quote = answer.quote
    attestation.check_quote(claim.attestation_public, quote.attested, quote.signature, pending.nonce, quote.values)
    check_keys(claim, requests, claim.attestation_public)
    holder = tpms.holder_of(claim.endorsement_public)
    if holder not in (None, server):
        raise TpmRefusedError(f"the TPM is that of {holder}", kind="attestation.other_tpm")
    return Tpm(claim.endorsement_public, claim.attestation_public, dict(quote.values), now_us)


def settle(registry: Registry, server: str, tpm: Tpm | None) -> None:
    """Remembers what was proven, inside the approval's transaction; the challenge is used up."""
    tpms = TpmRegistry(registry)
    tpms.forget_challenge(server)
    if tpm is None:
        tpms.forget(server)
    else:
        tpms.remember(server, tpm)


def check_renewal(registry: Registry, server: str, claim: TpmClaim | None, requests: Mapping[str, bytes]) -> None:
    """New keys of a box that was enrolled with a TPM live in that TPM. Raises AttestationError, TpmRefusedError."""
    known = TpmRegistry(registry).of(server)
    if known is None:
        return
    if claim is None:
        raise TpmRefusedError(f"{server} was enrolled with a TPM", kind="attestation.no_tpm")
    check_keys(claim, requests, known.attestation_public)


def check_keys(claim: TpmClaim, requests: Mapping[str, bytes], attestation_public: bytes) -> None:
    """Every requested key is certified to live beside the attestation key, for this very request. Raises AttestationError."""
    for label, der in requests.items():
        said = claim.keys.get(label)
        if said is None:
            raise AttestationError(f"{label}: the TPM does not vouch for it")
        qualifying = hashlib.sha256(der).digest()
        inside = attestation.check_certified(attestation_public, said.public, said.attested, said.signature, qualifying)
        if inside != _public_key_of(der):
            raise AttestationError(f"{label}: the TPM vouches for another key")


def check_posture(tpm: Tpm, nonce: bytes, quote: QuoteClaim) -> dict[int, bytes]:
    """The PCRs that differ from those of the enrolment. Raises AttestationError where the quote is not the box's, or not for this nonce."""
    attestation.check_quote(tpm.attestation_public, quote.attested, quote.signature, nonce, quote.values)
    return {number: value for number, value in quote.values.items() if tpm.values.get(number) != value}


def _public_key_of(der: bytes) -> bytes:
    try:
        return x509.load_der_x509_csr(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except ValueError as error:
        raise AttestationError(f"not a certificate request: {error}") from None
