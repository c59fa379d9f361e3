"""Memory of a whole box, idle and at 256 exchanges in flight, free and within 512 MB; an idle TLS peer; start to serving.

Proportional set size (PSS) of all processes of box A. The limit is a memory cgroup with swap off; where the machine gives none the table
says so. A start is timed from the kernel's start of the process to its first answer.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from appliance.errors import XacbeError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from provisioning.lab import keeper, network
from tests.bench import boxes
from tests.bench.exchange import check
from tests.bench.load import Connections

IDLE_MIB_WANTED, LOADED_MIB_WANTED, PEER_KIB_WANTED, START_S_WANTED = 150.0, 200.0, 32.0, 1.5
LIMIT_BYTES = 512 << 20
IN_FLIGHT, EXCHANGES, BODY = 256, 3000, b"x" * 1024
PEERS = 500
LOOK_S = 0.2
SETTLE_S = 3.0
STARTS = 3
_QUESTIONS = {"recorder": "log_status", "signer": "token_status", "trust_agent": "trust_status", "supervisor": "box_status"}
_CGROUP1, _CGROUP2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    with boxes.laboratory(directory / "lab", options.token) as lab:
        time.sleep(SETTLE_S)
        idle = boxes.pss_mib(lab, "A")
        peer = asyncio.run(idle_peer_kib(lab))
        loaded = asyncio.run(under_load(lab))
        starts = {name: round(start_s(lab, name), 2) for name in ("relay", *_QUESTIONS)}
        limited = within_limit(directory / "lab")
    return {
        "idle_mib": rounded(idle),
        "idle_mib_wanted": IDLE_MIB_WANTED,
        "loaded_mib": rounded(loaded),
        "loaded_mib_wanted": LOADED_MIB_WANTED,
        "within_limit": limited,
        "idle_peer_kib": peer,
        "idle_peer_kib_wanted": PEER_KIB_WANTED,
        "start_s": starts,
        "start_s_wanted": START_S_WANTED,
    }


def rounded(parts: dict[str, float]) -> dict[str, float]:
    return {name[2:]: round(mib, 1) for name, mib in parts.items()} | {"whole": round(sum(parts.values()), 1)}


async def under_load(lab: dict[str, Any]) -> dict[str, float]:
    """The largest sum that was seen while EXCHANGES ran."""
    largest: dict[str, float] = {}
    async with Connections(lab["boxes"][0]["address"], 8443, boxes.context(lab), IN_FLIGHT) as connections:
        working = asyncio.ensure_future(connections.work(boxes.post(lab, BODY), EXCHANGES))
        while not working.done():
            await asyncio.sleep(LOOK_S)
            now = boxes.pss_mib(lab, "A")
            largest = max(largest, now, key=lambda parts: sum(parts.values()))
        check(await working, EXCHANGES)
    return largest


def within_limit(place: Path) -> dict[str, Any]:
    """The same load with every process of box A in one cgroup of 512 MB, from its start: what is moved later keeps its pages elsewhere."""
    parent = keeper.ask(place, "status")
    if parent is None:
        raise RuntimeError("the laboratory does not run")
    try:
        with limited(parent["pid"]) as group:
            lab = restarted(place, parent["pid"], group)
            loaded = asyncio.run(under_load(lab))
            return {"loaded_mib": rounded(loaded), **group.found()}
    except OSError as error:
        return {"not_measured": f"no memory cgroup to be had here: {error.strerror or error}"}


def restarted(place: Path, parent: int, group: _Group) -> dict[str, Any]:
    """Box A with processes that its parent has started within the group; the parent itself is outside again."""
    before = network.status(place)
    if before is None:
        raise RuntimeError("the laboratory does not run")
    box = before["boxes"][0]
    for pids in box["pids"].values():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while not all(answers(box, name) for name in ("relay", *_QUESTIONS)):
        if time.monotonic() > deadline:
            raise SystemExit("the box did not come back")
        time.sleep(0.1)
    time.sleep(SETTLE_S)
    group.leave([parent])
    lab = network.status(place)
    if lab is None:
        raise RuntimeError("the laboratory does not run")
    return lab


class _Group:
    def __init__(self, path: Path, limit: str, peak: str, failures: str) -> None:
        self.path, self._limit, self._peak, self._failures = path, limit, peak, failures

    def begin(self) -> None:
        self.path.mkdir()
        (self.path / self._limit).write_text(str(LIMIT_BYTES))
        for name, value in (("memory.swappiness", "0"), ("memory.swap.max", "0")):
            if (self.path / name).exists():
                (self.path / name).write_text(value)

    def leave(self, pids: Sequence[int]) -> None:
        for pid in pids:
            with contextlib.suppress(OSError):
                (self.path.parent / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    def found(self) -> dict[str, Any]:
        """`peak_mib` counts files' pages as well: the kernel keeps them up to the limit and drops them for others."""
        peak, failures = self.path / self._peak, self.path / self._failures
        facts: dict[str, Any] = {"limit_mib": LIMIT_BYTES >> 20}
        if peak.exists():
            facts["peak_mib"] = int(peak.read_text()) >> 20
        if failures.exists():
            facts["at_limit"] = failures.read_text().strip().replace("\n", ", ")
        return facts


