"""What is promised in numbers, and where the figure is: `build/bench.json`, or what a test measured. What is not there is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

Parts = dict[str, Any]
Tests = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Figure:
    """One measured value. `wanted`: the bound; `at_least`: the value should not lie below it, otherwise not above."""

    label: str
    value: float | None
    wanted: float | None
    unit: str = ""
    at_least: bool = False

    @property
    def holds(self) -> bool | None:
        """None where nothing can be said."""
        if self.value is None or self.wanted is None:
            return None
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


@dataclass(frozen=True)
class Promise:
    """`part`: of `make bench`, or empty for a figure of tests."""

    text: str
    part: str
    figures: Callable[[Parts, Tests], Iterator[Figure]]


def _exchange(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["exchange"]["found"]:
        for side, ratio in one["ratio"].items():
            yield Figure(f"{one['body_bytes']} B, {one['in_flight']} in flight, box {side}", ratio, one["ratio_wanted"], "x nginx")


def _slow(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["slow"]["found"]["load"]:
        busy = f", machine {one['machine_busy']:.0%} busy"
        name = f"S {one['sign_ms']} ms, {one['in_flight']} in flight{busy}"
        yield Figure(name, one["per_second"], one["wanted_per_second"], "/s", at_least=True)


def _slow_p50(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["slow"]["found"]["load"]:
        yield Figure(f"S {one['sign_ms']} ms, {one['in_flight']} in flight", one["p50_ms"], one["wanted_p50_ms"], "ms")


def _lag(parts: Parts, _: Tests) -> Iterator[Figure]:
    lag = parts["slow"]["found"]["lag"]
    yield Figure(f"{lag['connections']} handshakes at once", lag["p99_ms"], lag["wanted_p99_ms"], "ms")


def _bulk(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["bulk"]["found"]:
        for side, ratio in one["ratio_without_hash"].items():
            yield Figure(f"{one['megabytes']} MB {one['direction']}, box {side}", ratio, 3.0, "x nginx")


def _bulk_memory(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["bulk"]["found"]:
        for side, mib in one["more_mib"].items():
            yield Figure(f"{one['megabytes']} MB {one['direction']}, box {side}", mib, 8.0, "MiB")


def _memory(parts: Parts, _: Tests) -> Iterator[Figure]:
    found = parts["memory"]["found"]
    yield Figure("idle", found["idle_mib"]["whole"], found["idle_mib_wanted"], "MiB")
    yield Figure("256 in flight", found["loaded_mib"]["whole"], found["loaded_mib_wanted"], "MiB")
    within = found["within_limit"].get("loaded_mib", {}).get("whole")
    yield Figure("256 in flight, within 512 MB, swap off", within, found["loaded_mib_wanted"], "MiB")
    yield Figure("an idle TLS peer", found["idle_peer_kib"], found["idle_peer_kib_wanted"], "KiB")


def _start(parts: Parts, _: Tests) -> Iterator[Figure]:
    found = parts["memory"]["found"]
    for name, seconds in found["start_s"].items():
        yield Figure(name, seconds, found["start_s_wanted"], "s")


def _log(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["log"]["found"]["groups"]:
        yield Figure(f"groups of {one['group']}, share of a bare writer", one["share"], one["share_wanted"], "", at_least=True)


def _large_log(parts: Parts, _: Tests) -> Iterator[Figure]:
    large = parts["log"]["found"]["large"]
    yield Figure(f"look-up at {large['records']:,} records, p50", large["lookup_p50_ms"], large["lookup_ms_wanted"], "ms")
    yield Figure("start from the last checkpoint", large["quick_start_s"], large["start_s_wanted"][0], "s")
    yield Figure("whole check, for a million records", large["whole_start_s_a_million"], large["start_s_wanted"][1], "s")


def _floor(parts: Parts, _: Tests) -> Iterator[Figure]:
    for name, one in parts["floor"]["found"].items():
        yield Figure(name, one["ratio"], one["ratio_wanted"], "x nginx")


def _stamp(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["stamp"]["found"]["load"]:
        yield Figure(f"{one['in_flight']} in flight, throughput lost", one["loss"] * 100, 10.0, "%")
        yield Figure(f"{one['in_flight']} in flight, round trips more", one["round_trips"], 2.2)


def _growth(parts: Parts, _: Tests) -> Iterator[Figure]:
    for one in parts["growth"]["found"]:
        if one["grown"] is not None:
            yield Figure(f"{one['what']} {one['size']:,}", one["grown"] * 100, one["grown_wanted"] * 100, "%")


def measured(name: str, label: str, wanted: float, unit: str, scale: float = 1.0) -> Callable[[Parts, Tests], Iterator[Figure]]:
    """A figure that tests recorded under this name, each test's own."""

    def figures(_: Parts, tests: Tests) -> Iterator[Figure]:
        for test, one in sorted(tests.items()):
            if name in one["figures"]:
                which = test.rpartition("[")[2].rstrip("]") if "[" in test else label
                yield Figure(which, one["figures"][name] * scale, wanted, unit)

    return figures


PROMISES: tuple[Promise, ...] = (
    Promise("CPU of a sealed, durable exchange, beside nginx relaying the same body", "exchange", _exchange),
    Promise("Sealed exchanges a second with a slow token (0.85 C/3S)", "slow", _slow),
    Promise("p50 with a slow token (3.2 S + 20 ms)", "slow", _slow_p50),
    Promise("Other requests while slow handshakes run, p99", "slow", _lag),
    Promise("Bulk: CPU for each MB without one hash pass, beside nginx", "bulk", _bulk),
    Promise("Bulk: memory meanwhile", "bulk", _bulk_memory),
    Promise("Memory of a whole box", "memory", _memory),
    Promise("Start to serving", "memory", _start),
    Promise("Durable records a second beside a bare segment writer", "log", _log),
    Promise("A large log", "log", _large_log),
    Promise("The relay alone beside nginx", "floor", _floor),
    Promise("What a time-stamping authority of 50 ms costs", "stamp", _stamp),
    Promise("Growth: cost of an exchange against the smallest size", "growth", _growth),
    Promise("Floods: p99 of a good peer", "", measured("good_p99_ms", "flood", 2000, "ms")),
    Promise("Floods: memory of the relay", "", measured("relay_mib", "flood", 150, "MiB")),
    Promise(
        "One caller at a hundred times its share: p99 of the others against before", "", measured("others_p99_ratio", "others", 1.5, "x")
    ),
)
