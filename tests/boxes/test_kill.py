"""`kill -9` of every process under load: no acknowledged message is lost, unverifiable or taken twice; service is back within 3 s."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from appliance import topology
from provisioning.lab import network
from tests.boxes.conftest import BIN, Lab
from tests.depth import DEEP

pytestmark = pytest.mark.lab

KILLS = 200
"""In all, over the processes of both boxes in turn; in a nightly run of each process."""
ACKNOWLEDGED = 10_000
"""Messages under which the processes die, spread evenly over the kills; by day as many of them as fit into PACE_S_MAX before each."""
PACE_S_MAX = float("inf") if DEEP else 1.0
SENDERS = 16
ANSWER_S_MAX = 5.0
STANDSTILL_S_MAX = 60.0
BACK_S_MAX = 3.0
"""p99, on a machine that has a CPU to spare; where the CPUs are shared, as many times longer as a spinning thread waits for its turn."""
BACK_S_HARD = 20.0
"""Nothing excuses more: X-Road's callers give up after 30 s."""


class Load(threading.Thread):
    """Senders that each send one request after the other over a connection of their own, until stopped; knows what was acknowledged."""

    def __init__(self, lab: Lab, senders: int) -> None:
        super().__init__(daemon=True)
        place = urlsplit(lab.url("/eco"))
        self._host, self._port, self._path, self._client = place.hostname or "", place.port or 80, place.path, lab.client
        self._stop_asked = threading.Event()
        self._succeeded = [0.0] * senders
        """When each sender was last answered well."""
        self.acknowledged: list[str] = []
        self.failed = 0

    def run(self) -> None:
        asyncio.run(self._play())

    async def _play(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(len(self._succeeded)):
                group.create_task(self._send(number))

    async def _send(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self._stop_asked.is_set():
            query = str(uuid.uuid4())
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    if streams is None:
                        streams = await asyncio.open_connection(self._host, self._port)
                    status = await self._exchanged(*streams, query)
            except (OSError, EOFError, TimeoutError, ValueError):
                status = 0
            if status == 200:
                self._succeeded[number] = time.monotonic()
                self.acknowledged.append(query)
                continue
            self.failed += 1
            if streams is not None:
                streams[1].transport.abort()
                streams = None
            await asyncio.sleep(0.02)
        if streams is not None:
            streams[1].transport.abort()

    async def _exchanged(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, query: str) -> int:
        """The status of the whole answer; an answer that breaks off acknowledges nothing. Raises OSError, EOFError, ValueError."""
        head = f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nX-Road-Client: {self._client}\r\nX-Road-Id: {query}\r\n"
        writer.write(f"{head}Content-Length: {len(query)}\r\n\r\n{query}".encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).lower()
        await reader.readexactly(int(answer.partition(b"content-length:")[2].partition(b"\r\n")[0]))
        status = int(answer[9:12])
        return status

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(2 * ANSWER_S_MAX)

    def all_succeeded_since(self, moment: float) -> bool:
        return min(self._succeeded) > moment

    def wait_for(self, count: int) -> None:
        """Until so many were acknowledged in all, or PACE_S_MAX has passed."""
        ends = time.monotonic() + PACE_S_MAX
        known, stands_until = len(self.acknowledged), time.monotonic() + STANDSTILL_S_MAX
        while len(self.acknowledged) < count and time.monotonic() < ends:
            if len(self.acknowledged) > known:
                known, stands_until = len(self.acknowledged), time.monotonic() + STANDSTILL_S_MAX
            assert time.monotonic() < stands_until, f"nothing was acknowledged for {STANDSTILL_S_MAX} s"
            time.sleep(0.02)


class Pressure:
    """How many times longer than its CPU time a spinning thread takes: 1 where a CPU is free."""

    def __init__(self) -> None:
        self._wall_s = self._cpu_s = 0.0

    def sample(self) -> None:
        wall, cpu = time.monotonic(), time.thread_time()
        while time.thread_time() - cpu < 0.002:
            pass
        self._wall_s += time.monotonic() - wall
        self._cpu_s += time.thread_time() - cpu

    @property
    def factor(self) -> float:
        return max(1.0, self._wall_s / self._cpu_s) if self._cpu_s else 1.0


def _processes(lab: Lab) -> list[tuple[int, str]]:
    """(box, process) of both boxes, the boxes in turn. What rests may be gone by itself; it is killed in `tests/courier`, at work."""
    now = network.status(lab.directory)
    assert now is not None
    return [
        (number, process)
        for process in sorted(now["boxes"][0]["pids"])
        for number in (1, 2)
        if now["boxes"][number - 1]["pids"].get(process) and process not in topology.RESTING
    ]


def _kill(lab: Lab, load: Load, number: int, process: str, pressure: Pressure) -> float:
    """Seconds until the process is there again and every sender was answered by a box without it."""
    before = lab.pids(number, process)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while not (set(lab.pids(number, process)) - set(before) and load.all_succeeded_since(killed + 0.05)):
        assert time.monotonic() - killed < BACK_S_HARD, f"{process} of box {number} did not come back"
        pressure.sample()
        time.sleep(0.02)
    return time.monotonic() - killed


@pytest.mark.case("T32")
@pytest.mark.rule("I.4.XV")
def test_killed_processes_lose_nothing_deliver_nothing_twice_and_are_back_within_three_seconds(
    lab: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    processes = _processes(lab)
    assert {process for _, process in processes} >= {"relay", "signer", "recorder", "trust_agent", "supervisor", "reporter"}
    kills = processes * KILLS if DEEP else [processes[at % len(processes)] for at in range(KILLS)]
    load = Load(lab, SENDERS)
    pressure = Pressure()
    back: list[tuple[float, int, str]] = []
    load.start()
    try:
        for done, (number, process) in enumerate(kills):
            load.wait_for(ACKNOWLEDGED * (done + 1) // len(kills))  # the load goes on whatever is killed
            back.append((_kill(lab, load, number, process, pressure), number, process))
    finally:
        load.stop()
    acknowledged = set(load.acknowledged)

    for number in (1, 2):
        logged = _counts(lab, number)
        lost = {query for query in acknowledged if set(logged.get(query, ())) != {"request", "response"}}
        assert not lost, f"box {number} lost {len(lost)} of {len(acknowledged)} acknowledged messages"
        assert {query: found for query, found in logged.items() if max(found.values()) > 1} == {}, f"box {number} took a message twice"
        walked = json.loads(lab.xacbe(number, "log", "audit", "--json").stdout)
        assert walked["verdict"] != "tampered", walked
    assert len(acknowledged) >= (ACKNOWLEDGED if DEEP else 4 * len(kills))
    for query in sorted(acknowledged)[:: max(1, len(acknowledged) // 12)]:
        _verify(lab, query, tmp_path)
    back.sort()
    p99 = back[len(back) * 99 // 100 - 1]
    figures = f"{len(kills)} kills, {len(acknowledged)} acknowledged, back p50 {back[len(back) // 2][0]:.2f} s, p99 {p99[0]:.2f} s"
    record_property("figures", figures)
    print(f"{figures}, longest {back[-1]}, a thread waits {pressure.factor:.1f} times its time")
    assert p99[0] <= BACK_S_MAX * pressure.factor, f"{figures}; slowest: {back[-5:]}"


def _counts(lab: Lab, number: int) -> dict[str, Counter[str]]:
    """How often this box's log has each direction of each id."""
    found: dict[str, Counter[str]] = {}
    for record in lab.records(number, "--limit", "1000000"):
        found.setdefault(record["query_id"], Counter())[record["direction"]] += 1
    return found


def _verify(lab: Lab, query: str, place: Path) -> None:
    for number, direction in ((1, "--response"), (2, "--request")):
        container = place / f"{query}{direction}.asice"
        done = lab.xacbe(number, "log", "export", query, direction, "--out", str(container))
        assert done.returncode == 0, done.stderr
        configuration = Path(lab.box(number)["state"]) / "trust" / "configuration"
        judged = subprocess.run(
            [str(BIN / "xacbe"), "verify", str(container), "--configuration", str(configuration)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert judged.returncode == 0, judged.stdout + judged.stderr


def test_a_hundred_megabytes_pass_in_bounded_memory_both_ways(lab: Lab) -> None:
    size = 100_000_000
    relays = lab.pids(1, "relay") + lab.pids(2, "relay")
    requests.get(lab.url("/bytes/1000000"), headers={"X-Road-Client": lab.client}, timeout=30)
    before = {pid: _private_mib(pid) for pid in relays}
    highest = dict(before)
    watching = threading.Event()

    def watch() -> None:
        while not watching.wait(0.05):
            for pid in relays:
                highest[pid] = max(highest[pid], _private_mib(pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        up = requests.post(lab.url("/bytes"), data=_chunks(size), headers={"X-Road-Client": lab.client}, timeout=120)
        assert up.json()["bytes"] == size
        with requests.get(lab.url(f"/bytes/{size}"), headers={"X-Road-Client": lab.client}, stream=True, timeout=120) as down:
            assert sum(len(chunk) for chunk in down.iter_content(1 << 20)) == size
    finally:
        watching.set()
        watcher.join()

    assert {pid: highest[pid] - before[pid] for pid in relays if highest[pid] - before[pid] >= 8} == {}


def _chunks(size: int) -> object:
    block = b"x" * 1_000_000
    return (block for _ in range(size // len(block)))


def _private_mib(pid: int) -> float:
    """Memory that is this process's own: what more a body costs, page cache left out."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) / 1024
