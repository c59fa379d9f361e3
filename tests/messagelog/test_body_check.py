"""`xacbe log audit` and the files of large bodies: changed, exchanged, missing, left behind, or erased by right (T26)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.messagelog import body_check, inspection, record
from appliance.messagelog.custody import PENDING
from appliance.messagelog.inspection import Findings, Trust, inspect
from appliance.messagelog.record import MessageEntry
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.segments import BodyUnreadableError
from tests.messagelog import forger
from tests.messagelog.log_box import LogBox, append, played, read
from tests.messagelog.test_retention import DAY_S, confirm, erase, large, next_archive

pytestmark = pytest.mark.case("T26")
BODIES = (b"one" * 40_000, b"two" * 40_000, b"three" * 50_000)


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


async def three(recorder: Recorder, box: LogBox) -> list[int]:
    await append(recorder, box.appends(["Q-small"], body=b"small")[0])
    found = [await large(recorder, box, f"Q-{number}", body) for number, body in enumerate(BODIES)]
    await append(recorder, box.appends(["Q-last"], body=b"last")[0])
    return found


def a_log(box: LogBox) -> list[int]:
    """Sequences of three messages with large bodies."""
    found: list[int] = []

    async def act(recorder: Recorder) -> None:
        found.extend(await three(recorder, box))

    played(box, act)
    return found


def body(box: LogBox, sequence: int) -> Path:
    return box.root / "bodies" / f"{sequence:020d}.body"


def judged(box: LogBox) -> Findings:
    return inspect(box.root, Trust((), box.workshop.shared.tsas))


def test_bodies_that_are_what_was_written_fit_and_are_shown_as_progress(box: LogBox) -> None:
    a_log(box)
    steps: list[tuple[int, int]] = []

    found = inspect(box.root, Trust((), box.workshop.shared.tsas), lambda done, total: steps.append((done, total)))

    assert (found.bad, found.bodies, found.bodies_erased) == (None, 3, 0)
    total = found.bytes + sum(file.stat().st_size for file in (box.root / "bodies").iterdir())
    assert steps[-1] == (total, total)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert len(steps) >= len(BODIES) + 1


def _one_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _shorter(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def _longer(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


def _another_of_its_size(file: Path) -> None:
    file.write_bytes(os.urandom(file.stat().st_size))


@pytest.mark.parametrize("harm", [_one_bit, _shorter, _longer, _another_of_its_size, Path.unlink])
def test_a_body_that_was_changed_or_removed_is_named_by_its_record(box: LogBox, harm: Callable[[Path], None]) -> None:
    sequences = a_log(box)
    harm(body(box, sequences[1]))

    bad = judged(box).bad

    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.BODIES, sequences[1])


def test_two_bodies_in_each_others_place_are_found_at_the_first_of_them(box: LogBox) -> None:
    sequences = a_log(box)
    first, second = body(box, sequences[0]), body(box, sequences[1])
    assert first.stat().st_size == second.stat().st_size
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)

    bad = judged(box).bad

    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.BODIES, sequences[0])


def test_a_file_that_no_record_names_is_found_and_one_of_a_record_to_come_is_not(box: LogBox) -> None:
    sequences = a_log(box)
    body(box, sequences[-1] + 10_000).write_bytes(b"being written")
    assert judged(box).bad is None

    body(box, 1).write_bytes(b"the BOOT record has no body")
    bad = judged(box).bad

    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.BODIES, 1)


@pytest.mark.rule("IV.5.IV")
def test_bodies_that_retention_erased_are_erased_by_right_and_one_put_back_is_found(box: LogBox) -> None:
    kept: dict[Path, bytes] = {}

    async def act(recorder: Recorder) -> None:
        kept.update({body(box, each): body(box, each).read_bytes() for each in await three(recorder, box)})
        box.clock.pass_s(31 * DAY_S)
        await confirm(recorder, await next_archive(recorder))
        assert await erase(recorder) == 5

    played(box, act)
    found = judged(box)
    assert (found.bad, found.bodies, found.bodies_erased) == (None, 0, 3)

    file, data = next(iter(kept.items()))
    file.write_bytes(data)
    bad = judged(box).bad
    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.BODIES, int(file.name[:-5]))

    first = min(int(each.name[:-4]) for each in (box.root / "segments").glob("*.log"))
    (box.root / PENDING).write_bytes(msgspec.json.encode(first))  # the power went before its turn: the next start removes it
    assert judged(box).bad is None
    played(box, lambda recorder: asyncio.sleep(0))
    assert not file.exists()
    assert judged(box).bad is None


def test_a_body_that_is_gone_is_excused_by_retentions_record_of_that_message_alone(box: LogBox) -> None:
    found: list[int] = []

    async def act(recorder: Recorder) -> None:
        found.append(await large(recorder, box, "Q-old", BODIES[0]))
        box.clock.pass_s(31 * DAY_S)
        await confirm(recorder, await next_archive(recorder))
        found.append(await large(recorder, box, "Q-new", BODIES[1]))
        assert await erase(recorder) == 1

    played(box, act)
    body(box, found[1]).unlink()

    bad = judged(box).bad

    assert bad is not None
    assert (bad.step, bad.sequence) == (inspection.BODIES, found[1])


def test_an_erasure_while_the_audit_walks_is_explained_by_what_it_left_in_a_new_segment(box: LogBox) -> None:
    """What was the last segment at the beginning is closed and written anew, and its bodies go, before the walk comes to its end."""

    async def act(recorder: Recorder) -> None:
        await three(recorder, box)
        box.clock.pass_s(31 * DAY_S)
        await confirm(recorder, await next_archive(recorder))
        loop, erased = asyncio.get_running_loop(), 0

        def then_erase(done: int, total: int) -> None:
            nonlocal erased
            if not erased:
                erased = asyncio.run_coroutine_threadsafe(erase(recorder), loop).result(20)

        trust = Trust((), box.workshop.shared.tsas)
        found = await asyncio.to_thread(inspect, box.root, trust, then_erase)
        assert erased == 5
        assert found.bad is None
        assert found.bodies + found.bodies_erased == 3
        assert found.records == recorder.store.position.sequence
        assert len(forger.segments(box.root)) == 2

    played(box, act)


def test_a_record_of_before_that_tells_no_digest_is_compared_by_size_and_said_so(box: LogBox) -> None:
    sequences = a_log(box)

    def forget(found: list[record.Record]) -> list[record.Record]:
        for one in found:
            if one.sequence in sequences:
                entry = record.decode_entry(one.kind, one.payload)
                assert isinstance(entry, MessageEntry)
                entry.file_digest = None
                one.payload = record.encode_entry(entry)
        return found

    forger.relink(box.root, forget)
    checked = body_check.BodyCheck(box.root)
    for one in forger.records_of(box.root):
        entry = record.decode_entry(one.kind, one.payload)
        if isinstance(entry, MessageEntry) and entry.body_file:
            assert checked.look(one.sequence, entry) == (True, "")
    assert (checked.whole, checked.undecided) == (3, 3)
    assert inspection.BODIES in judged(box).undecided


def test_a_body_that_cannot_be_opened_is_named_and_ends_nothing_and_readers_cannot_change_one(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        first, second, _ = await three(recorder, box)
        body(box, first).unlink()
        body(box, first).symlink_to(body(box, first))  # any error of the disk but that there is none
        with pytest.raises(BodyUnreadableError):
            await read(recorder, first)
        content, descriptor = await recorder.reading.content(second)
        assert descriptor is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.pwrite(descriptor, b"changed", 0)
        os.close(descriptor)
        assert (await read(recorder, second))[1] == BODIES[1]
        assert not box.stopped

    played(box, act)
    assert judged(box).bad is not None
