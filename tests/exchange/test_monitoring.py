"""Monitoring services through both halves of an exchange: who sees what, in X-Road's own words."""

from __future__ import annotations

import gzip
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from appliance.access.catalogue import TAGS
from appliance.exchange.client_side import Delivery
from appliance.exchange.monitoring import ENVMON, OPMON, Histogram, Metric, MonitoringServices
from appliance.messagelog.operations import FILE, Operations
from appliance.messagelog.operations_health import ServicesSeen
from appliance.messagelog.operations_wire import AskHealth, FoundOperations, OperationsHealth, QueryOperations
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.soap_protocol import parse_request
from appliance.relay.incoming import PeerFaultError
from tests.exchange.test_soap import PLAIN
from tests.exchange.two_boxes import TwoBoxes
from tests.fakes.exchange import ReadyBody
from tests.messagelog.test_operations import KEY, NOW_S, operation

NAMES = {"om": OPMON, "m": ENVMON, "id": "http://x-road.eu/xsd/identifiers"}
PERIOD = f"<om:recordsFrom>{NOW_S - 10}</om:recordsFrom><om:recordsTo>{NOW_S}</om:recordsTo>"


class Desk:
    """The store itself, without the recorder around it."""

    def __init__(self, path: Path) -> None:
        self.kept, self.seen = Operations(path / FILE, KEY, 1 << 30), ServicesSeen(7)

    async def query(self, wanted: QueryOperations) -> FoundOperations:
        return self.kept.query(wanted, NOW_S + 60)

    async def health(self, wanted: AskHealth) -> OperationsHealth:
        return self.seen.health(self.kept, NOW_S + 1, wanted.provider)


class Machine:
    def proxy_version(self) -> str:
        return "0.1.0"

    async def metrics(self) -> dict[str, Metric]:
        return {
            "OperatingSystem": "Linux version 6",
            "TotalPhysicalMemory": 123,
            "SystemCpuLoad": Histogram("2027-01-15T08:00:00.000Z", 0.1, 0.9, 0.5, 0.4, 0.2),
        }


def asked(client: ClientId, code: str, content: str, provider: ClientId, server: ServerId | None, to: str) -> bytes:
    """A request by hand: the service may be a member's, without a subsystem."""

    def element(name: str, kind: str, parts: dict[str, str]) -> str:
        inside = "".join(f"<id:{tag}>{part}</id:{tag}>" for tag, part in parts.items())
        return f'<xrd:{name} id:objectType="{kind}">{inside}</xrd:{name}>'

    header = element("client", client.object_type, dict(zip(TAGS, client.parts, strict=False)))
    header += element("service", "SERVICE", {**dict(zip(TAGS, provider.parts, strict=False)), "serviceCode": code})
    if server is not None:
        header += element("securityServer", "SERVER", {**dict(zip(TAGS, server.owner.parts, strict=False)), "serverCode": server.code})
    return (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:id="http://x-road.eu/xsd/identifiers"'
        f' xmlns:xrd="http://x-road.eu/xsd/xroad.xsd"><s:Header>{header}<xrd:id>{uuid.uuid4()}</xrd:id>'
        f'<xrd:protocolVersion>4.0</xrd:protocolVersion></s:Header><s:Body><om:{code} xmlns:om="{to}">{content}</om:{code}></s:Body>'
        "</s:Envelope>"
    ).encode()


class Watched(TwoBoxes):
    """Two boxes; the provider's has records of the asker and of others. `monitoring`: whom the configuration names."""

    def watch(self, path: Path) -> None:
        self.monitoring: ClientId | None = None
        desk = Desk(path)
        services = MonitoringServices(self.network.provider.server, desk, Machine(), lambda: self.monitoring)
        self.provider_side._built_ins = {**self.provider_side._built_ins, **services.built_in()}
        asker, provider, third = self.network.asker.client, self.network.provider.client, self.network.third.client
        made = [operation(asker, provider), operation(third, provider, succeeded=False), operation(third, asker)]
        for one in made:
            desk.seen.saw(one)
        desk.kept.take(made, NOW_S)

    def question(self, code: str, content: str, *, provider: ClientId | None = None, to: str = OPMON) -> Delivery:
        head = asked(
            self.network.asker.client, code, content, provider or self.network.provider.server.owner, self.network.provider.server, to
        )
        return self.ask(parse_request(head, PLAIN, "r-1"), ReadyBody(None))


