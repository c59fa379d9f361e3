"""CEIQROO's memory of its boxes' logs: every checkpoint that came with a health report, and whether each continues the one before.

The decisions are pure (`judge`); kept in one SQLite file beside the registry. A box that rewrites, forks or cuts back its log has signed
what is kept here: two checkpoints of one size with two roots, or a root that no proof leads on from, cannot be explained away (T26).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import UnverifiedError
from appliance.messagelog import checkpoint, merkle
from appliance.messagelog.checkpoint import NOTE_BYTES_MAX, Checkpoint
from appliance.net import sparkplug
from appliance.net.sparkplug import SparkplugError, Topic, edge_node_of

FIRST, CONTINUES, KNOWN, UNPROVEN = "first", "continues", "known", "unproven"
FORK, REWRITTEN, ROLLED_BACK, INVALID = "fork", "rewritten", "rolled_back", "invalid"
BAD = frozenset({FORK, REWRITTEN, ROLLED_BACK})
"""What only a changed log explains. INVALID is not: anybody may send nonsense; it is counted and not kept."""
NOTE, PROOF = "Log/Checkpoint", "Log/Checkpoint proof"
PROOFS_MAX = 8
PROOF_CHARACTERS_MAX = PROOFS_MAX * 65 * 48

_SCHEMA = """
CREATE TABLE IF NOT EXISTS checkpoint (
  origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, at_us INTEGER NOT NULL, counter INTEGER, note BLOB NOT NULL,
  proof TEXT NOT NULL, heard_us INTEGER NOT NULL, finding TEXT NOT NULL, PRIMARY KEY (origin, size, root)) STRICT;
CREATE INDEX IF NOT EXISTS checkpoint_at ON checkpoint (origin, at_us);
"""

Keys = Callable[[str], Sequence[bytes]]
"""Public keys (SubjectPublicKeyInfo) that the registry holds for the log of a server id."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One checkpoint as it was heard, and what was found then."""

    checkpoint: Checkpoint
    note: bytes
    proof: str
    heard_us: int
    finding: str


def judge(new: Checkpoint, proof: str, kept: Iterable[Checkpoint]) -> str:
    """What a checkpoint whose signature holds says about those that were kept. Pure.

    (1) the size is known: the same root, or a fork; (2) signed later and shorter, or counted back: rolled back; (3) a proof from any that
    is kept and does not hold: rewritten; (4) a proof from the newest shorter one that is kept, which holds: it continues. A box that has
    forgotten what it told proves from older ones only, and so does one whose log was put back: (5) that is unproven, until the log itself
    is compared.
    """
    by_size = {each.size: each for each in kept}
    if not by_size:
        return FIRST
    same = by_size.get(new.size)
    if same is not None:
        return KNOWN if same.root == new.root else FORK
    newest = by_size[max(by_size)]
    counted_back = new.counter is not None and newest.counter is not None and new.at_us > newest.at_us and new.counter < newest.counter
    if counted_back or (new.size < newest.size and new.at_us > newest.at_us):
        return ROLLED_BACK
    proven = set()
    for older, hashes in _proofs(proof):
        before = by_size.get(older)
        if before is None or older >= new.size:
            continue
        try:
            merkle.check_consistency(before.size, before.root, new.size, new.root, hashes)
        except UnverifiedError:
            return REWRITTEN
        proven.add(older)
    shorter = [size for size in by_size if size < new.size]
    return CONTINUES if shorter and max(shorter) in proven else UNPROVEN


def _proofs(text: str) -> list[tuple[int, list[bytes]]]:
    """What cannot be read proves nothing."""
    try:
        return [merkle.read_proof(each) for each in text.split(";")[:PROOFS_MAX]]
    except UnverifiedError:
        return []


