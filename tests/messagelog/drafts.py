"""Records for the log's tests."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable

from appliance.messagelog.groups import Draft, Signature
from appliance.messagelog.record import AuditEntry, MessageContent, MessageEntry, SignatureContent, SignatureEntry
from appliance.messagelog.sealing import GROUPS_MAX, Epoch, Names, tag

HOUR_US = 3_600_000_000
EPOCH = Epoch(1, os.urandom(64))
GROUP = EPOCH.unwrapped(GROUPS_MAX, EPOCH.wrapped(GROUPS_MAX, "QROO-TEST/GOB/2/provider", os.urandom(32)))
TAGS = os.urandom(32)
NOW_US = 1_750_000_000_000_000


class StillClock:
    """A clock that moves only when told."""

    def __init__(self, now_us: int = NOW_US) -> None:
        self.us, self.s = now_us, 1000.0

    def now_us(self) -> int:
        return self.us

    def monotonic_s(self) -> float:
        return self.s

    def pass_s(self, seconds: float) -> None:
        self.us += int(seconds * 1_000_000)
        self.s += seconds


class WalkingClock(StillClock):
    """Wall time moves only when told; waits end as in life."""

    def __init__(self, now_us: int = NOW_US) -> None:
        super().__init__(now_us)
        self._begun_s = time.monotonic()

    def monotonic_s(self) -> float:
        return self.s + time.monotonic() - self._begun_s


def signature(name: str, size: int = 900) -> Signature:
    document = (f"<signature of {name}>" * size)[:size].encode()
    result = f"<result {name}/>".encode()
    digest = hashlib.sha512(document).digest()
    entry = SignatureEntry(digest, NOW_US, NOW_US, EPOCH.number)
    return Signature(entry, result, EPOCH.seal_signature(SignatureContent(document, result), digest))


def message(query_id: str, batch: Signature | None = None, *, body: int | None = None, size: int = 300, received: bool = True) -> Draft:
    text = (f"message {query_id} " * size)[:size].encode()
    entry = MessageEntry(
        side="provider",
        direction="request",
        received=received,
        stamp_first=received,
        query_tag=tag(TAGS, b"query", query_id),
        represented_tag=None,
        names=EPOCH.seal_names(Names(query_id, "r" + query_id, None)),
        client="QROO-TEST/GOB/1/client",
        service="QROO-TEST/GOB/2/provider/list",
        signature=0,
        key=GROUP.number,
        message_bytes=len(text),
        body_file=body is not None,
        body_bytes=0,
        body_digest=None,
        ocsp_produced_at_us=NOW_US,
        ends_us=NOW_US + 8 * HOUR_US,
        replay_key=hashlib.sha512(text).digest() if received else None,
    )
    signed = batch or signature(query_id)
    return Draft(entry, signed, body, EPOCH.seal_message(GROUP, MessageContent(text, None, b"<chain/>"), signed.entry.digest))


def audit(event: str) -> Draft:
    return Draft(AuditEntry(event, "console", {"who": "operator"}), audit=True)


def salts() -> Callable[[], bytes]:
    return lambda: os.urandom(16)
