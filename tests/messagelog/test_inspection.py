"""`xacbe log audit` against an attacker with root: what it finds by itself, and which record it names (T26, T27)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.messagelog import inspection, record
from appliance.messagelog.inspection import Findings, Trust, inspect
from tests.messagelog import forger
from tests.messagelog.log_box import LogBox, append_all, until_stamped

ROUNDS = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> LogBox:
    """A log of several segments with a checkpoint after each of three exchanges."""
    box = LogBox(tmp_path_factory.mktemp("written") / "log")

    async def play() -> None:
        for turn in range(ROUNDS):
            async with box.opened() as recorder:
                await append_all(recorder, box.appends([f"{turn}-{n}" for n in range(4)], body=b'{"secret": 1}' * 20))
                await until_stamped(recorder)
                await recorder.checkpoints.make()
                await until_stamped(recorder)

    asyncio.run(play())
    return box


@pytest.fixture
def log(written: LogBox, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(written.root, tmp_path / "log")
    return tmp_path / "log"


def inspected(log: Path, box: LogBox) -> Findings:
    return inspect(log, Trust((), box.workshop.shared.tsas))


def test_a_whole_log_is_intact_as_far_as_the_given_certificates_tell(written: LogBox) -> None:
    steps: list[tuple[int, int]] = []
    found = inspect(written.root, Trust((), written.workshop.shared.tsas), lambda done, total: steps.append((done, total)))

    records = forger.records_of(written.root)
    assert (found.bad, found.records, found.checkpoints, found.tail_bytes) == (None, len(records), ROUNDS, 0)
    assert found.covered == max(index for index, each in enumerate(records) if each.kind == record.CHECKPOINT)
    assert (found.stamped, found.stamped_at_us) == (found.covered, written.clock.us)
    assert (found.verdict, found.undecided) == (inspection.UNDECIDED, [inspection.KEYS])
    assert steps[-1] == (found.bytes, found.bytes)


def classes() -> list[tuple[str, int]]:
    """Every field of a record's frame; payload, content and crc follow."""
    fields = {"mark": 0, "length": 4, "content_length": 8, "type": 12, "flags": 13, "sequence": 14, "at": 22, "previous": 30, "digest": 62}
    return list(fields.items())


@pytest.mark.case("T26")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_changed_byte_of_any_record_is_named(written: LogBox, tmp_path: Path, data: st.DataObject) -> None:
    """Before the last group; in it, a byte may as well be a torn write, which only a checkpoint tells (below)."""
    records = forger.records_of(written.root)
    last_group = max(index for index, each in enumerate(records) if each.flags & record.FIRST_OF_GROUP)
    victim = records[data.draw(st.integers(0, last_group - 1))]
    width = {"type": 1, "flags": 1, "sequence": 8, "at": 8, "previous": 32, "digest": 32}
    name, start = data.draw(st.sampled_from([*classes(), ("payload", 62), ("end", victim.size - 4)]))
    size = victim.size - start if name in ("payload", "end") else width.get(name, 4)
    at = start + data.draw(st.integers(0, max(0, min(size, victim.size - start) - 1)))
    log = tmp_path / "spoilt"
    shutil.rmtree(log, ignore_errors=True)
    shutil.copytree(written.root, log)

    forger.change_byte(log, victim.sequence, at, data.draw(st.integers(1, 255)))

    bad = inspected(log, written).bad
    assert bad is not None
    assert bad.sequence == victim.sequence


@pytest.mark.case("T26")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_changed_byte_with_a_mended_checksum_is_named_at_its_record_or_the_next(
    written: LogBox, tmp_path: Path, data: st.DataObject
) -> None:
    records = forger.records_of(written.root)
    covered = max(index for index, each in enumerate(records) if each.kind == record.CHECKPOINT)
    victim = records[data.draw(st.integers(0, covered - 1))]
    at = data.draw(st.integers(12, victim.size - 5))
    log = tmp_path / "spoilt"
    shutil.rmtree(log, ignore_errors=True)
    shutil.copytree(written.root, log)

    forger.change_byte(log, victim.sequence, at, data.draw(st.integers(1, 255)), mend_crc=True)

    bad = inspected(log, written).bad
    assert bad is not None
    assert bad.sequence in (victim.sequence, victim.sequence + 1)


@pytest.mark.case("T26")
@pytest.mark.parametrize("at", range(32))
def test_a_changed_byte_of_a_segments_head_is_found(log: Path, written: LogBox, at: int) -> None:
    file = sorted((log / "segments").glob("*.log"))[0]
    data = bytearray(file.read_bytes())
    data[at] ^= 0x40
    file.write_bytes(data)

    bad = inspected(log, written).bad
    assert bad is not None
    assert bad.sequence == 1


