"""Two boxes whose tokens are as slow as real parts.

For each time S of a signature and each number C of exchanges in flight: sealed exchanges a second beside 0.85 C / 3S (three signatures
follow one another in an exchange: request, answer, and the wait for the one under way), p50 beside 3.2 S + 20 ms, messages for each
signature, signatures beside elapsed / S + 1, and how busy the machine was: where its cores are the limit, the token is not. Then the
relay's loop while ten new connections shake hands at once. The loop's lag is seen from outside: how long port 5577, which needs no
token, takes to answer on a kept connection; the probe's own share is in the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import ssl
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from appliance.hsm.wire import KeyRecord
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from tests.bench import boxes
from tests.bench.load import Connections
from tests.hsm import speed_profiles

BASE = "127.0.63"
SHARE = 0.85
SIGNATURES_ON_THE_WAY = 3
LATENCY_SIGNATURES, LATENCY_MS = 3.2, 20.0
ROUNDS_MIN, ROUNDS_PER_S_MAX = 5, 3
"""Exchanges of each connection in turn: the first and the last of them share a signature with fewer others."""
WARM_UP_MAX = 5
"""Until no connection between the boxes is made any more: each costs a handshake's signature in both tokens."""
CONNECTIONS_AT_ONCE = 10
LAG_MS_MAX = 10.0
PROBE_S, PROBE_UNDER_LOAD_S = 0.002, 0.02
"""Between two probes. Under load the rarer ones: five hundred a second took a twelfth of what the relay had."""
BODY = b"x" * 1024
PROFILE_IN_FLIGHT = 64


