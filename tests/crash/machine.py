"""Runs the guest in QEMU, under emulation (no KVM is needed), on a disk that logs its writes or on one that is cut off."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.crash.guest import Guest
from tests.crash.marks import DISK_BYTES, FILE_SYSTEM_BYTES, Acknowledged

MEMORY_MB = 512
_ACK = re.compile(rb"ACK ([mlae]) (\d+) (\d+)\r?\n")


def new_disk(path: Path) -> None:
    """An empty ext4, and behind it the sector of the marks. Its features are Debian's, with a small journal."""
    with open(path, "wb") as file:
        file.truncate(DISK_BYTES)
    options = ["-q", "-F", "-b", "4096", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
    subprocess.run(["mkfs.ext4", *options, str(path), f"{FILE_SYSTEM_BYTES >> 10}k"], check=True)


class Machine:
    """One life of the guest, from boot to the cut."""

    def __init__(self, guest: Guest, disk: Path, load: str, log: Path | None = None) -> None:
        """`load`: words for the load, between commas. `log`: where every write and flush is logged."""
        if log is None:  # written past the host's cache
            node = f"node-name=disk,driver=raw,cache.direct=on,file.driver=file,file.filename={disk},file.cache.direct=on"
        else:
            log.write_bytes(b"")
            below = f"file.driver=raw,file.file.driver=file,file.file.filename={disk}"
            node = f"node-name=disk,driver=blklogwrites,{below},log.driver=raw,log.file.driver=file,log.file.filename={log}"
        machine = ["qemu-system-x86_64", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-m", str(MEMORY_MB), "-smp", "1"]
        machine += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
        machine += [
            "-kernel",
            str(guest.kernel),
            "-initrd",
            str(guest.initramfs),
            "-append",
            f"console=ttyS0 quiet panic=-1 no_timer_check load={load}",
        ]
        machine += ["-blockdev", node, "-device", "virtio-blk-pci,drive=disk"]
        self.process = subprocess.Popen(machine, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[bytes] = []

    def read(self) -> Iterator[bytes]:
        """Lines of the serial console, whole ones only, until the machine ends."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self.lines.append(line)
                yield line

    def cut(self) -> float:
        """The power goes: what the guest had not made durable is lost with its memory. How many seconds of a CPU it had."""
        used_s = self._cpu_s()  # first: whoever ends a process forgets what it used
        self.process.kill()
        for _ in self.read():
            pass
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return used_s

    def _cpu_s(self) -> float:
        """Also of one that has ended and was not waited for."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def acknowledged(self) -> list[Acknowledged]:
        found = (_ACK.fullmatch(line) for line in self.lines)
        return [Acknowledged(each[1], int(each[2]), int(each[3])) for each in found if each]
