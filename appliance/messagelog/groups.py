"""What one sync makes durable: drafts become numbered, linked records.

Pure. A group is planned (numbers, signatures stored once, what there is no room for), and only then encoded for the segment that takes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from appliance.errors import UnavailableError, XacbeError
from appliance.messagelog import record
from appliance.messagelog.record import (
    FIRST_OF_GROUP,
    KINDS,
    AuditEntry,
    Entry,
    MessageEntry,
    Position,
    SignatureEntry,
)

RECORD_OVERHEAD_BYTES = record.HEAD.size + record.DIGEST_BYTES + record.CRC_BYTES

SignatureKey = tuple[bytes, bytes | None]
"""Digest of the signature document, and the chain result it came with."""


class LogFullError(UnavailableError):
    """The disk has no room for a message: refused before anything is written (T46)."""

    kind = "log.full"


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature to be stored once for all messages of its batch."""

    entry: SignatureEntry
    chain_result: bytes | None
    content: bytes
    """`record.SignatureContent`, encrypted."""


@dataclass(slots=True)
class Draft:
    """A record to be. Of a message: `signature` is stored before it unless it is known, `body` is its unnamed file."""

    entry: Entry
    signature: Signature | None = None
    body: int | None = None
    content: bytes = b""
    """`record.MessageContent`, encrypted (`sealing`): nothing that was said reaches a segment otherwise."""
    essential: bool = False
    """May use all of the reserve: stamps, outages, unconfirmed records, start and end. Few by their nature."""
    audit: bool = False
    """May use the audit records' part of the reserve: others cause these, as many as they like."""


@dataclass(slots=True)
class Written:
    """A record with its number, and, once it is durable, where it lies."""

    kind: int
    sequence: int
    at_us: int
    entry: Entry
    segment: int = 0
    offset: int = 0
    size: int = 0
    link: bytes = record.NO_LINK


@dataclass(slots=True)
class Group:
    """What one sync made durable. `results`: one for each draft, in order; `written`: these and the signatures stored for them."""

    results: list[Written | XacbeError]
    written: list[Written] = field(default_factory=list)
    position: Position = field(default_factory=Position)
    """The chain's end with this group; sequence 0 where nothing was written."""


@dataclass(frozen=True, slots=True)
class Room:
    """Bytes that messages and audit records may use. Essential records have whatever there is."""

    messages: int
    audit: int


@dataclass(slots=True)
class Plan:
    """A group that is numbered but not written. `position` is the chain's end before it."""

    position: Position
    at_us: int
    group: Group = field(default_factory=lambda: Group([]))
    payloads: list[tuple[bytes, bytes]] = field(default_factory=list)
    """(payload, content) of each record."""
    bodies: list[tuple[int, int]] = field(default_factory=list)
    """(unnamed file, sequence) of each body that gets its name."""
    signatures: dict[SignatureKey, int] = field(default_factory=dict)
    size: int = 0

    def _number(self, entry: Entry, content: bytes) -> Written:
        written = Written(KINDS[type(entry)], self.position.sequence + len(self.payloads) + 1, self.at_us, entry)
        payload = record.encode_entry(entry)
        self.payloads.append((payload, content))
        self.group.written.append(written)
        self.size += len(payload) + len(content) + RECORD_OVERHEAD_BYTES
        return written

    def add(self, draft: Draft, known: Mapping[SignatureKey, int], room: Room) -> None:
        """Numbers one draft, unless there is no room for its kind."""
        entry = draft.entry
        if not draft.essential and self.size + _estimate(draft) > (room.audit if draft.audit else room.messages):
            kept_for = "stamps and outages" if draft.audit else "the audit log, stamps and outages"
            self.group.results.append(LogFullError(f"no room; what is kept free is for {kept_for}"))
            return
        if isinstance(entry, MessageEntry) and draft.signature is not None:
            entry.signature = self._signature(draft.signature, known)
        written = self._number(entry, draft.content)
        if draft.body is not None:
            self.bodies.append((draft.body, written.sequence))
        self.group.results.append(written)

    def _signature(self, signature: Signature, known: Mapping[SignatureKey, int]) -> int:
        key = (signature.entry.digest, signature.chain_result)
        sequence = known.get(key) or self.signatures.get(key)
        if sequence is None:
            sequence = self._number(signature.entry, signature.content).sequence
            self.signatures[key] = sequence
        return sequence

    def encode(self, segment: int, mark: int, offset: int) -> tuple[bytes, Position]:
        """The group's bytes for this place in this segment, and the chain's end after it."""
        position = Position(self.position.sequence, self.position.link)
        pieces = []
        flags = FIRST_OF_GROUP
        for written, (payload, content) in zip(self.group.written, self.payloads, strict=True):
            piece = record.encode(position, mark, written.kind, flags, self.at_us, payload, content)
            written.segment, written.offset, written.size, written.link = segment, offset, len(piece), position.link
            offset += len(piece)
            pieces.append(piece)
            flags = 0
        return b"".join(pieces), position


def plan(drafts: Sequence[Draft], position: Position, at_us: int, known: Mapping[SignatureKey, int], room: Room) -> Plan:
    """Numbers the drafts in order, as far as there is room for them."""
    planned = Plan(position, at_us)
    for draft in drafts:
        planned.add(draft, known, room)
    return planned


def _estimate(draft: Draft) -> int:
    """At least what a message takes, its signature included whether or not it is known."""
    entry, signature = draft.entry, draft.signature
    size = 2 * RECORD_OVERHEAD_BYTES + 1024 + len(draft.content)
    if isinstance(entry, AuditEntry):
        size += len(record.encode_entry(entry))
    if signature is not None:
        size += len(signature.content)
    return size
