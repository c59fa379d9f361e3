"""CEIQROO as witness: what a box cannot do to its log without being convicted by its own signatures (T26)."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.hsm.wire import CheckpointRequest
from appliance.messagelog import merkle, record
from appliance.messagelog.checkpoint import Checkpoint, CheckpointInvalidError, read_checkpoint
from appliance.messagelog.log_tree import PROOFS_MAX
from appliance.messagelog.merkle import GrowingTree
from appliance.net import sparkplug
from appliance.net.sparkplug import Metric, Payload
from provisioning.fleet.log_comparison import compare
from provisioning.fleet.witness import CONTINUES, FIRST, FORK, INVALID, KNOWN, REWRITTEN, ROLLED_BACK, UNPROVEN, Witness
from tests.messagelog import forger
from tests.messagelog.drafts import StillClock
from tests.messagelog.log_box import LogBox, append_all, until_stamped
from tests.messagelog.log_key import LogKey

SENDER = "QROO-TEST:GOV:1001:SS1"


class Box:
    """A log of hashes, signed by a real key: honest, until told otherwise."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.key = LogKey(self.clock)
        self.leaves: list[bytes] = []
        self.counter: int | None = None
        self.told: list[int] = []

    def grow(self, count: int, word: str = "honest") -> None:
        self.leaves += [hashlib.sha256(f"{word} {len(self.leaves) + n}".encode()).digest() for n in range(count)]

    def report(self) -> tuple[bytes, str]:
        """A checkpoint over everything, with the proofs from those before as the box itself makes them."""
        self.clock.pass_s(60)
        tree, tiles = GrowingTree(), {}
        for tile in [*tree.extend(self.leaves), *tree.partial_tiles()]:
            tiles[tile.level, tile.index] = tile.hashes
        of = merkle.hash_of_tiles(lambda level, index, width: tiles[level, index])
        size = len(self.leaves)
        bases = [each for each in self.told if 0 < each <= size][-PROOFS_MAX:]
        proof = ";".join(merkle.proof_text(each, merkle.consistency_proof(each, size, of)) for each in bases)
        self.told.append(size)
        request = CheckpointRequest(len(self.leaves), tree.root(), self.clock.now_us(), self.counter)
        return self.key.sign(request).note, proof


@pytest.fixture
def box() -> Box:
    return Box()


@pytest.fixture
def witness(tmp_path: Path, box: Box) -> Witness:
    return Witness(tmp_path / "witness.sqlite", lambda server: [box.key.public_key] if server == box.key.server else [])


def heard(witness: Witness, box: Box) -> str:
    return witness.hear(SENDER, *box.report(), box.clock.now_us())


def test_a_log_that_only_grows_is_followed_from_checkpoint_to_checkpoint(witness: Witness, box: Box) -> None:
    findings = []
    for count in (5, 1, 300, 1000, 7):
        box.grow(count)
        findings.append(heard(witness, box))

    assert findings == [FIRST, *[CONTINUES] * 4]
    assert heard(witness, box) == KNOWN  # the same log, told again
    [origin] = witness.origins()
    assert [each.checkpoint.size for each in witness.kept(origin)] == [5, 6, 306, 1306, 1313]


@pytest.mark.case("T26")
def test_a_rewritten_record_is_proven_by_the_next_checkpoint(witness: Witness, box: Box) -> None:
    box.grow(50)
    heard(witness, box)
    box.leaves[17] = hashlib.sha256(b"another truth").digest()
    box.grow(10)

    assert heard(witness, box) == REWRITTEN


@pytest.mark.case("T26")
def test_two_roots_for_one_size_are_a_fork(witness: Witness, box: Box) -> None:
    box.grow(50)
    heard(witness, box)
    box.leaves[17], box.leaves[18] = box.leaves[18], box.leaves[17]

    assert heard(witness, box) == FORK


@pytest.mark.case("T26")
def test_a_tail_cut_off_is_a_roll_back_and_what_grows_on_it_a_rewrite(witness: Witness, box: Box) -> None:
    box.grow(50)
    heard(witness, box)
    del box.leaves[40:]

    assert heard(witness, box) == ROLLED_BACK
    box.grow(30, "forged")
    assert heard(witness, box) in (REWRITTEN, UNPROVEN)
    box.told = [50]
    box.grow(5, "forged")
    assert heard(witness, box) == REWRITTEN


@pytest.mark.case("T26")
def test_a_count_that_went_back_is_a_roll_back(witness: Witness, box: Box) -> None:
    box.grow(5)
    box.counter = 9
    heard(witness, box)
    box.grow(5)
    box.counter = 8

    assert heard(witness, box) == ROLLED_BACK


def test_a_long_gap_is_told_as_unproven_and_the_next_goes_on_from_there(witness: Witness, box: Box) -> None:
    box.grow(5)
    heard(witness, box)
    for _ in range(PROOFS_MAX):
        box.grow(5)
        box.report()  # lost on the way
    box.grow(5)

    assert heard(witness, box) == UNPROVEN
    box.grow(5)
    assert heard(witness, box) == CONTINUES


def test_an_old_report_that_arrives_late_accuses_nobody(witness: Witness, box: Box) -> None:
    box.grow(5)
    early = box.report()
    box.grow(5)
    late = box.report()

    assert witness.hear(SENDER, *late, 2) == FIRST
    assert witness.hear(SENDER, *early, 3) == UNPROVEN


@pytest.mark.case("T26")
def test_reports_that_were_lost_leave_no_gap(witness: Witness, box: Box) -> None:
    box.grow(5)
    assert witness.hear(SENDER, *box.report(), 1) == FIRST
    for _ in range(PROOFS_MAX - 1):
        box.grow(5)
        box.report()
    box.grow(5)
    assert witness.hear(SENDER, *box.report(), 2) == CONTINUES


