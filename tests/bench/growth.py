"""Does an exchange cost the same in a large network, with a long log: CPU of both boxes beside nginx as records, servers and rights grow.

Three ladders, each climbed by one laboratory: records in the logs (made by exchanges), security servers in the global configuration
(registered with CEIQROO, one member and one subsystem each), access rights at the provider's box. At each step the same work as in
`exchange`, round by round beside nginx; a step is judged by its ratio against the ladder's first one. Nightly: up to a million records.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
import urllib.request
from pathlib import Path
from typing import Any

from appliance.access import durable_storage
from appliance.clock import SystemClock
from appliance.model.identifiers import ClientId, ServerId
from provisioning.centre import REGISTRY_FILE
from provisioning.lab import keeper
from provisioning.registry import Registry
from tests.bench import boxes
from tests.bench.exchange import check, measure
from tests.bench.load import Connections

GROWN_WANTED = 0.10
IN_FLIGHT, BODY_BYTES = 64, 1024
RECORDS_AN_EXCHANGE = 2
"""In each of the two logs: the request and its answer."""
FILL_IN_FLIGHT = 256
KNOWN_S_MAX = 120.0
SUPERVISOR = "box2.supervisor"


def run(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    found = []
    with boxes.laboratory(directory / "lab", options.token) as lab:
        place = directory / "lab"
        work = (lab, directory, options)
        found += ladder("servers", options.growth_servers, lambda size: registered(place, lab, size), work)
        found += ladder("rights", options.growth_rights, lambda size: granted(place, lab, size), work)
        filled = Filler(lab)
        found += ladder("records", options.growth_records, filled.fill, work)
    return found


def ladder(what: str, sizes: list[int], grow: Any, work: tuple[dict[str, Any], Path, argparse.Namespace]) -> list[dict[str, Any]]:
    """One line for each size, the first of which is what the others are compared with."""
    lab, directory, options = work
    found: list[dict[str, Any]] = []
    for size in sorted(sizes):
        grow(size)
        lab = boxes.settled(directory / "lab")
        one = asyncio.run(measure(lab, directory, BODY_BYTES, IN_FLIGHT, options.messages, options.rounds))
        ratio = statistics.fmean(one["ratio"].values())
        us = sum(one["box_us"].values())
        line = {"what": what, "size": size, "us": round(us), "nginx_us": one["nginx_us"], "ratio": round(ratio, 2), "p50_ms": one["p50_ms"]}
        first = found[0]["ratio"] if found else None
        found.append(line | {"grown": None if first is None else round(ratio / first - 1, 3), "grown_wanted": GROWN_WANTED})
    return found


def registered(place: Path, lab: dict[str, Any], size: int) -> None:
    """So many security servers in the registry, and in what both boxes have fetched."""
    instance = lab["instance"]
    with Registry(place / "ceiqroo" / REGISTRY_FILE) as registry:
        now_us = SystemClock().now_us()
        snapshot = registry.snapshot(now_us)
        with registry.changing():
            for number in range(len(snapshot.servers), size):
                member = ClientId(instance, "EST", f"M{number:05}")
                subsystem = ClientId(instance, "EST", f"M{number:05}", "SOLOMON")
                registry.add_member(member, f"Institution {number}")
                registry.add_subsystem(subsystem, f"Solomon of {number}")
                registry.register_server(
                    ServerId(member, "SS1"), f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", (subsystem,), now_us
                )
    deadline = time.monotonic() + KNOWN_S_MAX
    for box in lab["boxes"]:
        while known(box) < size:
            if time.monotonic() > deadline:
                raise SystemExit(f"a box knows {known(box)} members of {size}")
            time.sleep(0.5)


def known(box: dict[str, Any]) -> int:
    """Members and subsystems that the box would list."""
    asked = urllib.request.Request(f"{box['client_http']}/listClients", headers={"Accept": "application/json"})  # noqa: S310  the laboratory
    with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310  the same
        return int(answer.read().count(b"subsystem_code"))


def granted(place: Path, lab: dict[str, Any], size: int) -> None:
    """So many rights at the provider's box: written where the supervisor keeps them while it is held, all at once."""
    keeper.ask(place, f"hold {SUPERVISOR}")
    try:
        file = Path(lab["boxes"][1]["state"]) / "box" / "local.json"
        read = durable_storage.decode(file.read_bytes())
        if read is None:
            raise SystemExit("the local configuration cannot be read")
        generation, content = read
        tables = json.loads(content)
        rights = tables.setdefault("rights", {})
        like = next(iter(rights.values()))
        for number in range(len(rights), size):
            client = f"{lab['instance']}/EST/R{number:05}/SOLOMON"
            rights[str(number + 100_000)] = like | {"client": client}
        file.write_bytes(durable_storage.encode(generation + 1, json.dumps(tables, sort_keys=True, separators=(",", ":")).encode()))
    finally:
        keeper.ask(place, f"release {SUPERVISOR}")
    time.sleep(3)  # its next announcement, and the relay's next question


class Filler:
    """Makes records by exchanges; what `measure` made meanwhile only adds to them."""

    def __init__(self, lab: dict[str, Any]) -> None:
        self._lab, self._made = lab, 0

    def fill(self, size: int) -> None:
        count = size // RECORDS_AN_EXCHANGE - self._made
        if count > 0:
            asyncio.run(self._exchange(count))
            self._made += count

    async def _exchange(self, count: int) -> None:
        request = boxes.post(self._lab, b"x" * BODY_BYTES)
        async with Connections(self._lab["boxes"][0]["address"], 8443, boxes.context(self._lab), FILL_IN_FLIGHT) as connections:
            check(await connections.work(request, count), count)


def print_table(found: list[dict[str, Any]]) -> None:
    print(f"\nGrowth: CPU of both boxes for an exchange ({IN_FLIGHT} in flight) beside nginx; wanted: flat within {GROWN_WANTED:.0%}")
    for one in found:
        grown = "" if one["grown"] is None else f", {one['grown']:+.1%}"
        print(f"  {one['size']:>9,} {one['what']:8} {one['us']:6} us, {one['ratio']:6}x nginx{grown}; p50 {one['p50_ms']} ms")
