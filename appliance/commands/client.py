"""`xacbe client`: the subsystems whose information systems use or offer services through this box."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import msgspec

from appliance.access.rights import HTTP, HTTPS, MUTUAL_TLS, Client, ClientUnknownError
from appliance.commands.verbs import add_verb, certificates, configuration, done, full_name, print_json, print_table, supervisor
from appliance.supervision.wire import ChangeClients
from appliance.texts import text

HELP = "client.help"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = add_verb(verbs, "add", "client.add")
    add.add_argument("subsystem", metavar="SUBSYSTEM", help=text("client.subsystem"))
    add.add_argument("--mode", choices=(HTTP, HTTPS, MUTUAL_TLS), default=MUTUAL_TLS, help=text("client.mode"))
    add.add_argument("--certificate", type=Path, nargs="+", action="extend", default=[], metavar="PEM", help=text("client.certificate"))
    notices = add_verb(verbs, "set-notices", "client.set_notices")
    notices.add_argument("subsystem", metavar="SUBSYSTEM", help=text("client.subsystem"))
    notices.add_argument("url", metavar="URL", help=text("client.notices_url"))
    add_verb(verbs, "list", "client.list")
    remove = add_verb(verbs, "remove", "client.remove")
    remove.add_argument("subsystem", metavar="SUBSYSTEM", help=text("client.subsystem"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "list":
        return _list(arguments)
    subsystem = full_name(arguments, arguments.subsystem, 4)
    if arguments.verb == "remove":
        supervisor(arguments).call("change_clients", ChangeClients(Client(subsystem), remove=True))
        return done(arguments, "client.removed", client=subsystem)
    known = next((one for one in configuration(arguments).clients if one.subsystem == subsystem), None)
    if arguments.verb == "set-notices":
        return _set_notices(arguments, subsystem, known)
    client = Client(subsystem, arguments.mode, certificates(arguments.certificate), known.notices if known is not None else "")
    supervisor(arguments).call("change_clients", ChangeClients(client))
    return done(arguments, "client.added", client=subsystem, mode=arguments.mode)


def _set_notices(arguments: argparse.Namespace, subsystem: str, known: Client | None) -> int:
    """Where the information system takes withdrawal notices. Raises ClientUnknownError."""
    if known is None:
        raise ClientUnknownError(subsystem)
    client = msgspec.structs.replace(known, notices=arguments.url)
    supervisor(arguments).call("change_clients", ChangeClients(client))
    return done(arguments, "client.notices_set" if arguments.url else "client.notices_unset", client=subsystem, url=arguments.url)


def _list(arguments: argparse.Namespace) -> int:
    clients = sorted(configuration(arguments).clients, key=lambda client: client.subsystem)
    rows = [{"subsystem": client.subsystem, "mode": client.mode, "certificates": _fingerprints(client)} for client in clients]
    for row, one in zip(rows, clients, strict=True):
        row["notices"] = one.notices
    if arguments.json:
        print_json(rows)
    else:
        heads = [text("client.subsystem_head"), text("client.mode_head"), text("client.certificates_head"), text("client.notices_head")]
        print_table(heads, [[one.subsystem, one.mode, str(len(one.certificates)), one.notices or "-"] for one in clients], "client.none")
    return 0


def _fingerprints(client: Client) -> list[str]:
    return [hashlib.sha256(certificate).hexdigest() for certificate in client.certificates]
