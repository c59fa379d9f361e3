"""What the fleet view concludes from messages: births, gaps, deaths, history, hostile input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.edge_node import EdgeNode, Message
from appliance.health.report import Report
from appliance.net.sparkplug import REBIRTH, decode
from provisioning.fleet.view import BOXES_MAX, INCIDENTS_MAX, FleetView

S = 1_000_000
NODE = "MUN:BENITO-JUAREZ:SS1"


def report(at_s: int, state: str = "OPERATIONAL", **devices: str) -> Report:
    return Report(at_s * S, {"State": state, "Load": float(at_s)}, {name: {"State": told} for name, told in devices.items()})


def hear(view: FleetView, messages: list[Message], at_s: int) -> None:
    for message in messages:
        view.take(message.topic, message.payload, at_s * S)


def test_a_born_box_is_alive_with_its_state_and_processes() -> None:
    view, node = FleetView(), EdgeNode("QROO", NODE, 0)
    node.will(0)
    hear(view, node.births(report(1, signer="serving", relay="serving")), 1)
    hear(view, node.data(report(2, "AUTONOMOUS", signer="serving", relay="silent")), 2)

    [box] = view.snapshot(3 * S)
    assert (box["state"], box["alive"], box["age_s"], box["sequence_gaps"], box["silent"]) == ("AUTONOMOUS", True, 1.0, 0, ["relay"])
    assert view.requests(3 * S) == []


def test_a_gap_in_the_sequence_asks_for_rebirth_once_in_two_seconds() -> None:
    view, node = FleetView(), EdgeNode("QROO", NODE, 0)
    hear(view, node.births(report(1)), 1)
    node.data(report(2, "LOCKED"))  # lost on its way
    hear(view, node.data(report(3, "OPERATIONAL")), 3)

    [(topic, command)] = view.requests(3 * S)
    assert topic == f"spBv1.0/QROO/NCMD/{NODE}"
    assert decode(command).value(REBIRTH) is True
    assert view.requests(4 * S) == []
    assert len(view.requests(5 * S)) == 1
    hear(view, node.births(report(10)), 10)
    assert view.requests(20 * S) == []
    assert view.snapshot(20 * S)[0]["sequence_gaps"] == 1


def test_data_of_a_box_whose_birth_was_missed_asks_for_rebirth() -> None:
    view, node = FleetView(["QROO/MUN/BENITO-JUAREZ/SS1"]), EdgeNode("QROO", NODE, 0)
    assert view.snapshot(0)[0]["state"] == "UNHEARD"
    assert len(view.requests(0)) == 1

    node.births(report(1))
    hear(view, node.data(report(2, "LOCKED")), 2)

    assert view.snapshot(2 * S)[0]["state"] == "LOCKED"
    assert len(view.requests(7 * S)) == 1


def test_the_will_kills_and_the_will_of_an_earlier_session_does_not() -> None:
    view, node = FleetView(), EdgeNode("QROO", NODE, 0)
    old_will = node.will(0)
    hear(view, node.births(report(1)), 1)
    new_will = node.will(2)
    hear(view, node.births(report(2)), 2)

    hear(view, [old_will], 3)
    assert view.snapshot(3 * S)[0]["state"] == "OPERATIONAL"

    hear(view, [new_will], 4)
    assert view.snapshot(4 * S)[0]["state"] == "DEAD"
    assert view.requests(100 * S) == []


def test_history_does_not_hide_what_is_now_and_incidents_are_counted_once() -> None:
    view, node = FleetView(), EdgeNode("QROO", NODE, 0)
    hear(view, node.births(report(100)), 100)
    incident = {"Incident/Kind": "process.held", "Incident/Process": "signer", "Incident/Facts": ""}
    hear(view, [node.historical(report(50, "LOCKED")), node.incident(7, 60 * S, incident), node.incident(7, 60 * S, incident)], 101)

    [box] = view.snapshot(101 * S)
    assert (box["state"], box["sequence_gaps"]) == ("OPERATIONAL", 0)
    assert box["incidents"] == [{"number": 7, "at_ms": 60_000, "kind": "process.held", "process": "signer", "facts": ""}]


def test_late_reports_are_said() -> None:
    view, node = FleetView(), EdgeNode("QROO", NODE, 0)
    hear(view, node.births(report(1)), 1)
    assert view.snapshot(91 * S)[0]["late"] is False
    assert view.snapshot(92 * S)[0]["late"] is True


def test_a_flood_of_boxes_and_incidents_stays_bounded() -> None:
    view = FleetView()
    for number in range(BOXES_MAX + 5):
        view.take(f"spBv1.0/QROO/NDATA/box{number}", b"", 0)
    node = EdgeNode("QROO", "box0", 0)
    hear(view, node.births(report(1)), 1)
    hear(view, [node.incident(number, S, {"Incident/Kind": "x"}) for number in range(1, INCIDENTS_MAX + 50)], 1)

    assert (len(view.boxes), view.refused) == (BOXES_MAX, 5)
    assert len(view.boxes["QROO", "box0"].incidents) == INCIDENTS_MAX


@pytest.mark.case("T08")
@given(
    st.lists(
        st.tuples(st.sampled_from(["spBv1.0/Q/NBIRTH/a", "spBv1.0/Q/DDATA/a/b", "spBv1.0/Q/NDEATH/a", "a/#", ""]), st.binary(max_size=60))
    )
)
def test_no_message_breaks_the_view(messages: list[tuple[str, bytes]]) -> None:
    view = FleetView()
    for topic, payload in messages:
        view.take(topic, payload, 0)
    view.snapshot(1)
    view.requests(1)
