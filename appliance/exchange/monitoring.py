"""Monitoring over the message protocol: getSecurityServerOperationalData, getSecurityServerHealthData, getSecurityServerMetrics.

Pure over the ports `OperationsDesk` and `Machine`. Sheet 8.3, 8.4; PR-OPMON, PR-ENVMONMES. Services of the server's owner member, SOAP
only, with the header `securityServer`. The owner and the instance's monitoring client see everything; any other registered client sees
the records in which it is client or provider, the health of its own services, and no metrics of the machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from lxml import etree

from appliance.access.catalogue import IDENTIFIERS, TAGS
from appliance.access.rights import NoRightError, UnknownServiceError
from appliance.errors import RefusedError
from appliance.exchange.built_in import ENVELOPE, Asked, BuiltIn, BuiltIns, Request, soap_answer
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import SoapAnswer
from appliance.messagelog.operations_wire import (
    FIELDS,
    AskHealth,
    FoundOperations,
    OperationsHealth,
    QueryOperations,
    ServiceHealth,
    Spread,
)
from appliance.model.identifiers import ClientId, IdentifierError, ServerId
from appliance.model.xml_input import local_name, parse_known
from appliance.net.soap_protocol import SoapRequest
from appliance.net.soap_reader import SOAP_BYTES_MAX, SoapHeaderMissingError

OPERATIONAL, HEALTH, METRICS = "getSecurityServerOperationalData", "getSecurityServerHealthData", "getSecurityServerMetrics"
OPMON, ENVMON = "http://x-road.eu/xsd/op-monitoring.xsd", "http://x-road.eu/xsd/monitoring"
CONTENT_ID = "operational-monitoring-data.json.gz"
SECOND_MAX = (1 << 63) - 1
"""xs:long."""


class MonitoringRequestError(RefusedError):
    """What stands in the body of a monitoring request is not one."""

    kind = "operations.invalid_request"


class OperationsDesk(Protocol):
    """The recorder, as monitoring sees it. Raises operations.* leaves, NeighbourAwayError."""

    async def query(self, wanted: QueryOperations) -> FoundOperations: ...

    async def health(self, wanted: AskHealth) -> OperationsHealth: ...


@dataclass(frozen=True, slots=True)
class Histogram:
    """Of a measure that is taken every few seconds. `updated`: ISO 8601."""

    updated: str
    least: float
    greatest: float
    mean: float
    median: float
    deviation: float


Metric = int | str | Histogram


class Machine(Protocol):
    """Figures of the machine, by X-Road's names (sheet 8.4)."""

    def proxy_version(self) -> str: ...

    async def metrics(self) -> dict[str, Metric]: ...


