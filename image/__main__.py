"""`python -m image fetch|can-boot|build|check|run|inside|test|reproduce`: the image from the command line; `--help` says more."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from image import build, checks, host, inside, machine, tools
from image.machine import Plan
from image.tools import ImageError, NotHereError

EXIT_NOT_HERE = 69
"""EX_UNAVAILABLE: this machine cannot do it, which says nothing about the image."""
BOOTS = tuple(f"tests/image/boots/test_{name}.py" for name in ("1_as_shipped", "2_changed", "3_in_use"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m image", description="The operating image of the box.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("fetch", help="what a build needs from mirrors; exit code 69 where this machine cannot have it")
    verbs.add_parser("can-boot", help="whether QEMU, firmware and TPM start here; exit code 69 where they do not")
    make = verbs.add_parser("build", help="build build/image/xacbe.raw")
    make.add_argument("--clean", action="store_true", help="also the layer of Debian packages and the Python parts")
    make.add_argument("--json", action="store_true", help="print what was built")
    gates = verbs.add_parser("check", help="static gates on the built root")
    gates.add_argument("--json", action="store_true", help="print findings and figures")
    person = verbs.add_parser("run", help="boot it on this terminal: serial line here, Ctrl-A X ends it")
    person.add_argument("--new", action="store_true", help="a new machine: empty disk, TPM and firmware variables")
    person.add_argument("--port", type=int, default=5500, help="port of 127.0.0.1 that leads to the box's 5500 (default %(default)s)")
    look = verbs.add_parser("inside", help="boot the test profile and tell memory, processes, sockets and mounts from inside, as JSON")
    look.add_argument("command", nargs="*", help="a program of the root and its words, run instead: /usr/bin/cat /proc/meminfo")
    verbs.add_parser("test", help="boot tests: as shipped, changed, configured, killed, hanging (10 minutes on two processors)")
    again = verbs.add_parser("reproduce", help="build twice from nothing and compare the root's hash")
    again.add_argument("--json", action="store_true", help="print both hashes")
    arguments = parser.parse_args()
    try:
        return VERBS[arguments.verb](arguments)
    except NotHereError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_HERE
    except ImageError as error:
        print(error, file=sys.stderr)
        return EXIT_NOT_HERE if tools.AWAY.search(str(error)) else 1


def _fetch(arguments: argparse.Namespace) -> int:
    build.fetch()
    return 0


def _can_boot(arguments: argparse.Namespace) -> int:
    host.can_boot()
    return 0


def _build(arguments: argparse.Namespace) -> int:
    facts = build.build(clean=arguments.clean)
    print(json.dumps(facts, indent=1) if arguments.json else f"  {build.DISK}  root {facts['root_hash']}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    found, figures = checks.check(build.OUT), checks.figures(build.OUT)
    if arguments.json:
        print(json.dumps({"findings": found, **figures}, indent=1))
    else:
        for name, findings in found.items():
            print(f"  {'ok ' if not findings else 'BAD'} {name.replace('_', ' ')}", *findings, sep="\n        ")
        print(json.dumps(figures, indent=1))
    return 1 if any(found.values()) else 0


def _run(arguments: argparse.Namespace) -> int:
    tools.prepare_host()
    _require_image()
    place = build.OUT.parent / "machine"
    if arguments.new:
        shutil.rmtree(place, ignore_errors=True)
    plan = Plan(
        directory=place,
        disk=build.DISK,
        code=build.FIRMWARE_CODE,
        variables=build.FIRMWARE_VARS,
        forwards=(("127.0.0.1", arguments.port, 5500),),
        reboot=True,
    )
    return machine.on_this_terminal(plan)


def _inside(arguments: argparse.Namespace) -> int:
    tools.prepare_host()
    _require_image()
    with tempfile.TemporaryDirectory(prefix="xacbe-inside-") as place, machine.running(inside.plan(Path(place))) as running:
        print("booting; this takes some minutes", file=sys.stderr, flush=True)
        box = inside.Inside(running)
        inside.unprovisioned(running)
        print(f"unprovisioned after {running.age_s():.0f} s", file=sys.stderr, flush=True)
        if not arguments.command:
            print(json.dumps(box.facts(), indent=1))
            return 0
        done = box.tried(*arguments.command)
        print(done["out"], end="")
        print(done["err"], end="", file=sys.stderr)
        return int(done["code"])


def _test(arguments: argparse.Namespace) -> int:
    tools.prepare_host()
    _require_image()
    return subprocess.run(
        [sys.executable, "-u", "-m", "pytest", "-sv", "--durations=0", *BOOTS], cwd=build.REPOSITORY, check=False
    ).returncode


def _reproduce(arguments: argparse.Namespace) -> int:
    hashes = []
    for _ in range(2):
        hashes.append(build.build(clean=True)["root_hash"])
        print(f"  root {hashes[-1]}", flush=True)
    if arguments.json:
        print(json.dumps(hashes))
    return 0 if len(set(hashes)) == 1 else 1


def _require_image() -> None:
    """Raises ImageError."""
    if not build.FACTS.exists():
        raise ImageError("there is no image yet: make image")


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fetch": _fetch,
    "can-boot": _can_boot,
    "build": _build,
    "check": _check,
    "run": _run,
    "inside": _inside,
    "test": _test,
    "reproduce": _reproduce,
}


if __name__ == "__main__":
    sys.exit(main())
