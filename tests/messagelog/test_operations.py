"""Operational records at rest: X-Road's names, encrypted, bounded, asked for by second and by party."""

from __future__ import annotations

import gzip
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.messagelog import operations as at_rest
from appliance.messagelog.operations import FILE, KEPT_S, SETTLED_S, Operations, OperationsRangeError
from appliance.messagelog.operations_health import ServicesSeen
from appliance.messagelog.operations_wire import CONSUMER, FIELDS, PRODUCER, FoundOperations, ListOperations, Operation, QueryOperations
from appliance.model.identifiers import ClientId

KEY = bytes(range(32))
NOW_S = 1_800_000_000
POLICE, C5 = ClientId("TEST", "GOV", "SSP", "PATRULLA"), ClientId("TEST", "GOV", "C5", "INCIDENTES")


def operation(client: ClientId = POLICE, provider: ClientId = C5, **facts: Any) -> Operation:
    """One record as the relay makes it."""
    usual: dict[str, Any] = {
        "security_server_internal_ip": "127.0.0.1",
        "security_server_type": PRODUCER,
        "request_in_ts": NOW_S * 1000,
        "response_out_ts": NOW_S * 1000 + 40,
        "succeeded": True,
        "client_x_road_instance": client.instance,
        "client_member_class": client.member_class,
        "client_member_code": client.member_code,
        "client_subsystem_code": client.subsystem,
        "service_x_road_instance": provider.instance,
        "service_member_class": provider.member_class,
        "service_member_code": provider.member_code,
        "service_subsystem_code": provider.subsystem,
        "service_code": "incidentes",
    }
    return Operation(**(usual | facts))


@pytest.fixture
def kept(tmp_path: Path) -> Operations:
    return Operations(tmp_path / FILE, KEY, 1 << 30)


def records(found: FoundOperations) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(gzip.decompress(found.records))["records"]
    assert len(listed) == found.count
    return listed


def test_fields_have_x_roads_names() -> None:
    """All names of sheet 8.1, and no other."""
    assert FIELDS == set(
        """monitoringDataTs securityServerInternalIp securityServerType requestInTs requestOutTs responseInTs responseOutTs
            clientXRoadInstance clientMemberClass clientMemberCode clientSubsystemCode serviceXRoadInstance serviceMemberClass
            serviceMemberCode serviceSubsystemCode serviceCode serviceVersion serviceType restMethod restPath statusCode messageId
            messageUserId messageIssue messageProtocolVersion xRequestId representedPartyClass representedPartyCode
            clientSecurityServerAddress serviceSecurityServerAddress requestSize responseSize requestMimeSize responseMimeSize
            requestAttachmentCount responseAttachmentCount succeeded faultCode faultString xRoadVersion""".split()
    )


def test_a_record_comes_back_with_its_second_and_without_absent_values(kept: Operations) -> None:
    kept.take([operation(message_id="id-1")], NOW_S)

    (one,) = records(kept.query(QueryOperations(NOW_S - 10, NOW_S), NOW_S + 60))

    assert (one["monitoringDataTs"], one["messageId"], one["succeeded"]) == (NOW_S, "id-1", True)
    assert "faultCode" not in one
    assert "restPath" not in one


@pytest.mark.case("T52")
@pytest.mark.rule("IV.2.III.C")
def test_nothing_of_a_record_lies_on_the_disk_in_clear(kept: Operations, tmp_path: Path) -> None:
    kept.take([operation(message_id="canario-id", message_user_id="canario-user", rest_path="/canario-path")], NOW_S)

    for file in tmp_path.iterdir():
        assert b"canario" not in file.read_bytes()
        assert b"PATRULLA" not in file.read_bytes()
    assert oct(os.stat(tmp_path / FILE).st_mode & 0o777) == "0o600"


def test_under_another_key_older_records_are_nobodys(kept: Operations, tmp_path: Path) -> None:
    kept.take([operation()], NOW_S)
    kept.close()

    other = Operations(tmp_path / FILE, bytes(32), 1 << 30)

    assert other.query(QueryOperations(0, NOW_S), NOW_S + 60).count == 0


def test_another_client_sees_only_where_it_asked_or_was_asked(kept: Operations) -> None:
    other = ClientId("TEST", "GOV", "SSP", "OTRA")
    kept.take([operation(), operation(client=other), operation(client=C5, provider=POLICE), operation(client=other, provider=other)], NOW_S)

    def seen(by: ClientId | None, provider: ClientId | None = None) -> int:
        return kept.query(QueryOperations(0, NOW_S, by, provider), NOW_S + 60).count

    assert [seen(None), seen(POLICE), seen(C5), seen(other), seen(POLICE.member)] == [4, 2, 3, 2, 0]
    assert [seen(None, C5), seen(POLICE, C5), seen(None, other)] == [2, 1, 1]


def test_only_the_fields_asked_for_are_told(kept: Operations) -> None:
    kept.take([operation()], NOW_S)

    (one,) = records(kept.query(QueryOperations(0, NOW_S, fields=["serviceCode", "faultCode", "monitoringDataTs"]), NOW_S + 60))

    assert one == {"serviceCode": "incidentes", "monitoringDataTs": NOW_S}


@pytest.mark.parametrize(
    "wanted",
    [
        QueryOperations(10, 9),
        QueryOperations(-1, 9),
        QueryOperations(NOW_S + 59, NOW_S + 60),
        QueryOperations(0, NOW_S, fields=["password"]),
    ],
)
def test_what_cannot_be_asked_for_is_refused(kept: Operations, wanted: QueryOperations) -> None:
    with pytest.raises(OperationsRangeError):
        kept.query(wanted, NOW_S + 60)