def run(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    place = Path(tempfile.mkdtemp(prefix="xacbe-slow-"))
    place.chmod(0o755)  # the tokens run under the users of their boxes
    try:
        module = speed_profiles.build(place / "module")
        with boxes.laboratory(place / "lab", "softhsm", BASE, module.file) as lab:
            load = []
            for sign_ms in options.sign_ms:
                module.set(f"{sign_ms}")
                load += [asyncio.run(measure(lab, sign_ms, in_flight, options.slow_seconds)) for in_flight in options.slow_in_flight]
            module.set("100")
            lag = handshake_lag(lab)
            profiles = []
            for profile in speed_profiles.PROFILES if options.profiles else ():
                per_second = profile.later_per_second or profile.per_second  # a part that slows itself down, as it is after that
                module.set(f"{1000 / per_second:.3f}")
                found = asyncio.run(measure(lab, 1000 / per_second, PROFILE_IN_FLIGHT, options.slow_seconds))
                profiles.append({"part": profile.name} | found)
    finally:
        shutil.rmtree(place)
    return {"load": load, "lag": lag, "profiles": profiles}


async def measure(lab: dict[str, Any], sign_ms: float, in_flight: int, seconds: float) -> dict[str, Any]:
    """One run of fixed work; the connections between the boxes are there before it."""
    host, request = lab["boxes"][0]["address"], boxes.post(lab, BODY)
    rounds = max(ROUNDS_MIN, min(round(ROUNDS_PER_S_MAX * seconds), round(seconds * 1000 / (SIGNATURES_ON_THE_WAY * sign_ms))))
    async with Connections(host, 8080, None, in_flight) as connections:
        for _ in range(WARM_UP_MAX):
            shaken = await asyncio.to_thread(signatures, lab["boxes"][0])
            await connections.work(request, in_flight * 2)
            if (await asyncio.to_thread(signatures, lab["boxes"][0]))["tls"] == shaken["tls"]:
                break
        before = [await asyncio.to_thread(signatures, box) for box in lab["boxes"]]
        spent, beside, busy = boxes.cpu_us(lab), await asyncio.to_thread(besides_us, lab), Busy()
        count = in_flight * rounds
        with Probe(host, PROBE_UNDER_LOAD_S) as probe:
            outcome = await connections.work(request, count)
        share = busy.share()
        cost = {name: (us - spent[name]) / count for name, us in boxes.cpu_us(lab).items()}
        besides = {name: (us - beside[name]) / count for name, us in (await asyncio.to_thread(besides_us, lab)).items()}
        after = [await asyncio.to_thread(signatures, box) for box in lab["boxes"]]
    used = [{use: later[use] - earlier[use] for use in later} for later, earlier in zip(after, before, strict=True)]
    return {
        "sign_ms": round(sign_ms, 1),
        "in_flight": in_flight,
        "succeeded": outcome.succeeded,
        "of": count,
        "per_second": round(outcome.succeeded / outcome.seconds, 1),
        "wanted_per_second": round(SHARE * in_flight / (SIGNATURES_ON_THE_WAY * sign_ms / 1000), 1),
        "p50_ms": round(outcome.percentile(0.5), 1),
        "wanted_p50_ms": round(LATENCY_SIGNATURES * sign_ms + LATENCY_MS, 1),
        "messages_per_signature": [round(count / max(1, one["seal"]), 1) for one in used],
        "signatures": [sum(one.values()) for one in used],
        "signatures_max": round(outcome.seconds * 1000 / sign_ms) + 1,
        "handshakes": [one["tls"] for one in used],
        "machine_busy": round(share, 2),
        "cpu_us": {side: round(sum(us for name, us in cost.items() if name.startswith(side))) for side in boxes.SIDES}
        | {name: round(us) for name, us in besides.items()},
        "alone_per_second": alone_per_second({name: us for name, us in cost.items() if name.startswith("A")}),
        "probe_p99_ms": round(probe.percentile(0.99), 1),
    }


def besides_us(lab: dict[str, Any]) -> dict[str, float]:
    """What is no box and wants the same cores: the laboratory's services, and this process, which is the load and the probe."""
    return {"services": boxes.services_us(lab), "load": time.process_time() * 1e6}


def alone_per_second(cost: dict[str, float]) -> int:
    """What the client's box would reach with this machine's cores to itself: all of them, or one for its busiest process."""
    return round(min(len(os.sched_getaffinity(0)) * 1e6 / sum(cost.values()), 1e6 / max(cost.values())))


class Busy:
    """How much of the machine's CPU was in use, by anybody, since this was made."""

    def __init__(self) -> None:
        self._begun = self._read()

    def share(self) -> float:
        idle, total = (now - then for now, then in zip(self._read(), self._begun, strict=True))
        return 1 - idle / max(1, total)

    @staticmethod
    def _read() -> tuple[int, int]:
        fields = [int(field) for field in Path("/proc/stat").read_text().partition("\n")[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)


def handshake_lag(lab: dict[str, Any], rounds: int = 5) -> dict[str, Any]:
    """Ten new connections at once, each a full handshake with a signature of the internal key; nothing else runs."""
    box = lab["boxes"][0]

    def shake(_: int) -> float:
        context = ssl._create_unverified_context()  # noqa: S323  a probe of time, not of trust
        begun = time.perf_counter()
        with socket.create_connection((box["address"], 8443), timeout=30) as plain, context.wrap_socket(plain):
            return (time.perf_counter() - begun) * 1000

    before = signatures(box)["tls"]
    slowest = []
    with ThreadPoolExecutor(CONNECTIONS_AT_ONCE) as pool, Probe(box["address"], PROBE_S) as probe:
        for _ in range(rounds):
            slowest.append(max(pool.map(shake, range(CONNECTIONS_AT_ONCE))))
    return {
        "connections": CONNECTIONS_AT_ONCE,
        "rounds": rounds,
        "signatures": signatures(box)["tls"] - before,
        "slowest_handshake_ms": round(max(slowest), 1),
        "p50_ms": round(probe.percentile(0.5), 2),
        "p99_ms": round(probe.percentile(0.99), 2),
        "max_ms": round(probe.percentile(1.0), 2),
        "wanted_p99_ms": LAG_MS_MAX,
    }


class Probe:
    """Asks port 5577 again and again on one connection, from a thread of its own."""

    def __init__(self, host: str, every_s: float) -> None:
        self._host, self._every_s, self._ended, self._times_ms = host, every_s, threading.Event(), list[float]()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def percentile(self, share: float) -> float:
        ordered = sorted(self._times_ms)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    def _run(self) -> None:
        with socket.create_connection((self._host, 5577), timeout=30) as kept:
            while not self._ended.wait(self._every_s):
                begun = time.perf_counter()
                kept.sendall(b"HEAD / HTTP/1.1\r\nHost: box\r\n\r\n")
                answer = b""
                while not answer.endswith(b"\r\n\r\n"):
                    answer += kept.recv(4096)
                self._times_ms.append((time.perf_counter() - begun) * 1000)


def signatures(box: dict[str, Any]) -> dict[str, int]:
    """By use of the key: `seal`, `tls`."""
    client = BlockingClient(channel_path(Path(box["state"]), "signer", "console"), 10)
    try:
        found: list[KeyRecord] = client.call("list_keys", None, list[KeyRecord])
    finally:
        client.close()
    return {use: sum(key.uses for key in found if key.use == use) for use in ("seal", "tls")}


def print_table(found: dict[str, Any]) -> None:
    print(f"\nSlow tokens (wanted: {SHARE} C/3S exchanges a second, p50 {LATENCY_SIGNATURES} S + {LATENCY_MS:.0f} ms)")
    for one in found["load"]:
        print("  " + _line(one))
    lag = found["lag"]
    print(
        f"  ten connections at once, S = 100 ms: every handshake within {lag['slowest_handshake_ms']} ms ({lag['signatures']} signatures);"
        f" other requests p50 {lag['p50_ms']} ms, p99 {lag['p99_ms']} ms, max {lag['max_ms']} ms (p99 wanted below {LAG_MS_MAX:.0f} ms)"
    )
    for one in found["profiles"]:
        print(f"  {one['part']:20} " + _line(one))


def _line(one: dict[str, Any]) -> str:
    (a, b), (used_a, used_b) = one["messages_per_signature"], one["signatures"]
    return (
        f"S {one['sign_ms']:6} ms, C {one['in_flight']:3}: {one['per_second']:6}/s (wanted {one['wanted_per_second']}),"
        f" p50 {one['p50_ms']} ms (at most {one['wanted_p50_ms']}), {a} and {b} messages a signature,"
        f" {used_a} and {used_b} signatures (at most {one['signatures_max']}), CPU "
        + ", ".join(f"{name} {us}" for name, us in one["cpu_us"].items())
        + f" us (box A alone: {one['alone_per_second']}/s), machine busy {one['machine_busy']:.0%}, probe p99 {one['probe_p99_ms']} ms,"
        f" {one['succeeded']}/{one['of']} succeeded"
    )
