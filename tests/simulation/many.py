"""Many seeds in a row, on as many processors as wanted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.checks import judge
from tests.simulation.planted import BUGS
from tests.simulation.world import Report, quiet, run

BATCH = 25


def _batch(seeds: range, planted: str) -> list[Report]:
    with quiet():
        return [run(seed, judge, bug=BUGS[planted]) if planted else run(seed, judge) for seed in seeds]


def reports(seeds: range, jobs: int, planted: str = "") -> Iterator[Report]:
    """What each seed did, in their order. `jobs`: processes at once."""
    batches = [seeds[at : at + BATCH] for at in range(0, len(seeds), BATCH)]
    if jobs == 1:
        with quiet():
            for seed in seeds:
                yield from _batch(range(seed, seed + 1), planted)
        return
    with ProcessPoolExecutor(jobs) as pool:
        for reports in pool.map(_batch, batches, [planted] * len(batches)):
            yield from reports
