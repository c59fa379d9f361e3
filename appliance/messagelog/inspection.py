"""Walks a whole log, running or copied, and names the first record that does not fit.

Links, contents, files of bodies, tree, checkpoints and their key, stamps, the TPM's count, what retention erased, the end.

Reads files only: no recorder, no index. What is believed: the signatures of the box's log key under CEIQROO's authorities, and of approved
time-stamping authorities; where these are not given, the steps that need them are undecided. What nobody outside holds a copy of (records
after the newest checkpoint that left the box) can be cut off unseen; CEIQROO's copies are compared by `ceiqroo log witness`.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from appliance.errors import UNREADABLE, UnverifiedError
from appliance.messagelog import checkpoint, merkle, record
from appliance.messagelog.body_check import BodyCheck
from appliance.messagelog.checkpoint import Checkpoint, CheckpointInvalidError
from appliance.messagelog.cut_check import CutCheck
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.merkle import HASH_BYTES, TILE_WIDTH, GrowingTree
from appliance.messagelog.proof import trusted_key
from appliance.messagelog.record import (
    SEGMENT_HEAD,
    AuditEntry,
    BrokenLinkError,
    Buffer,
    CheckpointEntry,
    MessageEntry,
    Position,
    Record,
    SignatureEntry,
    StampEntry,
)
from appliance.messagelog.recovery import ChainCheck
from appliance.messagelog.segments import SEGMENTS, segment_path
from appliance.messagelog.tiles import TileFiles, TileMissingError
from appliance.seal.hash_chain import SIGNATURES, STAMP_CHAIN, Batch
from appliance.trust.global_configuration import ApprovedTsa
from appliance.trust.timestamps import check_imprint

INTACT, TAMPERED, UNDECIDED = "intact", "tampered", "undecided"
LINKS, CHECKPOINTS, KEYS, STAMPS, END = "links", "checkpoints", "keys", "stamps", "end"
RETENTION, BODIES = "retention", "bodies"
DIGEST_BYTES = 64
ROUNDS_MAX = 16
"""How often a running log's new segments are walked as well: what explains an erasure that went on meanwhile stands in the newest."""
_READ = (record.MESSAGE, record.SIGNATURE, record.AUDIT, record.STAMP, record.CHECKPOINT)

Progress = Callable[[int, int], None]
"""Bytes walked, bytes in all."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Certificates that are believed; empty: that step is undecided."""

    issuers: Sequence[x509.Certificate] = ()
    tsas: Sequence[ApprovedTsa] = ()


@dataclass(frozen=True, slots=True)
class Bad:
    """The first record that does not fit, and at which step. `after`: the last record that is known to be unchanged."""

    step: str
    sequence: int
    segment: int
    offset: int
    why: str
    after: int


@dataclass(slots=True)
class Findings:
    """What a walk found. `stamped`: the newest stamped checkpoint's records, and when that was (microseconds)."""

    records: int = 0
    segments: int = 0
    bytes: int = 0
    checkpoints: int = 0
    stamps: int = 0
    contents_cut: int = 0
    bodies: int = 0
    """Files of large bodies that were compared with their records."""
    bodies_erased: int = 0
    """Large bodies that are gone, by right: a record of retention covers each."""
    tail_bytes: int = 0
    """Behind the last whole record: a write that was torn, or is just being done."""
    covered: int = 0
    """Records under the newest checkpoint."""
    stamped: int = 0
    stamped_at_us: int | None = None
    counter: int | None = None
    origin: str = ""
    bad: Bad | None = None
    undecided: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        if self.bad is not None:
            return TAMPERED
        return UNDECIDED if self.undecided else INTACT


class _Digests:
    """SHA-512 of signature documents and checkpoints by their sequence: 72 bytes each, a million is 72 MB."""

    def __init__(self) -> None:
        self._sequences, self._digests = array("Q"), bytearray()

    def put(self, sequence: int, digest: bytes) -> None:
        self._sequences.append(sequence)
        self._digests += digest

    def get(self, sequence: int) -> bytes | None:
        at = bisect_left(self._sequences, sequence)
        if at == len(self._sequences) or self._sequences[at] != sequence:
            return None
        return bytes(self._digests[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES])


