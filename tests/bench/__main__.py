"""`make bench`: what the README may claim, measured beside a yardstick. One part or all: `make bench ARGS="exchange --body 1024"`.

    exchange  CPU of each sealed, durable exchange, as a multiple of nginx relaying the same bodies
    slow      tokens as slow as real parts: exchanges a second, latency, messages for each signature, lag of the loop
    bulk      100 MB up and down: CPU for each MB beside nginx, memory
    memory    PSS idle and under load, also within 512 MB; start to serving; an idle TLS peer
    log       durable records a second beside a bare writer; look-up and start-up of a large log
    floor     the relay alone, without evidence, beside nginx
    stamp     what a time-stamping authority that takes 50 ms costs
    growth    the cost of an exchange as records, servers and rights grow (not without being named: it takes long)

Prints a table and writes `build/bench.json`; parts that were not run keep what an earlier run found. Goals: `tests/bench/README.md`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

PARTS = {
    "exchange": "exchange",
    "slow": "slow_tokens",
    "bulk": "bulk",
    "memory": "memory",
    "log": "log",
    "floor": "relay_floor",
    "stamp": "stamp",
    "growth": "growth",
}
NAMED_ONLY = ("growth",)
"""Part -> module here, with `run(options, directory)` and `print_table(found)`."""
RESULTS = Path("build/bench.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all without any")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON instead of tables")
    parser.add_argument("--directory", type=Path, default=Path("build/bench"), help="where laboratories and logs lie meanwhile")
    parser.add_argument("--token", default="software", choices=("software", "softhsm", "swtpm"), help="exchange, bulk, memory")
    parser.add_argument("--messages", type=int, default=2000, help="exchange: in each round")
    parser.add_argument("--rounds", type=int, default=5, help="exchange, bulk, log, floor")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[16, 64, 256], help="exchange, stamp")
    parser.add_argument("--body", type=int, nargs="+", default=[1024, 10240], help="exchange: bytes of the request's body")
    parser.add_argument("--sign-ms", type=float, nargs="+", default=[20, 35, 70, 100, 170, 600], help="slow: time of one signature")
    parser.add_argument("--slow-in-flight", type=int, nargs="+", default=[1, 16, 64, 256], help="slow")
    parser.add_argument("--slow-seconds", type=float, default=6.0, help="slow: of work in each run; the edges of a short one weigh")
    parser.add_argument("--profiles", action="store_true", help="slow: also each published part (tests/hsm/speed_profiles.py)")
    parser.add_argument("--megabytes", type=int, default=100, help="bulk: size of one body")
    parser.add_argument("--records", type=int, default=100_000, help="log: records at look-up and start-up; the goals speak of a million")
    parser.add_argument("--growth-records", type=int, nargs="+", default=[1_000, 100_000], help="growth; the goal speaks of a million, too")
    parser.add_argument("--growth-servers", type=int, nargs="+", default=[10, 1_000, 5_000], help="growth: in the global configuration")
    parser.add_argument("--growth-rights", type=int, nargs="+", default=[10, 5_000], help="growth: at the provider's box")
    options = parser.parse_args()
    if unknown := set(options.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    directory = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results = {name: part for name, part in results.items() if name in PARTS}
    wanted = options.parts or [name for name in PARTS if name not in NAMED_ONLY]
    for name in wanted:
        part = importlib.import_module(f"tests.bench.{PARTS[name]}")
        began = time.monotonic()
        found = part.run(options, directory)
        results[name] = {"seconds": round(time.monotonic() - began), "load_average": os.getloadavg()[0], "found": found}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        if not options.json:
            part.print_table(found)
            print(flush=True)
    if options.json:
        print(json.dumps({name: results[name] for name in wanted}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
