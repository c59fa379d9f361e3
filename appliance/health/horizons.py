"""How long the box could still exchange if each service fell silent now: lawful autonomy, soonest first.

Pure. Each line names the rule that would be broken by going on, so that a stop is never a mystery: II.2.II (a valid global configuration),
IV.3.V (eight hours between OCSP response and stamp), IV.3.VI (nothing unconfirmed is processed, but for the grace that CEIQROO signed),
IV.3.II (approved certificates), I.4.XV (every message is kept), II.2.XI (approved software, two months after its release).
"""

from __future__ import annotations

from collections.abc import Sequence

from appliance.messagelog.wire import LogStatus
from appliance.supervision.trust_facts import sealing_ends_at_us
from appliance.supervision.wire import Horizon
from appliance.trust.wire import TrustStatus

CONFIGURATION, OCSP, TSA, CERTIFICATES, DISK, UPDATE = "configuration", "ocsp", "tsa", "certificates", "disk", "update"
RULES = {CONFIGURATION: "II.2.II", OCSP: "IV.3.V", TSA: "IV.3.VI", CERTIFICATES: "IV.3.II", DISK: "I.4.XV", UPDATE: "II.2.XI"}
"""In the order in which equal ends are shown."""
UNBOUNDED = frozenset({DISK, UPDATE})
"""Where no end is known there is none: a disk that does not fill, no update announced. Of the others it means that there is no proof."""


def horizons(
    now_us: int, trust: TrustStatus | None, log: LogStatus | None, silent: Sequence[str] = (), update_due_us: int | None = None
) -> list[Horizon]:
    """One line a service, the soonest end first, those without an end last."""
    ends = {
        CONFIGURATION: None if trust is None else trust.expires_us,
        OCSP: sealing_ends_at_us(trust),
        TSA: _stamps_end_us(trust, log),
        CERTIFICATES: None if trust is None else trust.certificates_end_us,
        DISK: None if log is None else now_us if log.state == "full" else log.full_us,
        UPDATE: update_due_us,
    }
    found = [Horizon(service, rule, ends[service], service in silent) for service, rule in RULES.items()]
    return sorted(found, key=lambda one: (one.ends_us is None, one.ends_us or 0))


def _stamps_end_us(trust: TrustStatus | None, log: LogStatus | None) -> int | None:
    """The grace, or less: a message that is delivered without its stamp must still get one beside the OCSP response at hand."""
    if log is None or log.grace_ends_us is None:
        return None
    sealing_us = sealing_ends_at_us(trust)
    return log.grace_ends_us if sealing_us is None else min(log.grace_ends_us, sealing_us)


def soonest(found: Sequence[Horizon]) -> Horizon | None:
    """The line that ends first; None where nothing has an end."""
    return found[0] if found and found[0].ends_us is not None else None


def has_ended(one: Horizon, now_us: int, *, silent_only: bool = True) -> bool:
    """Whether it forbids exchanges now. The grace for stamps counts only while every authority is silent: until then stamps come."""
    if one.ends_us is None:
        return one.service not in UNBOUNDED
    if one.service == TSA and silent_only and not one.silent:
        return False
    return one.ends_us <= now_us
