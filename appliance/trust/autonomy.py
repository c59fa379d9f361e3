"""The eight-hour rule, and how long we can still seal when CEIQROO falls silent.

Pure. Rule IV.3.V: the two proofs of a seal, OCSP response and time stamp, lie at most eight hours apart. Integer microseconds throughout;
the confirmation's time is `producedAt`, `thisUpdate` may not lie further away either, and the accuracy that a stamp states counts against
the seal. The boundary itself is valid: the protocol says "at most".
"""

from __future__ import annotations

from appliance.errors import UnverifiedError

EVIDENCE_GAP_MAX_US = 8 * 3600 * 1_000_000
"""Largest distance between the OCSP response and the time stamp of one seal (IV.3.V)."""

CREATION_MARGIN_US = 10 * 60 * 1_000_000
"""How much earlier we stop making seals: time for the stamp to come, and for clocks that differ (REQUIREMENTS, IV.3.V)."""


class EvidenceGapError(UnverifiedError):
    """The OCSP response and the time stamp of a seal are too far apart."""

    kind = "seal.evidence_gap"

    def __init__(self, gap_us: int, limit_us: int = EVIDENCE_GAP_MAX_US) -> None:
        super().__init__(f"OCSP response and time stamp are {gap_us / 1e6:.6f} s apart, at most {limit_us / 1e6:.0f} s")
        self.gap_us = gap_us


def evidence_gap_us(produced_at_us: int, this_update_us: int, stamped_at_us: int, accuracy_us: int) -> int:
    """The distance that counts: to the further of the two OCSP times, plus the stamp's stated accuracy."""
    return max(abs(stamped_at_us - produced_at_us), abs(stamped_at_us - this_update_us)) + abs(accuracy_us)


def check_evidence_gap(produced_at_us: int, this_update_us: int, stamped_at_us: int, accuracy_us: int) -> None:
    """Raises EvidenceGapError when the two proofs of one seal are more than eight hours apart."""
    gap = evidence_gap_us(produced_at_us, this_update_us, stamped_at_us, accuracy_us)
    if gap > EVIDENCE_GAP_MAX_US:
        raise EvidenceGapError(gap)


def check_creation_gap(produced_at_us: int, this_update_us: int, now_us: int) -> None:
    """Our own, stricter limit before a seal is made: raises EvidenceGapError from eight hours less the margin on."""
    limit = EVIDENCE_GAP_MAX_US - CREATION_MARGIN_US
    gap = evidence_gap_us(produced_at_us, this_update_us, now_us, 0)
    if gap > limit:
        raise EvidenceGapError(gap, limit)


def sealing_ends_at_us(produced_at_us: int, this_update_us: int, next_update_us: int | None, freshness_s: int) -> int:
    """The last moment at which we would still make a seal with this OCSP response.

    The earliest of: eight hours less the margin after the older of its two times; the instance's freshness after `thisUpdate`; its
    `nextUpdate`. The validity of the global configuration is a limit of its own: the caller takes the smaller one.
    """
    ends = [
        min(produced_at_us, this_update_us) + EVIDENCE_GAP_MAX_US - CREATION_MARGIN_US,
        this_update_us + freshness_s * 1_000_000,
    ]
    if next_update_us is not None:
        ends.append(next_update_us)
    return min(ends)
