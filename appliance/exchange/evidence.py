"""May a peer's message be believed, and may it be delivered.

Pure. Rules IV.3.I (the sender is the signing certificate's member), IV.3.V and IV.3.VI: a message that came from a peer is delivered
only with its time stamp, or provisionally within the grace that CEIQROO signed; the recorder keeps that deadline.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from functools import lru_cache

from appliance.clock import to_us
from appliance.errors import UnverifiedError
from appliance.exchange.ports import Sealed
from appliance.messagelog.wire import Appended, Seal
from appliance.model.identifiers import ClientId
from appliance.seal.verify import MessageParts, verify_message
from appliance.trust.autonomy import EVIDENCE_GAP_MAX_US, check_evidence_gap
from appliance.trust.global_configuration import SharedParameters


class NotStampedError(UnverifiedError):
    """A received message has neither a time stamp nor a grace to wait for one: it must not be processed."""

    kind = "seal.not_stamped"


class SealTooOldError(UnverifiedError):
    """The time at which the sender claims to have sealed is unreadable, or more than eight hours from now."""

    kind = "seal.too_old"


def verified(sealed: Sealed, head_digest: bytes, sender: ClientId, shared: SharedParameters, at_us: int) -> Sealed:
    """The message with the times of its own OCSP response and its replay key, after its seal was found to be the sender's and to
    cover every part.

    Raises UnverifiedError leaves (seal.*, chain.*, ocsp.*).
    """
    attachments = sealed.body.digests if sealed.body else ()
    seal = sealed.seal
    facts = verify_message(MessageParts(head_digest, attachments), seal.signature, seal.chain_result, seal.chain, sender, shared, at_us)
    timed = Seal(seal.signature, seal.chain_result, seal.chain, facts.ocsp.produced_at_us, facts.ocsp.this_update_us)
    # Only signed bytes go into the key: OCSP response, certificate values and layout of the document can be exchanged by anybody.
    replay_key = hashlib.sha512(facts.signed_digest + head_digest).digest()
    return Sealed(sealed.head, sealed.body, timed, replay_key, _signed_at_us(facts.signing_time, at_us), sealed.soap)


def _signed_at_us(signing_time: str, at_us: int) -> int:
    """The guard against replay remembers a seal for eight hours from its signed time: an older one must not come in."""
    signed_at_us = _read_us(signing_time)
    if abs(at_us - signed_at_us) > EVIDENCE_GAP_MAX_US:
        raise SealTooOldError(f"sealed {abs(at_us - signed_at_us) // 60_000_000} minutes from now")
    return signed_at_us


@lru_cache(maxsize=64)  # one for each batch
def _read_us(signing_time: str) -> int:
    try:
        moment = datetime.fromisoformat(signing_time)
        return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise SealTooOldError("the signing time cannot be read") from None


def check_delivery(seal: Seal, appended: Appended) -> None:
    """Raises EvidenceGapError or NotStampedError; returns where the message may reach an information system."""
    if appended.stamped_at_us is not None:
        check_evidence_gap(seal.ocsp_produced_at_us, seal.ocsp_this_update_us, appended.stamped_at_us, appended.accuracy_us)
    elif appended.provisional_until_us is None:
        raise NotStampedError("neither stamped nor within a grace")
