"""What a box tells about its members and services: listClients, listMethods, allowedMethods, getOpenAPI.

Pure. Sheet 2.7. JSON is snake_case; members without a value are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import urlsplit

import msgspec

from appliance.access.rights import OPENAPI3, RightsTable, Service
from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId, ServiceId

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
RESERVED_CODES = (
    "listMethods",
    "allowedMethods",
    "getOpenAPI",
    "getWsdl",
    "getSecurityServerMetrics",
    "getSecurityServerOperationalData",
    "getSecurityServerHealthData",
    "xacbeNotice",
)
"""Built-in service codes: nobody may define a service with such a name (X-Road 7.7; the last one is ours, `exchange.notices`)."""
ENDPOINTS_MAX = 2000
"""Operations of one description; a frame with all of them stays below 200 KiB."""

XROAD = "http://x-road.eu/xsd/xroad.xsd"
IDENTIFIERS = "http://x-road.eu/xsd/identifiers"
_NAMESPACES = f'xmlns:xrd="{XROAD}" xmlns:id="{IDENTIFIERS}"'
TAGS = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")
"""Names of a client's parts in XML, in the protocol's order."""
_TEMPLATE = re.compile(r"\{[^{}/]*\}")


class DescriptionError(RefusedError):
    """Not a description that we can use."""

    kind = "description.malformed"


def client_list_json(members: Mapping[ClientId, str], instance: str) -> bytes:
    """listClients as JSON: every member and subsystem of the instance, with the member's name."""
    listed = [{"id": _client_id(client), **_names(client, members)} for client in _of_instance(members, instance)]
    return _json({"member": listed})


def client_list_xml(members: Mapping[ClientId, str], instance: str) -> bytes:
    """listClients as XML `clientList`."""
    listed = "".join(_member_xml(client, members) for client in _of_instance(members, instance))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<xrd:clientList {_NAMESPACES}>{listed}</xrd:clientList>'.encode()


def method_list_json(services: Iterable[Service]) -> bytes:
    """listMethods, and allowedMethods where the caller filtered with `allowed_services`."""
    return _json({"service": [_service(service) for service in services]})


def allowed_services(services: Iterable[Service], rights: RightsTable, client: ClientId) -> list[Service]:
    """What allowedMethods tells this client: services of which it may use anything, with the endpoints that it may use."""
    allowed = [service for service in services if rights.may_use_any(client, service.id)]
    return [msgspec.structs.replace(service, endpoints=rights.endpoints(client, service)) for service in allowed]


def parse_description(document: bytes) -> dict[str, Any]:
    """An OpenAPI 3.0 or 3.1 document in JSON. Raises DescriptionError."""
    try:
        parsed = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise DescriptionError(f"the description is not JSON: {error}") from None
    if not isinstance(parsed, dict) or not isinstance(parsed.get("openapi"), str):
        raise DescriptionError("the description has no `openapi` version")
    if not re.fullmatch(r"3\.[01](\.\d{1,4})?", parsed["openapi"]):
        raise DescriptionError(f"OpenAPI {parsed['openapi'][:20]!r}: only 3.0 and 3.1")
    if not isinstance(parsed.get("paths"), dict):
        raise DescriptionError("the description has no `paths`")
    return parsed


def endpoints_of(document: bytes) -> tuple[tuple[str, str], ...]:
    """(method, path glob) of each operation; a template `{folio}` becomes `*`. Raises DescriptionError."""
    found = []
    for path, operations in parse_description(document)["paths"].items():
        if not path.startswith("/") or not isinstance(operations, dict):
            raise DescriptionError(f"paths: {path[:80]!r} is not a path with operations")
        literal = path.replace("\\", "\\\\").replace("*", "\\*")
        found += [(method.upper(), _TEMPLATE.sub("*", literal)) for method in operations if method.upper() in METHODS]
    if len(found) > ENDPOINTS_MAX:
        raise DescriptionError(f"{len(found)} operations, at most {ENDPOINTS_MAX}")
    return tuple(sorted(set(found)))


def rewritten_description(document: bytes) -> bytes:
    """getOpenAPI: `servers[].url` reduced to its path, so that no internal address is told; templates with `{}` are kept."""
    parsed = parse_description(document)
    for server in parsed.get("servers") if isinstance(parsed.get("servers"), list) else []:  # type: ignore[union-attr]  # checked
        if isinstance(server, dict) and isinstance(server.get("url"), str) and "{" not in server["url"]:
            server["url"] = _path_of(server["url"])
    return _json(parsed)


def _path_of(url: str) -> str:
    try:
        return urlsplit(url).path
    except ValueError:
        return ""


def _of_instance(members: Mapping[ClientId, str], instance: str) -> list[ClientId]:
    return sorted((client for client in members if client.instance == instance), key=lambda client: client.parts)


def _names(client: ClientId, members: Mapping[ClientId, str]) -> dict[str, str]:
    if client.subsystem is None:
        return {"name": members[client]}
    name, member_name = members[client], members.get(client.member, "")
    named = {"name": member_name or name}
    return named | {"subsystem_name": name} if name not in ("", member_name) else named


def _client_id(client: ClientId) -> dict[str, str]:
    names = ("xroad_instance", "member_class", "member_code", "subsystem_code")
    return {"object_type": client.object_type} | dict(zip(names, client.parts, strict=False))


def _service(service: Service) -> dict[str, object]:
    parsed = ServiceId.parse(service.id)
    listed: dict[str, object] = {**_client_id(parsed.provider), "object_type": "SERVICE", "service_code": parsed.code}
    listed["service_type"] = "OPENAPI" if service.kind == OPENAPI3 else "REST"
    listed["endpoint_list"] = [{"method": method, "path": path} for method, path in service.endpoints]
    return listed


def _member_xml(client: ClientId, members: Mapping[ClientId, str]) -> str:
    parts = "".join(f"<id:{tag}>{escape(part)}</id:{tag}>" for tag, part in zip(TAGS, client.parts, strict=False))
    names = _names(client, members)
    name = f"<xrd:name>{escape(names['name'])}</xrd:name>"
    if "subsystem_name" in names:
        name += f"<xrd:subsystemName>{escape(names['subsystem_name'])}</xrd:subsystemName>"
    return f'<xrd:member><xrd:id id:objectType="{client.object_type}">{parts}</xrd:id>{name}</xrd:member>'


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
