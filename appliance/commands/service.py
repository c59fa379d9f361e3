"""`xacbe service`: the REST and SOAP services that this box's subsystems offer, and the information systems behind them."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from appliance.access.rights import OPENAPI3, REST, WSDL, Service
from appliance.commands import descriptions
from appliance.commands.verbs import (
    add_verb,
    certificates,
    configuration,
    done,
    full_name,
    print_json,
    print_table,
    supervisor,
)
from appliance.supervision.wire import ChangeServices
from appliance.texts import text

HELP = "service.help"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = add_verb(verbs, "add", "service.add")
    _names(add, optional=True)
    add.set_defaults(wrong=add.error)
    add.add_argument("--url", help=text("service.url"))
    add.add_argument("--kind", choices=(REST, OPENAPI3, WSDL), help=text("service.kind"))
    add.add_argument("--description", default="", metavar="FILE|URL", help=text("service.description"))
    add.add_argument("--timeout", type=int, default=60, metavar="S", help=text("service.timeout"))
    add.add_argument("--certificate", type=Path, nargs="+", action="extend", default=[], metavar="PEM", help=text("service.certificate"))
    add.add_argument("--disabled", action="store_true", help=text("service.disabled"))
    add_verb(verbs, "list", "service.list")
    remove = add_verb(verbs, "remove", "service.remove")
    _names(remove)
    remove.add_argument("--service-version", default="", metavar="V", help=text("service.version"))
    refresh = add_verb(verbs, "refresh", "service.refresh")
    _names(refresh, optional=True)
    refresh.add_argument("--apply", action="store_true", help=text("service.apply"))


def _names(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    parser.add_argument("subsystem", metavar="SUBSYSTEM", help=text("service.subsystem"))
    parser.add_argument("code", metavar="CODE", nargs="?" if optional else None, help=text("service.code"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "list":
        return _list(arguments)
    subsystem = full_name(arguments, arguments.subsystem, 4)
    if arguments.verb == "refresh":
        return descriptions.refresh(arguments, subsystem)
    if arguments.verb == "remove":
        service = Service(f"{subsystem}/{arguments.code}", "", version=arguments.service_version)
        supervisor(arguments).call("change_services", ChangeServices(service, remove=True))
        return done(arguments, "service.removed", service=service.id)
    return _add(arguments, subsystem)


def _add(arguments: argparse.Namespace, subsystem: str) -> int:
    source = arguments.description
    kind = arguments.kind or (OPENAPI3 if source else REST)
    needed = ("--description",) if kind == WSDL else ("CODE", "--url")
    missing = [name for name in needed if not getattr(arguments, name.strip("-").lower())]
    if missing:
        arguments.wrong(text("service.needs", kind=kind, missing=" ".join(missing)))
    service = Service(
        f"{subsystem}/{arguments.code or ''}",
        arguments.url or "",
        kind,
        descriptions.source_of(source),
        arguments.timeout,
        not arguments.disabled,
        certificates(arguments.certificate),
    )
    document = descriptions.fetch(source, kind) if source else b""
    if kind == WSDL:
        return descriptions.add_wsdl(arguments, subsystem, service, document)
    supervisor(arguments).call("change_services", ChangeServices(service, document=document))
    return done(arguments, "service.added", service=service.id, url=arguments.url)


def _list(arguments: argparse.Namespace) -> int:
    services = sorted(configuration(arguments).services, key=lambda service: (service.id, service.version))
    if arguments.json:
        print_json([_row(service) for service in services])
        return 0
    heads = [text(f"service.{head}_head") for head in ("id", "kind", "timeout", "enabled", "url")]
    rows = [
        [
            " ".join(filter(None, (one.id, one.version))),
            one.kind,
            f"{one.timeout_s} s",
            text("service.yes" if one.enabled else "service.no"),
            one.url,
        ]
        for one in services
    ]
    print_table(heads, rows, "service.none")
    return 0


def _row(service: Service) -> dict[str, object]:
    row = msgspec.structs.asdict(service) | {"certificates": len(service.certificates)}
    return row | {"endpoints": [{"method": method, "path": path} for method, path in service.endpoints]}
