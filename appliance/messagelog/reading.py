"""Reads records back whole: everything that a container needs, as it was logged."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from appliance.errors import CorruptStateError
from appliance.messagelog import record
from appliance.messagelog.index import Index, Row
from appliance.messagelog.record import AuditEntry, CheckpointEntry, Entry, MessageEntry, SignatureEntry, StampEntry
from appliance.messagelog.sealing import Epoch, GroupKey, open_message
from appliance.messagelog.segments import SegmentUnreadableError, UnknownRecordError
from appliance.messagelog.store import Store
from appliance.messagelog.wire import AuditRecord, RecordContent, RecordSummary, Seal
from appliance.seal.hash_chain import SIGNATURES, STAMP_CHAIN, Batch

Kind = TypeVar("Kind", bound=Entry)

AUDITS_MAX = 1000
AUDIT_SEGMENTS_MAX = 4
"""256 MB to walk through at most: about a second."""


class StampMismatchError(CorruptStateError):
    """A stored stamp does not cover what the log says it covers."""

    kind = "record.stamp_mismatch"


@dataclass(frozen=True, slots=True)
class Sealed:
    """One message of the log before it is opened. Whoever takes it closes `descriptor`."""

    row: Row
    message: MessageEntry
    content: bytes
    signature: SignatureEntry
    signature_content: bytes
    stamp_token: bytes | None
    ts_chain_result: bytes | None
    ts_chain: bytes | None
    descriptor: int | None

    def opened(self, summary: RecordSummary, key: GroupKey, epoch: Epoch) -> RecordContent:
        """`key`: of the message; `epoch`: of its signature. Raises SealBrokenError."""
        said = open_message(key, self.content, self.signature.digest)
        signed = epoch.open_signature(self.signature_content, self.signature.digest)
        times = (self.signature.ocsp_produced_at_us, self.signature.ocsp_this_update_us)
        seal = Seal(signed.signature, signed.chain_result, said.chain, *times)
        stamp = (self.stamp_token, self.ts_chain_result, self.ts_chain)
        in_file = self.descriptor is not None
        return RecordContent(
            summary, said.message, said.body, in_file, seal, *stamp, said.body_key, self.message.body_bytes, self.message.attachment_bytes
        )


class Reader:
    """Used by the index's thread only."""

    def __init__(self, store: Store, index: Index) -> None:
        self._store, self._index = store, index

    def sealed(self, sequence: int, *, with_body: bool = True) -> Sealed:
        """The record as it lies there; a body in a file comes as a descriptor.

        Raises UnknownRecordError, SegmentUnreadableError, BodyUnreadableError, CorruptStateError leaves.
        """
        place, row = self._index.place(sequence), self._index.summary(sequence)
        if place is None or row is None:
            raise UnknownRecordError(f"there is no message {sequence}")
        message, stored = self._entry(sequence, place.offset, MessageEntry)
        signature, stored_signature = self._entry(place.signature, place.signature_offset, SignatureEntry)
        token = chain_result = chain = None
        if place.stamp is not None and place.stamp_offset is not None:
            stamp, _ = self._entry(place.stamp, place.stamp_offset, StampEntry)
            token, chain_result = stamp.token, stamp.chain_result
            chain = self._stamp_chain(stamp, signature) if chain_result is not None else None
        descriptor = self._store.open_body(sequence) if message.body_file and with_body else None
        return Sealed(row, message, stored, signature, stored_signature, token, chain_result, chain, descriptor)

    def audits(self, limit: int) -> list[AuditRecord]:
        """The newest audit records, newest first, out of the last AUDIT_SEGMENTS_MAX segments: they are few and not indexed."""
        found: list[AuditRecord] = []
        for first in list(reversed(self._store.segments))[:AUDIT_SEGMENTS_MAX]:
            newest: deque[AuditRecord] = deque(maxlen=limit - len(found))
            with suppress(SegmentUnreadableError):  # the newer ones tell of it (`damage`)
                self._audits_of(first, newest)
            found += reversed(newest)
            if len(found) >= limit:
                break
        return found

    def _audits_of(self, first: int, newest: deque[AuditRecord]) -> None:
        for segment, written in self._store.records_from(first):
            if segment != first:
                return
            if written.kind == record.AUDIT:
                entry = record.decode_entry(written.kind, written.payload)
                if isinstance(entry, AuditEntry):
                    newest.append(AuditRecord(written.sequence, written.at_us, entry.event, entry.caller, entry.facts))

    def signature(self, sequence: int) -> tuple[SignatureEntry | CheckpointEntry, bytes]:
        """A signature or a checkpoint by its own sequence; of a signature the sealed content. Raises UnknownRecordError."""
        offset = self._index.signature_offset(sequence)
        if offset is None:
            raise UnknownRecordError(f"there is no signature {sequence}")
        found = self._store.read(sequence, offset)
        entry = record.decode_entry(found.kind, found.payload)
        if not isinstance(entry, SignatureEntry | CheckpointEntry) or found.is_content_cut:
            raise UnknownRecordError(f"record {sequence} is no signature, or not kept any more")
        return entry, found.content

    def _stamp_chain(self, stamp: StampEntry, signature: SignatureEntry) -> bytes:
        """Made again from the leaves in their order: the same leaves give the same chains (sheet 4.5)."""
        digests = self._index.digests(stamp.signatures)
        batch = Batch([[(SIGNATURES, digest)] for digest in digests], STAMP_CHAIN)
        if batch.result != stamp.chain_result or signature.digest not in digests:
            raise StampMismatchError("the stamp's leaves do not give the document that was stamped")
        return batch.chain(digests.index(signature.digest))

    def _entry(self, sequence: int, offset: int, kind: type[Kind]) -> tuple[Kind, bytes]:
        """The entry and its content. Raises UnknownRecordError, also where the content was cut off."""
        found = self._store.read(sequence, offset)
        entry = record.decode_entry(found.kind, found.payload)
        if not isinstance(entry, kind):
            raise UnknownRecordError(f"record {sequence} is of another type")
        if found.is_content_cut:
            raise UnknownRecordError(f"the content of record {sequence} is not kept any more")
        return entry, found.content


def descriptor_for(descriptor: int | None) -> int:
    """Answers always carry a descriptor, so that the reader need not know beforehand: an empty one where there is no file."""
    return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) if descriptor is None else descriptor
