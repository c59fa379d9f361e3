"""Two boxes' logs side by side: every message that one box had from the other must stand in the other's log as well (T29).

Reads files only, no key: what is compared is in clear and under the links. A message is the same in both logs where the digest of its
signature document, its direction, its parties, its sizes and its body's digest are the same; what retention erased is compared too. Of
messages under one signature that are alike in all of these the last ones are named.

Certain: a message that this box received, or whose answer it received, and that the other's log does not have was taken out there. A
message that was sent and never answered may as well not have arrived: it is listed apart. `inspection` says whether each log is whole in
itself. Memory: some 150 bytes for each message of the other log.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.messagelog import record
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.record import MessageEntry, SignatureEntry, group_of
from appliance.messagelog.recovery import ChainCheck
from appliance.messagelog.segments import SEGMENTS, segment_path

KEY_BYTES = 16
LISTED_MAX = 1000
"""Messages that are named; all are counted."""
_SHORT = 8
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Gap:
    """A message of one log that the other does not have. `sequence`: in the log that has it."""

    sequence: int
    at_us: int
    direction: str
    client: str
    service: str


@dataclass(slots=True)
class Gaps:
    """What a log has and the other lacks."""

    missing: list[Gap] = field(default_factory=list)
    """Taken out of the other log: it had them."""
    unreceived: list[Gap] = field(default_factory=list)
    """Sent, and never known to have arrived."""
    missing_count: int = 0
    unreceived_count: int = 0
    compared: int = 0
    """Messages between subsystems of the two."""


@dataclass(frozen=True, slots=True)
class _Message:
    sequence: int
    at_us: int
    entry: MessageEntry
    key: bytes


class _Signatures:
    """The beginning of each signature document's digest, by sequence: 16 bytes each."""

    def __init__(self) -> None:
        self._sequences, self._digests = array("Q"), array("Q")

    def put(self, sequence: int, digest: bytes) -> None:
        self._sequences.append(sequence)
        self._digests.append(int.from_bytes(digest[:_SHORT], "big"))

    def get(self, sequence: int) -> int:
        at = bisect_left(self._sequences, sequence)
        found = at < len(self._sequences) and self._sequences[at] == sequence
        return self._digests[at] if found else 0


class OneLog:
    """A log as far as this comparison needs it."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root, self._progress = root, progress

    def messages(self) -> Iterator[_Message]:
        """Every message, in order. Raises BrokenLinkError, OSError."""
        disk, signatures, found = OsDisk(self._root), _Signatures(), list[_Message]()
        firsts = sorted(int(name[:-4]) for name in disk.names(SEGMENTS) if name.endswith(".log") and name[:-4].isdecimal())

        def visit(one: record.Record) -> None:
            if one.kind not in (record.MESSAGE, record.SIGNATURE):
                return
            entry = record.decode_entry(one.kind, one.payload)
            if isinstance(entry, SignatureEntry):
                signatures.put(one.sequence, entry.digest)
            elif isinstance(entry, MessageEntry):
                found.append(_Message(one.sequence, one.at_us, entry, _key(entry, signatures.get(entry.signature))))

        check = ChainCheck(visit=visit)
        for number, first in enumerate(firsts, start=1):
            check.check(first, disk.view(segment_path(first)), last=first == firsts[-1])
            yield from found
            found.clear()
            self._progress(number, len(firsts))

    def known(self) -> tuple[Counter[bytes], set[str]]:
        """(every message's key with how often, our subsystems in it)."""
        keys, subsystems = Counter[bytes](), set[str]()
        for one in self.messages():
            keys[one.key] += 1
            subsystems.add(_own(one.entry))
        return keys, subsystems


def compare(ours: Path, theirs: Path, progress: Progress = lambda done, total: None) -> tuple[Gaps, Gaps]:
    """(what the first log has and the second lacks, the other way round). Raises BrokenLinkError, OSError, and what is UNREADABLE."""
    first, second = OneLog(ours, progress), OneLog(theirs, progress)
    first_known, second_known = first.known(), second.known()
    return _gaps(first, *second_known), _gaps(second, *first_known)


def _gaps(log: OneLog, known: Counter[bytes], subsystems: set[str]) -> Gaps:
    """`known`, `subsystems`: of the other log."""
    gaps = Gaps()
    waiting: dict[bytes, list[Gap]] = {}
    """Requests that the other lacks, by the id's keyed digest: an answer proves that they had arrived. As few as there are gaps."""
    for one in log.messages():
        entry = one.entry
        if _other(entry) not in subsystems:
            continue
        gaps.compared += 1
        if known[one.key] > 0:
            known[one.key] -= 1
            is_missing = False
        else:
            is_missing = True
        gap = Gap(one.sequence, one.at_us, entry.direction, entry.client, entry.service)
        if entry.received:
            for request in waiting.pop(entry.query_tag, []):
                _list(gaps, request)
            if is_missing:
                _list(gaps, gap)
        elif is_missing:
            waiting.setdefault(entry.query_tag, []).append(gap)
    for each in waiting.values():
        gaps.unreceived_count += len(each)
        gaps.unreceived += each[: LISTED_MAX - len(gaps.unreceived)]
    gaps.missing.sort(key=lambda one: one.sequence)
    return gaps


def _list(gaps: Gaps, gap: Gap) -> None:
    gaps.missing_count += 1
    if len(gaps.missing) < LISTED_MAX:
        gaps.missing.append(gap)


def _key(entry: MessageEntry, signature: int) -> bytes:
    """The same in both logs, for one message: 128 bits, so that no two of a million share one."""
    facts = (
        signature,
        entry.direction,
        entry.client,
        entry.service,
        entry.message_bytes,
        entry.body_bytes,
        entry.body_digest,
        entry.attachment_bytes,
    )
    return hashlib.blake2b(msgspec.msgpack.encode(facts), digest_size=KEY_BYTES).digest()


def _own(entry: MessageEntry) -> str:
    return group_of(entry.side, entry.client, entry.service)


def _other(entry: MessageEntry) -> str:
    return group_of("client" if entry.side == "provider" else "provider", entry.client, entry.service)