class Witness:
    """One connection to what is kept. `take` and `requests` are what a broker's session feeds (`watch.Listening`)."""

    def __init__(self, file: Path, keys: Keys) -> None:
        self._keys = keys
        self._database = sqlite3.connect(file, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.executescript(_SCHEMA)
        self.invalid = 0

    def close(self) -> None:
        self._database.close()

    def take(self, topic_text: str, data: bytes, now_us: int) -> None:
        """A Sparkplug message: its checkpoint, if it brings one, is checked and kept; the box's own topic must be the origin's."""
        try:
            topic, payload = Topic.parse(topic_text), sparkplug.decode(data)
        except SparkplugError:
            self.invalid += 1
            return
        note, proof = payload.value(NOTE), payload.value(PROOF)
        if not isinstance(note, str) or not note or topic.device is not None:
            return
        self.hear(f"{topic.group}:{topic.edge_node}", note.encode(), proof if isinstance(proof, str) else "", now_us)

    def requests(self, now_us: int) -> list[tuple[str, bytes]]:
        """It asks nothing of the boxes: the next report brings the next checkpoint."""
        return []

    def hear(self, sender: str, note: bytes, proof: str, now_us: int) -> str:
        """The finding about one checkpoint; durable when this returns, unless it is known or invalid. `sender`: group and edge node."""
        try:
            if len(note) > NOTE_BYTES_MAX or len(proof) > PROOF_CHARACTERS_MAX:
                raise checkpoint.CheckpointInvalidError("too long")
            server = checkpoint.read_checkpoint(note).server
            instance, *parts = server.split("/")
            if len(parts) != 3 or f"{instance}:{edge_node_of(*parts)}" != sender:
                raise checkpoint.CheckpointInvalidError("of another box than its sender")
            new = checkpoint.check(note, self._keys(server))
        except UnverifiedError:
            self.invalid += 1
            return INVALID
        if self._database.execute(
            "SELECT 1 FROM checkpoint WHERE (origin, size, root) = (?,?,?)", (new.origin, new.size, new.root)
        ).fetchone():
            return KNOWN
        finding = judge(new, proof, self._beside(new, proof))
        values = (new.origin, new.size, new.root, new.at_us, new.counter, note, proof, now_us, finding)
        self._database.execute("INSERT INTO checkpoint VALUES (?,?,?,?,?,?,?,?,?)", values)
        return finding

    def _beside(self, new: Checkpoint, proof: str) -> list[Checkpoint]:
        """All that `judge` looks at, of the half million that a box signs in a year: the newest, the newest shorter one, and those of the
        size and of the proofs. Without what lied, which proves nothing."""
        sizes = [new.size, *(older for older, _ in _proofs(proof))]
        believed = f"origin = ? AND finding NOT IN ({','.join('?' * len(BAD))})"
        # What is put together here are places alone.
        chosen = (
            f"SELECT size, root, at_us, counter FROM checkpoint WHERE {believed} AND (size IN ({','.join('?' * len(sizes))})"  # noqa: S608  # nosec B608
            f" OR size = (SELECT max(size) FROM checkpoint WHERE {believed})"
            f" OR size = (SELECT max(size) FROM checkpoint WHERE {believed} AND size < ?))"
        )
        who = (new.origin, *BAD)
        rows = self._database.execute(chosen, (*who, *sizes, *who, *who, new.size))
        return [Checkpoint(new.origin, *row) for row in rows]

    def origins(self) -> list[str]:
        return [str(row[0]) for row in self._database.execute("SELECT DISTINCT origin FROM checkpoint ORDER BY origin")]

    def kept(self, origin: str) -> list[Kept]:
        """Of one box, in the order in which they were heard."""
        select = (
            "SELECT size, root, at_us, counter, note, proof, heard_us, finding FROM checkpoint WHERE origin = ? ORDER BY heard_us, size"
        )
        return [
            Kept(Checkpoint(origin, size, root, at_us, counter), note, proof, heard_us, finding)
            for size, root, at_us, counter, note, proof, heard_us, finding in self._database.execute(select, (origin,))
        ]
