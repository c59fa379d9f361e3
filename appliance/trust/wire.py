"""What the other processes say to the trust agent.

Pure. Operations: `view`, `own_evidence` (both wait for news), `stamp`, `trust_status`, `install_anchor` (callers: `appliance.topology`).
"""

from __future__ import annotations

import msgspec

from appliance.trust.signed_time import NOTHING_SIGNED, SignedTime


class News(msgspec.Struct, array_like=True):
    """Asks for the state after `known`: answered at once when there is a newer one, else when it comes or after `wait_s`."""

    known: int
    wait_s: float = 10.0


class View(msgspec.Struct, array_like=True):
    """`view`: the global configuration in force. The files lie in `<state>/trust/configuration/` in X-Road's local layout (sheet 6.4).

    `generation` changes only when content changed; `expires_us` moves with every fetch. Generation 0: none yet.
    """

    generation: int
    instance: str
    expires_us: int
    fetched_us: int
    foreign_expires_us: dict[str, int] = {}
    """Of the instances that ours federates with."""
    signed: SignedTime = NOTHING_SIGNED
    """What time it is, as it was signed."""


class Evidence(msgspec.Struct, array_like=True):
    """The newest good OCSP response for one of our own certificates, or for an intermediate CA."""

    certificate_sha256: bytes
    certificate_sha1: bytes
    response: bytes
    produced_at_us: int
    this_update_us: int
    next_update_us: int | None


class OwnEvidence(msgspec.Struct, array_like=True):
    """`own_evidence`: for every own certificate that has a good response, fresh or not: freshness is the asker's check."""

    generation: int
    evidence: list[Evidence]
    signed: SignedTime = NOTHING_SIGNED
    """What time it is, as it was signed."""


class StampRequest(msgspec.Struct, array_like=True):
    """`stamp`: SHA-512 imprint of what is stamped."""

    imprint: bytes


class StampReply(msgspec.Struct, array_like=True):
    """A verified RFC 3161 token (DER ContentInfo, with the authority's certificate inside)."""

    token: bytes
    gen_time_us: int
    accuracy_us: int
    authority: str


class AnchorInstall(msgspec.Struct, array_like=True):
    """`install_anchor`: the anchor's XML, given by a person at enrolment."""

    anchor: bytes


class ServiceHealth(msgspec.Struct, array_like=True):
    """One trust service as last seen. `ok_us`: last success; `failed_us`: last failure; `error`: its kind."""

    name: str
    url: str
    ok_us: int | None
    failed_us: int | None
    error: str


class Registered(msgspec.Struct, array_like=True):
    """A TLS certificate that the configuration names for this box, and for how many seconds it has: since the agent started at most."""

    certificate_sha256: bytes
    for_s: float


class TrustStatus(msgspec.Struct, array_like=True):
    generation: int
    expires_us: int | None
    services: list[ServiceHealth]
    evidence: list[Evidence]
    certificates_end_us: int | None = None
    """When the first certificate runs out that the box cannot do without: of its own keys (the latest of each), their issuers, the last
    time-stamping authority."""
    standing: str = ""
    """What the global configuration says of this box: `registered`, `suspended`, `terminated`, `absent`; empty: there is none yet."""
    registered: list[Registered] = []
    """For peers that fetch as often as this box does: after that long they know the certificate as well."""