def test_the_newest_seconds_are_told_later_and_the_answer_says_from_where(kept: Operations) -> None:
    kept.take([operation()], NOW_S)
    kept.take([operation()], NOW_S + 1)

    first = kept.query(QueryOperations(NOW_S, NOW_S + 100), NOW_S + SETTLED_S)
    assert (first.count, first.next_from_s) == (1, NOW_S + 1)

    rest = kept.query(QueryOperations(first.next_from_s or 0, NOW_S + 3), NOW_S + 10)
    assert (rest.count, rest.next_from_s) == (1, None)


def test_a_long_period_comes_in_answers_that_split_no_second(kept: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_rest, "RECORDS_MAX", 50)
    for second in range(10):
        for _ in range(3):
            kept.take([operation(message_id=f"{second}-{number}") for number in range(10)], NOW_S + second)

    seen: list[str] = []
    from_s: int | None = NOW_S
    answers = 0
    while from_s is not None:
        found = kept.query(QueryOperations(from_s, NOW_S + 9), NOW_S + 60)
        assert found.count % 30 == 0
        seen += [one["messageId"] for one in records(found)]
        from_s, answers = found.next_from_s, answers + 1

    assert answers == 5
    assert len(seen) == 300
    assert len(set(seen)) == 100


def test_an_answer_that_would_be_too_large_holds_fewer_seconds(kept: Operations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_rest, "ANSWER_BYTES_MAX", 20_000)
    for second in range(8):
        kept.take([operation(fault_string=os.urandom(900).hex()) for _ in range(5)], NOW_S + second)

    counts, from_s = [], NOW_S
    while from_s:
        found = kept.query(QueryOperations(from_s, NOW_S + 7), NOW_S + 60)
        assert len(found.records) <= 20_000
        counts.append(found.count)
        from_s = found.next_from_s or 0

    assert sum(counts) == 40
    assert len(counts) > 1
    monkeypatch.setattr(at_rest, "ANSWER_BYTES_MAX", 2_000)
    with pytest.raises(at_rest.OperationsTooLargeError):
        kept.query(QueryOperations(NOW_S, NOW_S + 7), NOW_S + 60)


def test_after_a_week_a_record_is_gone_and_the_oldest_go_when_there_are_too_many(tmp_path: Path) -> None:
    kept = Operations(tmp_path / FILE, KEY, 20_000)
    kept.take([operation(message_id="old")], NOW_S)
    kept.take([operation(message_id="new")], NOW_S + KEPT_S + 1)
    assert [one["messageId"] for one in records(kept.query(QueryOperations(0, NOW_S + KEPT_S + 1), NOW_S + KEPT_S + 60))] == ["new"]

    for second in range(200):
        kept.take([operation(fault_string=os.urandom(500).hex())], NOW_S + KEPT_S + 2 + second)

    with sqlite3.connect(tmp_path / FILE) as connection:
        ((total, oldest),) = connection.execute("SELECT sum(length(data)), min(at_s) FROM batch")
    connection.close()
    assert total <= 20_000
    assert oldest > NOW_S + KEPT_S + 2
    assert kept.query(QueryOperations(0, NOW_S + KEPT_S + 201), NOW_S + KEPT_S + 300).count > 10


def test_a_clock_that_goes_back_adds_nothing_to_seconds_that_were_told(kept: Operations) -> None:
    assert kept.take([operation()], NOW_S) == NOW_S

    assert kept.take([operation()], NOW_S - 500) == NOW_S


def test_a_broken_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 1000)

    kept = Operations(tmp_path / FILE, KEY, 1 << 30)
    kept.take([operation()], NOW_S)

    assert kept.query(QueryOperations(0, NOW_S), NOW_S + 60).count == 1


def test_persons_find_the_newest_by_party(kept: Operations) -> None:
    kept.take([operation(x_request_id=str(number)) for number in range(5)] + [operation(client=C5)], NOW_S)

    found = kept.listed(ListOperations(0, NOW_S, client=str(POLICE), limit=2))

    assert [one.x_request_id for one in found] == ["3", "4"]
    assert kept.listed(ListOperations(0, NOW_S, service="TEST/GOV/C5/OTRO/x")) == []


def test_health_counts_our_services_over_ten_minutes(kept: Operations) -> None:
    seen = ServicesSeen(7)
    good, slow = operation(request_size=100), operation(request_size=300, response_out_ts=NOW_S * 1000 + 140)
    bad, theirs = operation(succeeded=False), operation(security_server_type=CONSUMER, service_code="theirs")
    for one in (good, slow, bad, theirs):
        seen.saw(one)
    kept.take([operation(service_code="forgotten")], NOW_S - 700)
    kept.take([good, slow, bad, theirs], NOW_S)

    (service,) = seen.health(kept, NOW_S + 1, None).services

    assert (service.provider, service.code, service.succeeded, service.failed) == (C5, "incidentes", 2, 1)
    assert service.duration is not None
    assert (service.duration.least, service.duration.mean, service.duration.greatest, service.duration.deviation) == (40, 90.0, 140, 50.0)
    assert service.request_size is not None
    assert service.request_size.mean == 200.0
    assert (service.last_success_ms, service.last_failure_ms) == (NOW_S * 1000 + 140, NOW_S * 1000 + 40)
    assert seen.health(kept, NOW_S + 1, POLICE).services == []
    later = seen.health(kept, NOW_S + 1000, None).services[0]
    assert (later.succeeded, later.duration, later.last_success_ms) == (0, None, service.last_success_ms)


def test_texts_beyond_their_length_are_not_taken() -> None:
    packed = msgspec.msgpack.encode([operation(message_id="x" * 256)])

    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(packed, type=list[Operation])
