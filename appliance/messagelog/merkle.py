"""The Merkle tree over the log's records: roots, tiles, inclusion and consistency proofs, and their verification.

Pure. Hashing and proofs are those of RFC 6962, 2.1 (verification as RFC 9162, 2.1.3.2 and 2.1.4.2 spell it out); tiles those of C2SP
tlog-tiles: 256 hashes each, level 0 the leaves. A leaf is a record's link (`messagelog.record`): leaf n belongs to record n + 1.
A tree that grows keeps only what its rightmost tiles hold: at most 255 hashes a level, whatever its size.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from appliance.errors import UnverifiedError

HASH_BYTES = 32
TILE_WIDTH = 256
TILE_BYTES = TILE_WIDTH * HASH_BYTES
EMPTY_ROOT = hashlib.sha256(b"").digest()
PROOF_HASHES_MAX = 128
"""A path has at most 64 hashes and a consistency proof at most 65 for any size that fits 64 bits."""
SIZE_MAX = (1 << 63) - 1

_sha256 = hashlib.sha256


class ProofInvalidError(UnverifiedError):
    """The proof does not lead from what it is about to the root."""

    kind = "log.proof_invalid"


def node(left: bytes, right: bytes) -> bytes:
    return _sha256(b"\1" + left + right).digest()


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root over nodes of one height, of which the last may be the root of a smaller tree. Raises IndexError for none.

    Level by level: an odd last node moves up as it is, which is RFC 6962's split at the largest power of two below the size.
    """
    row = list(hashes)
    while len(row) > 1:
        above = [_sha256(b"\1" + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        if len(row) % 2:
            above.append(row[-1])
        row = above
    return row[0]


@dataclass(frozen=True, slots=True)
class Tile:
    """`level` and `index` as in tlog-tiles; `width` of 256 hashes is a full tile, which never changes."""

    level: int
    index: int
    hashes: bytes

    @property
    def width(self) -> int:
        return len(self.hashes) // HASH_BYTES

    @property
    def path(self) -> str:
        return tile_path(self.level, self.index, self.width)


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """`tile/0/x001/067`, with `.p/<width>` where it is partial."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    full = f"tile/{level}/{'/'.join(parts)}"
    return full if width == TILE_WIDTH else f"{full}.p/{width}"


@dataclass(slots=True)
class GrowingTree:
    """A tree that takes leaves. Invariant: `levels[l]` holds the `size // 256**l % 256` hashes of the rightmost tile at level l."""

    size: int = 0
    levels: list[list[bytes]] = field(default_factory=lambda: [[]])

    def extend(self, leaves: Iterable[bytes]) -> list[Tile]:
        """Takes leaves in order; the tiles that became full by it."""
        full: list[Tile] = []
        bottom = self.levels[0]
        for leaf in leaves:
            bottom.append(leaf)
            self.size += 1
            if len(bottom) == TILE_WIDTH:
                self._carry(0, full)
                bottom = self.levels[0]
        return full

    def _carry(self, level: int, full: list[Tile]) -> None:
        hashes = self.levels[level]
        full.append(Tile(level, (self.size >> 8 * (level + 1)) - 1, b"".join(hashes)))
        self.levels[level] = []
        if level + 1 == len(self.levels):
            self.levels.append([])
        self.levels[level + 1].append(root_of(hashes))
        if len(self.levels[level + 1]) == TILE_WIDTH:
            self._carry(level + 1, full)

    def root(self) -> bytes:
        below: list[bytes] = []
        for hashes in self.levels:
            row = hashes + below
            below = [root_of(row)] if row else []
        return below[0] if below else EMPTY_ROOT

    def partial_tiles(self) -> list[Tile]:
        """What a checkpoint of this size needs besides the full tiles."""
        return [Tile(level, self.size >> 8 * (level + 1), b"".join(hashes)) for level, hashes in enumerate(self.levels) if hashes]


def widths(size: int) -> list[int]:
    """How many hashes the rightmost partial tile of each level has, from level 0 up; 0: no such tile."""
    found = []
    while size:
        found.append(size % TILE_WIDTH)
        size //= TILE_WIDTH
    return found or [0]


def tree_of_tiles(size: int, tile: Callable[[int, int, int], bytes]) -> GrowingTree:
    """The tree of this size out of its rightmost tiles. `tile(level, index, width)`: at least so many hashes; raises what it raises."""
    levels = []
    for level, width in enumerate(widths(size)):
        data = tile(level, size >> 8 * (level + 1), width) if width else b""
        levels.append([data[at : at + HASH_BYTES] for at in range(0, width * HASH_BYTES, HASH_BYTES)])
    return GrowingTree(size, levels)


RangeHash = Callable[[int, int], bytes]
"""The Merkle hash over the leaves from the first up to, not with, the second."""


def hash_of_tiles(tile: Callable[[int, int, int], bytes]) -> RangeHash:
    """Answers from tiles. `tile(level, index, width)`: at least that many of the tile's hashes."""

    def of_range(first: int, end: int) -> bytes:
        count = end - first
        if count & (count - 1) or first % count:
            split = first + _split(count)
            return node(of_range(first, split), of_range(split, end))
        level = (count.bit_length() - 1) // 8
        at, width = first >> 8 * level, count >> 8 * level
        index, inside = at // TILE_WIDTH, at % TILE_WIDTH
        data = tile(level, index, inside + width)
        return root_of([data[i * HASH_BYTES : (i + 1) * HASH_BYTES] for i in range(inside, inside + width)])

    return of_range


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def inclusion_proof(index: int, size: int, hash_of: RangeHash) -> list[bytes]:
    """The path of leaf `index` in the tree of the first `size` leaves, from the leaf's sibling up."""
    if not 0 <= index < size:
        raise RuntimeError(f"leaf {index} of a tree of {size}")
    path: list[bytes] = []
    first, end = 0, size
    while end - first > 1:
        split = first + _split(end - first)
        if index < split:
            path.append(hash_of(split, end))
            end = split
        else:
            path.append(hash_of(first, split))
            first = split
    return path[::-1]


def consistency_proof(older: int, newer: int, hash_of: RangeHash) -> list[bytes]:
    """That the tree of `newer` leaves begins with the tree of `older` leaves. Empty where they are the same, or the older is empty."""
    if not 0 <= older <= newer:
        raise RuntimeError(f"from {older} to {newer}")
    if older in (0, newer):
        return []
    proof: list[bytes] = []
    first, end, whole = 0, newer, True
    while older != end:
        split = first + _split(end - first)
        if older <= split:
            proof.append(hash_of(split, end))
            end = split
        else:
            proof.append(hash_of(first, split))
            first, whole = split, False
    if not whole:
        proof.append(hash_of(first, end))
    return proof[::-1]


def proof_text(older: int, proof: Sequence[bytes]) -> str:
    """A consistency proof as one line: the older size, then its hashes."""
    return " ".join([str(older), *(base64.b64encode(each).decode() for each in proof)])


def read_proof(text: str) -> tuple[int, list[bytes]]:
    """Raises ProofInvalidError."""
    older, *hashes = text.split(" ")
    try:
        proof = [base64.b64decode(each, validate=True) for each in hashes]
    except binascii.Error:
        raise ProofInvalidError("no proof") from None
    if not (older.isascii() and older.isdecimal()) or len(older) > 19 or int(older) > SIZE_MAX or len(proof) > PROOF_HASHES_MAX:
        raise ProofInvalidError("no proof")
    return int(older), proof


def check_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Raises ProofInvalidError unless `leaf` is at `index` of the tree with `size` leaves and this root (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size <= SIZE_MAX or len(path) > PROOF_HASHES_MAX:
        raise ProofInvalidError(f"leaf {index} of a tree of {size}")
    at, last, found = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            raise ProofInvalidError("the path is too long")
        if at % 2 or at == last:
            found = node(sibling, found)
            while not at % 2 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node(found, sibling)
        at, last = at >> 1, last >> 1
    if last or found != root:
        raise ProofInvalidError("the path does not lead to the root")


def check_consistency(older: int, older_root: bytes, newer: int, newer_root: bytes, proof: Sequence[bytes]) -> None:
    """Raises ProofInvalidError unless the newer tree begins with the older one (RFC 9162, 2.1.4.2)."""
    if not 0 <= older <= newer <= SIZE_MAX or len(proof) > PROOF_HASHES_MAX:
        raise ProofInvalidError(f"from {older} to {newer} records")
    if older in (0, newer):
        if proof or (older == newer and older_root != newer_root) or (older == 0 and older_root != EMPTY_ROOT):
            raise ProofInvalidError("two roots for one size")
        return
    hashes = list(proof) if older & (older - 1) else [older_root, *proof]
    if not hashes:
        raise ProofInvalidError("the proof is empty")
    at, last = older - 1, newer - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    found_older = found_newer = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise ProofInvalidError("the proof is too long")
        if at % 2 or at == last:
            found_older, found_newer = node(sibling, found_older), node(sibling, found_newer)
            while not at % 2 and at:
                at, last = at >> 1, last >> 1
        else:
            found_newer = node(found_newer, sibling)
        at, last = at >> 1, last >> 1
    if last or found_older != older_root or found_newer != newer_root:
        raise ProofInvalidError("the newer tree does not begin with the older one")
