"""Every file operation of a whole recorder fails once: data keys, segments, bodies, tiles, checkpoints, retention (T35)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SIDE_BY_SIDE = 8
"""A run mostly waits (for company at the time-stamping authority, for the disk)."""


@pytest.mark.case("T35")
def test_an_error_at_any_operation_of_a_whole_recorder_loses_nothing_and_no_failed_sync_is_followed_by_an_acknowledgement(
    tmp_path: Path,
) -> None:
    running = []
    for number in range(SIDE_BY_SIDE):
        place = tmp_path / str(number)
        place.mkdir()
        command = [sys.executable, "-m", "tests.messagelog.io_errors", str(place), "--share", f"{number}/{SIDE_BY_SIDE}"]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    outputs = [each.communicate(timeout=600)[0].splitlines() for each in running]

    told = [json.loads(lines[-1]) for lines in outputs]
    assert sum(each["failed"] for each in told) > 150
    seen = {what for each in told for what in each["seen"]}
    assert {
        "fdatasync segments",
        "fsync bodies",
        "fsync keys",
        "rename segments",
        "fdatasync tiles",
        "unlink bodies",
        "unlink keys",
    } <= seen
    assert [line for lines in outputs for line in lines[:-1]] == []
