"""What the relay notes of an exchange: X-Road's fields, at a cost that no exchange feels, and never in its way."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from appliance.clock import SystemClock
from appliance.errors import UnavailableError
from appliance.exchange.ports import Attachment, Body
from appliance.messagelog.operations_wire import CONSUMER, PRODUCER, Operation
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.faults import Fault
from appliance.net.message_protocol import RestRequest, request_from_system
from appliance.net.soap_protocol import SoapFraming, parse_request
from appliance.relay import monitoring
from appliance.relay.monitoring import BATCH_MAX, WAITING_MAX, Monitoring, internal_address
from tests.net.test_soap_protocol import WHOLE
from tests.net.test_soap_reader import envelope as soap_envelope

OWNER = ClientId("TEST", "GOV", "SSP")
COST_US_MAX = 40.0
"""Stated goal 10 us; the bound leaves room for a loaded machine."""


class Recorder:
    """Takes what it is given, unless it is away."""

    def __init__(self) -> None:
        self.taken: list[Operation] = []
        self.calls: list[int] = []
        self.away = False

    async def call(self, operation: str, batch: list[Operation], timeout_s: float) -> None:
        if self.away:
            raise UnavailableError("away")
        assert operation == "take_operations"
        self.calls.append(len(batch))
        self.taken += msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=list[Operation])


class Trust:
    def shared(self, instance: str | None = None) -> Any:
        raise UnavailableError("no configuration")


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def monitor(recorder: Recorder) -> Monitoring:
    return Monitoring(ServerId(OWNER, "S1"), SystemClock(), Trust(), recorder, lambda: "10.0.0.1")  # type: ignore[arg-type]


def rest() -> RestRequest:
    headers = [
        (b"X-Road-Client", b"TEST/GOV/SSP/PATRULLA"),
        (b"X-Road-Id", b"id-1"),
        (b"X-Road-UserId", b"u1"),
        (b"X-Road-Issue", b"expediente 7"),
        (b"X-Road-Represented-Party", b"COM/P1"),
    ]
    return request_from_system(b"PUT", b"/r1/TEST/GOV/C5/INC/incidentes/a%20b/../c?d=e", headers, request_id="r-1", generated_id="g-1")


def test_a_rest_exchange_has_every_field_that_x_road_names(monitor: Monitoring, recorder: Recorder) -> None:
    course = monitor.begin()
    course.request, course.request_id = rest(), "r-1"
    monitoring.took(Body(100, b""))
    monitoring.left("peer.example")
    monitoring.came_back()
    course.answers(b"201\r\nCreated\r\n", Body(7, b""))
    monitor.end(course, PRODUCER)
    asyncio.run(monitor.send())

    (found,) = recorder.taken
    told = msgspec.to_builtins(found)
    moments = [told.pop(name) for name in ("requestInTs", "requestOutTs", "responseInTs", "responseOutTs")]
    assert moments == sorted(moments)
    assert abs(moments[0] - SystemClock().now_us() // 1000) < 60_000
    assert told == {
        "securityServerInternalIp": "10.0.0.1", "securityServerType": "Producer", "succeeded": True, "xRoadVersion": "0.1.0",
        "clientXRoadInstance": "TEST", "clientMemberClass": "GOV", "clientMemberCode": "SSP", "clientSubsystemCode": "PATRULLA",
        "serviceXRoadInstance": "TEST", "serviceMemberClass": "GOV", "serviceMemberCode": "C5", "serviceSubsystemCode": "INC",
        "serviceCode": "incidentes", "serviceType": "REST", "restMethod": "PUT", "restPath": "/c", "statusCode": 201,
        "messageId": "id-1", "messageUserId": "u1", "messageIssue": "expediente 7", "messageProtocolVersion": "1", "xRequestId": "r-1",
        "representedPartyClass": "COM", "representedPartyCode": "P1", "clientSecurityServerAddress": "peer.example",
        "requestSize": len(rest().head) + 100, "responseSize": 14 + 7,
    }  # fmt: skip


def test_a_soap_exchange_counts_its_attachments(monitor: Monitoring, recorder: Recorder) -> None:
    envelope = soap_envelope(WHOLE)
    kind = b"text/xml; charset=UTF-8"
    course = monitor.begin()
    course.request = parse_request(envelope, SoapFraming(((b"Content-Type", kind),), kind), "r-2")
    monitoring.took(Body(30, b"", attachments=(Attachment(10, b"", b""), Attachment(20, b"", b""))))
    course.answers(b"<x/>", None)
    monitor.end(course, CONSUMER)
    asyncio.run(monitor.send())

    (found,) = recorder.taken
    assert (found.request_size, found.request_mime_size, found.request_attachment_count) == (len(envelope), len(envelope) + 30, 2)
    assert (found.response_size, found.response_mime_size, found.response_attachment_count) == (4, None, 0)
    assert (found.service_type, found.status_code, found.rest_path) == ("WSDL", None, None)
    assert (found.message_protocol_version or "").startswith("4.")


def test_what_failed_early_is_a_record_with_its_fault_cut_to_length(monitor: Monitoring, recorder: Recorder) -> None:
    course = monitor.begin()
    course.fault = Fault("server.clientproxy.x", 500, "é\ud800" * 3000, "", "x")
    monitor.end(course, CONSUMER)
    asyncio.run(monitor.send())

    (found,) = recorder.taken
    assert (found.succeeded, found.fault_code, found.service_code, found.request_size) == (False, "server.clientproxy.x", None, None)
    assert len(found.fault_string or "") == 2048


def test_while_the_recorder_is_away_the_newest_wait_in_order(monitor: Monitoring, recorder: Recorder) -> None:
    recorder.away = True
    for number in range(WAITING_MAX + 5):
        course = monitor.begin()
        course.request_id = str(number)
        monitor.end(course, CONSUMER)
    asyncio.run(monitor.send())
    assert monitor.dropped == 5

    recorder.away = False
    asyncio.run(monitor.send())

    assert [one.x_request_id for one in recorder.taken] == [str(number) for number in range(5, WAITING_MAX + 5)]
    assert max(recorder.calls) == BATCH_MAX


def test_noting_an_exchange_and_packing_its_record_costs_microseconds(monitor: Monitoring, recorder: Recorder) -> None:
    request, body = rest(), Body(100, b"")

    def cost_us() -> float:
        begun = time.process_time()
        for _ in range(2000):
            course = monitor.begin()
            course.request = request
            monitoring.took(body)
            monitoring.left("peer.example")
            monitoring.came_back()
            course.answers(b"200\r\nOK\r\n", body)
            monitor.end(course, CONSUMER)
        msgspec.msgpack.encode(list(monitor._waiting))
        monitor._waiting.clear()
        return (time.process_time() - begun) / 2000 * 1e6

    best = min(cost_us() for _ in range(10))
    print(f"\noperational record: {best:.1f} us an exchange")
    assert best < COST_US_MAX


def test_outside_of_an_exchange_nothing_is_noted() -> None:
    monitoring.took(None)
    monitoring.left()
    monitoring.came_back()


def test_the_internal_address_is_the_bound_one_or_that_of_the_default_route() -> None:
    assert internal_address("127.0.61.11") == "127.0.61.11"
    assert internal_address("0.0.0.0").count(".") == 3  # noqa: S104  no binding
