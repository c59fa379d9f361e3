"""A whole recorder whose n-th operation on files fails, for every n: what it acknowledged is there afterwards, and it said no more (T35).

    python -m tests.messagelog.io_errors DIRECTORY [--share K/N] [--only "KIND:N"] [--kill]

With `--kill` it is killed there instead, before the operation (T32), at those that erasing consists of.

Operations are counted by their kind ("unlink bodies"): the order of the threads differs from run to run, how many there are hardly does.

A process of its own that forks before it has threads: each run ends as the recorder's process would, and the next opens what is left.
Prints one line of JSON for each run that broke a promise, and last how many there were.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.messagelog import record
from appliance.messagelog.custody import PENDING
from tests.crash.judge import Judge
from tests.crash.load import Load, crash_box
from tests.crash.marks import Acknowledged

FAILED, STOPPED = 71, 70
OPERATIONS = ("fsync", "fdatasync", "write", "replace", "rename", "link", "unlink", "ftruncate", "posix_fallocate")
ERASING = (
    "replace .retention.json",
    "rename segments",
    "fsync segments",
    "unlink bodies",
    "fsync bodies",
    "unlink keys",
    "fsync keys",
    "unlink retention.json",
)
"""What an erasure does, in order; some of it other work does as well."""
TURNS = 4
"""Two days: contents and keys of the first are erased at the end of the second."""


Place = tuple[str, int]
"""Which kind of operation, and which one of them, from 1 on."""
_TEMPORARY = re.compile(r"(^\.[a-z.-]+)\.[a-z0-9_]+$")


def kind_of(operation: str, path: str) -> str:
    top = path.split("/")[1] if "/" in path else ""
    return operation + " " + _TEMPORARY.sub(r"\1", top)


class FailingFiles:
    """Stands before the operating system's file operations, and fails the n-th one in this log. SQLite's own are not among them."""

    def __init__(self, root: Path, fail_at: Place, tell: Callable[[str, int], None], *, kills: bool) -> None:
        self._root, self._fail_at, self._tell, self._kills = str(root), fail_at, tell, kills
        self.counts: Counter[str] = Counter()
        self._durable = 0

    def install(self) -> None:
        for name in OPERATIONS:
            setattr(os, name, self._guarded(name, getattr(os, name)))
        Path.write_bytes = self._guarded("write_bytes", Path.write_bytes)  # type: ignore[method-assign]

    def _guarded(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(where: Any, *more: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{where}") if isinstance(where, int) else os.fspath(where)
            if path.startswith(self._root):
                kind = kind_of(name, path.removeprefix(self._root))
                self.counts[kind] += 1
                if (kind, self.counts[kind]) == self._fail_at:
                    self._tell(f"{name} {path.removeprefix(self._root)}", self._durable)
                    if self._kills:
                        os.kill(os.getpid(), signal.SIGKILL)
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                if name == "fdatasync" and path.endswith(".log"):
                    return self._synced(real, where, Path(path))
            return real(where, *more, **named)

        return act

    def _synced(self, real: Callable[..., Any], fd: int, segment: Path) -> None:
        """What a sync has made durable may be acknowledged at any later moment, even while another operation has just failed."""
        data = segment.read_bytes()
        written = [each.sequence for each in record.records(data, record.mark_of(data) or 0)]
        real(fd)
        self._durable = max([self._durable, *written])


class Told:
    """Marks as lines of a pipe: what was acknowledged, and when the failure came."""

    def __init__(self, fd: int) -> None:
        self._fd, self._write = fd, os.write

    def put(self, acknowledged: list[Acknowledged]) -> None:
        for each in acknowledged:
            self.say(["ack", each.kind.decode(), each.number, each.sequence])

    def say(self, what: list[Any]) -> None:
        self._write(self._fd, json.dumps(what).encode() + b"\n")


def apart(act: Callable[[Told], int]) -> tuple[int, list[list[Any]]]:
    """(exit code, what it told) of a forked process."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = FAILED
        try:
            os.close(reading)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            code = act(Told(writing))
        except BaseException as error:
            logging.getLogger("io_errors").info("ended", exc_info=error)
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as file:
        lines = [json.loads(line) for line in file]
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), lines