@pytest.mark.case("T26")
def test_a_log_that_was_put_back_and_grew_again_does_not_pass_for_one_that_continues(witness: Witness, box: Box) -> None:
    box.grow(5)
    assert witness.hear(SENDER, *box.report(), 1) == FIRST
    earlier, told = list(box.leaves), list(box.told)
    box.grow(5)
    assert witness.hear(SENDER, *box.report(), 2) == CONTINUES

    box.leaves, box.told = earlier, told  # the disk as it was, with all that lies on it
    box.grow(20, "forged")
    assert witness.hear(SENDER, *box.report(), 3) == UNPROVEN
    box.grow(1, "forged")
    assert witness.hear(SENDER, *box.report(), 4) != KNOWN


@pytest.mark.parametrize("number", [2**63, 10**19 - 1])
def test_numbers_that_no_log_reaches_are_refused_and_do_not_end_the_witness(witness: Witness, box: Box, number: int) -> None:
    box.grow(5)
    note, _ = box.report()
    assert witness.hear(SENDER, note, f"{number} ", 1) == FIRST  # a proof from there proves nothing

    signed = box.key.sign(CheckpointRequest(number, bytes(32), box.clock.now_us(), None)).note
    assert witness.hear(SENDER, signed, "", 2) == INVALID
    said = read_checkpoint(note)
    for forged in (replace(said, at_us=number), replace(said, counter=number)):
        with pytest.raises(CheckpointInvalidError):
            read_checkpoint(forged.text + note[len(said.text) :])
    box.grow(1)
    assert heard(witness, box) == CONTINUES


def test_what_the_box_did_not_sign_or_another_sent_is_not_kept(witness: Witness, box: Box) -> None:
    box.grow(5)
    note, proof = box.report()
    other = LogKey(box.clock).sign(CheckpointRequest(5, read_checkpoint(note).root, box.clock.now_us())).note

    for sender, wrong in (("QROO-TEST:GOV:1001:SS2", note), (SENDER, other), (SENDER, note[:-9] + b"AAAAAAA=\n"), (SENDER, b"nonsense")):
        assert witness.hear(sender, wrong, proof, 1) == INVALID
    assert (witness.origins(), witness.invalid) == ([], 4)


def test_checkpoints_are_taken_out_of_health_reports_live_or_stored(witness: Witness, box: Box) -> None:
    for historical in (False, True):
        box.grow(5)
        note, proof = box.report()
        metrics = (Metric("Log/Checkpoint", note.decode(), 1, historical), Metric("Log/Checkpoint proof", proof, 1, historical))
        witness.take(f"spBv1.0/QROO-TEST/NDATA/{'GOV:1001:SS1'}", sparkplug.encode(Payload(1, metrics, 1)), 7)
    witness.take("spBv1.0/QROO-TEST/NDATA/GOV:1001:SS1", b"\xff\xff", 7)

    [origin] = witness.origins()
    assert [each.finding for each in witness.kept(origin)] == [FIRST, CONTINUES]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=5), st.data())
def test_no_change_of_what_was_witnessed_passes(counts: list[int], data: st.DataObject) -> None:
    """Any record under the first checkpoint, any time later."""
    from provisioning.fleet.witness import BAD, judge

    box, kept = Box(), []
    box.grow(counts[0])
    kept.append(read_checkpoint(box.report()[0]))
    box.leaves[data.draw(st.integers(0, counts[0] - 1))] = hashlib.sha256(b"changed").digest()
    for count in counts[1:]:
        box.grow(count)
        note, proof = box.report()
        finding = judge(read_checkpoint(note), proof, kept)
        assert finding in BAD
        break


@pytest.mark.case("T26")
@pytest.mark.parametrize("attack", ["none", "rewrite", "swap", "cut", "relinked without checkpoints"])
def test_the_log_itself_is_compared_with_what_was_kept(tmp_path: Path, attack: str) -> None:
    """The strongest attacker: root, every record relinked, every local checkpoint and tile thrown away."""
    source, kept = LogBox(tmp_path / "log"), list[Checkpoint]()

    async def play() -> None:
        for turn in range(3):
            async with source.opened() as recorder:
                await append_all(recorder, source.appends([f"{turn}-{n}" for n in range(3)]))
                await until_stamped(recorder)
                await recorder.checkpoints.make()
                kept.append(read_checkpoint(recorder.status().checkpoint.encode()))

    asyncio.run(play())
    victim = [each for each in forger.records_of(source.root) if each.kind == record.MESSAGE][4].sequence
    changes: dict[str, forger.Change] = {
        "none": lambda found: found,
        "rewrite": forger.rewritten(victim, record.encode_entry(record.CloseEntry())),
        "swap": forger.swapped(victim, victim + 1),
        "cut": forger.cut_after(victim - 1),
        "relinked without checkpoints": lambda found: [each for each in found[:-3] if each.kind != record.CHECKPOINT],
    }
    forger.relink(source.root, changes[attack])
    shutil.rmtree(source.root / "tiles")

    found = compare(source.root, kept)

    if attack == "none":
        assert (found.contradicted, found.compared) == (None, 3)
        return
    assert found.contradicted is not None
    assert found.agrees_to == _agreeing(kept, victim if attack != "relinked without checkpoints" else kept[0].size + 1)


def _agreeing(kept: Sequence[Checkpoint], victim: int) -> int:
    return max([0, *(each.size for each in kept if each.size < victim)])
