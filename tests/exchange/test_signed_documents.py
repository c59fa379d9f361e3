"""`/asic` in the protocol's own words: parameters, names, what may be given out."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.exchange.signed_documents import check_found, parse, status_of
from appliance.messagelog.wire import RecordSummary
from appliance.model.identifiers import ClientId

CLIENT = "xRoadInstance=EE&memberClass=ENT&memberCode=CLIENT1"


def record(*, stamped: bool = True, direction: str = "request") -> RecordSummary:
    return RecordSummary(1, 1, "client", direction, "", "", "EE/ENT/CLIENT1/SUB", "s", 1, "stamped", 1 if stamped else None, None)


def test_the_manuals_own_question() -> None:
    wanted = parse(f"queryId=abc12345&{CLIENT}&subsystemCode=SUB&force")

    assert (wanted.client, wanted.query_id) == (ClientId("EE", "ENT", "CLIENT1", "SUB"), "abc12345")
    assert (wanted.direction, wanted.unique, wanted.force) == ("", False, True)
    assert wanted.archive_name == "abc12345.zip"
    assert wanted.document_name("request", "1ab2c3d4f5") == "abc12345-request-1ab2c3d4f5.asice"


@pytest.mark.parametrize(
    ("flags", "direction", "name"), [("requestOnly", "request", "a-request.zip"), ("responseOnly&unique=", "response", "a-response.zip")]
)
def test_one_direction_has_its_own_name(flags: str, direction: str, name: str) -> None:
    wanted = parse(f"queryId=a&{CLIENT}&{flags}")

    assert (wanted.direction, wanted.archive_name) == (direction, name)
    assert wanted.client.subsystem is None


@pytest.mark.parametrize(
    "query",
    [
        "",
        CLIENT,
        "queryId=a&xRoadInstance=EE&memberClass=ENT",
        f"queryId=&{CLIENT}",
        f"queryId=a&queryId=b&{CLIENT}",
        f"queryId=a&{CLIENT}&memberCode=OTHER",
        f"queryId=a&{CLIENT}&subsystemCode=",
        f"queryId=a&{CLIENT}&requestOnly&responseOnly",
        f"queryId=a&{CLIENT}&unique",
        f"queryId=%ff&{CLIENT}",
        f"queryId={'a' * 256}&{CLIENT}",
        f"queryId=a&{CLIENT}" + "&x=1" * 100,
    ],
)
def test_what_is_missing_doubled_or_contradicts_itself_is_a_bad_request(query: str) -> None:
    with pytest.raises(XacbeError) as caught:
        parse(query)

    assert status_of(caught.value.kind) == 400


@given(st.text(min_size=1, max_size=60).filter(lambda text: text.isprintable()))
def test_no_id_breaks_out_of_a_file_name_or_a_header(query_id: str) -> None:
    name = parse(f"queryId={quote(query_id, safe='')}&{CLIENT}").archive_name

    assert name.isascii()
    assert not set(name) & set('/\\"\r\n; ')


@pytest.mark.parametrize(
    ("flags", "found", "status", "text"),
    [
        ("", [], 404, "no signed documents"),
        ("unique&requestOnly", [record(), record()], 400, "2 signed documents"),
        ("", [record(), record(stamped=False)], 500, "Some message signatures have not been timestamped yet!"),
        ("unique&requestOnly", [record(stamped=False)], 500, "Message signature has not been timestamped yet!"),
        ("force", [record(stamped=False)], 500, "no time stamp"),
    ],
)
def test_what_may_not_be_given_out_has_its_status(flags: str, found: list[RecordSummary], status: int, text: str) -> None:
    with pytest.raises(XacbeError, match=text) as caught:
        check_found(parse(f"queryId=a&{CLIENT}&{flags}"), found)

    assert status_of(caught.value.kind) == status


def test_a_failure_of_the_box_is_no_fault_of_the_asker() -> None:
    assert status_of("access.authentication") == 401
    assert status_of("process.away") == status_of("log.key_absent") == status_of("access.client_unknown") == 500