def run(root: Path, fail_at: Place, *, kills: bool) -> Callable[[Told], int]:
    def act(told: Told) -> int:
        os.setpgid(0, 0)
        files = FailingFiles(root, fail_at, lambda what, durable: told.say(["failed", what, durable]), kills=kills)
        box = crash_box(root, 1)
        box.stopped = _Ends()  # type: ignore[assignment]
        files.install()
        asyncio.run(asyncio.wait_for(Load(box, told, 1, "", senders=1, turns_per_day=2).run(TURNS), 20))
        told.say(["counts", files.counts])
        return 0

    return act


class _Ends(list[BaseException]):
    """What the recorder calls when nothing is known any more: the process ends, as the real one."""

    def append(self, error: BaseException) -> None:
        os._exit(STOPPED)


def judge(root: Path, acknowledged: list[Acknowledged]) -> Callable[[Told], int]:
    def act(told: Told) -> int:
        for why in Judge(2).broken(root, acknowledged):
            told.say(["broken", why])
        if (root / PENDING).exists():
            told.say(["broken", "an erasure that was cut off was not carried to its end"])
        return 0

    return act


def broken_at(root: Path, fail_at: Place, *, kills: bool) -> tuple[str, int, list[str]]:
    """(what failed, or nothing where there was no such operation; exit code; which promises were broken)."""
    shutil.rmtree(root, ignore_errors=True)
    code, lines = apart(run(root, fail_at, kills=kills))
    failed = next((at for at, line in enumerate(lines) if line[0] == "failed"), len(lines))
    acknowledged = [Acknowledged(line[1].encode(), line[2], line[3]) for line in lines if line[0] == "ack"]
    what, durable = lines[failed][1:] if failed < len(lines) else ("", 0)
    judged, found = apart(judge(root, acknowledged))
    broken = [line[1] for line in found]
    if judged != 0:
        broken.append(f"the judge ended with {judged}")
    if kills and what and code != -signal.SIGKILL:
        broken.append(f"it was killed and ended with {code}")
    is_sync = not kills and what.startswith(("fsync", "fdatasync")) and "/tiles" not in what  # tiles are derived: start-up makes them anew
    if is_sync and any(line[0] == "ack" and line[3] > durable for line in lines[failed:]):
        broken.append("it acknowledged what no sync had made durable")
    return what, code, broken


def main() -> int:
    words = argparse.ArgumentParser()
    words.add_argument("directory", type=Path)
    words.add_argument("--share", default="0/1", help="every N-th of them from the K-th on: several of these run side by side")
    words.add_argument("--kill", action="store_true", help="kill it there, and only where it erases")
    words.add_argument("--only", default="", help="one operation: its kind, a colon, and which one")
    given = words.parse_args()
    logging.getLogger("recorder").disabled = True
    root = given.directory / "log"
    if given.only:
        logging.basicConfig(level=logging.INFO)
        kind, _, number = given.only.partition(":")
        places = [(kind, int(number))]
    else:
        _, lines = apart(run(root, ("", 0), kills=False))
        counts = next((line[1] for line in lines if line[0] == "counts"), {})
        if given.kill:
            counts = {kind: count for kind, count in counts.items() if kind in ERASING}
        begin, step = map(int, given.share.split("/"))
        places = [
            (kind, n) for kind in sorted(counts) for n in range(1, counts[kind] + 1) if (zlib.crc32(kind.encode()) + n) % step == begin
        ]
    seen = set()
    for place in places:
        what, code, broken = broken_at(root, place, kills=given.kill)
        if what:
            seen.add(place[0])
        if broken:
            print(json.dumps({"at": place, "what": what, "code": code, "broken": broken[:5]}), flush=True)
    print(json.dumps({"failed": len(places), "seen": sorted(seen)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
