"""`make bench`: CPU of every process of a box for each sealed, durable exchange, as a multiple of nginx relaying the same bodies.

Fixed work, interleaved with the yardstick round by round in one run; medians of ratios. Prints a table and writes `build/bench.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import sys
from pathlib import Path
from typing import Any

from provisioning.lab import network
from tests.bench import slow_tokens
from tests.bench.load import Outcome, work
from tests.bench.yardstick import RELAY_PORT, Nginx

BASE = "127.0.60"
TICKS = os.sysconf("SC_CLK_TCK")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    parser.add_argument("--messages", type=int, default=2000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--in-flight", type=int, nargs="*", default=[16, 64, 256])
    parser.add_argument("--body", type=int, nargs="*", default=[1024, 10240], help="bytes of the request's body")
    parser.add_argument("--token", default="software", choices=("software", "softhsm", "swtpm"))
    parser.add_argument("--directory", type=Path, default=Path("build/bench"))
    parser.add_argument("--slow", action="store_true", help="tokens as slow as real parts instead (tests/bench/slow_tokens.py)")
    arguments = parser.parse_args()
    if arguments.slow:
        return slow_tokens.main()
    directory = arguments.directory.absolute()
    lab = network.up(directory / "lab", 2, arguments.token, BASE, 1, lambda line: print(line, file=sys.stderr))
    try:
        results = [measure(lab, directory, size, in_flight, arguments) for size in arguments.body for in_flight in arguments.in_flight]
    finally:
        network.down(directory / "lab")
    print_table(results)
    Path("build").mkdir(exist_ok=True)
    Path("build/bench.json").write_text(json.dumps({"token": arguments.token, "results": results}, indent=1) + "\n")
    return 0


def measure(lab: dict[str, Any], directory: Path, size: int, in_flight: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One line of the table: the same request through nginx and through the boxes, round after round."""
    client, service = lab["clients"][0]["id"], lab["services"][0]["id"]
    body = b"x" * size
    box = lab["boxes"][0]
    host, port = box["address"], 8443
    context = ssl.create_default_context(cafile=lab["ceiqroo"]["ca_cert"])
    context.check_hostname = False
    request = (
        f"POST /r1/{service}/bytes HTTP/1.1\r\nHost: {host}\r\nX-Road-Client: {client}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {size}\r\n\r\n"
    ).encode() + body
    plain = ssl._create_unverified_context()  # noqa: S323  the yardstick's own throw-away certificate
    rounds: list[dict[str, Any]] = []
    with Nginx(directory / "nginx", f"{BASE}.3", 64) as nginx:
        asyncio.run(work(nginx.address, RELAY_PORT, plain, request, 200, in_flight))
        asyncio.run(work(host, port, context, request, 200, in_flight))
        for _ in range(arguments.rounds):
            before = cpu_s(nginx.pid)
            outcome = asyncio.run(work(nginx.address, RELAY_PORT, plain, request, arguments.messages, in_flight))
            check(outcome, arguments.messages)
            yardstick_us = (cpu_s(nginx.pid) - before) / arguments.messages * 1e6
            before_box = {name: cpu_s(*pids) for name, pids in processes(lab).items()}
            outcome = asyncio.run(work(host, port, context, request, arguments.messages, in_flight))
            check(outcome, arguments.messages)
            spent = {name: (cpu_s(*pids) - before_box[name]) / arguments.messages * 1e6 for name, pids in processes(lab).items()}
            rounds.append({"nginx_us": yardstick_us, "spent_us": spent, "outcome": outcome})
    names = rounds[0]["spent_us"]
    sides = {side: statistics.median(total(one, side) / one["nginx_us"] for one in rounds) for side in ("A", "B")}
    return {
        "body_bytes": size,
        "in_flight": in_flight,
        "nginx_us": round(statistics.median(one["nginx_us"] for one in rounds), 1),
        "box_us": {name: round(statistics.median(one["spent_us"][name] for one in rounds), 1) for name in names},
        "ratio": {side: round(value, 1) for side, value in sides.items()},
        "per_second": round(statistics.median(arguments.messages / one["outcome"].seconds for one in rounds)),
        "p50_ms": round(statistics.median(one["outcome"].percentile(0.5) for one in rounds), 1),
        "p99_ms": round(statistics.median(one["outcome"].percentile(0.99) for one in rounds), 1),
        "pss_mib": {side: pss_mib(lab, side) for side in ("A", "B")},
    }


def processes(lab: dict[str, Any]) -> dict[str, list[int]]:
    """`A.relay` ... `B.recorder`: the process numbers of the client's and of the provider's box."""
    return {f"{side}.{name}": pids for side, box in zip("AB", lab["boxes"], strict=False) for name, pids in sorted(box["pids"].items())}


def total(one: dict[str, Any], side: str) -> float:
    return float(sum(spent for name, spent in one["spent_us"].items() if name.startswith(side)))


def cpu_s(*pids: int) -> float:
    """User and system time of processes, seconds."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def pss_mib(lab: dict[str, Any], side: str) -> float:
    """Proportional set size of a whole box."""
    kib = 0
    for name, pids in processes(lab).items():
        if name.startswith(side):
            for pid in pids:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                kib += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return round(kib / 1024, 1)


def check(outcome: Outcome, count: int) -> None:
    """A figure of failed requests is no figure."""
    if outcome.statuses.get(200, 0) + outcome.statuses.get(201, 0) != count:
        raise SystemExit(f"not every request succeeded: {outcome.statuses}")


def print_table(results: list[dict[str, Any]]) -> None:
    for result in results:
        print(f"\n{result['body_bytes']} B, {result['in_flight']} in flight: nginx {result['nginx_us']} us a request")
        for name, spent in result["box_us"].items():
            print(f"    {name:16} {spent:8.1f} us")
        print(f"    box A {result['ratio']['A']}x nginx, box B {result['ratio']['B']}x nginx; {result['per_second']} exchanges/s;", end=" ")
        print(f"p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms; PSS A {result['pss_mib']['A']} MiB, B {result['pss_mib']['B']} MiB")


if __name__ == "__main__":
    sys.exit(main())
