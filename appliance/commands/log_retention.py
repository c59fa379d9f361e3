"""`xacbe log retention`: how long contents are kept, by subsystem; shown, set, carried out."""

from __future__ import annotations

import argparse
from typing import Any

import msgspec

from appliance.clock import iso
from appliance.commands.verbs import add_verb, done, full_name, print_json, print_table
from appliance.messagelog.archive_wire import ChangeTerm, Erased, SubsystemTerm
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

ERASE_S_MAX = 3600.0


def add_arguments(verbs: Any) -> None:
    parser = add_verb(verbs, "retention", "log.retention")
    parser.add_argument("subsystem", nargs="?", default=None, metavar="SUBSYSTEM", help=text("log.retention_subsystem"))
    parser.add_argument("--days", type=int, default=None, metavar="N", help=text("log.retention_days"))
    parser.add_argument("--bodies", choices=("on", "off"), default=None, help=text("log.retention_bodies"))
    parser.add_argument("--default", action="store_true", help=text("log.retention_default"))
    parser.add_argument("--erase-now", action="store_true", help=text("log.retention_now"))


def run(arguments: argparse.Namespace) -> int:
    recorder = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), ERASE_S_MAX)
    if arguments.erase_now:
        erased: Erased = recorder.call("erase_due", None, Erased)
        return done(arguments, "log.retention_erased", **{name: str(value) for name, value in msgspec.structs.asdict(erased).items()})
    found: list[SubsystemTerm] = recorder.call("list_terms", None, list[SubsystemTerm])
    if arguments.subsystem is None and arguments.days is None and arguments.bodies is None:
        return _show(arguments, found)
    name = "" if arguments.subsystem is None else full_name(arguments, arguments.subsystem, 4)
    known = {one.subsystem: one for one in found}
    now = known.get(name) or known[""]
    days = now.days if arguments.days is None else arguments.days
    bodies = now.bodies if arguments.bodies is None else arguments.bodies == "on"
    recorder.call("change_term", ChangeTerm(name, None if arguments.default else days, bodies))
    return done(arguments, "log.retention_changed", subsystem=name or text("log.retention_all"))


def _show(arguments: argparse.Namespace, found: list[SubsystemTerm]) -> int:
    if arguments.json:
        print_json([msgspec.structs.asdict(one) for one in found])
        return 0
    heads = [text(f"log.retention_head.{name}") for name in ("subsystem", "days", "bodies", "kept", "oldest", "archived")]
    print_table(heads, [_row(one) for one in found], "archive.none")
    return 0


def _row(one: SubsystemTerm) -> list[str]:
    days = str(one.days) if one.days else text("log.retention_for_ever")
    bodies = text("log.retention_on" if one.bodies else "log.retention_off")
    oldest = "-" if one.oldest_us is None else iso(one.oldest_us)
    return [one.subsystem or text("log.retention_all"), days, bodies, str(one.kept), oldest, str(one.archived_through or "-")]
