"""The guest's first process: modules, file systems, then the load until the power goes. Runs as `/init`; words come as its environment."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import traceback
from pathlib import Path

DEVICE, ROOT = "/dev/vda", "/data"
FINIT_MODULE = 313
"""The system call's number on x86-64: Python has no name for it."""
WRITEBACK = {"dirty_expire_centisecs": "100", "dirty_writeback_centisecs": "50"}
"""The kernel writes back what nobody synced after a second, not after thirty: files that are synced and files that are not (the
index) reach the disk in many orders within a short run."""

_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str) -> None:
    os.makedirs(target, exist_ok=True)
    if _libc.mount(source.encode(), target.encode(), kind.encode(), 0, b"") != 0:
        raise OSError(ctypes.get_errno(), f"mount {target}")


def load_modules() -> None:
    for path in Path("/modules/order").read_text().split():
        fd = os.open(path, os.O_RDONLY)
        if _libc.syscall(FINIT_MODULE, fd, b"", 0) != 0:
            raise OSError(ctypes.get_errno(), path)
        os.close(fd)


def main() -> None:
    mount("proc", "/proc", "proc")
    load_modules()
    mount("devtmpfs", "/dev", "devtmpfs")
    while not os.path.exists(DEVICE):  # the harness ends a guest that hangs
        time.sleep(0.01)
    mount(DEVICE, ROOT, "ext4")
    for name, value in WRITEBACK.items():
        Path(f"/proc/sys/vm/{name}").write_text(value)
    print("MOUNTED", flush=True)
    words = os.environ["load"].split(",")  # noqa: TID251  the kernel's way to hand words to its first process
    sys.argv = ["load", ROOT, "--disk", DEVICE, *words]
    from tests.crash import load  # not before: it draws random numbers and reads the clock

    load.main()


if __name__ == "__main__":
    try:
        main()
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    _libc.reboot(0x4321FEDC)
    time.sleep(60)
