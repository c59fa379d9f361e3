"""Is this message sealed: by its sender, whole, with a certificate that is good now.

Pure. Sheet 4.7, and stricter where X-Road has a gap: the signature, directly or through the hash chain, must cover /message.xml and every
attachment with digests that we computed ourselves. Steps:

0. the signature document is read (one Signature, unique Ids, no DTD);
1. its certificate is for signing and names the sender's member;
2. the value is of SignedInfo under that certificate's key, the signed properties are the signed ones;
3. the certificate was issued by an approved CA and is valid now;
4. its OCSP response, carried in the signature, is good and fresh now;
5. the hash chain result is the signed one and this message's chain leads to it;
6. every part that came is covered, and nothing is covered that did not come.

Left to the caller: replay, access rights, the time stamp and the eight-hour rule (the recorder's answer).

Messages of one batch share one signature: steps 0 to 4 are done once for each distinct document, steps 5 and 6 for each message. Of a new
document by a known signer (same certificate, same confirmation, same global configuration) only steps 0 and 2 are done.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509

from appliance.clock import to_us
from appliance.errors import UnverifiedError
from appliance.model.identifiers import ClientId
from appliance.seal.chain_check import ChainResult, check_chain_parts, parse_result
from appliance.seal.container_check import Configuration, verify_container
from appliance.seal.evidence import check_certificate_path, check_member, check_status, signing_certificate
from appliance.seal.hash_chain import CHAIN_RESULT, MESSAGE, SHA512, Ways, sha512
from appliance.seal.report import Attachment, Report, Step
from appliance.seal.signature import Signature, SignatureMalformedError, WrongDigestError, check_value
from appliance.seal.xades import read_strictly
from appliance.trust.global_configuration import SharedParameters
from appliance.trust.ocsp import OcspFacts

__all__ = [
    "Attachment",
    "Configuration",
    "MessageParts",
    "Report",
    "SealFacts",
    "SignatureCache",
    "Step",
    "verify_container",
    "verify_message",
]


SIGNATURES_KEPT_MAX = 256
"""Messages of one batch arrive within seconds of each other; 256 documents of 10 KB are 3 MB."""


_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


class ChainMissingError(UnverifiedError):
    """The signature covers a hash chain result that did not come."""

    kind = "seal.chain_missing"


class ReferenceMissingError(UnverifiedError):
    """The signature covers a part that did not come."""

    kind = "seal.reference_missing"


class UncoveredPartError(UnverifiedError):
    """A part came that the signature does not cover: nobody vouches for it (X-Road lets this pass)."""

    kind = "seal.uncovered_part"


@dataclass(frozen=True, slots=True)
class MessageParts:
    """SHA-512 digests, computed by us: of /message.xml and of the attachments in order (a REST body is attachment 1, even empty)."""

    message: bytes
    attachments: Sequence[bytes] = ()

    def named(self) -> dict[str, bytes]:
        """File name -> digest, as references name the parts."""
        return {MESSAGE: self.message, **{f"/attachment{at}": digest for at, digest in enumerate(self.attachments, 1)}}


@dataclass(frozen=True, slots=True)
class SealFacts:
    """What a verified seal proves."""

    certificate: x509.Certificate
    member: ClientId
    ocsp: OcspFacts
    signature_digest: bytes
    """SHA-512 of the signature document: where it is kept. The document has bytes that nobody signed."""
    signed_digest: bytes
    """SHA-512 of the canonical SignedInfo: what cannot be changed, so what tells a replayed seal."""
    signing_time: str
    """As the signer claims it; signed as well."""


@dataclass(frozen=True, slots=True)
class _Signer:
    """Steps 1, 3 and 4 for one certificate with its confirmations, for one member under one global configuration."""

    certificate: x509.Certificate
    member: ClientId
    ocsp: OcspFacts
    shared: SharedParameters
    from_us: int
    until_us: int

    def holds(self, sender: ClientId, shared: SharedParameters, at_us: int) -> bool:
        """Whether everything that it depends on is still the same."""
        return self.shared is shared and self.from_us <= at_us <= self.until_us and self.member == sender.member


@dataclass(slots=True)
class _Verified:
    """One signature document, steps 0 to 4 done."""

    signature: Signature
    signer: _Signer
    facts: SealFacts
    chain_result: tuple[bytes, ChainResult, Ways] | None = None


class SignatureCache:
    """What held, most recently used last: signature documents, and certificates with their confirmations, which a member uses for hours.

    Only what was verified enters: a flood of bad signatures empties nothing.
    """

    def __init__(self, entries_max: int = SIGNATURES_KEPT_MAX) -> None:
        self._documents: OrderedDict[bytes, _Verified] = OrderedDict()
        self._signers: OrderedDict[tuple[bytes, tuple[bytes, ...]], _Signer] = OrderedDict()
        self._entries_max = entries_max
        self._last: tuple[bytes, _Verified] | None = None
        """The batch that is just coming in: comparing bytes costs a twentieth of hashing them for the dictionary."""

    def verified(self, document: bytes, sender: ClientId, shared: SharedParameters, at_us: int) -> _Verified:
        """The document, verified now or before. Raises a leaf of UnverifiedError."""
        if self._last is not None and self._last[0] == document and self._last[1].signer.holds(sender, shared, at_us):
            return self._last[1]
        entry = self._documents.get(document)  # by its bytes: Python's keyed hash of them costs a fifth of SHA-512
        if entry is None or not entry.signer.holds(sender, shared, at_us):
            entry = self._verify(document, sender, shared, at_us)
        _keep(self._documents, document, entry, self._entries_max)
        self._last = document, entry
        return entry

    def _verify(self, document: bytes, sender: ClientId, shared: SharedParameters, at_us: int) -> _Verified:
        signature = read_strictly(document)  # (0)
        if MESSAGE not in signature.references and CHAIN_RESULT not in signature.references:
            raise SignatureMalformedError("the signature covers neither the message nor a hash chain result")
        key = (signature.certificate, signature.ocsp_responses)
        signer = self._signers.get(key)
        if signer is None or not signer.holds(sender, shared, at_us):
            signer = _check_signer(signature, sender, shared, at_us)  # (1) (3) (4)
        check_value(signature, signer.certificate)  # (2)
        _keep(self._signers, key, signer, self._entries_max)
        signed = sha512(signature.signed_info)
        facts = SealFacts(signer.certificate, signer.member, signer.ocsp, sha512(document), signed, signature.signing_time)
        return _Verified(signature, signer, facts)

    def __len__(self) -> int:
        return len(self._documents)


def _keep(entries: OrderedDict[_Key, _Entry], key: _Key, entry: _Entry, entries_max: int) -> None:
    entries[key] = entry
    entries.move_to_end(key)
    if len(entries) > entries_max:
        entries.popitem(last=False)


_CACHE = SignatureCache()


def verify_message(
    parts: MessageParts,
    signature: bytes,
    chain_result: bytes | None,
    chain: bytes | None,
    sender: ClientId,
    shared: SharedParameters,
    at_us: int,
    cache: SignatureCache = _CACHE,
) -> SealFacts:
    """Verifies the seal of a received message at this moment. Raises a leaf of UnverifiedError; its kind names the step.

    `shared`: the configuration of the sender's instance. A new object (the next global configuration) makes every signature be
    verified anew.
    """
    verified = cache.verified(signature, sender, shared, at_us)
    references = verified.signature.references
    inputs = parts.named()
    if CHAIN_RESULT in references:
        if chain_result is None or chain is None:
            raise ChainMissingError("the signature covers a hash chain that did not come")
        # (5) the result that was signed, then this message's way to it; every part must lie on it
        result, ways = _signed_result(verified, chain_result)
        check_chain_parts(result, chain, inputs, ways)
    elif uncovered := inputs.keys() - references.keys():
        # (6) closes X-Road's gap: a body beside a signature over the head alone
        raise UncoveredPartError(f"{sorted(uncovered)[0]} is not covered by the signature")
    _check_direct(references, inputs)
    return verified.facts


def _check_signer(signature: Signature, sender: ClientId, shared: SharedParameters, at_us: int) -> _Signer:
    certificate = signing_certificate(signature)
    member = check_member(certificate, sender, shared)
    issuer = check_certificate_path(certificate, shared, at_us)
    ocsp = check_status(signature, certificate, issuer, shared, at_us)
    ends = [to_us(certificate.not_valid_after_utc), ocsp.this_update_us + shared.ocsp_freshness_s * 1_000_000]
    if shared.checks_next_update and ocsp.next_update_us is not None:
        ends.append(ocsp.next_update_us)
    return _Signer(certificate, member, ocsp, shared, at_us, min(ends))


def _signed_result(verified: _Verified, chain_result: bytes) -> tuple[ChainResult, Ways]:
    """The parsed result, once its bytes are the signed ones; the same for all messages of a batch."""
    kept = verified.chain_result
    if kept is not None and kept[0] == chain_result:
        return kept[1:]
    expected = verified.signature.references[CHAIN_RESULT]
    if expected.algorithm != SHA512 or sha512(chain_result) != expected.value:
        raise WrongDigestError("the hash chain result is not the signed one")
    result = parse_result(chain_result)
    ways = Ways(result.digest.value)
    verified.chain_result = (chain_result, result, ways)
    return result, ways


def _check_direct(references: Mapping[str, object], inputs: Mapping[str, bytes]) -> None:
    for name, expected in references.items():
        if name == CHAIN_RESULT:
            continue
        if name not in inputs:
            raise ReferenceMissingError(f"the signature covers {name}, which did not come")
        if expected != (inputs[name], SHA512):
            raise WrongDigestError(f"{name} has another digest than the signed one")
