"""CPU of a box for each sealed, durable exchange, as a multiple of nginx relaying the same bodies (TLS in, mutual TLS out).

Fixed work over connections that are open already, interleaved with the yardstick round by round in one run; medians of ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import ssl
import statistics
from pathlib import Path
from typing import Any

from tests.bench import boxes
from tests.bench.load import Connections, Outcome
from tests.bench.yardstick import RELAY_PORT, Nginx

RATIO_WANTED = {16: 60.0, 64: 25.0, 256: 20.0}
"""By exchanges in flight: the reasons stand in README.md here."""
WARM_UP = 8
"""Exchanges of each connection before anything counts: connections between the boxes, caches."""


def run(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    with boxes.laboratory(directory / "lab", options.token) as lab:
        return [
            asyncio.run(measure(lab, directory, size, in_flight, options.messages, options.rounds))
            for size in options.body
            for in_flight in options.in_flight
        ]


async def measure(lab: dict[str, Any], directory: Path, size: int, in_flight: int, messages: int, rounds: int) -> dict[str, Any]:
    """One line of the table."""
    request = boxes.post(lab, b"x" * size)
    plain = ssl._create_unverified_context()  # noqa: S323  the yardstick's own throw-away certificate
    box = lab["boxes"][0]["address"]
    found: list[tuple[float, dict[str, float], Outcome]] = []
    with Nginx(directory / "nginx", f"{boxes.BASE}.3", 64) as nginx:
        async with (
            Connections(nginx.address, RELAY_PORT, plain, in_flight) as yardstick,
            Connections(box, 8443, boxes.context(lab), in_flight) as exchanges,
        ):
            await yardstick.work(request, in_flight * WARM_UP)
            await exchanges.work(request, in_flight * WARM_UP)
            for _ in range(rounds):
                nginx_us = await yardstick_us(nginx, yardstick, request, messages)
                before = boxes.cpu_us(lab)
                outcome = await exchanges.work(request, messages)
                check(outcome, messages)
                spent = {name: (us - before[name]) / messages for name, us in boxes.cpu_us(lab).items()}
                found.append((nginx_us, spent, outcome))
    return {
        "body_bytes": size,
        "in_flight": in_flight,
        "nginx_us": round(statistics.median(nginx_us for nginx_us, _, _ in found), 1),
        "box_us": {name: round(statistics.median(spent[name] for _, spent, _ in found), 1) for name in found[0][1]},
        "ratio": {side: round(statistics.median(whole(spent, side) / nginx_us for nginx_us, spent, _ in found), 1) for side in boxes.SIDES},
        "ratio_wanted": RATIO_WANTED.get(in_flight),
        "per_second": round(statistics.median(messages / outcome.seconds for _, _, outcome in found)),
        "p50_ms": round(statistics.median(outcome.percentile(0.5) for _, _, outcome in found), 1),
        "p99_ms": round(statistics.median(outcome.percentile(0.99) for _, _, outcome in found), 1),
    }


async def yardstick_us(nginx: Nginx, connections: Connections, request: bytes, messages: int) -> float:
    """CPU of nginx for each of `messages` requests."""
    before = boxes.spent_us(nginx.pid)
    check(await connections.work(request, messages), messages)
    return (boxes.spent_us(nginx.pid) - before) / messages


def whole(spent: dict[str, float], side: str) -> float:
    return sum(us for name, us in spent.items() if name.startswith(side))


def check(outcome: Outcome, count: int) -> None:
    """A figure of failed requests is no figure."""
    if outcome.succeeded != count:
        raise SystemExit(f"not every request succeeded: {outcome.statuses}")


def print_table(results: list[dict[str, Any]]) -> None:
    print("\nCPU of a box for each sealed, durable exchange, beside nginx relaying the same body")
    for result in results:
        line = f"{result['body_bytes']} B, {result['in_flight']} in flight: nginx {result['nginx_us']} us a request"
        print(f"  {line}; wanted at most {result['ratio_wanted']}x")
        for side in boxes.SIDES:
            parts = {name[2:]: us for name, us in result["box_us"].items() if name.startswith(side)}
            print(
                f"    box {side} {result['ratio'][side]:5.1f}x, {sum(parts.values()):6.0f} us: "
                + ", ".join(f"{name} {us:.0f}" for name, us in parts.items() if us >= 10)
            )
        print(f"    {result['per_second']} exchanges/s; p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms")
