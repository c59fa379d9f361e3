"""Every file operation of a whole recorder fails once: data keys, segments, bodies, tiles, checkpoints, retention (T35)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.messagelog.io_errors import ERASING

SIDE_BY_SIDE = 8
"""A run mostly waits (for company at the time-stamping authority, for the disk)."""


@pytest.mark.case("T35")
def test_an_error_at_any_operation_of_a_whole_recorder_loses_nothing_and_no_failed_sync_is_followed_by_an_acknowledgement(
    tmp_path: Path,
) -> None:
    failed, seen, broken = at_every_operation(tmp_path)

    assert failed > 150
    assert {
        "fdatasync segments",
        "fsync bodies",
        "fsync keys",
        "rename segments",
        "fdatasync tiles",
        "unlink bodies",
        "unlink keys",
    } <= seen
    assert broken == []


@pytest.mark.case("T30", "T32")
def test_a_recorder_that_is_killed_at_any_operation_of_an_erasure_loses_nothing_and_the_next_start_ends_it(tmp_path: Path) -> None:
    killed, seen, broken = at_every_operation(tmp_path, "--kill")

    assert killed > 30
    assert seen == set(ERASING)
    assert broken == []


def at_every_operation(place: Path, *options: str) -> tuple[int, set[str], list[str]]:
    """(how many runs, operations that failed in them, what was broken)."""
    running = []
    for number in range(SIDE_BY_SIDE):
        (place / str(number)).mkdir()
        command = [sys.executable, "-m", "tests.messagelog.io_errors", str(place / str(number)), "--share", f"{number}/{SIDE_BY_SIDE}"]
        running.append(subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True))
    outputs = [each.communicate(timeout=600)[0].splitlines() for each in running]
    told = [json.loads(lines[-1]) for lines in outputs]
    seen = {what for each in told for what in each["seen"]}
    return sum(each["failed"] for each in told), seen, [line for lines in outputs for line in lines[:-1]]
