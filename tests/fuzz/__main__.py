"""`python -m tests.fuzz [TARGET ...] [--seconds S]`: fuzzing that follows the code's branches (atheris), a process for each target.

What it finds interesting stays in `build/fuzz/<target>` for the next night; what breaks a target is printed and kept there as `crash-...`.
Exit code 1 where something broke. Targets and good inputs are those of `make test`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

PLACE = Path("build/fuzz")
MEMORY_MIB_MAX = 1024
INPUT_S_MAX = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all without any")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--list", action="store_true", help="print the targets' names")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        return one(options.one, options.seconds)
    try:
        import atheris  # noqa: F401  only the night installs it: 35 MB
    except ImportError:
        print("atheris is not installed: pip install --require-hashes -r tests/fuzz/requirements.lock", file=sys.stderr)
        return 2
    from tests.fuzz.targets import TARGETS

    names = [target.name for target in TARGETS]
    if options.list:
        print("\n".join(names))
        return 0
    if unknown := set(options.targets) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    broken = []
    for name in options.targets or names:
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, "--seconds", str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("Done ")), "")
        print(f"{name}: {'broken' if done.returncode else 'ok'} {runs}", flush=True)
        if done.returncode:
            broken.append(name)
            print("\n".join((done.stdout + done.stderr).splitlines()[-40:]), flush=True)
    return 1 if broken else 0


def one(name: str, seconds: int) -> int:
    """This process is the fuzzer of one target; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["appliance"]):
        from tests.fuzz.targets import TARGETS
    from appliance.errors import XacbeError

    target = next(target for target in TARGETS if target.name == name)
    place = PLACE / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate((*target.seeds(), *target.kept())):
        (place / f"seed-{number}").write_bytes(seed)

    def test_one(data: bytes) -> None:
        try:
            target.run(data)
        except (XacbeError, *target.also):
            return

    limits = [f"-max_total_time={seconds}", f"-rss_limit_mb={MEMORY_MIB_MAX}", f"-timeout={INPUT_S_MAX}", "-max_len=65536"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={place}/", str(place)], test_one)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
