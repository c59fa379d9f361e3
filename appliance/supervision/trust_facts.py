"""What the trust agent's status means for the state of the box.

Pure. Rules IV.3.V (eight hours) and the autonomy that follows from it.
"""

from __future__ import annotations

import re

from appliance.trust import autonomy
from appliance.trust.wire import ServiceHealth, TrustStatus

SILENT_AFTER_US = 90 * 1_000_000
"""A failure this long after the last success: one missed fetch of the configuration (every 60 s) is not silence yet."""
EVIDENCE_OLD_US = 3600 * 1_000_000
"""Responses are renewed every 48 minutes at the latest: older ones mean that a responder answers, but not with a response that holds."""
FRESHNESS_S = autonomy.EVIDENCE_GAP_MAX_US // 1_000_000
_KIND = re.compile(r"[A-Za-z_]*")
_UNREACHED = "fetch."
_FOREIGN = "configuration "
"""Begins the name of another instance's configuration: its silence is not ours."""


def sealing_ends_at_us(trust: TrustStatus | None) -> int | None:
    """Until when seals can be made with the evidence at hand: the first response that runs out ends it. None: there is none."""
    if trust is None or not trust.evidence:
        return None
    return min(
        autonomy.sealing_ends_at_us(one.produced_at_us, one.this_update_us, one.next_update_us, FRESHNESS_S) for one in trust.evidence
    )


def silent_services(trust: TrustStatus | None, now_us: int) -> tuple[str, ...]:
    """The kinds of trust service (first word of the name: configuration, ocsp, tsa) of which no address answers any more."""
    if trust is None:
        return ()
    kinds: dict[str, list[ServiceHealth]] = {}
    for service in trust.services:
        if not service.name.startswith(_FOREIGN):
            kinds.setdefault(_kind(service.name), []).append(service)
    silent = {kind for kind, services in kinds.items() if all(map(_is_silent, services))}
    if any(now_us - one.produced_at_us > EVIDENCE_OLD_US for one in trust.evidence):
        silent.add("ocsp")
    return tuple(sorted(silent))


def _kind(name: str) -> str:
    found = _KIND.match(name)
    return found.group() if found is not None else ""


def _is_silent(service: ServiceHealth) -> bool:
    # An answer that does not hold for one certificate is told as an error; it is not the silence of the service.
    if service.failed_us is None or not service.error.startswith(_UNREACHED):
        return False
    return service.ok_us is None or service.failed_us - service.ok_us > SILENT_AFTER_US
