"""The log alone: durable records a second beside a bare segment writer, look-up and start-up of a large log.

The bare writer appends as many bytes as the log does, hashes them once and syncs them, in groups of the same size: what a log without
sealed names, links, tree, index, room and recovery would cost.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from appliance import durable
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.wire import Append, ListRecords
from appliance.settings import RecorderSettings
from tests.messagelog.log_box import LogBox, append, listed

GROUPS = (1, 8, 64)
SHARE_WANTED = {1: 0.5, 8: 0.5, 64: 0.16}
LOOKUP_MS_WANTED, START_S_WANTED, QUICK_START_S_WANTED = 1.0, 60.0, 2.0
MILLION = 1_000_000
BATCH = 32
"""Messages under one signature."""
STAMP_DELAY_S = 0.05
"""A time-stamping authority on another machine."""
LOOKUPS = 300
BUILT_AT_ONCE = 2048


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    place = directory / "log"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        groups = [asyncio.run(throughput(place, group, options.rounds)) for group in GROUPS]
        return {"groups": groups, "large": asyncio.run(large(place / "large", options.records))}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def box_at(place: Path) -> LogBox:
    box = LogBox(place, RecorderSettings())
    box.authority.delay_s = STAMP_DELAY_S
    return box


def some(box: LogBox, first: int, count: int) -> list[Append]:
    """Messages of our own, which wait for no stamp, BATCH of them under one real seal."""
    made: list[Append] = []
    for at in range(first, first + count, BATCH):
        made += box.appends([f"Q-{number:09d}" for number in range(at, min(at + BATCH, first + count))], received=False)
    return made


async def keep(recorder: Recorder, requests: list[Append], in_flight: int) -> float:
    """Seconds until all are durable, so many at a time."""
    left = iter(requests)

    async def one() -> None:
        for request in left:
            await append(recorder, request)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one())
    return time.perf_counter() - began


async def throughput(place: Path, group: int, rounds: int) -> dict[str, Any]:
    """Interleaved: as many records by the recorder, `group` waiting at any time, and as many bytes in such groups by the bare writer."""
    box, count = box_at(place / f"recorder{group}"), group * 64
    ours, bare, ratios = [], [], []
    descriptor = os.open(place / f"bare{group}", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        async with box.opened() as recorder:
            for number in range(rounds + 1):
                requests = some(box, number * count, count)
                size = recorder.store.bytes
                taken_s = await keep(recorder, requests, group)
                piece = os.urandom(group * (recorder.store.bytes - size) // count)
                began = time.perf_counter()
                for _ in range(count // group):
                    hashlib.sha256(piece).digest()
                    os.write(descriptor, piece)
                    durable.sync_file(descriptor)
                bare_s = time.perf_counter() - began
                if number:  # the first one warms up
                    ours.append(count / taken_s)
                    bare.append(count / bare_s)
                    ratios.append(bare_s / taken_s)
    finally:
        os.close(descriptor)
    return {
        "group": group,
        "per_second": round(statistics.median(ours)),
        "bare_per_second": round(statistics.median(bare)),
        "share": round(statistics.median(ratios), 2),
        "share_wanted": SHARE_WANTED[group],
    }


async def large(place: Path, records: int) -> dict[str, Any]:
    """A log of so many messages: start with all that a running recorder left behind, start without it, look-ups by the query's id."""
    box = box_at(place)
    async with box.opened() as recorder:
        for first in range(0, records, BUILT_AT_ONCE):
            await keep(recorder, some(box, first, min(BUILT_AT_ONCE, records - first)), 256)
    starts = {}
    for name, leave in (("quick_start_s", True), ("whole_start_s", False)):
        if not leave:
            for file in place.glob("index.sqlite*"):
                file.unlink()
            shutil.rmtree(place / "tiles", ignore_errors=True)
        began = time.perf_counter()
        async with box.opened() as recorder:
            starts[name] = round(time.perf_counter() - began, 2)
            if leave:
                times_ms = await looked_up(recorder, records)
    return {
        "records": records,
        "megabytes": round(sum(file.stat().st_size for file in (place / "segments").iterdir()) / 1e6),
        **starts,
        "whole_start_s_a_million": round(starts["whole_start_s"] * MILLION / records, 1),
        "start_s_wanted": [QUICK_START_S_WANTED, START_S_WANTED],
        "lookup_p50_ms": round(statistics.median(times_ms), 2),
        "lookup_p99_ms": round(sorted(times_ms)[len(times_ms) * 99 // 100], 2),
        "lookup_ms_wanted": LOOKUP_MS_WANTED,
    }


async def looked_up(recorder: Recorder, records: int) -> list[float]:
    chance = random.Random(7)  # noqa: S311  the same questions in every run
    times_ms = []
    for _ in range(LOOKUPS):
        query = f"Q-{chance.randrange(records):09d}"
        began = time.perf_counter()
        found = await listed(recorder, ListRecords(query_id=query))
        times_ms.append((time.perf_counter() - began) * 1000)
        if [one.query_id for one in found] != [query]:
            raise SystemExit(f"{query}: {found}")
    return times_ms


def print_table(found: dict[str, Any]) -> None:
    print("\nLog: the recorder in one process beside a bare writer")
    for one in found["groups"]:
        beside = f"bare {one['bare_per_second']}: {one['share']} (at least {one['share_wanted']})"
        print(f"  groups of {one['group']:2}: {one['per_second']:6} durable records/s, {beside}")
    one = found["large"]
    print(
        f"  {one['records']} messages, {one['megabytes']} MB: start {one['quick_start_s']} s (at most {QUICK_START_S_WANTED} s), with"
        f" nothing but the segments {one['whole_start_s']} s ({one['whole_start_s_a_million']} s a million, at most {START_S_WANTED:.0f});"
        f" look-up p50 {one['lookup_p50_ms']} ms, p99 {one['lookup_p99_ms']} ms (at most {LOOKUP_MS_WANTED:.0f})"
    )
