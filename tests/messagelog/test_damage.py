"""A part of the log that cannot be read: it alone is refused and told, the log goes on, and archives name what they lack (T26, T35)."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from appliance.commands import main as xacbe
from appliance.errors import UnverifiedError
from appliance.messagelog import archiving, custodian, damage, inspection, missing
from appliance.messagelog.archiving import UnreadableMessageError
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.groups import Draft
from appliance.messagelog.inspection import Trust, inspect
from appliance.messagelog.record import AuditEntry, BrokenLinkError, Buffer
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.segments import SegmentUnreadableError, body_path, segment_path
from appliance.messagelog.wire import AuditRecord
from appliance.net.local_server import called_by
from appliance.seal.verify import verify_container
from tests.messagelog.log_box import SUBSYSTEMS, LogBox, append, played, read, until_stamped
from tests.messagelog.test_archive import Direct, archivist, opened
from tests.messagelog.test_retention import DAY_S, change, erase, large
from tests.seal.workshop import known

OURS = SUBSYSTEMS[0]


class FailingDisk(OsDisk):
    """The disk fails wherever `bad` lies: reading a file of it gives EIO, as a sector does that cannot be read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.bad: set[str] = set()

    def _check(self, path: str) -> None:
        if path in self.bad:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def view(self, path: str, begin: int = 0) -> Buffer:
        self._check(path)
        return super().view(path, begin)

    def read(self, path: str, offset: int, size: int) -> bytes:
        self._check(path)
        return super().read(path, offset, size)

    def open_to_read(self, path: str) -> int:
        self._check(path)
        return super().open_to_read(path)


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    box = LogBox(tmp_path / "log")
    box.disk = FailingDisk(box.root)
    return box


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    (tmp_path / "archive").mkdir()
    return tmp_path / "place"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(damage, "LOOK_S", 0.02)
    monkeypatch.setattr(custodian, "SEGMENT_PAUSE_S", 0.0)
    return iter(())


def fail_at(box: LogBox, *paths: str) -> None:
    assert isinstance(box.disk, FailingDisk)
    box.disk.bad = set(paths)


async def closed_segment(recorder: Recorder, box: LogBox, *ids: str) -> list[int]:
    """Messages in a segment of their own that is under a checkpoint."""
    found = [(await append(recorder, box.appends([each], body=b"said")[0])).sequence for each in ids]
    await until_stamped(recorder)
    await recorder.checkpoints.make()
    recorder.store.roll()
    await append(recorder, box.appends([f"after {ids[-1]}"], body=b"said")[0])
    await until_stamped(recorder)
    await recorder.checkpoints.make()
    return found


async def acts(recorder: Recorder, name: str) -> list[AuditRecord]:
    with called_by(os.getuid()):
        found = await recorder.reading.list_audits("console", msgspec.msgpack.encode([999]))
    return [one for one in found if one.event == name]


