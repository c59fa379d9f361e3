"""Two boxes of a laboratory under measurement: who runs, what they cost, what they hold."""

from __future__ import annotations

import os
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance import topology
from provisioning.lab import keeper, network, tokens

BASE = "127.0.60"
SETTLED_S_MAX = 120.0
SIDES = "AB"
"""A: the client's box. B: the provider's."""


@contextmanager
def laboratory(directory: Path, token: str, base: str = BASE, provider: Path = tokens.SOFTHSM_MODULE) -> Iterator[dict[str, Any]]:
    """The document of `lab.json` while two boxes run, new ones; down again whatever happens."""
    network.down(directory)
    shutil.rmtree(directory, ignore_errors=True)
    try:
        network.up(directory, 2, token, base, 1, lambda line: print(line, file=sys.stderr), provider=provider)
        yield settled(directory)
    finally:
        network.down(directory)


def settled(place: Path) -> dict[str, Any]:
    """The laboratory once only those run that have work: a new supervisor wakes the ones that rest, and they would end while we count."""
    deadline = time.monotonic() + SETTLED_S_MAX
    while (now := network.status(place)) is not None and time.monotonic() < deadline:
        if not any(name in topology.RESTING for box in now["boxes"] for name in box["pids"]):
            return now
        time.sleep(1)
    raise SystemExit("the laboratory does not settle")


def processes(lab: dict[str, Any]) -> dict[str, list[int]]:
    """`A.relay` ... `B.trust_agent`: process numbers."""
    return {f"{side}.{name}": pids for side, box in zip(SIDES, lab["boxes"], strict=False) for name, pids in sorted(box["pids"].items())}


def cpu_us(lab: dict[str, Any]) -> dict[str, float]:
    return {name: sum(spent_us(pid) for pid in pids) for name, pids in processes(lab).items()}


def services_us(lab: dict[str, Any]) -> float:
    """CPU of what the laboratory runs besides the boxes: CEIQROO's services, information systems, broker, tokens."""
    ours = {pid for pids in processes(lab).values() for pid in pids}
    status = keeper.ask(Path(lab["ceiqroo"]["directory"]).parent, "status")
    units = status["units"].values() if status else ()
    return sum(spent_us(unit["pid"]) for unit in units if unit["pid"] and unit["pid"] not in ours)


def spent_us(pid: int) -> float:
    """CPU time of a process's threads, to the nanosecond where the kernel tells (ticks of 10 ms are too coarse for nginx)."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            total += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        except FileNotFoundError:  # a thread that just ended: what it spent is lost, some microseconds
            continue
    return total / 1000


def pss_mib(lab: dict[str, Any], side: str) -> dict[str, float]:
    """Proportional set size of each process of a box."""
    return {name: sum(map(pss_kib, pids)) / 1024 for name, pids in processes(lab).items() if name.startswith(side)}


def pss_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def post(lab: dict[str, Any], body: bytes, path: str = "/bytes") -> bytes:
    """A whole request to the reference information system behind box B, as its client at box A sends it."""
    service, client, host = lab["services"][0]["id"], lab["clients"][0]["id"], lab["boxes"][0]["address"]
    head = f"POST /r1/{service}{path} HTTP/1.1\r\nHost: {host}\r\nX-Road-Client: {client}\r\nContent-Type: application/octet-stream\r\n"
    return (head + f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def context(lab: dict[str, Any]) -> ssl.SSLContext:
    """For port 8443 of a box, whose certificate names its address and not `localhost`."""
    made = ssl.create_default_context(cafile=lab["ceiqroo"]["ca_cert"])
    made.check_hostname = False
    return made
