"""`xacbe`: the box's command. One module per noun, each a client of local sockets; only the noun that is called is imported.

A noun module has `HELP` (a key of the catalogue), `add_arguments(parser)` and `run(arguments) -> int`. Exit codes: 0 done, 1 refused or
invalid, 2 wrong usage or undecidable, 3 a process of the box is away.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from appliance.errors import UnavailableError, XacbeError
from appliance.texts import TEXTS, refusal, set_language, system_refusal, text

NOUNS = (
    "status",
    "autonomy",
    "service",
    "access",
    "account",
    "client",
    "log",
    "operational",
    "archive",
    "verify",
    "wire",
    "token",
    "key",
    "attestation",
    "enrolment",
)
STATE_DEFAULT = Path("/var/lib/xacbe")
READER_GONE = 141
"""As a shell reports a program that a closed pipe ended."""


class Formatter(argparse.HelpFormatter):
    """argparse's help with the catalogue's titles."""

    def add_usage(self, usage: str | None, actions: Any, groups: Any, prefix: str | None = None) -> None:
        super().add_usage(usage, actions, groups, text("command.usage") if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        key = f"command.section.{heading}"
        super().start_section(text(key) if key in TEXTS else heading)


class Parser(argparse.ArgumentParser):
    """A parser whose help is in the chosen language; its verbs' parsers are of the same class."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, add_help=False, formatter_class=Formatter)
        self.add_argument("-h", "--help", action="help", help=text("command.show_help"))


def main(argv: list[str] | None = None, program: str = "xacbe") -> int:
    """The entry point of `xacbe`; returns the exit code. `--state` and `--language` may stand anywhere in the line."""
    try:
        try:
            return _run(argv, program)
        finally:
            sys.stdout.flush()
    except UnavailableError as error:
        print(refusal(error.kind, str(error)), file=sys.stderr)
        return 3
    except XacbeError as error:
        print(refusal(error.kind, str(error)), file=sys.stderr)
        return 1
    except BrokenPipeError:  # `| head` has seen enough; SIGPIPE stays ignored, it would kill us on a socket whose process goes away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except OSError as error:
        print(system_refusal(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str] | None, program: str) -> int:
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    everywhere.add_argument("--state", type=Path, default=STATE_DEFAULT)
    everywhere.add_argument("--language", choices=("es", "en"), default="es")
    common, rest = everywhere.parse_known_args(argv)
    set_language(common.language)
    parser = Parser(prog=program, description=text("command.description"), epilog=text("command.everywhere"))
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
    return int(arguments.run(arguments))