class MonitoringServices:
    """The handlers of one box. `monitoring_client`: whom the configuration in force names, None where nobody."""

    def __init__(self, server: ServerId, desk: OperationsDesk, machine: Machine, monitoring_client: Callable[[], ClientId | None]) -> None:
        self._server, self._desk, self._machine, self._monitoring_client = server, desk, machine, monitoring_client

    def built_in(self) -> BuiltIns:
        return {
            OPERATIONAL: BuiltIn(soap=self.operational_data, admit=self._admit),
            HEALTH: BuiltIn(soap=self.health_data, admit=self._admit),
            METRICS: BuiltIn(soap=self.metrics, admit=self._admit_all_seeing),
        }

    def _admit(self, request: Request, local: LocalView) -> None:
        if request.service.provider != self._server.owner:
            raise UnknownServiceError(f"{request.service.code} is a service of {self._server.owner}")
        if request.security_server is None:
            raise SoapHeaderMissingError("securityServer")

    def _admit_all_seeing(self, request: Request, local: LocalView) -> None:
        self._admit(request, local)
        if not self._sees_all(request.client):
            raise NoRightError(f"{request.client} may not ask for metrics")

    def _sees_all(self, client: ClientId) -> bool:
        """Exactly the owner member or the configured client: a subsystem is not its member."""
        return client in (self._server.owner, self._monitoring_client())

    async def operational_data(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        """Raises MonitoringRequestError, operations.* leaves."""
        seen_by = None if self._sees_all(request.client) else request.client
        found = await self._desk.query(_query(request, seen_by))
        answer = _response(OPMON, "om", OPERATIONAL)
        _add(answer, "recordsCount", found.count)
        _add(answer, "records", f"cid:{CONTENT_ID}")
        _add(answer, "nextRecordsFrom", found.next_from_s)
        return soap_answer(request, answer, (b"application/gzip", found.records), content_id=CONTENT_ID.encode())

    async def health_data(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        """Raises MonitoringRequestError, operations.* leaves."""
        criteria = _only(_body(request, OPMON, HEALTH), "filterCriteria")
        provider = None if criteria is None else _client(_only(criteria, "client"))
        if not self._sees_all(request.client):
            if provider not in (None, request.client):
                raise NoRightError(f"{request.client} may ask about its own services")
            provider = request.client
        found = await self._desk.health(AskHealth(provider))
        answer = _response(OPMON, "om", HEALTH)
        _add(answer, "monitoringStartupTimestamp", found.started_ms)
        _add(answer, "statisticsPeriodSeconds", found.period_s)
        events = _add(answer, "servicesEvents", "")
        for service in found.services:
            _add_service(events, service)
        return soap_answer(request, answer)

    async def metrics(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        """Raises MonitoringRequestError."""
        wanted = _fields(_body(request, ENVMON, METRICS))
        answer = _response(ENVMON, "m", METRICS)
        whole = _add(answer, "metricSet", "")
        _add(whole, "name", f"SERVER:{self._server}")
        if not wanted or "proxyVersion" in wanted:
            _add_metric(whole, "proxyVersion", self._machine.proxy_version())
        found = {name: value for name, value in (await self._machine.metrics()).items() if not wanted or name in wanted}
        if found:
            system = _add(whole, "metricSet", "")
            _add(system, "name", "systemMetrics")
            for name, value in found.items():
                _add_metric(system, name, value)
        return soap_answer(request, answer)


# Reading


def _query(request: SoapRequest, seen_by: ClientId | None) -> QueryOperations:
    content = _body(request, OPMON, OPERATIONAL)
    criteria = _only(content, "searchCriteria")
    if criteria is None:
        raise MonitoringRequestError("no searchCriteria")
    provider = _client(_only(criteria, "client"))
    fields = _fields(content)
    unknown = sorted(set(fields) - FIELDS)
    if unknown:
        raise MonitoringRequestError(f"unknown field {unknown[0][:80]}")
    return QueryOperations(_second(criteria, "recordsFrom"), _second(criteria, "recordsTo"), seen_by, provider, fields)


def _body(request: SoapRequest, namespace: str, code: str) -> etree._Element:
    """The one element of the body; `soap_reader` has seen that it is the only one."""
    body = parse_known(request.head, bytes_max=SOAP_BYTES_MAX).find(f"{{{ENVELOPE}}}Body")
    content = None if body is None else body[0]
    if content is None or content.tag != f"{{{namespace}}}{code}":
        raise MonitoringRequestError(f"the body is not a {code} of {namespace}")
    return content


def _only(parent: etree._Element, name: str) -> etree._Element | None:
    """In the parent's namespace. Raises MonitoringRequestError where it is there twice."""
    found = parent.findall(parent.tag.rpartition("}")[0] + "}" + name)
    if len(found) > 1:
        raise MonitoringRequestError(f"{name} is there twice")
    return found[0] if found else None


def _second(criteria: etree._Element, name: str) -> int:
    element = _only(criteria, name)
    text = "" if element is None else (element.text or "").strip()
    if not text.isascii() or not text.isdigit() or len(text) > len(str(SECOND_MAX)) or int(text) > SECOND_MAX:
        raise MonitoringRequestError(f"{name} is not a number of seconds since 1970")
    return int(text)


def _fields(content: etree._Element) -> list[str]:
    specification = _only(content, "outputSpec")
    if specification is None:
        return []
    names = [(one.text or "").strip() for one in specification if local_name(one) == "outputField"]
    if len(names) > len(FIELDS):
        raise MonitoringRequestError("more fields than there are")
    return names


def _client(element: etree._Element | None) -> ClientId | None:
    if element is None:
        return None
    parts = [_part(element, tag) for tag in TAGS]
    kind = element.get(f"{{{IDENTIFIERS}}}objectType")
    if kind != ("SUBSYSTEM" if parts[3] else "MEMBER") or not all(parts[:3]):
        raise MonitoringRequestError("client is neither a member nor a subsystem")
    try:
        return ClientId.of([part for part in parts if part])
    except IdentifierError as error:
        raise MonitoringRequestError(f"client: {error}") from None


def _part(element: etree._Element, tag: str) -> str:
    found = element.findall(f"{{{IDENTIFIERS}}}{tag}")
    if len(found) > 1:
        raise MonitoringRequestError(f"{tag} is there twice")
    return (found[0].text or "").strip() if found else ""


# Writing


def _response(namespace: str, prefix: str, code: str) -> etree._Element:
    return etree.Element(f"{{{namespace}}}{code}Response", nsmap={prefix: namespace, "id": IDENTIFIERS})


def _add(parent: etree._Element, name: str, value: object) -> etree._Element:
    """In the parent's namespace; nothing where the value is None."""
    element = etree.Element(parent.tag.rpartition("}")[0] + "}" + name)
    if value is not None:
        element.text = str(value) or None
        parent.append(element)
    return element


def _add_service(events: etree._Element, service: ServiceHealth) -> None:
    event = _add(events, "serviceEvents", "")
    named = _add(event, "service", "")
    named.set(f"{{{IDENTIFIERS}}}objectType", "SERVICE")
    _add_parts(
        named,
        (*TAGS[: len(service.provider.parts)], "serviceCode", "serviceVersion"),
        (*service.provider.parts, service.code, service.version),
    )
    _add(event, "lastSuccessfulRequestTimestamp", service.last_success_ms)
    _add(event, "lastUnsuccessfulRequestTimestamp", service.last_failure_ms)
    _add(event, "serviceType", service.type)
    statistics = _add(event, "lastPeriodStatistics", "")
    _add(statistics, "successfulRequestCount", service.succeeded)
    _add(statistics, "unsuccessfulRequestCount", service.failed)
    _add_spread(
        statistics, ("requestMinDuration", "requestAverageDuration", "requestMaxDuration", "requestDurationStdDev"), service.duration
    )
    _add_spread(statistics, ("requestMinSize", "requestAverageSize", "requestMaxSize", "requestSizeStdDev"), service.request_size)
    _add_spread(statistics, ("responseMinSize", "responseAverageSize", "responseMaxSize", "responseSizeStdDev"), service.response_size)


def _add_parts(parent: etree._Element, tags: Sequence[str], parts: Sequence[str | None]) -> None:
    for tag, part in zip(tags, parts, strict=True):
        if part is not None:
            etree.SubElement(parent, f"{{{IDENTIFIERS}}}{tag}").text = part


def _add_spread(parent: etree._Element, names: tuple[str, str, str, str], spread: Spread | None) -> None:
    if spread is not None:
        for name, value in zip(names, (spread.least, spread.mean, spread.greatest, spread.deviation), strict=True):
            _add(parent, name, value)


def _add_metric(parent: etree._Element, name: str, value: Metric) -> None:
    kind = "histogramMetric" if isinstance(value, Histogram) else "numericMetric" if isinstance(value, int) else "stringMetric"
    metric = _add(parent, kind, "")
    _add(metric, "name", name)
    if not isinstance(value, Histogram):
        _add(metric, "value", value)
        return
    _add(metric, "updated", value.updated)
    for tag, one in zip(
        ("min", "max", "mean", "median", "stddev"), (value.least, value.greatest, value.mean, value.median, value.deviation), strict=True
    ):
        _add(metric, tag, f"{one:.4f}")