@pytest.mark.case("T35")
def test_a_segment_that_the_disk_does_not_give_is_refused_and_told_once_and_the_log_goes_on(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        lost, _ = await closed_segment(recorder, box, "Q-1", "Q-2")
        fail_at(box, segment_path(1))
        for _ in range(3):
            with pytest.raises(SegmentUnreadableError):
                await read(recorder, lost)
        later = await append(recorder, box.appends(["Q-3"], body=b"later")[0])
        assert (await read(recorder, later.sequence))[0].body == b"later"
        await recorder.damage.tell()
        assert [(kind, facts["segment"], facts["kind"]) for kind, facts in box.damage] == [("log.damaged", "1", "log.segment_unreadable")]
        assert not box.stopped
        fail_at(box)
        assert (await read(recorder, lost))[0].body == b"said"
        assert len(await acts(recorder, "log.damaged")) == 1

    played(box, act)


@pytest.mark.case("T35")
def test_a_start_passes_over_an_old_segment_that_the_disk_does_not_give_and_has_it_again_when_the_disk_does(box: LogBox) -> None:
    found: list[int] = []

    async def first(recorder: Recorder) -> None:
        found.extend(await closed_segment(recorder, box, "Q-1"))

    async def second(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-2"])[0])
        with pytest.raises(SegmentUnreadableError):
            await read(recorder, found[0])
        await recorder.damage.tell()
        fail_at(box)
        assert (await read(recorder, found[0]))[0].body == b"said"

    played(box, first)
    fail_at(box, segment_path(1))
    played(box, second)

    assert [facts["segment"] for _, facts in box.damage] == ["1"]
    assert inspect(box.root, Trust()).bad is None


@pytest.mark.case("T35")
def test_a_log_whose_end_the_disk_does_not_give_is_not_opened_and_nothing_is_written_to_it(box: LogBox) -> None:
    """Nobody would know what comes next, nor who asks again for what was asked before."""

    async def first(recorder: Recorder) -> None:
        await closed_segment(recorder, box, "Q-1")

    played(box, first)
    newest = max(file.name for file in (box.root / "segments").iterdir())
    before = (box.root / "segments" / newest).read_bytes()
    fail_at(box, f"segments/{newest}")

    with pytest.raises(SegmentUnreadableError):
        played(box, first)

    assert (box.root / "segments" / newest).read_bytes() == before
    assert isinstance(box.disk, FailingDisk)
    box.disk.release()


@pytest.mark.case("T26")
def test_a_changed_record_under_a_checkpoint_is_refused_and_told_and_one_behind_it_ends_the_process(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        lost, whole = await closed_segment(recorder, box, "Q-1", "Q-2")
        await change_record(recorder, box, lost)
        with pytest.raises(UnverifiedError) as refused:
            await read(recorder, lost)
        assert refused.value.kind == BrokenLinkError.kind
        assert (await read(recorder, whole))[0].body == b"said"
        assert not box.stopped
        later = (await append(recorder, box.appends(["Q-3"])[0])).sequence
        await recorder.damage.tell()
        assert [(facts["segment"], facts["kind"]) for _, facts in box.damage] == [("1", BrokenLinkError.kind)]
        await change_record(recorder, box, later)
        with pytest.raises(BrokenLinkError):
            await read(recorder, later)
        assert [type(error) for error in box.stopped] == [BrokenLinkError]

    played(box, act)

    found = inspect(box.root, Trust()).bad
    assert found is not None
    assert found.step == inspection.LINKS


async def change_record(recorder: Recorder, box: LogBox, sequence: int) -> None:
    place = await recorder._follower.ask(lambda index: index.place(sequence))
    assert place is not None
    file = box.root / segment_path(recorder.store.segment_of(sequence))
    data = bytearray(file.read_bytes())
    data[place.offset + 200] ^= 1
    fd = os.open(file, os.O_WRONLY)
    os.pwrite(fd, data[place.offset + 200 : place.offset + 201], place.offset + 200)
    os.close(fd)


def lose(box: LogBox, sequence: int) -> None:
    (box.root / body_path(sequence)).unlink()


def spoil(box: LogBox, sequence: int) -> None:
    file = box.root / body_path(sequence)
    file.write_bytes(file.read_bytes()[:-1] + b"?")


def unreadable(box: LogBox, sequence: int) -> None:
    fail_at(box, body_path(sequence))


@pytest.mark.case("T30")
@pytest.mark.parametrize("harm", [lose, spoil, unreadable])
def test_a_body_that_cannot_be_read_is_named_after_an_hour_and_archives_go_on_with_its_head_and_seal(
    box: LogBox, place: Path, harm: Callable[[LogBox, int], None]
) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"], body=b"one")[0])
        lost = await large(recorder, box, "Q-large", b"large" * 40_000)
        await append(recorder, box.appends(["Q-2"], body=b"two")[0])
        await until_stamped(recorder)
        harm(box, lost)
        for _ in range(2):
            with pytest.raises(UnreadableMessageError):
                await archivist(recorder, box, place).run_once()
            box.clock.pass_s(missing.PATIENCE_S / 2 + 1)
        assert box.damage == []
        (made,) = await archivist(recorder, box, place).run_once()
        with zipfile.ZipFile(io.BytesIO(opened(place / made.file))) as archive:
            *containers, note, linking = archive.namelist()
            assert [name.split("-request")[0] for name in containers] == ["Q-1", "Q-large", "Q-2"]
            assert json.loads(archive.read(note)) | {"at": ""} == {"record": lost, "at": "", "missing": "body"}
            assert note in archive.read(linking).decode()
            assert verify_container(archive.read(containers[2]), known(box.workshop), None).verdict == "valid"
            with zipfile.ZipFile(io.BytesIO(archive.read(containers[1]))) as one:
                assert "message.xml" in one.namelist() or "message.http" in " ".join(one.namelist())
        assert [(kind, facts["record"], facts["missing"]) for kind, facts in box.damage] == [("archive.missing", str(lost), "body")]
        assert await archivist(recorder, box, place).run_once() == []
        await append(recorder, box.appends(["Q-3"])[0])
        await until_stamped(recorder)
        (after,) = await archivist(recorder, box, place).run_once()
        with zipfile.ZipFile(io.BytesIO(opened(place / after.file))) as archive:
            assert [name.split("-request")[0] for name in archive.namelist()] == ["Q-3", "linkinginfo"]

    played(box, act)


@pytest.mark.case("T30")
def test_messages_that_cannot_be_read_hold_up_no_other_and_are_never_erased(box: LogBox, place: Path) -> None:
    async def act(recorder: Recorder) -> None:
        lost = await closed_segment(recorder, box, "Q-1", "Q-2", "Q-3")
        await until_stamped(recorder)
        fail_at(box, segment_path(1))
        with pytest.raises(UnreadableMessageError):
            await archivist(recorder, box, place).run_once()
        box.clock.pass_s(missing.PATIENCE_S)
        (made,) = await archivist(recorder, box, place).run_once()  # all three at once
        with zipfile.ZipFile(io.BytesIO(opened(place / made.file))) as archive:
            *others, _ = archive.namelist()
            told = [json.loads(archive.read(name)) for name in others[1:]]
        assert others[0].startswith("after")
        assert [(one["record"], one["missing"]) for one in told] == [(sequence, "message") for sequence in lost]
        assert len(await acts(recorder, "archive.missing")) == 3 == len([kind for kind, _ in box.damage if kind == "archive.missing"])
        fail_at(box)
        await change(recorder, OURS, 1)
        box.clock.pass_s(3 * DAY_S)
        await append(recorder, box.appends(["Q-later"])[0])
        await until_stamped(recorder)
        await erase(recorder)
        for sequence in lost:
            assert (await read(recorder, sequence))[0].body == b"said"

    played(box, act)


@pytest.mark.case("T30")
def test_a_body_that_comes_back_within_the_hour_is_archived_whole_and_the_hour_begins_anew(box: LogBox, place: Path) -> None:
    async def act(recorder: Recorder) -> None:
        sequence = await large(recorder, box, "Q-large", b"large" * 40_000)
        await until_stamped(recorder)
        unreadable(box, sequence)
        with pytest.raises(UnreadableMessageError):
            await archivist(recorder, box, place).run_once()
        fail_at(box)
        box.clock.pass_s(missing.PATIENCE_S)
        asked = msgspec.msgpack.encode(archiving.ReadArchivable(sequence))
        assert not await recorder.missing.archive_unreadable("archivist", asked)  # a captured archivist cannot call it missing
        (made,) = await archivist(recorder, box, place).run_once()
        with zipfile.ZipFile(io.BytesIO(opened(place / made.file))) as archive:
            assert verify_container(archive.read(archive.namelist()[0]), known(box.workshop), None).verdict == "valid"
        assert box.damage == []

    played(box, act)


def test_one_group_that_is_held_up_holds_up_no_other(box: LogBox, place: Path) -> None:
    async def act(recorder: Recorder) -> None:
        sequence = await large(recorder, box, "Q-large", b"large" * 40_000)
        await append(recorder, box.appends(["Q-own"], received=False)[0])
        await until_stamped(recorder)
        lose(box, sequence)
        with pytest.raises(UnreadableMessageError):
            await archivist(recorder, box, place, grouping="subsystem").run_once()
        assert len(list(place.iterdir())) == len(await Direct(recorder).call("archive_groups", None, list[str])) - 1

    played(box, act)


@pytest.mark.case("T35")
def test_reading_a_segment_raises_where_the_disk_fails_and_never_ends_the_process_by_a_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a map, a sector that cannot be read is SIGBUS."""
    (tmp_path / "segment").write_bytes(bytes(3 << 20))
    real = os.preadv

    def preadv(fd: int, buffers: list[bytearray], at: int) -> int:
        if at + len(buffers[0]) > 2 << 20:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(fd, buffers, at)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(OSError, match="Input/output error") as failed:
        OsDisk(tmp_path).view("segment")
    assert failed.value.filename == "segment"
    with pytest.raises(OSError, match="Input/output error"):
        OsDisk(tmp_path).view("segment", 2 << 20)


@pytest.mark.case("T26")
def test_an_audit_of_a_log_that_cannot_be_read_is_undecided_and_names_the_file(
    box: LogBox, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"])[0])

    played(box, act)

    def preadv(fd: int, buffers: list[bytearray], at: int) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", preadv)
    assert xacbe(["log", "audit", "--log", str(box.root)]) == 2
    assert segment_path(1) in capsys.readouterr().err


def test_an_act_that_the_log_does_not_take_is_told_with_the_next_look(box: LogBox) -> None:
    async def refused(draft: Draft) -> None:
        assert isinstance(draft.entry, AuditEntry)
        raise SegmentUnreadableError(1, "full")

    async def act(recorder: Recorder) -> None:
        assert not await damage.tell(refused, "log.damaged", {}, lambda kind, facts: pytest.fail(kind))

    played(box, act)
