"""Service descriptions on the command line: read from a file or an address, compared with what is in force, put in force.

The supervisor has neither a network nor a parser for XML: the command fetches, reads and names; the supervisor checks every value.
"""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.access import catalogue, wsdl
from appliance.access.descriptions import Changes, Operation, compare, operations
from appliance.access.rights import OPENAPI3, WSDL, Service
from appliance.commands.verbs import FILE_BYTES_MAX, UnreadableError, configuration, done, print_json, printable, read_file, supervisor
from appliance.commands.yaml_input import as_json
from appliance.model.identifiers import ServiceId
from appliance.supervision.wire import ChangeDescription, ChangeServices, LocalConfiguration
from appliance.texts import text

FETCH_S_MAX = 10


def fetch(source: str, kind: str) -> bytes:
    """The description itself, at most FILE_BYTES_MAX; an OpenAPI one as JSON, whatever it was. Raises UnreadableError, DescriptionError."""
    document = _fetch(source)
    return document if kind == WSDL else as_json(document)


def _fetch(source: str) -> bytes:
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


def source_of(source: str) -> str:
    """Where a description lies, as it is stored: an address, or a whole path."""
    return source if _is_url(source) or not source else str(Path(source).resolve())


def add_wsdl(arguments: argparse.Namespace, subsystem: str, pattern: Service, document: bytes) -> int:
    """Every operation of the WSDL as a service of its own (or the one that was named), with the pattern's settings."""
    found = [one for one in wsdl.operations_of(document) if arguments.code in (None, one.code)]
    if not found:
        raise catalogue.DescriptionError(f"the WSDL has no operation {arguments.code}")
    services = [_service(subsystem, one, pattern) for one in found]
    supervisor(arguments).call("change_description", ChangeDescription(services, [], document))
    if arguments.json:
        print_json([{"id": one.id, "version": one.version, "url": one.url} for one in services])
        return 0
    return done(arguments, "service.described", count=str(len(services)), source=pattern.description)


def _service(subsystem: str, operation: Operation, pattern: Service) -> Service:
    own = {"id": f"{subsystem}/{operation.code}", "version": operation.version, "url": pattern.url or operation.url}
    return msgspec.structs.replace(pattern, **own)


@dataclass(frozen=True, slots=True)
class _Refreshed:
    """One description read again. `services`: those that it stands for now."""

    source: str
    kind: str
    services: list[Service]
    document: bytes
    found: tuple[Operation, ...]
    changes: Changes
    rights_lost: int


def refresh(arguments: argparse.Namespace, subsystem: str) -> int:
    """Shows what changed in each description of the subsystem (or of one service); with --apply it takes effect."""
    known = configuration(arguments)
    sources: dict[tuple[str, str], list[Service]] = {}
    for service in known.services:
        parsed = ServiceId.parse(service.id)
        if str(parsed.provider) == subsystem and service.description and arguments.code in (None, parsed.code):
            # an OpenAPI description is of one service, a WSDL of all that were made of it
            sources.setdefault((service.description, "" if service.kind == WSDL else service.id), []).append(service)
    all_found = [_read_again(services, known, arguments.code) for _, services in sorted(sources.items())]
    for one in all_found:
        if arguments.apply:
            _apply(arguments, subsystem, one)
        if not arguments.json:
            _say(one, arguments.apply)
    if arguments.json:
        print_json([_row(one, arguments.apply) for one in all_found])
    elif not all_found:
        print(text("service.no_description"))
    elif any(one.changes for one in all_found) and not arguments.apply:
        print(text("service.not_applied"))
    return 0


def _read_again(services: list[Service], known: LocalConfiguration, code: str | None) -> _Refreshed:
    """`code`: only this service was asked for."""
    source, kind = services[0].description, services[0].kind
    document = fetch(source, kind)
    if kind == WSDL:
        found = tuple(one for one in wsdl.operations_of(document) if code in (None, one.code))
    else:
        own = ServiceId.parse(services[0].id).code
        found = tuple(Operation(own, method=method, path=path) for method, path in catalogue.endpoints_of(document))
    changes = compare([operation for service in services for operation in operations(service)], found)
    kept = {one.code for one in found}
    lost = {service.id for service in services if kind == WSDL and ServiceId.parse(service.id).code not in kept}
    return _Refreshed(source, kind, services, document, found, changes, sum(right.service in lost for right in known.rights))


def _apply(arguments: argparse.Namespace, subsystem: str, one: _Refreshed) -> None:
    if one.kind == OPENAPI3:
        supervisor(arguments).call("change_services", ChangeServices(one.services[0], document=one.document))
        return
    before = {(ServiceId.parse(service.id).code, service.version): service for service in one.services}
    # What is new goes where its siblings go, if they all go to one place: the technician may have put another address than the WSDL's.
    urls = {service.url for service in one.services}
    pattern = msgspec.structs.replace(one.services[0], url=urls.pop() if len(urls) == 1 else "")
    now = [before.get((each.code, each.version)) or _service(subsystem, each, pattern) for each in one.found]
    removed = {(each.code, each.version) for each in one.changes.removed}
    gone = [service for key, service in before.items() if key in removed]
    supervisor(arguments).call("change_description", ChangeDescription(now, gone, one.document))


def _say(one: _Refreshed, applied: bool) -> None:
    source = printable(one.source)
    if not one.changes:
        print(text("service.unchanged", source=source))
        return
    print(text("service.changed", source=source))
    for operation in one.changes.added:
        print(text("service.op_added", operation=printable(operation)))
    for operation in one.changes.removed:
        print(text("service.op_removed", operation=printable(operation)))
    if one.rights_lost:
        print(text("service.rights_lost", count=str(one.rights_lost)))
    if applied:
        print(text("service.applied", source=source))


def _row(one: _Refreshed, applied: bool) -> dict[str, object]:
    return {
        "source": one.source,
        "kind": one.kind,
        "services": sorted({service.id for service in one.services}),
        "added": [_plain(each) for each in one.changes.added],
        "removed": [_plain(each) for each in one.changes.removed],
        "rights_lost": one.rights_lost,
        "applied": applied,
    }


def _plain(operation: Operation) -> dict[str, str]:
    row = {"service": operation.code, "version": operation.version, "method": operation.method, "path": operation.path}
    return {name: value for name, value in row.items() if value}


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))