@pytest.fixture
def watched(boxes: TwoBoxes, tmp_path: Path) -> Watched:
    boxes.__class__ = Watched
    assert isinstance(boxes, Watched)
    boxes.watch(tmp_path)
    return boxes


def records(delivery: Delivery) -> list[dict[str, Any]]:
    """The attachment, found as PR-OPMON says, and checked against the count."""
    root = etree.fromstring(delivery.response.head)
    assert root.findtext(".//om:records", namespaces=NAMES) == "cid:operational-monitoring-data.json.gz"
    assert delivery.body is not None
    (attachment,) = delivery.body.attachments
    assert b"Content-ID: <operational-monitoring-data.json.gz>\r\n" in attachment.headers
    assert b"Content-Type: application/gzip\r\n" in attachment.headers
    found: list[dict[str, Any]] = json.loads(gzip.decompress(delivery.body.inline or b""))["records"]
    assert root.findtext(".//om:recordsCount", namespaces=NAMES) == str(len(found))
    return found


def data(content: str = "") -> str:
    return f"<om:searchCriteria>{PERIOD}{content}</om:searchCriteria>"


@pytest.mark.rule("I.4.III")
def test_a_client_sees_the_records_in_which_it_is_client_or_provider(watched: Watched) -> None:
    found = records(watched.question("getSecurityServerOperationalData", data()))

    own = watched.network.asker.client.subsystem
    assert len(found) == 2
    assert all(own in (one["clientSubsystemCode"], one["serviceSubsystemCode"]) for one in found)


def test_the_monitoring_client_of_the_configuration_sees_everything_and_only_exactly_it(watched: Watched) -> None:
    watched.monitoring = watched.network.asker.client
    assert len(records(watched.question("getSecurityServerOperationalData", data()))) == 3

    watched.monitoring = watched.network.asker.client.member
    assert len(records(watched.question("getSecurityServerOperationalData", data()))) == 2


def test_the_answer_is_sealed_logged_and_verified_like_any_other(watched: Watched) -> None:
    watched.question("getSecurityServerOperationalData", data())

    assert len(watched.provider_log.kept) == len(watched.log.kept) == 2
    assert not watched.system.calls


def test_fields_and_provider_are_chosen_by_the_asker(watched: Watched) -> None:
    watched.monitoring = watched.network.asker.client
    tags = zip(("xRoadInstance", "memberClass", "memberCode", "subsystemCode"), watched.network.asker.client.parts, strict=True)
    client = "".join(f"<id:{tag}>{part}</id:{tag}>" for tag, part in tags)
    wanted = data(f'<om:client id:objectType="SUBSYSTEM">{client}</om:client>')
    wanted += "<om:outputSpec><om:outputField>serviceCode</om:outputField></om:outputSpec>"

    assert records(watched.question("getSecurityServerOperationalData", wanted)) == [{"serviceCode": "incidentes"}]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "<om:searchCriteria><om:recordsFrom>1</om:recordsFrom></om:searchCriteria>",
        "<om:searchCriteria><om:recordsFrom>-1</om:recordsFrom><om:recordsTo>2</om:recordsTo></om:searchCriteria>",
        "<om:searchCriteria><om:recordsFrom>5</om:recordsFrom><om:recordsTo>4</om:recordsTo></om:searchCriteria>",
        "<om:searchCriteria><om:recordsFrom>99999999999999999999</om:recordsFrom><om:recordsTo>4</om:recordsTo></om:searchCriteria>",
        data() + data(),
        data(PERIOD),
        data('<om:client id:objectType="SUBSYSTEM"><id:xRoadInstance>X</id:xRoadInstance></om:client>'),
        data() + "<om:outputSpec><om:outputField>password</om:outputField></om:outputSpec>",
    ],
)
def test_a_bad_question_is_the_clients_fault(watched: Watched, content: str) -> None:
    with pytest.raises(PeerFaultError) as caught:
        watched.question("getSecurityServerOperationalData", content)

    assert caught.value.fault.code == "client.invalid_request"


