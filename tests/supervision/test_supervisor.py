"""The supervisor as a real process: channels bound by the test, changes, audit, restart."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.access.rights import HTTP, HTTPS, OPENAPI3, Client, Right, Service
from appliance.errors import RefusedError, UnavailableError, XacbeError
from appliance.net.local_client import BlockingClient
from appliance.supervision.policy import EXIT_CORRUPT
from appliance.supervision.wire import (
    Announcement,
    BoxStatus,
    ChangeClients,
    ChangeEnrolment,
    ChangeRights,
    ChangeServices,
    LocalConfiguration,
    LocalNews,
)
from tests.supervision.box import RunningProcess, make_box, until
from tests.supervision.recorder import AuditingRecorder

SUBSYSTEM = "QROO-TEST/MUN/BENITO-JUAREZ/SOLOMON"
SERVICE = f"{SUBSYSTEM}/incidentes"
DESCRIPTION = json.dumps({"openapi": "3.0.3", "paths": {"/incidentes/{folio}": {"get": {}}, "/incidentes": {"get": {}, "post": {}}}})


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_box(tmp_path / "box", supervisor="announcement_s_max = 1")


@pytest.fixture
def recorder(state: Path) -> Iterator[AuditingRecorder]:
    part = AuditingRecorder(state)
    yield part
    part.close()


@pytest.fixture
def supervisor(state: Path) -> Iterator[RunningProcess]:
    process = RunningProcess(state, "supervisor")
    yield process
    process.close()


@pytest.fixture
def console(supervisor: RunningProcess) -> Iterator[BlockingClient]:
    client = supervisor.client("console")
    yield client
    client.close()


def configured(console: BlockingClient) -> LocalConfiguration:
    found: LocalConfiguration = console.call("list_configuration", None, LocalConfiguration)
    return found


def fill(console: BlockingClient) -> None:
    console.call("change_clients", ChangeClients(Client(SUBSYSTEM, HTTP)))
    console.call("change_services", ChangeServices(Service(SERVICE, "http://127.0.0.1:9/x", OPENAPI3), document=DESCRIPTION.encode()))
    console.call("change_rights", ChangeRights(Right(SERVICE, "QROO-TEST/EST/SSP/SOLOMON", "get", "/incidentes/*")))


def test_a_change_is_audited_and_survives_kill_9(supervisor: RunningProcess, recorder: AuditingRecorder, console: BlockingClient) -> None:
    fill(console)
    before = configured(console)

    supervisor.kill()
    supervisor.restart()

    assert configured(supervisor.client("console")) == before
    assert before.rights == [Right(SERVICE, "QROO-TEST/EST/SSP/SOLOMON", "GET", "/incidentes/*")]
    assert before.services[0].endpoints == (("GET", "/incidentes"), ("GET", "/incidentes/*"), ("POST", "/incidentes"))
    assert (supervisor.state / "box" / "descriptions" / f"{before.services[0].document}.json").read_text() == DESCRIPTION
    assert [(caller, record.event) for caller, record in recorder.records] == [
        ("supervisor", "client.put"),
        ("supervisor", "service.put"),
        ("supervisor", "right.granted"),
    ]


def test_without_its_audit_record_a_change_does_not_happen(supervisor: RunningProcess, console: BlockingClient) -> None:
    with pytest.raises(UnavailableError) as refusal:
        console.call("change_clients", ChangeClients(Client(SUBSYSTEM, HTTP)))

    assert refusal.value.kind == "audit.unavailable"
    assert configured(console).clients == []


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("change_clients", ChangeClients(Client("QROO-TEST/MUN/BENITO-JUAREZ", HTTP))), "local.invalid"),
        (("change_clients", ChangeClients(Client("QROO/MUN/X/Y", HTTP))), "local.invalid"),
        (("change_clients", ChangeClients(Client("SOLOMON", HTTP))), "identifier.malformed"),
        (("change_clients", ChangeClients(Client(SUBSYSTEM, "telnet"))), "local.invalid"),
        (("change_clients", ChangeClients(Client(SUBSYSTEM, "mtls"))), "local.invalid"),
        (("change_clients", ChangeClients(Client(SUBSYSTEM, "mtls", (b"not DER",)))), "local.invalid"),
        (("change_clients", ChangeClients(Client(SUBSYSTEM, HTTPS), remove=True)), "access.client_unknown"),
        (("change_services", ChangeServices(Service(SERVICE, "http://x/"))), "access.client_unknown"),
        (("change_services", ChangeServices(Service(f"{SUBSYSTEM}/listMethods", "http://x/"))), "local.invalid"),
        (("change_services", ChangeServices(Service(SERVICE, "ftp://x/"))), "local.invalid"),
        (("change_services", ChangeServices(Service(SERVICE, "http://user:word@x/"))), "local.invalid"),
        (("change_services", ChangeServices(Service(SERVICE, "http://x/", OPENAPI3))), "local.invalid"),
        (("change_services", ChangeServices(Service(SERVICE, "http://x/", OPENAPI3), document=b"openapi: 3.0.0")), "description.malformed"),
        (
            ("change_services", ChangeServices(Service(SERVICE, "http://x/", OPENAPI3), document=b'{"swagger":"2.0"}')),
            "description.malformed",
        ),
        (("change_rights", ChangeRights(Right(SERVICE, "QROO-TEST/EST/SSP/SOLOMON"))), "access.unknown_service"),
        (("change_rights", ChangeRights(Right(SERVICE, "QROO-TEST/EST"))), "identifier.malformed"),
        (("change_rights", ChangeRights(Right(SERVICE, "GROUP:"))), "local.invalid"),
        (("change_rights", ChangeRights(Right(SERVICE, SUBSYSTEM, "STEAL"))), "local.invalid"),
        (("change_rights", ChangeRights(Right(SERVICE, SUBSYSTEM, "GET", "incidentes"))), "local.invalid"),
        (("change_rights", ChangeRights(Right(SERVICE, SUBSYSTEM), remove=True)), "local.no_such_right"),
    ],
)
def test_a_wrong_change_is_refused_by_kind(tmp_path: Path, change: tuple[str, object], kind: str) -> None:
    # Plans are checked in the store itself: a process for each line would take a minute.
    from appliance.access.local_configuration import LocalConfigurationStore

    store = LocalConfigurationStore(tmp_path / "box", "QROO-TEST")
    name, asked = change

    def plan() -> None:
        match asked:
            case ChangeClients():
                store.plan_client(asked.client, asked.remove)
            case ChangeServices():
                store.plan_service(asked.service, asked.remove, asked.document)
            case ChangeRights():
                store.plan_right(asked.right, asked.remove)

    with pytest.raises(XacbeError) as refusal:
        plan()

    assert refusal.value.kind == kind, name
    assert store.generation == 0


def test_a_client_with_services_stays_and_a_removed_service_takes_its_rights(
    supervisor: RunningProcess, recorder: AuditingRecorder, console: BlockingClient
) -> None:
    fill(console)
    with pytest.raises(RefusedError, match="still offers"):
        console.call("change_clients", ChangeClients(Client(SUBSYSTEM), remove=True))

    console.call("change_services", ChangeServices(Service(SERVICE, ""), remove=True))
    console.call("change_clients", ChangeClients(Client(SUBSYSTEM), remove=True))

    found = configured(console)
    assert (found.clients, found.services, found.rights) == ([], [], [])


def test_the_relay_hears_of_a_change_at_once_and_waits_otherwise(
    supervisor: RunningProcess, recorder: AuditingRecorder, console: BlockingClient
) -> None:
    relay = supervisor.client("relay")
    first = relay.call("local_configuration", LocalNews(-1), LocalConfiguration)
    began = time.monotonic()
    waited = relay.call("local_configuration", LocalNews(first.generation, 0.3), LocalConfiguration)
    assert waited == first
    assert 0.25 < time.monotonic() - began < 3

    change = threading.Timer(0.2, lambda: console.call("change_clients", ChangeClients(Client(SUBSYSTEM, HTTP))))
    change.start()
    news = relay.call("local_configuration", LocalNews(first.generation, 8), LocalConfiguration)
    change.join()

    assert news.generation == first.generation + 1
    assert [client.subsystem for client in news.clients] == [SUBSYSTEM]


def test_announcements_are_heard_and_a_process_that_stops_speaking_is_silent(supervisor: RunningProcess) -> None:
    relay, console = supervisor.client("relay"), supervisor.client("console")

    relay.call("announce", Announcement("relay", 1, os.getpid(), "waiting", ["signer"], {"access.no_right": 3}, {}))
    heard = next(one for one in console.call("box_status", None, BoxStatus).processes if one.process == "relay")
    assert (heard.instance, heard.state, heard.waits_for, heard.counters) == (1, "waiting", ["signer"], {"access.no_right": 3})

    states = until(
        lambda: {one.process: one.state for one in console.call("box_status", None, BoxStatus).processes if one.state == "silent"}
    )
    assert states["relay"] == "silent"


def test_a_process_announces_only_itself(supervisor: RunningProcess) -> None:
    with pytest.raises(RefusedError) as refusal:
        supervisor.client("relay").call("announce", Announcement("signer", 0, 1, "serving", [], {}, {}))
    assert refusal.value.kind == "announcement.refused"


def test_a_box_without_enrolment_is_unprovisioned_and_then_locked_until_the_token_signs(
    supervisor: RunningProcess, recorder: AuditingRecorder, console: BlockingClient
) -> None:
    status: BoxStatus = console.call("box_status", None, BoxStatus)
    assert (status.server_id, status.state, status.advice[0]) == ("QROO-TEST/MUN/BENITO-JUAREZ/SS1", "UNPROVISIONED", "advice.enrol")

    console.call("change_enrolment", ChangeEnrolment(True))

    status = console.call("box_status", None, BoxStatus)
    assert (status.state, status.advice[0]) == ("LOCKED", "advice.signer_away")


def test_a_held_process_holds_the_box(supervisor: RunningProcess, console: BlockingClient) -> None:
    mark = supervisor.state / "run" / "signer" / "held"
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text("corrupt_state")

    status: BoxStatus = console.call("box_status", None, BoxStatus)

    assert (status.state, status.advice[0]) == ("HELD", "advice.held")


def test_other_channels_cannot_change_anything(supervisor: RunningProcess, recorder: AuditingRecorder) -> None:
    for caller in ("relay", "reporter", "signer"):
        with pytest.raises(RefusedError) as refusal:
            supervisor.client(caller).call("change_clients", ChangeClients(Client(SUBSYSTEM, HTTP)))
        assert refusal.value.kind == "caller.not_granted"
    assert recorder.records == []


def test_sigterm_ends_it_in_order(supervisor: RunningProcess, console: BlockingClient) -> None:
    configured(console)
    assert supervisor.stop() == 0


def test_unreadable_generations_stop_it_with_the_code_that_holds(state: Path) -> None:
    (state / "box").mkdir()
    (state / "box" / "local.json").write_bytes(b"torn")

    process = RunningProcess(state, "supervisor")

    assert process.child.wait(10) == EXIT_CORRUPT
    assert process.events()[-1]["kind"] == "local.corrupt"
    process.close()


def test_it_imports_no_cryptography(supervisor: RunningProcess, console: BlockingClient) -> None:
    configured(console)
    maps = Path(f"/proc/{supervisor.child.pid}/maps").read_text()
    assert "_rust" not in maps
    assert "lxml" not in maps