class _DoesNotFitError(Exception):
    """Leaves the walk; never this module."""

    def __init__(self, step: str, sequence: int, why: str) -> None:
        self.step, self.sequence, self.why = step, sequence, why


class _Walk:
    """Takes every record that is linked, in order."""

    def __init__(self, trust: Trust, tiles: TileFiles | None, bodies: BodyCheck) -> None:
        self.findings = Findings()
        self._bodies, self._missing = bodies, array("Q")
        """Messages whose body is not there although their content is."""
        self._trust, self._tiles = trust, tiles
        self._tree = GrowingTree()
        self._leaves: list[bytes] = []
        """Behind the newest checkpoint."""
        self._noted: Checkpoint | None = None
        self._digests = _Digests()
        self._keys: dict[bytes, bytes] = {}
        self._certificate = b""
        self._cuts = CutCheck()
        self._notes: dict[int, int] = {}
        """Checkpoint records that have no stamp yet, with their sizes."""

    def take(self, found: Record) -> None:
        self.findings.records += 1
        self.findings.contents_cut += found.is_content_cut
        if found.kind in _READ:
            try:
                entry = record.decode_entry(found.kind, found.payload)
            except UNREADABLE:
                if found.kind in (record.MESSAGE, record.AUDIT) and not found.is_content_cut:
                    entry = None  # it explains nothing; whether it is the one that was signed, the checkpoints tell
                else:
                    raise _DoesNotFitError(LINKS, found.sequence, "its payload cannot be read") from None
            if isinstance(entry, SignatureEntry):
                self._digests.put(found.sequence, _whole(found.sequence, entry.digest))
                self._cuts.signature(found)
            elif isinstance(entry, MessageEntry):
                self._message(found, entry)
            elif isinstance(entry, AuditEntry):
                _fits(found.sequence, self._cuts.audit(entry))
            elif isinstance(entry, StampEntry):
                self._stamp(found.sequence, entry)
            elif isinstance(entry, CheckpointEntry):
                self._digests.put(found.sequence, _whole(found.sequence, entry.digest))
                self._checkpoint(found.sequence, entry)
        self._leaves.append(found.link)

    def _message(self, found: Record, entry: MessageEntry) -> None:
        is_there, why = True, ""
        if entry.body_file and not found.is_content_cut:
            is_there, why = self._bodies.look(found.sequence, entry)
            if not is_there:
                self._missing.append(found.sequence)
        if why:
            raise _DoesNotFitError(BODIES, found.sequence, why)
        self.findings.bodies_erased += entry.body_file and (found.is_content_cut or not is_there)
        _fits(found.sequence, self._cuts.message(found, entry, is_body_there=is_there))

    def _checkpoint(self, sequence: int, entry: CheckpointEntry) -> None:
        self._certificate = entry.certificate or self._certificate
        try:
            said = checkpoint.check(entry.note, [self._key(entry)])
        except CheckpointInvalidError as error:
            raise _DoesNotFitError(KEYS, sequence, f"its checkpoint does not hold: {error}") from None
        counter = self.findings.counter
        is_forward = self._tree.size < said.size < sequence or said.size == self._tree.size == entry.size
        if said.size != entry.size or not is_forward or hashlib.sha512(entry.note).digest() != entry.digest:
            raise _DoesNotFitError(CHECKPOINTS, sequence, f"a checkpoint over {said.size} records at this place")
        if self.findings.origin not in ("", said.origin):
            raise _DoesNotFitError(CHECKPOINTS, sequence, f"a checkpoint of another log, {said.origin}")
        if counter is not None and said.counter is not None and said.counter < counter:
            raise _DoesNotFitError(CHECKPOINTS, sequence, f"the TPM's counter fell from {counter} to {said.counter}")
        self._compare(said, sequence)
        self.findings.checkpoints += 1
        self.findings.covered, self.findings.origin = said.size, said.origin
        self.findings.counter = said.counter if said.counter is not None else counter
        self._notes[sequence] = said.size

    def _key(self, entry: CheckpointEntry) -> bytes:
        """The key of the log, believed as far as issuers are given."""
        found = self._keys.get(self._certificate)
        if found is None:
            origin = checkpoint.read_checkpoint(entry.note).origin
            issuers = self._trust.issuers
            found = trusted_key(self._certificate, origin, issuers) if issuers else checkpoint.key_of(self._certificate)
            self._keys[self._certificate] = found
        return found

    def _compare(self, said: Checkpoint, sequence: int) -> None:
        """The tree of the records against the root that was signed; brings the tree up to it."""
        noted = self._noted
        if noted is not None and self._tree.size < noted.size < said.size:
            self._compare_at(noted, sequence)
        self._compare_at(said, sequence)

    def _compare_at(self, said: Checkpoint, sequence: int) -> None:
        before, count = self._tree.size, said.size - self._tree.size
        leaves = self._leaves[:count]
        self._tree.extend(leaves)
        del self._leaves[:count]
        if self._tree.root() != said.root:
            first = self._first_changed(said, before, leaves)
            why = f"not the record that was signed under the checkpoint in record {sequence}"
            if first is None:
                first, why = sequence, f"the records {before + 1} to {said.size} are not those of this checkpoint"
            raise _DoesNotFitError(CHECKPOINTS, first, why)

    def _first_changed(self, said: Checkpoint, before: int, leaves: Sequence[bytes]) -> int | None:
        """By the tiles, where they are still those that were signed: whoever changes records must change them too."""
        if self._tiles is None:
            return None
        try:
            if merkle.tree_of_tiles(said.size, self._tiles.read).root() != said.root:
                return None
            for number, leaf in enumerate(leaves, start=before):
                tile = self._tiles.read(0, number // TILE_WIDTH, number % TILE_WIDTH + 1)
                if tile[number % TILE_WIDTH * HASH_BYTES :][:HASH_BYTES] != leaf:
                    return number + 1
        except TileMissingError:
            pass
        return None

    def _stamp(self, sequence: int, entry: StampEntry) -> None:
        self.findings.stamps += 1
        covered = [each for each in entry.messages if each in self._notes]
        if entry.chain_result is None and not covered:
            return  # over one signature's value: judged with its container, as every other seal
        digests = [self._digests.get(each) for each in entry.signatures]
        leaves = [[(SIGNATURES, digest)] for digest in digests if digest is not None]
        if not leaves or len(leaves) != len(digests) or Batch(leaves, STAMP_CHAIN).result != entry.chain_result:
            raise _DoesNotFitError(STAMPS, sequence, "its leaves do not give the document that was stamped")
        if not covered or not self._trust.tsas:
            return
        try:
            facts = check_imprint(entry.token, hashlib.sha512(entry.chain_result).digest(), self._trust.tsas)
        except UnverifiedError as error:
            raise _DoesNotFitError(STAMPS, sequence, f"the time stamp does not hold: {error}") from None
        for each in covered:
            size = self._notes.pop(each)
            if size >= self.findings.stamped:
                self.findings.stamped, self.findings.stamped_at_us = size, facts.gen_time_us

    def begin(self, newest: bytes | None) -> None:
        """The newest checkpoint beside the tiles: the log must begin with its records."""
        try:
            self._noted = None if newest is None else checkpoint.read_checkpoint(newest)
        except CheckpointInvalidError as error:
            raise _DoesNotFitError(END, 1, f"tiles/checkpoint is damaged: {error}") from None

    def end(self, firsts: Sequence[int]) -> None:
        """After the last record. `firsts`: where segments begin."""
        noted = self._noted
        if noted is not None and noted.size > self.findings.records:
            why = f"the log ends here, but a checkpoint over {noted.size} records was signed"
            raise _DoesNotFitError(END, self.findings.records + 1, why)
        if noted is not None and noted.size > self._tree.size:
            self._compare_at(noted, self.findings.records)
        missing, stray = self._cuts.unexplained(), self._bodies.stray(firsts, self.findings.records)
        if stray is not None and (missing is None or stray < missing):
            raise _DoesNotFitError(BODIES, stray, "a body's file lies there that this record does not have, or has no more")
        if missing is not None and missing in self._missing:
            raise _DoesNotFitError(BODIES, missing, "its body's file is gone, and no record of retention says so")
        if missing is not None:
            raise _DoesNotFitError(RETENTION, missing, "its content is gone, and no record of retention says so")


def _fits(sequence: int, why: str) -> None:
    if why:
        raise _DoesNotFitError(RETENTION, sequence, why)


def _whole(sequence: int, digest: bytes) -> bytes:
    if len(digest) != DIGEST_BYTES:
        raise _DoesNotFitError(LINKS, sequence, "a digest of another length")
    return digest


class _Meter:
    """Bytes that were done with, for the progress bar."""

    def __init__(self, progress: Progress) -> None:
        self._progress, self._done, self.total = progress, 0, 0

    def add(self, count: int) -> None:
        self._done = min(self._done + count, self.total)  # a running log grows meanwhile
        self._progress(self._done, self.total)

    def end(self) -> None:
        self._progress(self.total, self.total)


def _firsts(disk: OsDisk) -> list[int]:
    return sorted(int(name[:-4]) for name in disk.names(SEGMENTS) if name.endswith(".log") and name[:-4].isdecimal())


def _behind(first: int, data: Buffer, position: Position) -> int:
    """Where the next record begins in a segment that was walked while it was the last one; retention may have written it anew since.

    Raises BrokenLinkError.
    """
    if position.sequence + 1 == first:
        return SEGMENT_HEAD.size
    mark = record.mark_of(data)
    for found in () if mark is None else record.records(data, mark):
        if (found.sequence, found.link) == (position.sequence, position.link):
            return found.offset + found.size
    raise BrokenLinkError(first, 0, position.sequence, "not at its place any more")


def inspect(root: Path, trust: Trust, progress: Progress = lambda done, total: None) -> Findings:
    """Walks `log/` or a copy of it. Raises OSError where it cannot be read; whatever does not fit is in the findings."""
    disk = OsDisk(root)
    firsts = _firsts(disk)
    total = sum((root / segment_path(first)).stat().st_size for first in firsts)
    meter = _Meter(progress)
    bodies = BodyCheck(root, meter.add)
    meter.total = total + bodies.bytes
    tiles = TileFiles(root / "tiles") if (root / "tiles").is_dir() else None
    newest = tiles.checkpoint() if tiles is not None else None
    walk = _Walk(trust, tiles, bodies)
    findings = walk.findings
    findings.segments, findings.bytes = len(firsts), total
    check = ChainCheck(visit=walk.take)
    done: list[int] = []
    first = 0
    try:
        walk.begin(None if newest is None else newest[0])
        for _ in range(ROUNDS_MAX):
            for first in firsts[max(0, len(done) - 1) :]:
                data = disk.view(segment_path(first))
                offset = _behind(first, data, check.position) if first in done else SEGMENT_HEAD.size
                checked = check.check(first, data, last=first == firsts[-1], offset=offset)
                findings.tail_bytes = checked.cut_bytes
                meter.add(checked.good_bytes + checked.cut_bytes)
            done, firsts = firsts, _firsts(disk)
            if firsts == done:
                break
        walk.end(done)
        meter.end()
    except BrokenLinkError as error:
        findings.bad = Bad(LINKS, error.sequence, error.segment, error.offset, error.why, findings.covered)
    except _DoesNotFitError as error:
        findings.bad = Bad(error.step, error.sequence, first, 0, error.why, findings.covered)
    findings.bodies = bodies.whole
    findings.undecided = [
        *([KEYS] if findings.checkpoints and not trust.issuers else []),
        *([STAMPS] if findings.stamps and not trust.tsas else []),
        *([CHECKPOINTS] if not findings.checkpoints else []),
        *([BODIES] if bodies.undecided else []),
    ]
    return findings
