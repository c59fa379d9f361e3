"""A provider with several boxes, a box with several members: who is asked, and what happens when one of them is not there (sheet 10.1)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from appliance.model.identifiers import ServerId
from provisioning.centre import Centre
from provisioning.lab import network
from tests.boxes.conftest import BIN, Lab

pytestmark = pytest.mark.lab

BASE = "127.0.34"
SOONER = "\n[trust_agent]\nconfiguration_fetch_interval_s = 1\n"
NOBODY_THERE = f"{BASE}.99"
SEEN_S_MAX = 20.0


@pytest.fixture(scope="module")
def own_lab() -> Iterator[Lab]:
    """Box 2 is SSP's; box 3 is FGE's and serves SSP besides."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-several-"))
    lab = Lab(directory, network.up(directory, 3, "softhsm", BASE, 1, lambda line: None, settings=SOONER))
    request, approval = directory / "again.request.json", directory / "again.approval.json"
    done(lab.xacbe(3, "enrolment", "request", "--out", str(request), "--member", "EST/SSP"))
    words = ["enrolment", "approve", str(directory / "ceiqroo"), str(request), "--address", lab.box(3)["address"], "--subsystem", "SOLOMON"]
    done(subprocess.run([str(BIN / "ceiqroo"), *words, "--out", str(approval)], capture_output=True, text=True, check=False, timeout=60))
    done(lab.xacbe(3, "enrolment", "install", str(approval)))
    subsystem = lab.service.rpartition("/")[0]
    done(lab.xacbe(3, "client", "add", subsystem, "--mode", "http"))
    done(lab.xacbe(3, "service", "add", subsystem, "incidentes", "--url", lab.document["services"][0]["system_url"]))
    done(lab.xacbe(3, "access", "add", lab.service, lab.client))
    yield lab
    network.down(directory)
    shutil.rmtree(directory)


def done(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.returncode == 0, ended.stderr


def ask(lab: Lab, server: str = "") -> requests.Response:
    headers = {"X-Road-Client": lab.client, **({"X-Road-Security-Server": server} if server else {})}
    return requests.post(lab.url("/eco"), data=b"{}", headers=headers, timeout=30)


def until(lab: Lab, held: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SEEN_S_MAX
    while not held():
        assert time.monotonic() < deadline, "the boxes did not see the change"
        time.sleep(0.2)


def answered_by(lab: Lab, number: int) -> int:
    return sum(1 for record in lab.records(number) if record["side"] == "provider" and record["direction"] == "response")


def test_a_client_may_ask_for_one_given_box(own_lab: Lab) -> None:
    for number in (2, 3):
        server = str(own_lab.box(number)["server_id"])
        until(own_lab, lambda server=server: ask(own_lab, server).status_code == 200)  # type: ignore[misc]  # bound now
        before = answered_by(own_lab, number)
        answer = ask(own_lab, server)
        assert answer.status_code == 200, answer.text
        assert answered_by(own_lab, number) == before + 1

    wrong = ask(own_lab, str(own_lab.box(1)["server_id"]))
    assert wrong.json()["type"] == "server.clientproxy.invalid_security_server"


def test_when_one_box_is_not_there_the_other_answers(own_lab: Lab) -> None:
    second = ServerId.parse(own_lab.box(2)["server_id"])
    with Centre.open(own_lab.directory / "ceiqroo").registry() as registry:
        registry.register_server(second, NOBODY_THERE, (), time.time_ns() // 1000)
        until(own_lab, lambda: ask(own_lab, str(second)).status_code != 200)
        begun = time.monotonic()
        answers = [ask(own_lab).status_code for _ in range(10)]
        assert answers == [200] * 10
        assert time.monotonic() - begun < 10, "a box that is away costs no time-out for each request"
        registry.register_server(second, own_lab.box(2)["address"], (), time.time_ns() // 1000)
    until(own_lab, lambda: ask(own_lab, str(second)).status_code == 200)


def test_a_box_in_maintenance_is_left_out_and_all_in_maintenance_is_said(own_lab: Lab) -> None:
    servers = [ServerId.parse(own_lab.box(number)["server_id"]) for number in (2, 3)]
    with Centre.open(own_lab.directory / "ceiqroo").registry() as registry:
        registry.set_maintenance(servers[1], "mantenimiento hasta las 18 h")
        until(own_lab, lambda: ask(own_lab, str(servers[1])).status_code != 200)
        before = answered_by(own_lab, 3)
        assert [ask(own_lab).status_code for _ in range(6)] == [200] * 6
        assert answered_by(own_lab, 3) == before

        registry.set_maintenance(servers[0], "mantenimiento hasta las 18 h")
        until(own_lab, lambda: ask(own_lab).status_code != 200)
        refused = ask(own_lab)
        assert refused.json()["type"] == "server.clientproxy.maintenance_mode"
        assert "18 h" in refused.text
        for server in servers:
            registry.set_maintenance(server, None)
    until(own_lab, lambda: ask(own_lab).status_code == 200)
