"""Archives in X-Road's layout: X-Road's own are checked, ours are whole, linked, encrypted, and survive a kill at every step."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyrage
import pytest

from appliance import durable
from appliance.commands import main as xacbe
from appliance.errors import SettingsError
from appliance.messagelog import archiving
from appliance.messagelog.archive import ArchiveBrokenError, Link, archive_name, base32, check_archive, container_name
from appliance.messagelog.archive_wire import MadeArchive
from appliance.messagelog.archiving import Archiving, DirectoryTarget, TargetAwayError
from appliance.messagelog.recorder import Recorder
from appliance.seal.verify import verify_container
from appliance.settings import ArchivistSettings
from tests.messagelog.log_box import SUBSYSTEMS, LogBox, append, played
from tests.messagelog.test_retention import Cut, confirmed, large
from tests.seal.workshop import NOON_US, known
from tests.vectors import VECTORS, needs_vectors

IDENTITY = pyrage.x25519.Identity.generate()


class Direct:
    """The archivist's way to a recorder in the same process: requests and answers are encoded as on the socket."""

    def __init__(self, recorder: Recorder) -> None:
        self._handlers = recorder.handlers()

    async def call(self, operation: str, request: Any = None, answer: Any = None, timeout_s: float = 1.0) -> Any:
        made = await self._handlers[operation]("archivist", msgspec.msgpack.encode(request))
        return msgspec.msgpack.decode(msgspec.msgpack.encode(made), type=answer) if answer is not None else None

    async def call_for_descriptor(self, operation: str, request: Any, answer: Any, timeout_s: float = 1.0) -> tuple[Any, int]:
        reply: Any = await self._handlers[operation]("archivist", msgspec.msgpack.encode(request))
        return reply.value, reply.descriptor


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place").mkdir()
    (tmp_path / "archive").mkdir()
    return tmp_path / "place"


def archivist(recorder: Recorder, box: LogBox, place: Path, *, grouping: str = "none", bytes_max: int = 32 << 20) -> Archiving:
    targets: list[Any] = [DirectoryTarget(place)]
    log = logging.getLogger("archivist")
    return Archiving(place.parent / "archive", Direct(recorder), targets, [IDENTITY.to_public()], grouping, bytes_max, box.clock, log)


def opened(file: Path) -> bytes:
    data: bytes = pyrage.decrypt(file.read_bytes(), [IDENTITY])
    return data


def chain(place: Path, made: list[MadeArchive]) -> list[str]:
    """The containers of the archives in their order; each must follow the one before."""
    names, before = [], ""
    for one in made:
        checked = check_archive(io.BytesIO(opened(place / one.file)), before)
        names += checked.containers
        before = checked.digest
    return names


@needs_vectors
@pytest.mark.parametrize(("name", "digest"), [("message-archive-0", "9011ab557706b505"), ("message-archive-1", "1bdf9efbf998d9c1")])
def test_xroads_own_archives_hold(name: str, digest: str) -> None:
    with (VECTORS / "archive" / f"{name}.zip").open("rb") as file:
        assert check_archive(file, None).digest.startswith(digest)


@needs_vectors
def test_the_second_archive_of_xroad_follows_the_first_and_no_other() -> None:
    first, second = ((VECTORS / "archive" / f"message-archive-{n}.zip").read_bytes() for n in (0, 1))
    digest = check_archive(io.BytesIO(first), "").digest

    assert len(check_archive(io.BytesIO(second), digest).containers) == 20
    for wrong in ("", "00" * 64):
        with pytest.raises(ArchiveBrokenError):
            check_archive(io.BytesIO(second), wrong)


@needs_vectors
def test_an_archive_with_a_wrong_digest_is_none() -> None:
    with (VECTORS / "archive" / "mlog-WITH_INVALID_LINKINGINFO.zip").open("rb") as file, pytest.raises(ArchiveBrokenError):
        check_archive(file, None)


def test_names_are_xroads() -> None:
    assert container_name("a b/c", "request", 31) == "a%20b%2Fc-request-v.asice"
    assert len(container_name("x" * 300, "response", 1)) == 226 + len("-response-1.asice")
    assert [base32(n) for n in (0, 9, 10, 32, 1023)] == ["0", "9", "a", "10", "vv"]
    assert archive_name("A/B:C", 0, 1_000_000, "ab" * 64) == f"mlog-A_B_C-19700101000000-19700101000001-{'ab' * 8}.zip"
    assert archive_name("", 0, 0, "ab" * 64).startswith("mlog-1970")


