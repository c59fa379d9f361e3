"""What a verification says, step by step.

Pure. A report is a value: printed by `xacbe verify`, kept by the centre, compared by tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PASSED, FAILED, SKIPPED, UNDECIDED, NOT_REACHED = "passed", "failed", "skipped", "undecided", "not_reached"
VALID, INVALID, UNDECIDABLE = "valid", "invalid", "undecidable"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the checklist. `name` is stable; `reason` is our error kind; `facts` are short texts (times in ISO 8601)."""

    number: int
    name: str
    verdict: str
    reason: str | None = None
    xroad_code: str | None = None
    detail: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Attachment:
    """A part besides the message. Not stored: the signature names its digest, but the container does not hold it (unverified)."""

    name: str
    stored: bool
    verified: bool
    digest: str
    """SHA-512 (or whatever the signature uses) in hex; empty where the part was not reached."""


@dataclass(frozen=True, slots=True)
class Report:
    """`verdict`: valid when every step passed or was skipped; invalid when one failed; undecidable when only trust material is missing."""

    verdict: str
    reason: str | None
    xroad_code: str | None
    steps: tuple[Step, ...]
    attachments: tuple[Attachment, ...]
