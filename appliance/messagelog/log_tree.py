"""The tree of this log: follows the records behind their sync, in the index's thread, and says what a checkpoint may be made over.

At start it is read from the tiles of the newest checkpoint, and only what came after is followed. Where the tiles do not give that
checkpoint's root, or the log does not begin with those records, every record is followed again: then it is either healed or shown to be
another log than the one that was signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from appliance.errors import CorruptStateError
from appliance.messagelog import merkle
from appliance.messagelog.checkpoint import Checkpoint, CheckpointInvalidError, read_checkpoint
from appliance.messagelog.groups import Written
from appliance.messagelog.merkle import GrowingTree, Tile, proof_text
from appliance.messagelog.recovery import Start
from appliance.messagelog.store import Store
from appliance.messagelog.tiles import Place, TileFiles, TileMissingError

CATCH_UP_LEAVES = 10_000
PROOFS_MAX = 6
"""So many checkpoints in a row may miss their way to CEIQROO (a report is lost, a proof was asked for between two) and the next still
proves on from what it has: at most 6 KB in a report that brings a new checkpoint."""


class CheckpointContradictedError(CorruptStateError):
    """The log is not the one that our own signed checkpoint tells of: records are missing at its end, or were changed."""

    kind = "log.checkpoint_contradicted"


@dataclass(frozen=True, slots=True)
class Frozen:
    """The tree at one moment: what a checkpoint says. `offset`: where record `size` lies in its segment; None where that is not known."""

    size: int
    root: bytes
    offset: int | None


class LogTree:
    """Invariant: leaf n is the link of record n + 1, for every record up to `size`; the tiles on the disk are of this tree."""

    def __init__(self, files: TileFiles) -> None:
        self._files = files
        self._tree = GrowingTree()
        self._unwritten: list[Tile] = []
        """Tiles that the disk had no room for yet."""
        self._offset: int | None = None
        self.noted: Checkpoint | None = None
        """The newest checkpoint beside the tiles: the log must still contain it."""
        self.note, self.certificate = b"", b""
        self.proof = ""
        """That the newest checkpoint's tree begins with those before: `merkle.proof_text` of each, joined by `;`; empty after a start."""
        self._place: Place | None = None
        found = files.checkpoint()
        if found is not None:
            self._know(*found)

    def _know(self, note: bytes, place: Place | None) -> None:
        """Raises CheckpointContradictedError: the file is replaced as a whole, so that what is in it is no torn write."""
        try:
            self.noted, self.note = read_checkpoint(note), note
        except CheckpointInvalidError as error:
            raise CheckpointContradictedError(f"tiles/checkpoint is damaged: {error}") from None
        if place is not None and place.size == self.noted.size:
            self._place, self.certificate = place, place.certificate

    @property
    def size(self) -> int:
        return self._tree.size

    # -- start

    def load(self) -> Start | None:
        """Takes the noted checkpoint's tree from the tiles: where to go on. None where they do not give its root: all is followed."""
        place, noted = self._place, self.noted
        if place is None or place.offset is None or noted is None or not noted.size:
            return None
        size = noted.size
        try:
            tree = merkle.tree_of_tiles(size, self._files.read)
            last = self._files.read(0, (size - 1) >> 8, (size - 1) % merkle.TILE_WIDTH + 1)
        except TileMissingError:
            return None
        if tree.root() != noted.root:
            return None
        self._tree, self._offset = tree, place.offset
        at = (size - 1) % merkle.TILE_WIDTH * merkle.HASH_BYTES
        return Start(size, last[at : at + merkle.HASH_BYTES], place.offset)

    def follow_check(self, first: int, links: Sequence[bytes]) -> None:
        """Links of the records from `first` on, as start-up walks through them; from the very first: the tree is made anew.

        Raises CheckpointContradictedError when the records up to the noted checkpoint do not give its root.
        """
        if first == 1:
            self._files.discard()
            self._tree, self._unwritten = GrowingTree(), []
        if first != self._tree.size + 1:
            raise RuntimeError(f"record {first} after {self._tree.size}")
        if links:
            self._offset = None  # it was of an earlier record, perhaps in an earlier segment
        noted = self.noted.size if self.noted is not None else 0
        upto = noted - self._tree.size
        if 0 < upto <= len(links):
            self._extend(links[:upto])
            self._compare()
            links = links[upto:]
        self._extend(links)

    def check_complete(self) -> None:
        """After the walk. Raises CheckpointContradictedError where the log ends before the noted checkpoint does (T26, T34)."""
        if self.noted is not None and self._tree.size < self.noted.size:
            raise CheckpointContradictedError(
                f"the log ends with record {self._tree.size}, but a checkpoint over {self.noted.size} records was signed"
            )

    def _compare(self) -> None:
        if self.noted is not None and self._tree.root() != self.noted.root:
            raise CheckpointContradictedError(
                f"the first {self.noted.size} records are not those of our own signed checkpoint; `xacbe log audit` names the first"
            )

    # -- following

    def follow(self, rows: Sequence[Written], store: Store) -> None:
        """Takes durable records in order; what it missed is read from the segments."""
        fresh = [row for row in rows if row.sequence > self._tree.size]
        if fresh and fresh[0].sequence != self._tree.size + 1:
            self.catch_up(store)
            return
        if fresh:
            self._extend([row.link for row in fresh])
            self._offset = fresh[-1].offset

    def catch_up(self, store: Store) -> None:
        links: list[bytes] = []
        known = self._tree.size if self._offset is not None else self._tree.size + 1
        for _, found in store.records_from(known, self._offset):
            if found.sequence <= self._tree.size + len(links):
                continue
            links.append(found.link)
            self._offset = found.offset
            if len(links) >= CATCH_UP_LEAVES:
                self._extend(links)
                links = []
        self._extend(links)

    def _extend(self, links: Sequence[bytes]) -> None:
        self._unwritten += self._tree.extend(links)
        self._write()

    def _write(self) -> None:
        """Raises OSError; what was not written stays for the next time."""
        while self._unwritten:
            self._files.write(self._unwritten[0])
            del self._unwritten[0]

    def freeze(self) -> Frozen:
        """Makes every tile of the present tree durable. Raises SyncFailedError, OSError."""
        self._write()
        partial = self._tree.partial_tiles()
        for tile in partial:
            self._files.write(tile)
        self._files.sync()
        for tile in partial:
            self._files.drop_narrower(tile)
        return Frozen(self._tree.size, self._tree.root(), self._offset)

    def signed(self, note: bytes, certificate: bytes, frozen: Frozen) -> None:
        """A checkpoint over the frozen tree is durable in the log."""
        before = self._place.before if self._place is not None else ()
        if self.noted is not None and self.noted.size:
            before = (*before, self.noted.size)[-PROOFS_MAX:]
        place = Place(frozen.size, frozen.offset, certificate, before)
        self._files.write_checkpoint(note, place)
        self._know(note, place)
        self.proof = ";".join(proof_text(older, self.consistency(older, frozen.size)) for older in before)

    # -- proofs, of the noted checkpoint

    def inclusion(self, sequence: int, size: int) -> list[bytes]:
        """The path of a record in the tree of the first `size` records. Raises TileMissingError."""
        return merkle.inclusion_proof(sequence - 1, size, merkle.hash_of_tiles(self._files.read))

    def consistency(self, older: int, newer: int) -> list[bytes]:
        """Raises TileMissingError."""
        return merkle.consistency_proof(older, newer, merkle.hash_of_tiles(self._files.read))