@pytest.mark.case("T30")
@pytest.mark.rule("IV.5.III")
def test_every_message_is_in_one_archive_as_a_container_that_verifies(box: LogBox, place: Path) -> None:
    body = os.urandom(9 << 20)  # streamed, not held

    async def act(recorder: Recorder) -> None:
        for number in range(5):
            await append(recorder, box.appends([f"Q-{number}"], body=b"said " * number or None)[0])
        await large(recorder, box, "Q-large", body)
        made = await archivist(recorder, box, place, bytes_max=1 << 20).run_once()
        await append(recorder, box.appends(["Q-later"])[0])
        made += await archivist(recorder, box, place).run_once()
        names = chain(place, made)
        assert [name.split("-request")[0] for name in names] == ["Q-0", "Q-1", "Q-2", "Q-3", "Q-4", "Q-large", "Q-later"]
        assert await archivist(recorder, box, place).run_once() == []
        for one in made:
            with zipfile.ZipFile(io.BytesIO(opened(place / one.file))) as archive:
                for name in archive.namelist()[:-1]:
                    report = verify_container(archive.read(name), known(box.workshop), None)
                    assert report.verdict == "valid", (name, report.reason)
        audits = await confirmed(recorder)
        assert [one.facts["sha256"] for one in reversed(audits)] == [one.sha256 for one in made]

    played(box, act)


@pytest.mark.case("T52")
def test_an_archive_shows_nothing_to_who_is_no_recipient(box: LogBox, place: Path) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"], body=b"CANARY" * 1000)[0])
        await archivist(recorder, box, place).run_once()

    played(box, act)
    (file,) = place.iterdir()
    assert b"CANARY" not in file.read_bytes()
    assert b"Q-1" not in file.read_bytes()
    with pytest.raises(pyrage.DecryptError):
        pyrage.decrypt(file.read_bytes(), [pyrage.x25519.Identity.generate()])


@pytest.mark.parametrize("grouping", ["subsystem", "member"])
def test_groups_have_archives_and_chains_of_their_own(box: LogBox, place: Path, grouping: str) -> None:
    groups = [name if grouping == "subsystem" else name.rpartition("/")[0] for name in SUBSYSTEMS]

    async def act(recorder: Recorder) -> None:
        for turn in range(2):
            await append(recorder, box.appends([f"P-{turn}"])[0])
            own = box.appends([f"O-{turn}"], received=False)[0]
            own.stamp_first = True
            await append(recorder, own)
            made = await archivist(recorder, box, place, grouping=grouping).run_once()
            assert sorted(one.group for one in made) == groups
            assert all(bool(one.before) == bool(turn) for one in made)

    played(box, act)


STEPS = ["feed", "rename", "manifest", "put", "confirm", "state"]