@contextlib.contextmanager
def limited(parent: int) -> Iterator[_Group]:
    """A group with this process in it. Raises OSError where there is no memory controller, or it is not ours to use."""
    name = f"xacbe-bench-{os.getpid()}"
    if (_CGROUP1 / "memory.limit_in_bytes").exists():
        group = _Group(_CGROUP1 / name, "memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.failcnt")
    else:
        group = _Group(_CGROUP2 / name, "memory.max", "memory.peak", "memory.events")
    group.begin()
    try:
        (group.path / "cgroup.procs").write_text(str(parent))
        yield group
    finally:
        group.leave(group.members())
        group.path.rmdir()


async def idle_peer_kib(lab: dict[str, Any]) -> float:
    """What one connection more, its handshake done and nothing asked, adds to the relay."""
    (relay,) = lab["boxes"][0]["pids"]["relay"]
    sources = [f"{boxes.BASE}.{at}" for at in range(100, 140)]  # a box bounds the connections of one address
    address, context = lab["boxes"][0]["address"], boxes.context(lab)
    async with Connections(address, 8443, context, PEERS // 2, sources):  # they take what earlier load has left free
        await asyncio.sleep(1)
        before = boxes.pss_kib(relay)
        async with Connections(address, 8443, context, PEERS, sources):
            await asyncio.sleep(1)
            return round((boxes.pss_kib(relay) - before) / PEERS, 1)


def start_s(lab: dict[str, Any], name: str) -> float:
    """Kills the process and waits until the one that its parent starts has answered; the longest of a few."""
    box, longest = lab["boxes"][0], 0.0
    (pid,) = box["pids"][name]
    for _ in range(STARTS):
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while not answers(box, name):
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} did not come back")
            time.sleep(0.005)
        answered = time.clock_gettime(time.CLOCK_BOOTTIME)
        pid = successor(Path(box["state"]), name, pid)
        longest = max(longest, answered - started_s(pid))
        time.sleep(1)
    return longest


def answers(box: dict[str, Any], name: str) -> bool:
    try:
        if name == "relay":
            with socket.create_connection((box["address"], 8080), timeout=10) as plain:
                plain.sendall(b"GET / HTTP/1.1\r\nHost: box\r\nConnection: close\r\n\r\n")
                return plain.recv(64).startswith(b"HTTP/1.1 ")
        client = BlockingClient(channel_path(Path(box["state"]), name, "console"), 10)
        try:
            client.call(_QUESTIONS[name])
            return True
        finally:
            client.close()
    except (OSError, XacbeError):
        return False


def successor(state: Path, name: str, pid: int) -> int:
    """The process that runs `name` for this box now."""
    wanted = [b"appliance", name.encode(), b"--state", str(state).encode()]
    for directory in Path("/proc").iterdir():
        if directory.name.isdecimal() and int(directory.name) != pid:
            with contextlib.suppress(OSError):
                words = (directory / "cmdline").read_bytes().split(b"\0")
                if words[-5:-1] == wanted:
                    return int(directory.name)
    raise SystemExit(f"{name}: no successor of {pid}")


def started_s(pid: int) -> float:
    """On CLOCK_BOOTTIME, in ticks of 10 ms."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


def print_table(found: dict[str, Any]) -> None:
    print("\nMemory (PSS of box A, MiB) and start")
    for name, wanted in (("idle", IDLE_MIB_WANTED), ("loaded", LOADED_MIB_WANTED)):
        parts = found[f"{name}_mib"]
        print(f"  {name:6} {parts['whole']} (at most {wanted:.0f}): " + ", ".join(f"{k} {v}" for k, v in parts.items() if k != "whole"))
    limited_ = found["within_limit"]
    if "not_measured" in limited_:
        print(f"  within 512 MB: {limited_['not_measured']}")
    else:
        print(
            f"  within {limited_['limit_mib']} MB, swap off: {limited_['loaded_mib']['whole']} loaded, peak with file pages"
            f" {limited_.get('peak_mib')}, times at the limit {limited_.get('at_limit')}"
        )
    print(f"  an idle TLS peer {found['idle_peer_kib']} KiB (at most {PEER_KIB_WANTED:.0f})")
    starts = ", ".join(f"{name} {seconds} s" for name, seconds in found["start_s"].items())
    print(f"  start to serving (at most {START_S_WANTED} s): {starts}")