@pytest.mark.case("T26")
@pytest.mark.parametrize("attack", ["rewrite", "swap", "delete", "insert"])
def test_a_rewritten_log_that_fits_in_itself_is_betrayed_by_its_checkpoints(log: Path, written: LogBox, attack: str) -> None:
    victim = next(each for each in forger.records_of(log) if each.kind == record.MESSAGE).sequence
    change = {
        "rewrite": forger.rewritten(victim, record.encode_entry(record.CloseEntry())),
        "swap": forger.swapped(victim, victim + 1),
        "delete": forger.without(victim),
        "insert": lambda found: [*found[:victim], found[victim - 1], *found[victim:]],
    }[attack]
    forger.relink(log, change)

    bad = inspected(log, written).bad

    assert bad is not None
    assert bad.step in (inspection.CHECKPOINTS, inspection.STAMPS)
    if attack in ("rewrite", "swap"):
        assert bad.sequence == victim  # the tiles are still those that were signed: they tell which
    shutil.rmtree(log / "tiles")
    again = inspected(log, written).bad
    assert again is not None
    assert again.after == 0


@pytest.mark.case("T26")
def test_a_checkpoint_that_another_key_signed_is_named(log: Path, written: LogBox) -> None:
    """The attacker cannot use the box's key; one of its own gives other checkpoints, which CEIQROO's authority never certified."""
    first = next(each for each in forger.records_of(log) if each.kind == record.CHECKPOINT)
    entry = record.decode_entry(first.kind, first.payload)
    assert isinstance(entry, record.CheckpointEntry)
    other = LogBox(log.parent / "other").signer
    forger.relink(
        log,
        forger.rewritten(
            first.sequence, record.encode_entry(record.CheckpointEntry(entry.size, entry.note, entry.digest, other.certificate, None))
        ),
    )

    bad = inspected(log, written).bad

    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.KEYS, first.sequence)


@pytest.mark.case("T26")
def test_a_tail_that_was_cut_off_is_told_by_the_checkpoint_beside_the_log(log: Path, written: LogBox) -> None:
    count = len(forger.records_of(log))
    for kept in (count - 4, count // 2, 2):
        forger.relink(log, forger.cut_after(kept))

        bad = inspected(log, written).bad

        assert bad is not None
        assert (bad.step, bad.sequence) == (inspection.END, kept + 1)


@pytest.mark.case("T26")
def test_a_whole_log_put_in_the_place_of_another_is_told(log: Path, written: LogBox, tmp_path: Path) -> None:
    other = LogBox(tmp_path / "other")

    async def play() -> None:
        async with other.opened() as recorder:
            await append_all(recorder, other.appends([f"x-{n}" for n in range(30)]))
            await until_stamped(recorder)
            await recorder.checkpoints.make()

    asyncio.run(play())
    shutil.rmtree(log / "segments")
    shutil.copytree(other.root / "segments", log / "segments")

    assert inspected(log, written).bad is not None


@pytest.mark.case("T30")
def test_a_log_whose_contents_were_cut_keeps_links_and_stamps_and_the_cut_that_no_record_explains_is_named(
    log: Path, written: LogBox
) -> None:
    for file in sorted((log / "segments").glob("*.log")):
        data = file.read_bytes()
        mark = record.mark_of(data) or 0
        kept = b"".join(record.without_content(each, mark) for each in record.records(data, mark))
        file.write_bytes(data[: record.SEGMENT_HEAD.size] + kept)

    found = inspected(log, written)

    first = next(each for each in forger.records_of(log) if each.kind == record.MESSAGE)
    assert found.bad is not None
    assert (found.bad.step, found.bad.sequence) == (inspection.RETENTION, first.sequence)
    assert found.contents_cut > 0
    assert found.stamped == found.covered
    assert b"secret" not in b"".join(file.read_bytes() for file in (log / "segments").glob("*.log"))


def test_a_log_without_a_checkpoint_is_undecided_and_an_empty_one_too(tmp_path: Path) -> None:
    box = LogBox(tmp_path / "log")
    box.signer.away = True

    async def play() -> None:
        async with box.opened() as recorder:
            await append_all(recorder, box.appends(["a"]))

    asyncio.run(play())

    found = inspected(box.root, box)

    assert (found.bad, found.verdict) == (None, inspection.UNDECIDED)
    assert inspection.CHECKPOINTS in found.undecided
