"""`xacbe account`: which users of this machine may do what: `auditor` reads the log, `administrator` enters accounts. Nobody else does."""

from __future__ import annotations

import argparse

from appliance.access.roles import ROLES, Account
from appliance.commands.verbs import add_verb, done, print_json, print_table, supervisor
from appliance.supervision.wire import ChangeAccounts
from appliance.texts import text

HELP = "account.help"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    adding = add_verb(verbs, "add", "account.add")
    adding.add_argument("user", metavar="USER", help=text("account.user"))
    adding.add_argument("--role", action="append", required=True, choices=ROLES, help=text("account.role"))
    add_verb(verbs, "remove", "account.remove").add_argument("user", metavar="USER", help=text("account.user"))
    add_verb(verbs, "list", "account.list")


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "list":
        return _list(arguments)
    removes = arguments.verb == "remove"
    roles = () if removes else tuple(sorted(set(arguments.role)))
    supervisor(arguments).call("change_accounts", ChangeAccounts(Account(arguments.user, roles), removes))
    return done(arguments, "account.removed" if removes else "account.added", user=arguments.user, roles=" ".join(roles))


def _list(arguments: argparse.Namespace) -> int:
    found: list[Account] = supervisor(arguments).call("list_accounts", None, list[Account])
    if arguments.json:
        print_json([{"user": account.user, "roles": list(account.roles)} for account in found])
        return 0
    heads = [text("account.user_head"), text("account.roles_head")]
    print_table(heads, [[account.user, " ".join(account.roles)] for account in found], "account.none")
    return 0
