"""The outbox: reports are dropped first, incidents never; what was kept is there after a power cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.outbox import (
    IN_FLIGHT_MAX,
    INCIDENT,
    REPORT,
    REPORTS_MAX,
    Acknowledged,
    Entry,
    Forget,
    Keep,
    LinkDown,
    LinkUp,
    Outbox,
    OutboxFullError,
    Publish,
    Queued,
)
from appliance.health.outbox_files import OutboxFiles


def test_what_waits_is_published_when_the_link_is_up_incidents_first() -> None:
    outbox = Outbox([])
    report, incident = Entry(1, REPORT, b"r"), Entry(2, INCIDENT, b"i")
    assert outbox.handle(Queued(REPORT, b"r")) == [Keep(report)]
    assert outbox.handle(Queued(INCIDENT, b"i")) == [Keep(incident)]
    assert outbox.handle(LinkUp()) == [Publish(incident), Publish(report)]
    assert outbox.handle(Acknowledged(2)) == [Forget(incident)]
    assert outbox.handle(Acknowledged(2)) == []


def test_what_was_not_acknowledged_is_published_again_after_the_next_link() -> None:
    outbox = Outbox([Entry(5, INCIDENT, b"i")])
    again = [Publish(Entry(5, INCIDENT, b"i"))]
    assert outbox.handle(LinkUp()) == again
    assert outbox.handle(LinkDown()) == []
    assert outbox.handle(LinkUp()) == again


@pytest.mark.case("T41")
def test_the_oldest_of_too_many_reports_is_dropped_and_counted() -> None:
    outbox = Outbox([])
    for number in range(REPORTS_MAX):
        outbox.handle(Queued(REPORT, b"%d" % number))
    effects = outbox.handle(Queued(REPORT, b"one more"))
    assert effects == [Forget(Entry(1, REPORT, b"0")), Keep(Entry(REPORTS_MAX + 1, REPORT, b"one more"))]
    assert (outbox.reports, outbox.dropped) == (REPORTS_MAX, 1)


def test_an_incident_too_many_is_refused_and_none_is_dropped() -> None:
    outbox = Outbox([], incidents_max=2)
    outbox.handle(Queued(INCIDENT, b"1"))
    outbox.handle(Queued(INCIDENT, b"2"))
    with pytest.raises(OutboxFullError):
        outbox.handle(Queued(INCIDENT, b"3"))
    assert outbox.incidents == 2


@given(st.lists(st.sampled_from(["report", "incident", "up", "down", "acknowledge"]), max_size=120))
def test_every_incident_is_published_until_acknowledged_and_numbers_are_used_once(steps: list[str]) -> None:
    outbox, in_flight, kept, acknowledged = Outbox([], reports_max=5), set[int](), list[int](), set[int]()
    incidents: set[int] = set()
    for step in steps:
        match step:
            case "up":
                effects = outbox.handle(LinkUp())
            case "down":
                effects = outbox.handle(LinkDown())
                in_flight.clear()
            case "acknowledge":
                number = min(in_flight, default=0)
                in_flight.discard(number)
                acknowledged.add(number)
                effects = outbox.handle(Acknowledged(number))
            case _:
                effects = outbox.handle(Queued(step, b""))
        for effect in effects:
            match effect:
                case Keep():
                    kept.append(effect.entry.number)
                    incidents |= {effect.entry.number} if effect.entry.kind == INCIDENT else set()
                case Publish():
                    assert effect.entry.number in kept
                    in_flight.add(effect.entry.number)
                case Forget():
                    in_flight.discard(effect.entry.number)
                    assert effect.entry.kind == REPORT or effect.entry.number in acknowledged
        assert len(in_flight) <= IN_FLIGHT_MAX
    assert kept == sorted(set(kept))
    assert outbox.incidents == len(incidents - acknowledged)


def test_files_hold_what_was_kept_and_not_what_was_forgotten(tmp_path: Path) -> None:
    files = OutboxFiles(tmp_path)
    first, second = Entry(1, INCIDENT, b"one"), Entry(2, REPORT, b"two")
    files.keep(first)
    files.keep(second)
    files.forget(second)
    (tmp_path / ".incident-9.torn").write_bytes(b"half")

    again = OutboxFiles(tmp_path)

    assert again.load() == [first]
    assert again.first_free > 2
    assert not list(tmp_path.glob(".*torn"))


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"\x00" * 35])
def test_a_damaged_entry_is_set_aside_and_counted(tmp_path: Path, damage: bytes) -> None:
    OutboxFiles(tmp_path).keep(Entry(1, INCIDENT, b"one"))
    (tmp_path / "incident-1").write_bytes(damage)
    files = OutboxFiles(tmp_path)
    assert files.load() == []
    assert files.damaged == 1
    assert (tmp_path / "damaged-incident-1").exists()
