"""Acts and refusals as linked records: who, what, when. Durable before the act's answer is given.

Pure. `caller` is the channel it came by (`appliance.topology`), never a claim in the request. Bounded, so that one of them cannot fill the
reserve that is kept for all of them.
"""

from __future__ import annotations

import re

from appliance.errors import PeerProtocolError
from appliance.messagelog.record import AuditEntry
from appliance.messagelog.wire import Audit

FACTS_MAX = 32
NAME_CHARACTERS_MAX = 64
FACT_CHARACTERS_MAX = 1024
"""An identifier has up to four parts of 255 characters; longer facts are cut, which shows as an ellipsis."""
_EVENT = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+")

READ, READ_REFUSED = "log.read", "log.read_refused"
UNCONFIRMED = "seal.unconfirmed"
KEY_USED = "key.used"
"""The signer's count of a key's uses."""
ROLLED_BACK = "log.rolled_back"
"""The TPM has counted further than the log's checkpoints tell: its end is missing."""
DAMAGED = "log.damaged"
"""A part of the log cannot be read, or is not what was written; the log goes on without it (`damage`)."""
MISSING = "archive.missing"
"""A message, or its body, that no archive can have because it cannot be read (`missing`)."""


class AuditMalformedError(PeerProtocolError):
    """Not an event with facts."""

    kind = "audit.malformed"


def entry_of(caller: str, audit: Audit) -> AuditEntry:
    """The record of what `caller` tells. Raises AuditMalformedError."""
    if len(audit.event) > NAME_CHARACTERS_MAX or not _EVENT.fullmatch(audit.event):
        raise AuditMalformedError("an event is a name in past tense with a dot")
    if len(audit.facts) > FACTS_MAX:
        raise AuditMalformedError(f"{len(audit.facts)} facts, at most {FACTS_MAX}")
    return AuditEntry(audit.event, caller, {cut(name, NAME_CHARACTERS_MAX): cut(fact) for name, fact in audit.facts.items()})


def cut(text: str, characters_max: int = FACT_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "…"
