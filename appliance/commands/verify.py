"""`xacbe verify FILE...`: is this container evidence? A numbered checklist for people, JSON for programs; needs neither box nor network.

Trust material, one of: `--configuration DIR` (X-Road's local layout; with `--anchor FILE` the signed directory beside it, or beside the
anchor, is checked first), `--ca`/`--tsa` certificates, or the configuration of the box at `--state`. Of several files, or of a folder's
containers, each gets a line (with `--json` one object a line, its file's name first). Exit codes: 0 all valid, 1 one is invalid,
2 undecidable (trust material is missing or unusable, or a file cannot be read).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from appliance.clock import to_us
from appliance.commands.verify_trust import ForContainer, read_file, trust_of
from appliance.errors import UnavailableError, UnverifiedError
from appliance.seal import report
from appliance.seal.container import CONTAINER_BYTES_MAX
from appliance.seal.container_check import verify_container
from appliance.seal.report import Report, Step
from appliance.texts import TEXTS, refusal, text

HELP = "verify.help"
EXIT_CODES = {report.VALID: 0, report.INVALID: 1, report.UNDECIDABLE: 2}
PATTERN = "*.asice"
"""What counts as a container in a folder."""
_MARKS = {report.PASSED: "ok", report.FAILED: "NO", report.SKIPPED: "--", report.UNDECIDED: "??", report.NOT_REACHED: "  "}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="+", help=text("verify.file"))
    parser.add_argument("--configuration", type=Path, metavar="DIR", help=text("verify.configuration"))
    parser.add_argument("--anchor", type=Path, metavar="FILE", help=text("verify.anchor"))
    parser.add_argument("--ca", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.ca"))
    parser.add_argument("--tsa", type=Path, nargs="+", default=[], metavar="PEM", help=text("verify.tsa"))
    parser.add_argument("--at", type=_moment_us, metavar="TIME", help=text("verify.at"))
    parser.add_argument("--json", action="store_true", help=text("command.json"))


def run(arguments: argparse.Namespace) -> int:
    try:
        trust = trust_of(arguments)
    except (UnavailableError, UnverifiedError) as error:
        return _cannot(error, arguments.json)
    if len(arguments.file) > 1 or arguments.file[0].is_dir():
        return _run_many(_files(arguments.file), trust, arguments)
    try:
        found = _judged(arguments.file[0], trust, arguments.at)
    except (UnavailableError, UnverifiedError) as error:
        return _cannot(error, arguments.json)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False, indent=1))
    else:
        print("\n".join(_lines(found)))
    return EXIT_CODES[found.verdict]


def _judged(file: Path, trust: ForContainer, at_us: int | None) -> Report:
    data = read_file(file, CONTAINER_BYTES_MAX, "command.unreadable")
    return verify_container(data, trust(data), at_us)


def _cannot(error: UnavailableError | UnverifiedError, as_json: bool) -> int:
    """Nothing was judged: said on the error output, and as a report to programs."""
    print(refusal(error.kind, str(error)), file=sys.stderr)
    if as_json:
        print(json.dumps(dataclasses.asdict(_undecided(error)), ensure_ascii=False, indent=1))
    return EXIT_CODES[report.UNDECIDABLE]


def _undecided(error: UnavailableError | UnverifiedError) -> Report:
    return Report(report.UNDECIDABLE, error.kind, None, (), ())


def _files(places: Sequence[Path]) -> list[Path]:
    """Each file as given; of a folder the containers in it and below it, by name."""
    return [file for place in places for file in (sorted(place.rglob(PATTERN)) if place.is_dir() else [place])]


def _run_many(files: Sequence[Path], trust: ForContainer, arguments: argparse.Namespace) -> int:
    counts = dict.fromkeys(EXIT_CODES, 0)
    for number, file in enumerate(files, 1):
        try:
            found = _judged(file, trust, arguments.at)
        except (UnavailableError, UnverifiedError) as error:
            found = _undecided(error)
        counts[found.verdict] += 1
        _progress(number, len(files))
        if arguments.json:
            print(json.dumps({"file": str(file), **dataclasses.asdict(found)}, ensure_ascii=False), flush=True)
        else:
            print(f"{text(f'verify.verdict.{found.verdict}'):20} {file}" + (f": {_reason(found.reason)}" if found.reason else ""))
    summary = text("verify.many", **counts)
    print(summary, file=sys.stderr if arguments.json else sys.stdout)
    return next((EXIT_CODES[verdict] for verdict in (report.INVALID, report.UNDECIDABLE) if counts[verdict]), 0 if files else 2)


def _progress(done: int, of: int) -> None:
    """A bar on a terminal's error output, while the results go to a file or another program."""
    if sys.stderr.isatty() and not sys.stdout.isatty():
        filled = 40 * done // of
        end = "\n" if done == of else ""
        print(f"\r[{'#' * filled}{'.' * (40 - filled)}] {done}/{of}", end=end, file=sys.stderr, flush=True)


def _lines(found: Report) -> Iterator[str]:
    for step in found.steps:
        yield f"{step.number:2} [{_MARKS[step.verdict]}] {text(f'verify.step.{step.name}')}{_told(step)}"
    for attachment in found.attachments:
        state = "stored" if attachment.stored and attachment.verified else "unverified" if attachment.stored else "not_stored"
        yield f"   {attachment.name}: {text(f'verify.attachment.{state}')} {attachment.digest[:32]}"
    yield ""
    yield text(f"verify.verdict.{found.verdict}") + (f": {_reason(found.reason)}" if found.reason else "")
    if found.xroad_code:
        yield text("verify.xroad_code", code=found.xroad_code)


def _told(step: Step) -> str:
    if step.reason:
        return f": {_reason(step.reason)}\n        ({step.detail})"
    return f": {' '.join(f'{name}={value}' for name, value in step.facts.items())}" if step.facts else ""


def _reason(kind: str) -> str:
    key = f"verify.reason.{kind}"
    return f"{text(key)} [{kind}]" if key in TEXTS else refusal(kind, "")


def _moment_us(value: str) -> int:
    """ISO 8601; UTC where no zone is given."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise argparse.ArgumentTypeError(text("verify.not_a_moment", value=value)) from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
