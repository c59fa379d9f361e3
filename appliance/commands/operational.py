"""`xacbe operational`: how exchanges went lately, in figures: who, which service, how long, how large, which fault.

No content and nothing that names persons: those fields are left out here; the log has them, for whoever has the role and says why.
"""

from __future__ import annotations

import argparse

import msgspec

from appliance.clock import SystemClock, iso
from appliance.commands.log_evidence import moment_us
from appliance.commands.verbs import add_verb, full_name, print_json, print_table
from appliance.messagelog.operations import client_of, service_of
from appliance.messagelog.operations_wire import CONSUMER, ListOperations, Operation
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "operational.help"
COLUMNS = ("at", "side", "ms", "sent", "got", "outcome", "client", "service")
PERIOD_S = 24 * 3600
LIMIT_DEFAULT, LIMIT_MAX = 50, 3000
ASK_S_MAX = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = add_verb(verbs, "list", "operational.list")
    listing.add_argument("--from", dest="since", type=moment_us, default=0, metavar="TIME", help=text("operational.from"))
    listing.add_argument("--to", dest="until", type=moment_us, default=0, metavar="TIME", help=text("operational.to"))
    listing.add_argument("--client", default="", help=text("operational.client"))
    listing.add_argument("--service", default="", help=text("operational.service"))
    listing.add_argument(
        "--limit", type=int, default=LIMIT_DEFAULT, choices=range(1, LIMIT_MAX + 1), metavar="N", help=text("operational.limit")
    )


def run(arguments: argparse.Namespace) -> int:
    """0, also where nothing was found."""
    now_s = SystemClock().now_us() // 1_000_000
    until_s = arguments.until // 1_000_000 or now_s
    wanted = ListOperations(
        arguments.since // 1_000_000 or until_s - PERIOD_S,
        until_s,
        full_name(arguments, arguments.client, 4) if arguments.client else "",
        full_name(arguments, arguments.service, 5) if arguments.service else "",
        arguments.limit,
    )
    recorder = BlockingClient(channel_path(arguments.state, "recorder", CONSOLE), ASK_S_MAX)
    found: list[Operation] = recorder.call("list_operations", wanted, list[Operation])
    if arguments.json:
        print_json([msgspec.to_builtins(one) for one in found])
        return 0
    print_table([text(f"operational.head.{name}") for name in COLUMNS], [_row(one) for one in found], "operational.none")
    return 0


def _row(one: Operation) -> list[str]:
    outcome = one.fault_code or str(one.status_code or "") or text("operational.done")
    return [
        iso(one.request_in_ts * 1000),
        text("operational.asked" if one.security_server_type == CONSUMER else "operational.provided"),
        str(one.response_out_ts - one.request_in_ts),
        str(one.request_mime_size or one.request_size or 0),
        str(one.response_mime_size or one.response_size or 0),
        outcome,
        client_of(one) or "-",
        service_of(one) or "-",
    ]
