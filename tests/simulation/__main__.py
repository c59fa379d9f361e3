"""Runs seeds, or replays one.

python -m tests.simulation --seeds 1000 [--from 1] [--jobs 2]      every seed in a row; exit code 1 where one breaks an invariant
python -m tests.simulation --seed 42 [--trace]                     one seed again, with everything that happened
python -m tests.simulation --planted I4 [--seeds 100]              how soon the planted bug of an invariant is found
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from tests.simulation.checks import judge
from tests.simulation.many import reports
from tests.simulation.planted import BUGS
from tests.simulation.scenario import scenario
from tests.simulation.world import run


def _replay(seed: int, planted: str, *, traced: bool) -> int:
    report = run(seed, judge, traced=traced, bug=BUGS[planted]) if planted else run(seed, judge, traced=traced)
    print(f"{scenario(seed)}\n")
    print("\n".join(report.trace))
    print(f"\nseed {seed}: {report.answers} of {report.asked} answered in {report.virtual_s:.0f} s, trace {report.digest}")
    print("\n".join(report.broken) or "every invariant holds")
    return 1 if report.broken else 0


def _all(seeds: range, jobs: int, planted: str, *, as_json: bool) -> int:
    began_s, bad, answers, asked, virtual_s = time.monotonic(), list[int](), 0, 0, 0.0
    done = 0
    for report in reports(seeds, jobs, planted):
        done += 1
        answers, asked, virtual_s = answers + report.answers, asked + report.asked, virtual_s + report.virtual_s
        if report.broken:
            bad.append(report.seed)
            print(
                f"seed {report.seed}: {len(report.broken)} broken; python -m tests.simulation --seed {report.seed} --trace", file=sys.stderr
            )
            for line in report.broken[:6]:
                print(f"    {line[:600]}", file=sys.stderr)
            if planted:
                break
        if sys.stderr.isatty():
            print(f"\r{done} of {len(seeds)}, {len(bad)} bad", end="", file=sys.stderr)
    took_s = time.monotonic() - began_s
    figures = {
        "seeds": done,
        "bad": bad,
        "answers": answers,
        "asked": asked,
        "virtual_s": round(virtual_s),
        "s": round(took_s, 1),
        "seeds_per_s": round(done / took_s, 2),
    }
    print(json.dumps(figures) if as_json else " ".join(f"{name}={value}" for name, value in figures.items()))
    return 1 if bad else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--trace", action="store_true", help="with the journals of all processes")
    parser.add_argument("--seeds", type=int, default=100, help="how many")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--planted", choices=sorted(BUGS), default="", help="with this invariant's planted bug")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    given = parser.parse_args()
    if given.seed is not None:
        return _replay(given.seed, given.planted, traced=given.trace)
    return _all(range(given.first, given.first + given.seeds), given.jobs, given.planted, as_json=given.json)


if __name__ == "__main__":
    sys.exit(main())
