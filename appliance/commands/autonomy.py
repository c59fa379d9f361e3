"""`xacbe autonomy`: how long the box could still exchange if each service fell silent now, and which rule would stop it."""

from __future__ import annotations

import argparse

from appliance.clock import SystemClock, iso
from appliance.commands.status import duration
from appliance.commands.verbs import catalogued, print_json, print_table, printable, supervisor
from appliance.health.horizons import UNBOUNDED, has_ended
from appliance.supervision.wire import BoxStatus, Horizon
from appliance.texts import text

HELP = "autonomy.help"
COLUMNS = ("service", "left", "ends", "rule", "now")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help=text("command.json"))


def run(arguments: argparse.Namespace) -> int:
    """0: exchanges are possible; 1: something has ended."""
    box: BoxStatus = supervisor(arguments).call("box_status", None, BoxStatus)
    now_us = SystemClock().now_us()
    ended = [one for one in box.horizons if has_ended(one, now_us)]
    if arguments.json:
        print_json({"at": iso(now_us), "state": box.state, "horizons": [_facts(one, now_us) for one in box.horizons]})
    else:
        print_table([text(f"autonomy.head.{name}") for name in COLUMNS], [_row(one, now_us) for one in box.horizons], "status.unknown")
    return 1 if ended else 0


def _facts(one: Horizon, now_us: int) -> dict[str, object]:
    return {
        "service": one.service,
        "rule": one.rule,
        "ends": None if one.ends_us is None else iso(one.ends_us),
        "left_s": None if one.ends_us is None else max(0, (one.ends_us - now_us) // 1_000_000),
        "silent": one.silent,
    }


def _row(one: Horizon, now_us: int) -> list[str]:
    return [
        catalogued("autonomy.service", one.service),
        left(one, now_us),
        "-" if one.ends_us is None else iso(one.ends_us),
        printable(one.rule),
        text("autonomy.silent") if one.silent else "",
    ]


def left(one: Horizon, now_us: int) -> str:
    """How long it still lasts, for a person."""
    if one.ends_us is None:
        return text("autonomy.no_end") if one.service in UNBOUNDED else text("autonomy.not_known")
    return text("status.ended") if has_ended(one, now_us) else duration((one.ends_us - now_us) / 1e6)
