"""`xacbe service`: the REST services that this box's subsystems offer, and the information systems behind them."""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request
from pathlib import Path

import msgspec

from appliance.access.rights import OPENAPI3, REST, Service
from appliance.commands.verbs import (
    FILE_BYTES_MAX,
    UnreadableError,
    add_verb,
    certificates,
    configuration,
    done,
    full_name,
    print_json,
    print_table,
    read_file,
    supervisor,
)
from appliance.supervision.wire import ChangeServices
from appliance.texts import text

HELP = "service.help"
FETCH_S_MAX = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add = add_verb(verbs, "add", "service.add")
    _names(add)
    add.add_argument("--url", required=True, help=text("service.url"))
    add.add_argument("--kind", choices=(REST, OPENAPI3), help=text("service.kind"))
    add.add_argument("--description", default="", metavar="FILE|URL", help=text("service.description"))
    add.add_argument("--timeout", type=int, default=60, metavar="S", help=text("service.timeout"))
    add.add_argument("--certificate", type=Path, nargs="+", action="extend", default=[], metavar="PEM", help=text("service.certificate"))
    add.add_argument("--disabled", action="store_true", help=text("service.disabled"))
    add_verb(verbs, "list", "service.list")
    _names(add_verb(verbs, "remove", "service.remove"))


def _names(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subsystem", metavar="SUBSYSTEM", help=text("service.subsystem"))
    parser.add_argument("code", metavar="CODE", help=text("service.code"))


def run(arguments: argparse.Namespace) -> int:
    if arguments.verb == "list":
        return _list(arguments)
    service_id = f"{full_name(arguments, arguments.subsystem, 4)}/{arguments.code}"
    if arguments.verb == "remove":
        supervisor(arguments).call("change_services", ChangeServices(Service(service_id, ""), remove=True))
        return done(arguments, "service.removed", service=service_id)
    source = arguments.description
    kind = arguments.kind or (OPENAPI3 if source else REST)
    service = Service(
        service_id,
        arguments.url,
        kind,
        source if _is_url(source) or not source else str(Path(source).resolve()),
        arguments.timeout,
        not arguments.disabled,
        certificates(arguments.certificate),
    )
    document = _document(source) if source else b""
    supervisor(arguments).call("change_services", ChangeServices(service, document=document))
    return done(arguments, "service.added", service=service_id, url=arguments.url)


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _document(source: str) -> bytes:
    """The description itself: the supervisor has no network, so the command fetches it."""
    if not _is_url(source):
        return read_file(Path(source))
    try:
        with urllib.request.urlopen(source, timeout=FETCH_S_MAX) as answer:  # noqa: S310  # nosec B310  the scheme is http or https
            data: bytes = answer.read(FILE_BYTES_MAX + 1)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise UnreadableError(f"{source}: {error}") from None
    if len(data) > FILE_BYTES_MAX:
        raise UnreadableError(f"{source}: over {FILE_BYTES_MAX} bytes")
    return data


def _list(arguments: argparse.Namespace) -> int:
    services = sorted(configuration(arguments).services, key=lambda service: service.id)
    if arguments.json:
        print_json([_row(service) for service in services])
        return 0
    heads = [text(f"service.{head}_head") for head in ("id", "kind", "timeout", "enabled", "url")]
    rows = [[one.id, one.kind, f"{one.timeout_s} s", text("service.yes" if one.enabled else "service.no"), one.url] for one in services]
    print_table(heads, rows, "service.none")
    return 0


def _row(service: Service) -> dict[str, object]:
    row = msgspec.structs.asdict(service) | {"certificates": len(service.certificates)}
    return row | {"endpoints": [{"method": method, "path": path} for method, path in service.endpoints]}
