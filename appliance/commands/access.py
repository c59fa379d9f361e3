"""`xacbe access`: who may use which service, whole or one method and path. What is not granted is refused (I.4.III)."""

from __future__ import annotations

import argparse

import msgspec

from appliance.access.rights import ANY_METHOD, ANY_PATH, GROUP, Right
from appliance.commands.verbs import add_verb, configuration, done, full_name, print_json, print_table, supervisor
from appliance.supervision.wire import ChangeRights
from appliance.texts import text

HELP = "access.help"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _right(add_verb(verbs, "add", "access.add"))
    _right(add_verb(verbs, "remove", "access.remove"))
    listing = add_verb(verbs, "list", "access.list")
    listing.add_argument("--service", default="", help=text("access.service"))


def _right(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("service", metavar="SERVICE", help=text("access.service"))
    parser.add_argument("client", metavar="CLIENT", help=text("access.client"))
    parser.add_argument("--method", default=ANY_METHOD, metavar="M", help=text("access.method"))
    parser.add_argument("--path", default=ANY_PATH, metavar="P", help=text("access.path"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "list":
        return _list(arguments)
    service = full_name(arguments, arguments.service, 5)
    client = arguments.client if arguments.client.startswith(GROUP) else full_name(arguments, arguments.client, 4)
    right = Right(service, client, arguments.method.upper(), arguments.path)
    removes = arguments.verb == "remove"
    supervisor(arguments).call("change_rights", ChangeRights(right, remove=removes))
    return done(arguments, "access.removed" if removes else "access.added", **msgspec.structs.asdict(right))


def _list(arguments: argparse.Namespace) -> int:
    wanted = full_name(arguments, arguments.service, 5) if arguments.service else ""
    found = configuration(arguments).rights
    rights = sorted((right for right in found if wanted in ("", right.service)), key=msgspec.structs.astuple)
    if arguments.json:
        print_json([msgspec.structs.asdict(right) for right in rights])
        return 0
    heads = [text(f"access.{head}_head") for head in ("service", "client", "method", "path")]
    print_table(heads, [[right.service, right.client, right.method, right.path] for right in rights], "access.none")
    return 0
