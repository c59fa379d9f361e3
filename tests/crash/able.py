"""Whether this machine can do what the crash test takes, before any of it is judged: exit code 0, or 75 and the reason.

Everything here is the machine's: root, loop devices, an ext4 that this kernel mounts, room, memory, QEMU, a kernel from the mirror that
starts under emulation. Nothing of ours runs, so that whatever fails afterwards is ours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from tests.crash import guest, machine
from tests.crash.replay import MEMORY, Mounts, NotMountedError

EXIT_NOT_HERE = 75
"""EX_TEMPFAIL of sysexits.h."""
ROOM_BYTES, SHARED_BYTES, MEMORY_BYTES = 1 << 30, 256 << 20, 2 << 30
"""Disks and logs of writes of a run; one disk for each CPU while it is judged; two guests and the states of a recording."""
BOOT_S_MAX = 120.0
"""A bare kernel takes 3 s on a free core; a machine forty times slower has no use for the rest."""


class NotHereError(Exception):
    """This machine cannot do it."""


def check(place: Path) -> None:
    """Raises NotHereError."""
    if os.geteuid() != 0:
        raise NotHereError("crash states are mounted as root")
    if not Path("/dev/loop-control").exists():
        raise NotHereError("no loop devices: crash states cannot be mounted")
    if missing := [tool for tool in ("qemu-system-x86_64", "mkfs.ext4") if shutil.which(tool) is None]:
        raise NotHereError(f"no {' and no '.join(missing)}")
    if not MEMORY.is_dir():
        raise NotHereError(f"no {MEMORY}")
    for where, wanted in ((place, ROOM_BYTES), (MEMORY, SHARED_BYTES)):
        if shutil.disk_usage(where).free < wanted:
            raise NotHereError(f"less than {wanted >> 20} MB free at {where}")
    if available_bytes() < MEMORY_BYTES:
        raise NotHereError(f"less than {MEMORY_BYTES >> 20} MB of memory free")
    _mounts(place)
    _boots(place)


def available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def _mounts(place: Path) -> None:
    disk = place / "able.disk"
    try:
        machine.new_disk(disk)
        mounts, content = Mounts(place), disk.read_bytes()
        mounts.write(content, [], [(0, len(content))])
        with mounts.mounted() as directory:
            (directory / "written").write_bytes(b"here")
        fd = os.open(disk, os.O_RDONLY | os.O_DIRECT)  # power cuts write past the cache
        os.close(fd)
    except (OSError, subprocess.CalledProcessError, NotMountedError) as error:
        raise NotHereError(f"no ext4 can be made and mounted at {place}: {error}") from None


def _boots(place: Path) -> None:
    """The kernel alone, without a first process: it says so, and ends."""
    try:
        kernel = next((guest.fetched_kernel() / "boot").glob("vmlinuz-*"))
    except (OSError, StopIteration, subprocess.CalledProcessError) as error:
        raise NotHereError(f"the guest's kernel cannot be had: {error}") from None
    nothing = place / "nothing.cpio"
    with nothing.open("wb") as out:
        guest.Cpio(out).end()
    started = machine.Machine(guest.Guest(kernel, nothing), place / "able.disk", "")
    timer = threading.Timer(BOOT_S_MAX, started.process.kill)
    timer.start()
    said = b"".join(started.read())
    timer.cancel()
    started.cut()
    if b"Kernel panic" not in said:
        told = said[-300:].decode(errors="replace")
        raise NotHereError(f"a bare kernel does not start in QEMU within {BOOT_S_MAX:.0f} s: {told}")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="xacbe-crash-") as place:
        try:
            check(Path(place))
        except NotHereError as error:
            print(f"crash: NOT RUN: {error}", file=sys.stderr)
            return EXIT_NOT_HERE
    return 0


if __name__ == "__main__":
    sys.exit(main())
