"""Runs inside the guest of the test profile: memory, processes, sockets and mounts as the kernel tells them, one JSON document.

Standard library only; sent there as text by `image/inside.py`. Sizes in KiB. What the test brought along (this program and the probe that
started it) is told apart, as `own`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

LISTENS_TCP, LISTENS_UNIX = "0A", "00010000"
"""State of a listening socket in /proc/net/tcp; the flag of one in /proc/net/unix (`__SO_ACCEPTCON`)."""


def main() -> None:
    running = processes()
    own = {os.getpid(), os.getppid()}
    meminfo = fields(Path("/proc/meminfo"))
    test = sum(one["private"] for one in running if one["pid"] in own)
    memory = {name: meminfo[name] for name in ("MemTotal", "MemAvailable", "MemFree", "AnonPages", "Shmem", "SUnreclaim", "KernelStack")}
    memory |= {name: meminfo[name] for name in ("PageTables", "Percpu", "Mlocked")}
    memory |= {"own": test, "used": meminfo["MemTotal"] - meminfo["MemAvailable"] - test}
    told = {"memory": memory, "processes": [one for one in running if one["pid"] not in own], **sockets(), "mounts": mounts()}
    print(json.dumps(told, indent=1))


def fields(file: Path) -> dict[str, int]:
    """`Name: number` lines."""
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", file.read_text(), re.MULTILINE)}


def processes() -> list[dict[str, Any]]:
    """Everything that has memory of its own; kernel threads have none."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile
            status, words = fields(place / "status"), (place / "cmdline").read_bytes().decode().split("\0")
            if "VmRSS" in status:
                name = words[words.index("appliance") + 1] if "appliance" in words else Path(words[0]).name
                one = {"pid": int(place.name), "name": name, "user": status["Uid"], "resident": status["VmRSS"]}
                found.append({**one, "private": status["RssAnon"]})
    return sorted(found, key=lambda one: one["pid"])


def sockets() -> dict[str, Any]:
    """Listening sockets of every network name space that a process lives in."""
    spaces: dict[str, Path] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            spaces.setdefault(os.readlink(place / "ns/net"), place / "net")
    tcp, udp, unix = set(), set(), set()
    for net in spaces.values():
        with contextlib.suppress(OSError):
            tcp |= {local(line) for line in rows(net / "tcp") if line[3] == LISTENS_TCP}
            udp |= {local(line) for line in rows(net / "udp")}
            unix |= {line[7] for line in rows(net / "unix") if line[3] == LISTENS_UNIX and len(line) > 7}
    return {"tcp": sorted(tcp), "udp": sorted(udp), "unix": {path: owner(path) for path in sorted(unix)}}


def rows(file: Path) -> list[list[str]]:
    return [line.split() for line in file.read_text().splitlines()[1:]]


def local(row: list[str]) -> str:
    """The local address of a line of /proc/net/tcp: hexadecimal, the address in this machine's byte order."""
    address, port = row[1].split(":")
    return ".".join(str(byte) for byte in reversed(bytes.fromhex(address))) + f":{int(port, 16)}"


def owner(path: str) -> str:
    """Mode and numeric user of a socket's file; empty for a name without one."""
    try:
        found = os.lstat(path)
    except OSError:
        return ""
    return f"{stat.S_IMODE(found.st_mode):04o} {found.st_uid}"


def mounts() -> dict[str, str]:
    """What is mounted by file system type and options."""
    return {line[1]: f"{line[2]} {line[3]}" for line in (one.split() for one in Path("/proc/mounts").read_text().splitlines())}


if __name__ == "__main__":
    main()