@pytest.mark.case("T30")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_an_archivist_that_dies_at_any_step_loses_no_message_and_forks_no_chain(
    box: LogBox, place: Path, step: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(owner: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        real = getattr(owner, name)

        def dying(*values: Any, **named: Any) -> Any:
            if not when(*values):
                return real(*values, **named)
            if after:
                real(*values, **named)
            raise Cut(name)

        monkeypatch.setattr(owner, name, dying)

    async def act(recorder: Recorder) -> None:
        for number in range(3):
            await append(recorder, box.appends([f"Q-{number}"], body=b"said")[0])
        first = archivist(recorder, box, place)
        match step:
            case "feed":
                dies(first, "_feed")
            case "rename":
                dies(archiving.os, "rename", lambda old, new: "outbox" in str(new))
            case "manifest":
                dies(durable, "write_file", lambda path, *_: "outbox" in str(path))
            case "put":
                dies(DirectoryTarget, "put")
            case "confirm":
                real = Direct.call

                async def call(self: Direct, operation: str, *values: Any) -> Any:
                    if operation != "confirm_archive":
                        return await real(self, operation, *values)
                    if after:
                        await real(self, operation, *values)
                    raise Cut(operation)

                monkeypatch.setattr(Direct, "call", call)
            case _:
                dies(durable, "write_file", lambda path, *_: "state.json" in str(path))
        with contextlib.suppress(Cut):
            await first.run_once()
        monkeypatch.undo()
        await append(recorder, box.appends(["Q-3"])[0])
        second = archivist(recorder, box, place)
        await second.run_once()
        names = chain(place, second.state.archives)
        assert [name.split("-")[1] for name in names] == ["0", "1", "2", "3"]
        assert sorted(one.name for one in place.iterdir()) == sorted(one.file for one in second.state.archives)
        assert os.listdir(place.parent / "archive" / "outbox") == []
        audits = await confirmed(recorder)
        assert sorted(one.facts["file"] for one in audits) == sorted(one.file for one in second.state.archives)

    played(box, act)


@pytest.mark.case("T30")
@pytest.mark.parametrize("index_too", [False, True])
def test_a_lost_list_of_archives_forks_no_chain_because_the_log_knows_its_end(box: LogBox, place: Path, index_too: bool) -> None:
    made: list[MadeArchive] = []

    async def act(recorder: Recorder) -> None:
        for turn in range(2):
            await append(recorder, box.appends([f"Q-{len(made)}-{turn}"])[0])
            made.extend(await archivist(recorder, box, place).run_once())

    played(box, act)
    (place.parent / "archive" / "state.json").unlink()
    if index_too:
        (box.root / "index.sqlite").unlink()
    played(box, act)

    assert len(chain(place, made)) == 4
    assert [one.before for one in made] == ["", *(one.digest for one in made[:-1])]


def test_a_target_that_is_away_keeps_the_archive_in_the_outbox_and_nothing_is_confirmed(box: LogBox, place: Path) -> None:
    async def act(recorder: Recorder) -> None:
        await append(recorder, box.appends(["Q-1"])[0])
        away = place.rename(place.with_name("away"))
        for _ in range(2):
            with pytest.raises(TargetAwayError):
                await archivist(recorder, box, place).run_once()
        assert len(os.listdir(place.parent / "archive" / "outbox")) == 2  # one archive and its manifest, however often it was tried
        assert (await recorder.custodian.list_terms("console", b""))[-1].archived_through == 0
        away.rename(place)
        made = await archivist(recorder, box, place).run_once()
        assert chain(place, made) == ["Q-1-request-3.asice"] or len(chain(place, made)) == 1

    played(box, act)


def test_archives_stay_in_mexico() -> None:
    with pytest.raises(SettingsError, match=r"I\.4\.I"):
        ArchivistSettings(directory="/mnt/archive", directory_place="US")


def test_the_command_checks_archives_in_order_and_gives_the_containers(
    box: LogBox, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def act(recorder: Recorder) -> None:
        for number in range(2):
            await append(recorder, box.appends([f"Q-{number}"])[0])
            await archivist(recorder, box, place).run_once()

    played(box, act)
    identity = tmp_path / "identity"
    identity.write_text(f"# a recipient\n{IDENTITY}\n")
    files = [str(file) for file in sorted(place.iterdir(), key=lambda file: file.stat().st_mtime_ns)]
    line = ["archive", "verify", "--identity", str(identity), "--json"]

    assert xacbe([*line, "--follows", "-", "--extract", str(tmp_path / "out"), *files]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["containers"] for one in found] == ["1", "1"]
    assert len(list((tmp_path / "out").glob("*.asice"))) == 2
    assert xacbe([*line, *reversed(files)]) == 1
    assert json.loads(capsys.readouterr().out)[-1]["reason"] == "archive.broken"
    assert xacbe(["archive", "verify", files[0]]) == 1


def test_the_command_shows_what_an_archive_holds_and_says_where_it_is_none(
    box: LogBox, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[MadeArchive] = []

    async def act(recorder: Recorder) -> None:
        for number in range(2):
            await append(recorder, box.appends([f"Q {number}/é"], body=b"said")[0])
            made.extend(await archivist(recorder, box, place).run_once())

    played(box, act)
    identity = tmp_path / "identity"
    identity.write_text(f"{IDENTITY}\n")
    line = ["archive", "show", "--language", "en", "--identity", str(identity)]
    second = str(place / made[1].file)

    assert xacbe([*line, "--json", second]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["digest"]) == (made[1].file, made[1].digest)
    assert (found["follows"], found["follows_file"]) == (made[0].digest, made[0].file)
    assert [(one["query_id"], one["direction"], one["record"]) for one in found["containers"]] == [("Q 1/é", "request", str(made[1].last))]
    assert xacbe([*line, second]) == 0
    assert made[0].file in capsys.readouterr().out

    plain = tmp_path / made[1].file.removesuffix(".age")
    plain.write_bytes(opened(place / made[1].file).replace(b"request", b"requesT", 1))
    assert xacbe([*line, str(plain)]) == 1
    assert "said" not in capsys.readouterr().err
    other = tmp_path / "other"
    other.write_text(f"{pyrage.x25519.Identity.generate()}\n")
    assert xacbe(["archive", "show", "--identity", str(other), second]) == 1
    assert xacbe(["archive", "show", second]) == 1
    assert "Q 1" not in capsys.readouterr().out


def test_a_link_is_empty_where_nothing_was_archived() -> None:
    assert Link() == Link("", "")
    assert NOON_US > 0
