"""`kill -9` of every process under load: no acknowledged message is missing or unverifiable, and service is back within 3 s."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import pytest
import requests

from tests.boxes.conftest import BIN, Lab

pytestmark = pytest.mark.lab

KILLS = [(1, "relay"), (2, "relay"), (1, "signer"), (2, "signer"), (1, "recorder"), (2, "recorder"), (2, "trust_agent"), (1, "supervisor")]
KILLS += [(1, "reporter")]
BACK_S_MAX = 3.0


class Load(threading.Thread):
    """Sends requests one after the other until stopped; remembers the ids that were acknowledged, and when."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self._lab = lab
        self._stop_asked = threading.Event()
        self.acknowledged: list[tuple[float, str]] = []
        self.failed = 0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            query = str(uuid.uuid4())
            try:
                answer = requests.post(
                    self._lab.url("/eco"), data=query, headers={"X-Road-Client": self._lab.client, "X-Road-Id": query}, timeout=5
                )
            except requests.RequestException:
                self.failed += 1
                time.sleep(0.02)
                continue
            if answer.status_code == 200:
                self.acknowledged.append((time.monotonic(), query))
            else:
                self.failed += 1
                time.sleep(0.02)

    def stop(self) -> None:
        self._stop_asked.set()
        self.join(10)

    def succeeded_since(self, moment: float) -> bool:
        return any(at > moment for at, _ in self.acknowledged[-5:])


@pytest.mark.case("T32")
@pytest.mark.rule("I.4.XV")
def test_a_killed_process_loses_nothing_and_is_back_within_three_seconds(lab: Lab, tmp_path: Path) -> None:
    loads = [Load(lab) for _ in range(4)]
    for load in loads:
        load.start()
    slowest: dict[tuple[int, str], float] = {}
    try:
        time.sleep(0.5)
        for number, process in KILLS:
            for pid in lab.pids(number, process):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            while not (lab.pids(number, process) and all(load.succeeded_since(killed + 0.05) for load in loads)):
                assert time.monotonic() - killed < 10, f"{process} of box {number} did not come back"
                time.sleep(0.02)
            slowest[number, process] = time.monotonic() - killed
            time.sleep(0.3)
    finally:
        for load in loads:
            load.stop()
    acknowledged = {query for load in loads for _, query in load.acknowledged}

    late = {key: seconds for key, seconds in slowest.items() if seconds > BACK_S_MAX}
    assert not late, f"not back within {BACK_S_MAX} s: {late}"
    for number in (1, 2):
        logged = _ids(lab, number)
        assert acknowledged <= logged, f"box {number} lost {len(acknowledged - logged)} of {len(acknowledged)} acknowledged messages"
    assert len(acknowledged) > 50
    for query in sorted(acknowledged)[:: max(1, len(acknowledged) // 12)]:
        _verify(lab, query, tmp_path)


def _ids(lab: Lab, number: int) -> set[str]:
    """Ids with both a request and a response in this box's log."""
    found: dict[str, set[str]] = {}
    for record in lab.records(number, "--limit", "100000"):
        found.setdefault(record["query_id"], set()).add(record["direction"])
    return {query for query, directions in found.items() if directions == {"request", "response"}}


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
