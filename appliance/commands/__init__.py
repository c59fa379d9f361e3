"""`xacbe`: the box's command. One module per noun, each a client of local sockets; only the noun that is called is imported.

A noun module has `HELP` (a key of the catalogue), `add_arguments(parser)` and `run(arguments) -> int`. Exit codes: 0 done, 1 refused or
invalid, 2 wrong usage or undecidable, 3 a process of the box is away.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from appliance.errors import UnavailableError, XacbeError
from appliance.texts import set_language, text

NOUNS = ("status", "service", "access", "client", "log", "verify", "wire", "token", "key", "enrolment")
STATE_DEFAULT = Path("/var/lib/xacbe")


def main(argv: list[str] | None = None) -> int:
    """The entry point of `xacbe`; returns the exit code. `--state` and `--language` may stand anywhere in the line."""
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    everywhere.add_argument("--state", type=Path, default=STATE_DEFAULT)
    everywhere.add_argument("--language", choices=("es", "en"), default="es")
    common, rest = everywhere.parse_known_args(argv)
    set_language(common.language)
    parser = argparse.ArgumentParser(prog="xacbe", description=text("command.description"), epilog=text("command.everywhere"))
    nouns = parser.add_subparsers(dest="noun", required=True, metavar="NOUN")
    called = next((word for word in rest if word in NOUNS), None)
    for noun in NOUNS:
        if called in (None, noun):
            module = importlib.import_module(f"appliance.commands.{noun}")
            sub = nouns.add_parser(noun, help=text(module.HELP), description=text(module.HELP), epilog=text("command.everywhere"))
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    arguments = parser.parse_args(rest)
    arguments.state, arguments.language = common.state, common.language
    try:
        return int(arguments.run(arguments))
    except UnavailableError as error:
        print(f"{error.kind}: {error}", file=sys.stderr)
        return 3
    except XacbeError as error:
        print(f"{error.kind}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
