"""One large body up, one down: CPU of a box for each MB, as a multiple of nginx relaying the same body, less one hash pass; memory.

A box hashes each body once (SHA-512 stands in the seal), writes it to its log and reads it from there (store and forward), none of which
nginx does.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import ssl
import statistics
import time
from pathlib import Path
from typing import Any

from tests.bench import boxes
from tests.bench.exchange import whole
from tests.bench.yardstick import RELAY_PORT, Nginx

MB = 1_000_000
RATIO_WANTED, MORE_MIB_WANTED = 3.0, 8.0
PIECE = bytes(range(256)) * 256
LOOK_S = 0.05


def run(options: argparse.Namespace, directory: Path) -> list[dict[str, Any]]:
    size = options.megabytes * MB
    with boxes.laboratory(directory / "lab", options.token) as lab, Nginx(directory / "nginx", f"{boxes.BASE}.3", file_bytes=size) as nginx:
        return [asyncio.run(measure(lab, nginx, direction, size, options.rounds)) for direction in ("up", "down")]


async def measure(lab: dict[str, Any], nginx: Nginx, direction: str, size: int, rounds: int) -> dict[str, Any]:
    plain, box = ssl._create_unverified_context(), lab["boxes"][0]["address"]  # noqa: S323  the yardstick's own throw-away certificate
    begin = boxes.post(lab, b"").replace(b"Content-Length: 0", b"Content-Length: %d" % size)
    if direction == "down":
        begin = boxes.post(lab, b"", f"/bytes/{size}").replace(b"POST", b"GET", 1).replace(b"Content-Length: 0\r\n", b"")
    yardstick = b" ".join((begin.split(b" ", 1)[0], b"/bulk" if direction == "down" else b"/take", begin.split(b" ", 2)[2]))
    found = []
    more = dict.fromkeys(boxes.SIDES, 0.0)
    for _ in range(rounds):
        before_us = boxes.spent_us(nginx.pid)
        await carry(nginx.address, RELAY_PORT, plain, yardstick, direction, size)
        nginx_us = (boxes.spent_us(nginx.pid) - before_us) * MB / size
        idle = {side: sum(boxes.pss_mib(lab, side).values()) for side in boxes.SIDES}
        before, began = boxes.cpu_us(lab), time.monotonic()
        carried = asyncio.ensure_future(carry(box, 8443, boxes.context(lab), begin, direction, size))
        while not carried.done():
            await asyncio.sleep(LOOK_S)
            for side in boxes.SIDES:
                more[side] = max(more[side], sum(boxes.pss_mib(lab, side).values()) - idle[side])
        await carried
        spent = {name: (us - before[name]) * MB / size for name, us in boxes.cpu_us(lab).items()}
        found.append((nginx_us, spent, time.monotonic() - began))
    hashed = hash_us()
    return {
        "direction": direction,
        "megabytes": size // MB,
        "nginx_us_per_mb": round(statistics.median(nginx_us for nginx_us, _, _ in found)),
        "hash_us_per_mb": round(hashed),
        "box_us_per_mb": {side: round(statistics.median(whole(spent, side) for _, spent, _ in found)) for side in boxes.SIDES},
        "process_us_per_mb": {name: round(statistics.median(spent[name] for _, spent, _ in found)) for name in found[0][1]},
        "ratio_without_hash": {
            side: round(statistics.median((whole(spent, side) - hashed) / nginx_us for nginx_us, spent, _ in found), 2)
            for side in boxes.SIDES
        },
        "more_mib": {side: round(mib, 1) for side, mib in more.items()},
        "seconds": round(statistics.median(seconds for _, _, seconds in found), 2),
    }


async def carry(host: str, port: int, context: ssl.SSLContext, begin: bytes, direction: str, size: int) -> None:
    """One body over one connection; the answer's status must be 200 and its length right."""
    reader, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="localhost")
    try:
        writer.write(begin)
        if direction == "up":
            for at in range(0, size, len(PIECE)):
                writer.write(PIECE[: size - at])
                await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        left = length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        while left:
            left -= len(await reader.readexactly(min(left, 1 << 16)))
        if int(head[9:12]) != 200 or (direction == "down" and length != size):
            raise SystemExit(f"{host}: {head[:200]!r}")
    finally:
        writer.transport.abort()


def hash_us() -> float:
    """CPU of SHA-512 over one MB."""
    data, began = bytes(MB), time.process_time()
    for _ in range(20):
        hashlib.sha512(data).digest()
    return (time.process_time() - began) / 20 * 1e6


def print_table(results: list[dict[str, Any]]) -> None:
    print(f"\nBulk (wanted: {RATIO_WANTED}x nginx and one hash pass; at most {MORE_MIB_WANTED:.0f} MiB more memory)")
    for one in results:
        for side in boxes.SIDES:
            parts = {name[2:]: us for name, us in one["process_us_per_mb"].items() if name.startswith(side) and us >= 5}
            print(
                f"  {one['megabytes']} MB {one['direction']:4} box {side}: {one['box_us_per_mb'][side]} us/MB, without the hash"
                f" ({one['hash_us_per_mb']}) {one['ratio_without_hash'][side]}x nginx ({one['nginx_us_per_mb']}); "
                f"{one['more_mib'][side]} MiB more; " + ", ".join(f"{name} {us}" for name, us in parts.items())
            )
        print(f"    {one['seconds']} s")
