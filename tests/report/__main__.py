"""`make report`: writes `build/report.html` from the results of the last test and bench runs, and prints where it is."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from appliance.clock import SystemClock, iso
from tests.report import keeping
from tests.report.page import page
from tests.report.promises import PROMISES

BENCH, REPORT = Path("build/bench.json"), Path("build/report.html")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=REPORT)
    parser.add_argument("--strict", action="store_true", help="exit code 1 where a figure or all results of tests are missing")
    options = parser.parse_args()
    tests = keeping.load()
    try:
        parts = json.loads(BENCH.read_text())
    except (OSError, ValueError):
        parts = {}
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(parts, tests, done.stdout.strip() or "unknown", iso(SystemClock().now_us())))
    missing = sorted({promise.part for promise in PROMISES if promise.part} - parts.keys())
    print(f"{options.out}: {len(tests)} tests, {len(parts)} parts of the bench{', missing: ' + ', '.join(missing) if missing else ''}")
    return 1 if options.strict and (missing or not tests) else 0


if __name__ == "__main__":
    sys.exit(main())
