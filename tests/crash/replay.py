"""Judges crash states by the thousand: each is written as a disk, mounted (its journal is replayed by this kernel), opened and read.

python -m tests.crash.replay WRITES_LOG BASE_DISK --states N [--seed N] [--only N]
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash import write_log
from tests.crash.judge import Judge
from tests.crash.write_log import Recording, Replay, State

MEMORY = Path("/dev/shm")  # noqa: S108  a directory of our own is made in it
ZEROES = bytes(4096)
LIFE = 1
"""Of the guest in a recording."""
BROKEN_MAX = 100
"""More say nothing new, and each may leave open files."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A state that does not hold what was promised; the number replays it."""

    number: int
    state: State
    why: list[str]


class NotMountedError(Exception):
    """The file system does not survive the crash."""


class Mounts:
    """Disks that exist for one look each. Sparse: only what was ever written is copied."""

    def __init__(self, place: Path) -> None:
        self._file, self._directory = place / "disk", place / "mounted"
        self._directory.mkdir()

    def write(self, disk: bytes | bytearray, survivors: Iterable[tuple[int, bytes]], used: Sequence[tuple[int, int]]) -> None:
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(fd, len(disk))
            with memoryview(disk) as view:
                for begin, end in used:
                    os.pwrite(fd, view[begin:end], begin)
            for offset, data in survivors:
                os.pwrite(fd, data, offset)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def mounted(self) -> Iterator[Path]:
        """This kernel replays the journal, as the next boot would. Raises NotMountedError."""
        done = subprocess.run(["mount", "-o", "loop", str(self._file), str(self._directory)], capture_output=True, text=True, check=False)
        self._file.unlink()  # the loop device holds it; the next look has one of its own
        if done.returncode:
            raise NotMountedError(done.stderr.strip())
        try:
            yield self._directory
        finally:
            if subprocess.run(["umount", str(self._directory)], capture_output=True, check=False).returncode:
                gc.collect()  # a start that failed leaves files open until its error is forgotten
                subprocess.run(["umount", "--lazy", str(self._directory)], check=True)


def used_extents(recording: Recording) -> list[tuple[int, int]]:
    """Ranges of the disk that are not zero at some time, in steps of 4096 bytes."""
    base = recording.base
    pages = {at for at in range(0, len(base), 4096) if base[at : at + 4096] != ZEROES}
    for write in recording.writes:
        pages |= set(range(write.offset - write.offset % 4096, write.offset + len(write.data), 4096))
    found: list[tuple[int, int]] = []
    for page in sorted(pages):
        if found and found[-1][1] == page:
            found[-1] = (found[-1][0], page + 4096)
        else:
            found.append((page, page + 4096))
    return found


def judged(recording: Recording, states: list[tuple[int, State]]) -> list[Broken]:
    """Looks at each of these, in order."""
    logging.disable(logging.CRITICAL)
    replay, judge, used = Replay(recording), Judge(LIFE + 1), used_extents(recording)
    found = []
    with tempfile.TemporaryDirectory(dir=MEMORY, prefix="xacbe-crash-") as place:
        mounts = Mounts(Path(place))
        for number, state in states:
            replay.advance(state)
            mounts.write(replay.disk, replay.survivors(state), used)
            try:
                with mounts.mounted() as directory:
                    why = judge.broken(directory / "log", replay.acknowledged(state))
            except NotMountedError as error:
                why = [f"does not mount: {error}"]
            if why:
                found.append(Broken(number, state, why))
                if len(found) >= BROKEN_MAX:
                    break
    return found


def judged_apart(recording: Recording, states: list[tuple[int, State]]) -> list[Broken]:
    """In processes of their own, as many as CPUs, each with a stretch: what a start that failed leaves open goes with them."""
    share = -(-len(states) // (os.cpu_count() or 1))
    parts = [states[at : at + share] for at in range(0, len(states), share)]
    with multiprocessing.get_context("fork").Pool(len(parts)) as pool:
        found = pool.starmap(judged, [(recording, part) for part in parts])
    return [each for part in found for each in part]


def judge_states(log: Path, base: Path, count: int, seed: int, only: int | None = None) -> list[Broken]:
    recording = Recording(base.read_bytes(), write_log.read(log))
    states = list(enumerate(write_log.states(recording, count, seed)))
    return judged_apart(recording, states if only is None else [states[only]])


def main() -> int:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("log", type=Path)
    words.add_argument("base", type=Path)
    words.add_argument("--states", type=int, default=2000)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--only", type=int)
    given = words.parse_args()
    broken = judge_states(given.log, given.base, given.states, given.seed, only=given.only)
    for each in broken[:20]:
        print(each)
    print(f"{given.states} states, {len(broken)} broken")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
