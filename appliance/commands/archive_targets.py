"""`xacbe archive targets [--check]`: where archives go by the settings, and how the courier gets on with the remote ones."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance import settings
from appliance.clock import iso
from appliance.commands.verbs import print_json, print_table
from appliance.courier.wire import TargetState
from appliance.net.local_client import BlockingClient, NeighbourAwayError
from appliance.net.local_sockets import channel_path
from appliance.texts import TEXTS, text
from appliance.topology import CONSOLE

CHECK_S_MAX = 60.0
AWAY = "process.away"


@dataclass(frozen=True, slots=True)
class _Line:
    """`state`: `on`, or an error's kind."""

    name: str
    place: str
    state: str
    told: TargetState | None = None


def run(arguments: argparse.Namespace) -> int:
    """Exit code 1 where `--check` finds a target that could not take an archive now."""
    archivist = settings.load(arguments.state, settings.ArchivistSettings)
    courier = settings.load(arguments.state, settings.CourierSettings)
    lines = [_directory(archivist, arguments.check)] if archivist.directory else []
    lines += _remote(arguments.state, courier, arguments.check)
    facts = {"grouping": archivist.grouping, "interval_s": str(archivist.interval_s), "recipients": archivist.recipients}
    if arguments.json:
        told = [msgspec.structs.asdict(line.told) if line.told else {} for line in lines]
        rows = [{"name": line.name, "place": line.place, "state": line.state, **more} for line, more in zip(lines, told, strict=True)]
        print_json({**facts, "targets": rows})
    else:
        print_table([text("archive.head.fact"), text("archive.head.value")], _facts(facts), "archive.none")
        heads = [text(f"archive.head.{name}") for name in ("target", "country", "state", "carried", "next")]
        print_table(heads, [_row(line) for line in lines], "archive.no_targets")
    return 1 if arguments.check and any(line.state != "on" for line in lines) else 0


def _facts(facts: dict[str, str]) -> list[list[str]]:
    return [[text(f"archive.target.{name}"), value or "-"] for name, value in facts.items()]


def _directory(found: settings.ArchivistSettings, check: bool) -> _Line:
    """Looked at from here, as the technician: the archivist's own rights are seen when it writes."""
    there = not check or os.path.isdir(found.directory)
    return _Line(f"directory {found.directory}", found.directory_place, "on" if there else "archive.target_away")


def _remote(state: Path, found: settings.CourierSettings, check: bool) -> list[_Line]:
    names = found.target_names()
    places = [place for place, on in ((found.sftp_place, found.sftp_host), (found.s3_place, found.s3_endpoint)) if on]
    told: dict[str, TargetState] = {}
    away = ""
    if names:
        client = BlockingClient(channel_path(state, "courier", CONSOLE), CHECK_S_MAX)
        try:
            answered = client.call("check_targets" if check else "list_targets", None, list[TargetState])
            told = {one.name: one for one in answered}
        except NeighbourAwayError:
            away = AWAY
        finally:
            client.close()
    lines = []
    for name, place in zip(names, places, strict=True):
        one = told.get(name)
        lines.append(_Line(name, place, (one.failing or "on") if one else (away or AWAY), one))
    return lines


def _row(line: _Line) -> list[str]:
    told = line.told or TargetState(line.name)
    words = text("archive.state_on") if line.state == "on" else text(f"kind.{line.state}") if f"kind.{line.state}" in TEXTS else line.state
    carried = f"{told.carried} ({iso(told.carried_us)})" if told.carried else "-"
    return [line.name, line.place, f"{words} {told.detail}".strip(), carried, iso(told.next_us) if told.next_us else "-"]
