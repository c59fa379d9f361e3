"""Checkpoints of a real recorder: when they are made, what the next start does with them, and what a log that was cut back betrays."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from appliance.errors import CorruptStateError
from appliance.messagelog import checkpoint, merkle, record
from appliance.messagelog.checkpoints import LOOK_S
from appliance.messagelog.log_tree import CheckpointContradictedError
from appliance.messagelog.record import AuditEntry, BrokenLinkError, CheckpointEntry, StampEntry
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.wire import Audit
from tests.messagelog.log_box import LogBox, append_all, until_stamped

Play = Callable[[Recorder, LogBox], Awaitable[None]]


def played(box: LogBox, *acts: Play) -> None:
    """Each act with a recorder of its own over the same directory."""

    async def play() -> None:
        for act in acts:
            async with box.opened() as recorder:
                await act(recorder, box)

    asyncio.run(play())
    assert not box.stopped


async def exchange(recorder: Recorder, box: LogBox, ids: str = "ab") -> None:
    await append_all(recorder, box.appends([f"{each}-{box.clock.us}" for each in ids]))
    await until_stamped(recorder)


async def checkpointed(recorder: Recorder, box: LogBox) -> None:
    await exchange(recorder, box)
    await recorder.checkpoints.make()
    await until_stamped(recorder)


def entries(recorder: Recorder) -> list[record.Entry | None]:
    return [record.decode_entry(each.kind, each.payload) for _, each in recorder.store.records_from(1)]


def links(recorder: Recorder, count: int) -> list[bytes]:
    return [each.link for _, each in recorder.store.records_from(1)][:count]


def segment(box: LogBox) -> Path:
    return sorted((box.root / "segments").glob("*.log"))[-1]


@pytest.mark.case("T26")
def test_a_checkpoint_is_over_every_record_before_it_signed_linked_and_stamped(tmp_path: Path) -> None:
    async def act(recorder: Recorder, box: LogBox) -> None:
        await checkpointed(recorder, box)

        found = entries(recorder)
        made = next(each for each in found if isinstance(each, CheckpointEntry))
        place = found.index(made) + 1
        said = checkpoint.check(made.note, [box.signer.public_key])
        assert (said.size, made.size) == (place - 1, place - 1)
        assert made.certificate == box.signer.certificate
        tree = merkle.GrowingTree()
        tree.extend(links(recorder, said.size))
        assert said.root == tree.root()
        await until(lambda: any(isinstance(e, StampEntry) and place in e.messages and place in e.signatures for e in entries(recorder)))
        assert recorder.status().checkpoint.encode() == made.note

    played(LogBox(tmp_path), act)


def test_a_checkpoint_comes_by_itself_after_its_interval_and_never_for_itself(tmp_path: Path) -> None:
    async def act(recorder: Recorder, box: LogBox) -> None:
        await checkpointed(recorder, box)
        await recorder.audit("signer", audit_of("key.used"))
        await idle(recorder, box, 3)
        assert recorder.checkpoints.made == 1

        await recorder.audit("signer", audit_of("key.generated"))
        await idle(recorder, box, 1)
        await until(lambda: recorder.checkpoints.made == 2)
        await idle(recorder, box, 3)
        assert recorder.checkpoints.made == 2

    played(LogBox(tmp_path), act)


def audit_of(name: str) -> bytes:
    import msgspec

    return msgspec.msgpack.encode(Audit(name, {}))


async def idle(recorder: Recorder, box: LogBox, intervals: int) -> None:
    for _ in range(intervals):
        box.clock.pass_s(61)
        await asyncio.sleep(0.6)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.case("T26")
@pytest.mark.parametrize("is_news", [True, False])
def test_what_a_restart_found_behind_the_newest_checkpoint_gets_one_without_waiting_for_the_next_message(
    tmp_path: Path, is_news: bool
) -> None:
    """Nobody else would know of the log's end. Start, end and a checkpoint's own stamp are no news: an idle box is left in peace."""
    sizes: list[int] = []

    async def before(recorder: Recorder, box: LogBox) -> None:
        await checkpointed(recorder, box)
        if is_news:
            await exchange(recorder, box, "c")
        sizes.append(recorder.store.position.sequence)

    async def after(recorder: Recorder, box: LogBox) -> None:
        size = recorder.checkpoints.size
        assert size < sizes[0]
        box.clock.pass_s(box.settings.checkpoint_s + 1)
        if is_news:
            await until(lambda: recorder.checkpoints.size >= sizes[0])
        else:
            await asyncio.sleep(3 * LOOK_S)
            assert recorder.checkpoints.size == size

    played(LogBox(tmp_path), before, after)


def test_while_the_token_is_away_the_log_goes_on_and_the_checkpoint_comes_later(tmp_path: Path) -> None:
    async def act(recorder: Recorder, box: LogBox) -> None:
        box.signer.away = True
        await exchange(recorder, box)
        box.clock.pass_s(61)
        await until(lambda: recorder.checkpoints.failed == 1)
        assert recorder.status().checkpoint == ""

        box.signer.away = False
        box.clock.pass_s(11)
        await until(lambda: recorder.checkpoints.made == 1)

    played(LogBox(tmp_path), act)


def test_the_next_start_follows_only_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    box = LogBox(tmp_path)
    played(box, checkpointed)
    data = bytearray(segment(box).read_bytes())
    data[200] ^= 1  # in the first records: this start does not look there, `xacbe log audit` does
    segment(box).write_bytes(data)

    async def act(recorder: Recorder, box: LogBox) -> None:
        before = recorder.checkpoints.size
        assert before > 0
        await exchange(recorder, box, "c")
        await recorder.checkpoints.make()
        newest = checkpoint.check(recorder.status().checkpoint.encode(), [box.signer.public_key])
        assert newest.size > before + 3

    played(box, act)
    shutil.rmtree(tmp_path / "tiles" / "tile")
    with pytest.raises(BrokenLinkError) as caught:
        played(box, act)
    assert caught.value.sequence == 2


@pytest.mark.case("T26")
@pytest.mark.parametrize("lost", ["tiles", "place", "index"])
def test_what_is_derived_is_made_again_from_the_segments(tmp_path: Path, lost: str) -> None:
    box = LogBox(tmp_path)
    played(box, checkpointed)
    match lost:
        case "tiles":
            shutil.rmtree(tmp_path / "tiles" / "tile")
        case "place":
            (tmp_path / "tiles" / "place").write_bytes(b"\0")
        case _:
            (tmp_path / "index.sqlite").unlink()

    async def act(recorder: Recorder, box: LogBox) -> None:
        size = recorder.checkpoints.size
        await exchange(recorder, box, "c")
        await recorder.checkpoints.make()
        newest = checkpoint.check(recorder.status().checkpoint.encode(), [box.signer.public_key])
        tree = merkle.GrowingTree()
        tree.extend(links(recorder, newest.size))
        assert newest.root == tree.root()
        older = checkpoint.check(next(e.note for e in entries(recorder) if isinstance(e, CheckpointEntry)), [box.signer.public_key])
        proof = recorder.tree.consistency(older.size, newest.size)
        merkle.check_consistency(older.size, older.root, newest.size, newest.root, proof)
        assert size == older.size

    played(box, act)


@pytest.mark.case("T26")
@pytest.mark.case("T34")
def test_a_log_that_ends_before_its_own_checkpoint_is_not_opened(tmp_path: Path) -> None:
    box = LogBox(tmp_path)
    played(box, checkpointed)
    whole = segment(box).read_bytes()
    mark = record.mark_of(whole) or 0
    first_message = next(each for each in record.records(whole, mark) if each.kind == record.MESSAGE)

    segment(box).write_bytes(whole[: first_message.offset])

    with pytest.raises(CheckpointContradictedError, match="was signed"):
        played(box, checkpointed)
    assert segment(box).read_bytes() == whole[: first_message.offset]


@pytest.mark.case("T26")
def test_damage_in_a_last_group_under_a_checkpoint_is_no_torn_tail(tmp_path: Path) -> None:
    """Without the checkpoint the same bytes could be a torn write: they would be cut off."""
    box = LogBox(tmp_path)
    played(box, checkpointed)
    whole = segment(box).read_bytes()
    last = [each for each in record.records(whole, record.mark_of(whole) or 0) if each.kind == record.MESSAGE][-1]
    torn = bytearray(whole[: last.offset + last.size])
    torn[last.offset + 60] ^= 1
    segment(box).write_bytes(torn)

    with pytest.raises(CorruptStateError):
        played(box, checkpointed)


@pytest.mark.case("T26")
def test_the_counter_of_the_tpm_tells_that_an_older_log_was_put_back(tmp_path: Path) -> None:
    box = LogBox(tmp_path / "log")
    box.signer.counter = 4
    played(box, checkpointed)
    shutil.copytree(tmp_path / "log", tmp_path / "kept")

    async def an_hour(recorder: Recorder, box: LogBox) -> None:
        for _ in range(3):
            box.clock.pass_s(3601)
            await checkpointed(recorder, box)

    played(box, an_hour)
    assert box.signer.counter == 6
    assert box.rolled_back == []
    shutil.rmtree(tmp_path / "log")
    shutil.copytree(tmp_path / "kept", tmp_path / "log")

    async def act(recorder: Recorder, box: LogBox) -> None:
        await checkpointed(recorder, box)
        assert any(isinstance(each, AuditEntry) and each.event == "log.rolled_back" for each in entries(recorder))

    played(box, act)
    assert [(facts["counter"], facts["told"]) for facts in box.rolled_back] == [("6", "4")]


def test_a_count_that_was_lost_with_the_process_is_no_roll_back(tmp_path: Path) -> None:
    box = LogBox(tmp_path)
    box.signer.counter = 4
    played(box, checkpointed)
    box.signer.counter = 5

    played(box, checkpointed)

    assert box.rolled_back == []
