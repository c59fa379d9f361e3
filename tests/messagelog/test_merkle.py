"""Roots and proofs of the log's tree: RFC 6962's own values, and properties against a tree written from its definition."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.messagelog import merkle
from appliance.messagelog.merkle import GrowingTree, ProofInvalidError, Tile

# Leaves and roots of the test tree that Certificate Transparency implementations share (RFC 6962 reference tests).
CT_LEAVES = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
CT_ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def by_definition(leaves: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def leaf(number: int) -> bytes:
    return hashlib.sha256(b"\0%d" % number).digest()


class Tiles:
    """The tiles of one tree, as a disk would hold them."""

    def __init__(self, size: int) -> None:
        self.tree = GrowingTree()
        self.kept = {(tile.level, tile.index): tile.hashes for tile in self.tree.extend(leaf(n) for n in range(size))}
        self.kept |= {(tile.level, tile.index): tile.hashes for tile in self.tree.partial_tiles()}

    def tile(self, level: int, index: int, width: int) -> bytes:
        found = self.kept[level, index]
        assert len(found) >= width * 32
        return found


@pytest.mark.case("T27")
def test_the_roots_of_the_shared_test_tree() -> None:
    tree = GrowingTree()
    roots = []
    for text in CT_LEAVES:
        tree.extend([hashlib.sha256(b"\0" + bytes.fromhex(text)).digest()])
        roots.append(tree.root().hex())

    assert roots == CT_ROOTS
    assert GrowingTree().root().hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.case("T27")
@given(st.integers(0, 1500))
def test_the_root_is_that_of_the_definition(size: int) -> None:
    tree = GrowingTree()
    tree.extend(leaf(n) for n in range(size))

    assert tree.root() == by_definition([leaf(n) for n in range(size)])


SIZES = st.one_of(st.integers(1, 70), st.integers(1, 1200), st.sampled_from([255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000]))


@pytest.mark.case("T27")
@given(SIZES, st.data())
def test_an_inclusion_proof_holds_and_any_changed_bit_ends_it(size: int, data: st.DataObject) -> None:
    tiles = Tiles(size)
    index, root = data.draw(st.integers(0, size - 1)), tiles.tree.root()

    path = merkle.inclusion_proof(index, size, merkle.hash_of_tiles(tiles.tile))
    merkle.check_inclusion(leaf(index), index, size, path, root)

    whole = b"".join([leaf(index), *path, root])
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    pieces = [bytes(changed[at : at + 32]) for at in range(0, len(changed), 32)]
    with pytest.raises(ProofInvalidError):
        merkle.check_inclusion(pieces[0], index, size, pieces[1:-1], pieces[-1])


@pytest.mark.case("T27")
@given(SIZES, st.data())
def test_an_inclusion_proof_is_for_its_place_only(size: int, data: st.DataObject) -> None:
    tiles = Tiles(size)
    index, other = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    path = merkle.inclusion_proof(index, size, merkle.hash_of_tiles(tiles.tile))

    for wrong in ({"index": other} if other != index else {}, {"path": path[:-1]} if path else {}, {"path": [*path, leaf(0)]}):
        if wrong:
            with pytest.raises(ProofInvalidError):
                merkle.check_inclusion(
                    **{"leaf": leaf(index), "index": index, "size": size, "path": path, "root": tiles.tree.root()} | wrong
                )


@pytest.mark.case("T27")
@given(SIZES, st.data())
def test_a_consistency_proof_holds_and_any_changed_bit_ends_it(newer: int, data: st.DataObject) -> None:
    older = data.draw(st.integers(1, newer))
    tiles, older_tree = Tiles(newer), Tiles(older).tree

    proof = merkle.consistency_proof(older, newer, merkle.hash_of_tiles(tiles.tile))
    merkle.check_consistency(older, older_tree.root(), newer, tiles.tree.root(), proof)

    whole = b"".join([older_tree.root(), tiles.tree.root(), *proof])
    bit = data.draw(st.integers(0, len(whole) * 8 - 1))
    changed = bytearray(whole)
    changed[bit // 8] ^= 1 << bit % 8
    pieces = [bytes(changed[at : at + 32]) for at in range(0, len(changed), 32)]
    with pytest.raises(ProofInvalidError):
        merkle.check_consistency(older, pieces[0], newer, pieces[1], pieces[2:])


@given(SIZES, st.integers(0, 600))
def test_a_tree_read_from_its_tiles_goes_on_like_the_one_that_was_never_stopped(size: int, more: int) -> None:
    stopped = Tiles(size)

    resumed = merkle.tree_of_tiles(size, stopped.tile)
    resumed.extend(leaf(n) for n in range(size, size + more))

    assert resumed == Tiles(size + more).tree


@given(SIZES)
def test_a_tree_of_any_size_has_the_tiles_of_the_specification(size: int) -> None:
    kept = Tiles(size).kept

    expected = {}
    for level in range(4):
        hashes = size >> 8 * level
        expected |= {(level, index): 256 for index in range(hashes // 256)}
        expected |= {(level, hashes // 256): hashes % 256} if hashes % 256 else {}
    assert {place: len(data) // 32 for place, data in kept.items()} == expected


def test_tiles_are_found_where_the_specification_puts_them() -> None:
    assert Tile(0, 1_234_067, bytes(8192)).path == "tile/0/x001/x234/067"
    assert Tile(1, 17, bytes(32 * 8)).path == "tile/1/017.p/8"


@given(
    st.integers(0, 300),
    st.integers(0, 300),
    st.lists(st.binary(min_size=32, max_size=32), max_size=12),
    st.binary(min_size=32, max_size=32),
)
def test_arbitrary_proofs_are_refused_by_name(first: int, second: int, hashes: list[bytes], root: bytes) -> None:
    with pytest.raises(ProofInvalidError):
        merkle.check_inclusion(leaf(1), first, second, hashes, root)
    if first != second or root != leaf(2):
        with pytest.raises(ProofInvalidError):
            merkle.check_consistency(first or 1, leaf(2), second, root, hashes)