def test_it_is_a_service_of_the_owner_at_a_named_server(watched: Watched) -> None:
    with pytest.raises(PeerFaultError) as caught:
        watched.question("getSecurityServerOperationalData", data(), provider=watched.network.provider.client)
    assert caught.value.fault.code == "server.serverproxy.unknown_service"

    owner = watched.network.provider.server.owner
    head = asked(watched.network.asker.client, "getSecurityServerHealthData", "", owner, None, OPMON)
    with pytest.raises(PeerFaultError) as caught:
        watched.ask(parse_request(head, PLAIN, "r-1"), ReadyBody(None))
    assert caught.value.fault.code == "server.serverproxy.missing_header_field"


def test_health_is_told_of_all_services_to_the_monitoring_client_and_of_ones_own_to_others(watched: Watched) -> None:
    watched.monitoring = watched.network.asker.client
    root = etree.fromstring(watched.question("getSecurityServerHealthData", "").response.head)
    events = root.findall(".//om:serviceEvents", NAMES)

    assert root.findtext(".//om:monitoringStartupTimestamp", namespaces=NAMES) == "7"
    assert root.findtext(".//om:statisticsPeriodSeconds", namespaces=NAMES) == "600"
    by_subsystem = {one.findtext(".//id:subsystemCode", namespaces=NAMES): one for one in events}
    theirs = by_subsystem[watched.network.provider.client.subsystem]
    counts = [theirs.findtext(f".//om:{name}", namespaces=NAMES) for name in ("successfulRequestCount", "unsuccessfulRequestCount")]
    assert counts == ["1", "1"]
    assert theirs.findtext(".//om:requestAverageDuration", namespaces=NAMES) == "40.0"
    order = [one.tag.rpartition("}")[2] for one in theirs]
    assert order == ["service", "lastSuccessfulRequestTimestamp", "lastUnsuccessfulRequestTimestamp", "lastPeriodStatistics"]

    watched.monitoring = None
    root = etree.fromstring(watched.question("getSecurityServerHealthData", "").response.head)
    (own,) = root.findall(".//om:serviceEvents", NAMES)
    assert own.findtext(".//id:subsystemCode", namespaces=NAMES) == watched.network.asker.client.subsystem


def test_metrics_are_for_the_owner_and_the_monitoring_client(watched: Watched) -> None:
    with pytest.raises(PeerFaultError) as caught:
        watched.question("getSecurityServerMetrics", "", to=ENVMON)
    assert caught.value.fault.code == "server.serverproxy.access_denied"

    watched.monitoring = watched.network.asker.client
    root = etree.fromstring(watched.question("getSecurityServerMetrics", "", to=ENVMON).response.head)
    whole = root.find(".//m:metricSet", NAMES)
    assert whole is not None
    assert whole.findtext("m:name", namespaces=NAMES) == f"SERVER:{watched.network.provider.server}"
    assert whole.findtext("m:stringMetric/m:value", namespaces=NAMES) == "0.1.0"
    found = {one.findtext("m:name", namespaces=NAMES): one for one in whole.findall("m:metricSet/*", NAMES) if len(one)}
    assert found["TotalPhysicalMemory"].tag == f"{{{ENVMON}}}numericMetric"
    assert [one.text for one in found["SystemCpuLoad"]][2:] == ["0.1000", "0.9000", "0.5000", "0.4000", "0.2000"]

    wanted = "<om:outputSpec><om:outputField>TotalPhysicalMemory</om:outputField></om:outputSpec>"
    root = etree.fromstring(watched.question("getSecurityServerMetrics", wanted, to=ENVMON).response.head)
    assert [one.text for one in root.iterfind(".//m:name", NAMES)][1:] == ["systemMetrics", "TotalPhysicalMemory"]
