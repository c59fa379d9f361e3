"""What leaves the box: a whitelist, whatever a process announces; births, data and deaths in Sparkplug's order."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.edge_node import CONFIRMED, LIVE, EdgeNode
from appliance.health.report import FACTS, HostFigures, OutboxFigures, Report, build, incident_metrics
from appliance.hsm.wire import TokenStatus
from appliance.messagelog.wire import LogStatus
from appliance.net.mqtt_session import RECONNECT_S_MAX, reconnect_after_s
from appliance.net.sparkplug import DATETIME, Kind, Topic, decode
from appliance.supervision.wire import BoxStatus, ProcessStatus
from appliance.trust.wire import Evidence, ServiceHealth, TrustStatus

HOST = HostFigures(0.5, 2, 8 << 30, 4 << 30, 100, 50, None, {7: 1000})
OUTBOX = OutboxFigures(1, 2, 3)
SECRET = "María Pérez, folio 77"  # noqa: S105  the content that must not leave


def box(**changed: object) -> BoxStatus:
    process = ProcessStatus("signer", 0, 7, "serving", [], 0.2, {"access.no_right": 4}, {"token": "ready"})
    status = BoxStatus("QROO/MUN/X/SS1", "OPERATIONAL", ["advice.enrol"], [process], "0.1.0", 0, 9_000_000, 8_000_000)
    for name, value in changed.items():
        setattr(status, name, value)
    return status


def reported(status: BoxStatus | None, **parts: object) -> Report:
    return build(10_000_000, status, parts.get("token"), parts.get("trust"), parts.get("log"), HOST, OUTBOX)  # type: ignore[arg-type]  # the test's own


def test_a_report_tells_states_counters_ages_and_figures() -> None:
    evidence = [Evidence(b"", b"", b"", 4_000_000, 4_000_000, None)]
    trust = TrustStatus(3, 9, [ServiceHealth("tsa", "http://secret.internal/", None, 1, "fetch.failed")], evidence)
    token = TokenStatus("SoftHSM", "label", "serial", "ready", None, 12, 0)
    log = LogStatus(5, 5, 1, 100, 900, 2, 7_000_000, 8_000_000, 0, "open")
    report = reported(box(), token=token, trust=trust, log=log)

    wanted = {
        "State": "OPERATIONAL", "Advice": "advice.enrol", "Token/State": "ready", "Token/Signatures": 12, "Ocsp/Oldest age s": 6.0,
        "Stamp/Age s": 2.0, "Log/Oldest waiting s": 3.0, "Trust/Errors": "fetch.failed", "Outbox/Reports dropped": 3, "Uptime s": 10.0,
    }  # fmt: skip
    assert wanted.items() <= report.node.items()
    assert report.devices["signer"] == {
        "State": "serving", "Waits for": "", "Age s": 0.2, "Process": 7, "Memory bytes": 1000,
        "Fact/token": "ready", "Counter/access.no_right": 4,
    }  # fmt: skip
    assert "secret" not in json.dumps(report.node)


@pytest.mark.case("T06")
@pytest.mark.rule("IV.2.III.C")
def test_nothing_but_kinds_words_and_figures_leaves_the_box() -> None:
    poisoned = ProcessStatus(
        "relay",
        0,
        7,
        SECRET,
        [SECRET, "signer"],
        1.0,
        {SECRET: 1, "a.b": 2, "x\n\x1b]0;": 3},
        {"token": SECRET, "name": "Ana", SECRET: "x"},
    )
    hostile = ProcessStatus(SECRET, 0, 7, "serving", [], 0.0, {}, {})
    report = reported(box(state=SECRET, advice=[SECRET], version=SECRET, silent_services=[SECRET], processes=[poisoned, hostile]))

    told = json.dumps([report.node, report.devices], ensure_ascii=False)
    assert "María" not in told
    assert "Ana" not in told
    assert "\\u001b" not in told
    assert report.devices["relay"]["Counter/a.b"] == 2
    assert set(report.devices) == {"relay"}


@given(st.dictionaries(st.text(max_size=12), st.text(max_size=12), max_size=5), st.text(max_size=20))
def test_incidents_pass_the_same_whitelist(facts: dict[str, str], kind: str) -> None:
    figures = incident_metrics(kind, kind, facts)
    told = "".join(str(value) for value in figures.values())
    assert told.isascii()
    assert told.isprintable()


def test_a_process_that_does_not_answer_is_told_as_missing() -> None:
    report = reported(None)
    assert (report.node["State"], report.node["Token/State"], report.node["Log/State"]) == ("UNKNOWN", "unknown", "unknown")
    assert report.devices == {}


def kinds(messages: list[object]) -> list[str]:
    return [Topic.parse(message.topic).kind for message in messages]  # type: ignore[attr-defined]  # Message


def figures(state: str, **devices: str) -> Report:
    return Report(
        1_000_000, {"State": state, "Autonomy/Sealing ends": 5_000_000}, {name: {"State": told} for name, told in devices.items()}
    )


def test_births_data_and_deaths_follow_each_other_with_one_sequence() -> None:
    node = EdgeNode("Q", "MUN:X:SS1", 255)
    will = node.will(0)
    first = node.births(figures("LOCKED", signer="serving", relay="silent"))
    assert kinds(first) == [Kind.NBIRTH, Kind.DBIRTH]
    same = node.data(figures("LOCKED", signer="serving", relay="silent"))
    assert same == []
    changed = node.data(figures("OPERATIONAL", signer="silent", relay="serving"))
    assert kinds(changed) == [Kind.NDATA, Kind.DDEATH, Kind.DBIRTH]
    assert [decode(message.payload).seq for message in [*first, *changed]] == [0, 1, 2, 3, 4]
    assert decode(will.payload).value("bdSeq") == decode(first[0].payload).value("bdSeq") == 0
    assert (will.quality, first[0].quality) == (CONFIRMED, LIVE)
    ends = next(metric for metric in decode(first[0].payload).metrics if metric.name == "Autonomy/Sealing ends")
    assert (ends.value, ends.datatype) == (5_000, DATETIME)


def test_a_metric_that_no_birth_told_makes_a_new_birth() -> None:
    node = EdgeNode("Q", "n", 0)
    node.births(figures("LOCKED", signer="serving"))
    more = figures("LOCKED", signer="serving")
    more.devices["signer"]["Counter/a.b"] = 1
    assert kinds(node.data(more)) == [Kind.DBIRTH]
    more.node["New"] = 1
    assert kinds(node.data(more)) == [Kind.NBIRTH, Kind.DBIRTH]


def test_the_sequence_turns_over_at_255() -> None:
    node = EdgeNode("Q", "n", 0)
    node.births(figures("A"))
    seqs = [decode(node.data(figures(str(turn)))[0].payload).seq for turn in range(600)]
    assert seqs == [turn % 256 for turn in range(1, 601)]


@pytest.mark.case("T41")
def test_reconnecting_is_spread_and_never_slower_than_a_minute() -> None:
    for failures in range(50):
        shortest, longest = reconnect_after_s(failures, lambda: 0.0), reconnect_after_s(failures, lambda: 0.999)
        assert 1.0 <= shortest < longest <= RECONNECT_S_MAX
    assert len(FACTS) < 20
