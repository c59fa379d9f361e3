"""The reporter against a real broker with mutual TLS: births, data, death by will, rebirth, outbox."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.errors import RefusedError
from appliance.health.wire import Incident
from appliance.net.sparkplug import REBIRTH, Kind, Metric, Payload, Topic, encode
from tests.health.broker import Broker, Host, TestAuthority, needs_mosquitto
from tests.supervision.box import RunningProcess, make_box, until

pytestmark = needs_mosquitto

EDGE_NODE = "MUN:BENITO-JUAREZ:SS1"
KEEP_ALIVE_S = 5


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path)


@pytest.fixture
def broker(tmp_path: Path, authority: TestAuthority) -> Iterator[Broker]:
    part = Broker(tmp_path, authority, "127.0.12.1")
    yield part
    part.stop()


@pytest.fixture
def host(broker: Broker, authority: TestAuthority) -> Iterator[Host]:
    part = Host(broker, authority)
    yield part
    part.close()


@pytest.fixture
def reporter(tmp_path: Path, authority: TestAuthority, broker: Broker) -> Iterator[RunningProcess]:
    keys = f'broker_host = "{broker.address}"\nbroker_port = {broker.port}\nreport_interval_s = 1\nkeep_alive_s = {KEEP_ALIVE_S}'
    state = make_box(tmp_path / "state", reporter=keys)
    (state / "box").mkdir()
    (state / "box" / "broker-ca.pem").write_bytes(authority.ca.read_bytes())
    certificate, key = authority.issue("box-1")
    program = ["tests.health.reporter_with_files", str(state), str(certificate), str(key)]
    process = RunningProcess(state, "reporter", program)
    yield process
    process.close()


def test_a_session_is_born_and_tells_data_in_sequence(host: Host, reporter: RunningProcess) -> None:
    until(lambda: len(host.of("NDATA")) >= 2)

    own = [payload for topic, payload in host.heard if topic.edge_node == EDGE_NODE and topic.kind != Kind.NDEATH]
    assert [payload.seq for payload in own] == list(range(len(own)))
    birth = own[0]
    assert host.heard[0][0] == Topic("QROO-TEST", Kind.NBIRTH, EDGE_NODE)
    assert birth.value(REBIRTH) is False
    assert isinstance(birth.value("bdSeq"), int)
    assert birth.value("State") == "UNKNOWN"  # no supervisor runs in this test: its figures are told as missing
    assert birth.value("Host/Memory bytes") > 0


@pytest.mark.case("T41")
def test_kill_9_is_told_by_the_will_within_the_keep_alive(host: Host, reporter: RunningProcess) -> None:
    birth = until(lambda: host.of("NBIRTH"))[0]
    began = time.monotonic()

    reporter.kill()

    death = until(lambda: host.of("NDEATH"), KEEP_ALIVE_S * 1.5)[0]
    assert time.monotonic() - began < KEEP_ALIVE_S * 1.5
    assert death.value("bdSeq") == birth.value("bdSeq")
    assert death.seq is None


def test_an_orderly_end_tells_its_death_too(host: Host, reporter: RunningProcess) -> None:
    birth = until(lambda: host.of("NBIRTH"))[0]
    assert reporter.stop() == 0
    assert until(lambda: host.of("NDEATH"))[0].value("bdSeq") == birth.value("bdSeq")


@pytest.mark.case("T08")
def test_the_box_obeys_rebirth_and_nothing_else(host: Host, reporter: RunningProcess) -> None:
    until(lambda: host.of("NBIRTH"))
    own, other = Topic("QROO-TEST", Kind.NCMD, EDGE_NODE), Topic("QROO-TEST", Kind.NCMD, "MUN:OTHER:SS1")
    command = encode(Payload(0, (Metric(REBIRTH, True),)))
    for topic, payload in (
        (own, b"\xff" * 1000),
        (own, encode(Payload(0, (Metric(REBIRTH, False),)))),
        (own, encode(Payload(0, (Metric("Node Control/Reboot", True),)))),
        (own, encode(Payload(0, (Metric(REBIRTH, "true"),)))),
        (other, command),
    ):
        host.publish(str(topic), payload)
    until(lambda: len(host.of("NDATA")) >= 1)
    assert len(host.of("NBIRTH")) == 1

    host.publish(str(own), command)
    host.publish(str(own), command)  # a second one at once: births are limited to one in a second

    until(lambda: len(host.of("NBIRTH")) == 2)
    time.sleep(0.3)
    assert [birth.seq for birth in host.of("NBIRTH")] == [0, 0]


@pytest.mark.rule("IV.1.VIII")
@pytest.mark.case("T41")
def test_what_happens_while_the_broker_is_away_is_told_afterwards(
    broker: Broker, authority: TestAuthority, reporter: RunningProcess
) -> None:
    first = Host(broker, authority)
    until(lambda: first.of("NBIRTH"))
    broker.stop()
    first.close()
    time.sleep(0.2)
    facts = {"before": "OPERATIONAL", "name": "María Pérez; DROP", "code": "-9"}
    reporter.client("supervisor").call("incident", Incident("process.ended", "signer", 1_800_000_000_000_000, facts))
    assert len(list((reporter.state / "outbox").glob("incident-*"))) == 1
    until(lambda: list((reporter.state / "outbox").glob("report-*")))
    reporter.kill()
    reporter.restart()

    broker.start()
    host = Host(broker, authority, "second")

    told = until(lambda: [payload for payload in host.of("NDATA") if payload.value("Incident/Number") is not None], 20)[0]
    assert told.value("Incident/Kind") == "process.ended"
    assert told.value("Incident/Process") == "signer"
    assert told.value("Incident/Facts") == "before=OPERATIONAL code=-9"
    assert told.value("Incident/At") == 1_800_000_000_000
    until(lambda: any(metric.historical for payload in host.of("NDATA") for metric in payload.metrics))
    until(lambda: not list((reporter.state / "outbox").glob("*-*")))
    host.close()


def test_other_processes_speak_for_themselves_only(host: Host, reporter: RunningProcess) -> None:
    until(lambda: host.of("NBIRTH"))
    reporter.client("relay").call("incident", Incident("peer.protocol", "signer", 1, {}))
    told = until(lambda: [one for one in host.of("NDATA") if one.value("Incident/Number") is not None])[0]
    assert told.value("Incident/Process") == "relay"
    with pytest.raises(RefusedError):
        reporter.client("relay").call("box_status")


def test_an_unenrolled_box_waits_by_name_and_tells_its_supervisor(tmp_path: Path) -> None:
    state = make_box(tmp_path / "box", reporter=f'broker_host = "127.0.12.1"\nbroker_port = {os.getpid() % 1000 + 20000}')
    supervisor, reporter = RunningProcess(state, "supervisor"), RunningProcess(state, "reporter")
    try:
        from appliance.supervision.wire import BoxStatus

        console = supervisor.client("console")

        def waits_for() -> list[str]:
            processes = console.call("box_status", None, BoxStatus).processes
            return next((one.waits_for for one in processes if one.process == "reporter"), [])

        assert until(lambda: waits_for() == ["box.broker-ca"] and waits_for()) == ["box.broker-ca"]
        assert reporter.stop() == 0
        assert "_rust" not in Path(f"/proc/{supervisor.child.pid}/maps").read_text()
    finally:
        reporter.close()
        supervisor.close()
