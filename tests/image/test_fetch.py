"""What a build machine cannot have is told apart from what is wrong with our own lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from image import __main__ as command
from image import build, host, tools, wheels
from image.tools import ImageError

OURS = "mmdebstrap ended with 1:\nE: Unable to locate package systemd-ukifi"
AWAY = (
    "mmdebstrap ended with 1:\nE: Failed to fetch http://mirror.example/debian/dists/trixie/InRelease",
    "pip ended with 1:\nWARNING: Retrying: NewConnectionError(...)",
    "tar: usr/lib: Cannot write: No space left on device",
    "mount: /tmp/whole: Operation not permitted",
)


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(host, "ROOM_BYTES", 0)
    monkeypatch.setattr(host, "BUILD_MEMORY_BYTES", 0)
    monkeypatch.setattr(tools, "CACHE", tmp_path)
    monkeypatch.setattr(tools, "run", lambda words: "")
    monkeypatch.setattr(tools, "prepare_host", lambda: None)
    monkeypatch.setattr(tools, "prepare_tree", lambda: None)
    monkeypatch.setattr(tools, "inside", lambda *words: "")
    monkeypatch.setattr(wheels, "collect", lambda repository: None)
    monkeypatch.setattr("sys.argv", ["image", "fetch"])
    return monkeypatch


def fails(said: str) -> None:
    raise ImageError(said)


@pytest.mark.parametrize("said", AWAY)
def test_a_mirror_that_is_away_is_this_machine_s_affair(ready: pytest.MonkeyPatch, said: str) -> None:
    ready.setattr(tools, "prepare_tree", lambda: fails(said))

    assert command.main() == command.EXIT_NOT_HERE


@pytest.mark.parametrize("said", AWAY)
def test_it_is_also_while_the_image_is_built(ready: pytest.MonkeyPatch, said: str) -> None:
    ready.setattr(build, "build", lambda clean: fails(said))
    ready.setattr("sys.argv", ["image", "build"])

    assert command.main() == command.EXIT_NOT_HERE


def test_what_else_fails_in_a_build_is_ours(ready: pytest.MonkeyPatch) -> None:
    ready.setattr(build, "build", lambda clean: fails("mkosi ended with 1:\nNo such file or directory"))
    ready.setattr("sys.argv", ["image", "build"])

    assert command.main() == 1


def test_a_package_that_does_not_exist_is_ours(ready: pytest.MonkeyPatch) -> None:
    ready.setattr(tools, "prepare_tree", lambda: fails(OURS))

    assert command.main() == 1


def test_without_root_or_name_spaces_nothing_is_built_here(ready: pytest.MonkeyPatch) -> None:
    assert command.main() == 0
    ready.setattr(tools, "inside", lambda *words: fails("bwrap: No permissions to create new namespace"))
    assert command.main() == command.EXIT_NOT_HERE
    ready.setattr("os.geteuid", lambda: 1000)
    assert command.main() == command.EXIT_NOT_HERE
