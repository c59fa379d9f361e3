"""Evidence in a whole network: clocks that differ, services that fall silent, messages that are withdrawn, members that are suspended."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from provisioning.lab import keeper, network
from tests.boxes.conftest import BIN, Lab

BASE = "127.0.56"
SETTINGS = "\n[trust_agent]\nconfiguration_fetch_interval_s = 1\n"
SERVICES = "ceiqroo.services"
GRACE_S = 12


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A network of its own: what is done to its centre would disturb others."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-evidence-"))
    document = network.up(directory, 2, "softhsm", BASE, 1, lambda line: None, settings=SETTINGS)
    try:
        yield Lab(directory, document)
    finally:
        network.down(directory)
    shutil.rmtree(directory)


@contextmanager
def centre(lab: Lab, *options: str) -> Iterator[None]:
    """CEIQROO's services as the test wants them, in place of the laboratory's own."""
    keeper.ask(lab.directory, f"hold {SERVICES}")
    command = [str(BIN / "ceiqroo"), "serve", str(lab.directory / "ceiqroo"), *options]
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert served.stdout is not None
        assert served.stdout.readline().startswith("ready")
        yield
    finally:
        served.terminate()
        served.communicate(timeout=20)
        keeper.ask(lab.directory, f"release {SERVICES}")


def until(condition: Callable[[], Any], wait_s: float, why: str) -> Any:
    ends = time.monotonic() + wait_s
    while time.monotonic() < ends:
        if found := condition():
            return found
        time.sleep(0.25)
    raise AssertionError(why)


def asked(lab: Lab) -> requests.Response:
    return requests.get(lab.url("/incidentes"), headers={"X-Road-Client": lab.client}, timeout=60)


def status(lab: Lab, number: int = 1) -> dict[str, Any]:
    done = lab.xacbe(number, "status", "--json")
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def horizons(lab: Lab, number: int = 1) -> dict[str, dict[str, Any]]:
    done = lab.xacbe(number, "autonomy", "--json")
    return {one["service"]: one for one in json.loads(done.stdout)["horizons"]}


@pytest.mark.rule("IV.3.V", "IV.3.VI", "II.2.II")
def test_a_box_says_how_long_it_could_go_on_without_each_service(lab: Lab) -> None:
    assert asked(lab).status_code == 200

    found = horizons(lab)

    assert set(found) == {"configuration", "ocsp", "tsa", "certificates", "disk", "update"}
    assert 3.9 * 3600 < found["tsa"]["left_s"] <= 4 * 3600
    assert 7.5 * 3600 < found["ocsp"]["left_s"] <= 8 * 3600 - 600
    assert 8.9 * 3600 < found["configuration"]["left_s"] <= 9 * 3600
    assert not any(one["silent"] for one in found.values())
    assert lab.xacbe(1, "autonomy").returncode == 0


class Sink:
    """An information system that takes notices."""

    def __init__(self, address: str) -> None:
        self.notices: list[dict[str, Any]] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                sink.notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer((address, 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://{self.server.server_address[0]!s}:{self.server.server_port}/avisos"

    def messages(self) -> set[tuple[str, str, str]]:
        return {(one["id"], one["direction"], one["unconfirmed"]) for notice in self.notices for one in notice["messages"]}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.mark.rule("IV.3.VI")
@pytest.mark.case("T38", "T39", "T41")
def test_what_was_delivered_without_a_stamp_and_got_none_is_withdrawn_on_both_sides(lab: Lab) -> None:
    file = lab.directory / "ceiqroo" / "centre.json"
    before = file.read_text()
    sinks = [Sink(f"{BASE}.{number}") for number in (5, 6)]
    try:
        for number, sink in enumerate(sinks, start=1):
            done = lab.xacbe(number, "client", "set-notices", lab.document["clients"][number - 1]["id"], sink.url)
            assert done.returncode == 0, done.stderr
        settings = json.loads(before)
        settings["parameters"]["stamp_grace_s"] = GRACE_S
        file.write_text(json.dumps(settings))
        with centre(lab, "--only", "configuration", "--only", "ocsp"):
            until(lambda: horizons(lab)["tsa"]["left_s"] <= GRACE_S and horizons(lab, 2)["tsa"]["left_s"] <= GRACE_S, 30, "no new grace")
            answer = asked(lab)
            assert answer.status_code == 200, answer.text
            query_id = answer.headers["x-road-id"]
            assert any(one["state"] == "provisional" for one in lab.records(2, "--id", query_id))
            until(lambda: status(lab)["state"] == "AUTONOMOUS", 20, "no countdown")
            assert horizons(lab)["tsa"]["silent"]
            until(lambda: lab.records(2, "--unconfirmed", "--id", query_id), 40, "the request's deadline passed unseen")
            until(lambda: lab.records(1, "--unconfirmed", "--id", query_id), 40, "the answer's deadline passed unseen")
            until(lambda: (query_id, "request", "ours") in sinks[1].messages(), 30, "the provider's system was not told")
            until(lambda: (query_id, "response", "ours") in sinks[0].messages(), 30, "the client's system was not told")
            until(lambda: status(lab)["state"] == "SEALING_STOPPED", 20, "the grace is over, and the box does not say so")

        until(lambda: (query_id, "request", "theirs") in sinks[0].messages(), 90, "the client's side was not told of the request")
        until(lambda: (query_id, "response", "theirs") in sinks[1].messages(), 90, "the provider's side was not told of the answer")
        for number in (1, 2):
            told = json.loads(lab.xacbe(number, "log", "notices", "--json").stdout)
            mine = [one for one in told if one["query_id"] == query_id]
            assert {one["unconfirmed"] for one in mine} == {"ours", "theirs"}
            until(lambda number=number: _all_told(lab, number, query_id), 30, "somebody still waits")  # type: ignore[misc]  # bound now
        assert {one["state"] for one in lab.records(1, "--id", query_id)} == {"stamped", "unconfirmed"}
    finally:
        file.write_text(before)
        keeper.ask(lab.directory, f"hold {SERVICES}")
        keeper.ask(lab.directory, f"release {SERVICES}")
        for sink in sinks:
            sink.close()
    until(lambda: status(lab)["state"] == "OPERATIONAL", 40, "the state stayed")


def _all_told(lab: Lab, number: int, query_id: str) -> bool:
    told = json.loads(lab.xacbe(number, "log", "notices", "--json").stdout)
    return all(one[to]["word"] == "delivered" for one in told if one["query_id"] == query_id for to in ("system", "peer"))


@pytest.mark.rule("II.2.XIV")
def test_a_suspended_member_s_box_says_so_and_comes_back(lab: Lab) -> None:
    member = "/".join(lab.document["boxes"][1]["server_id"].split("/")[:3])
    ceiqroo = [str(BIN / "ceiqroo"), "member"]
    subprocess.run([*ceiqroo, "suspend", str(lab.directory / "ceiqroo"), member], check=True, capture_output=True)
    until(lambda: status(lab, 2)["state"] == "SUSPENDED", 30, "the box does not know")
    assert asked(lab).status_code != 200

    subprocess.run([*ceiqroo, "restore", str(lab.directory / "ceiqroo"), member], check=True, capture_output=True)

    until(lambda: status(lab, 2)["state"] == "OPERATIONAL", 30, "the box does not come back")
    until(lambda: asked(lab).status_code == 200, 30, "no exchange")


@pytest.mark.case("T40")
def test_a_clock_that_differs_by_more_than_five_minutes_stops_the_box_until_it_does_not(lab: Lab) -> None:
    """Last: a centre whose clock goes back leaves its boxes with signed times from the future, which the others would count by."""
    with centre(lab, "--offset", "400"):
        asked(lab)  # its stamps tell the time
        (refused,) = until(lambda: [answer for answer in [asked(lab)] if answer.status_code != 200], 20, "the box went on")
        assert refused.headers["X-Road-Error"].endswith("internal_error")
        assert "clock" in refused.json()["message"]
        told = until(lambda: found if (found := status(lab))["state"] == "SEALING_STOPPED" else None, 20, "no word of it")
        assert "advice.clock_stopped" in [one["key"] for one in told["advice"]]

    until(lambda: asked(lab).status_code == 200, 60, "the clocks agree again, and the box does not")
    until(lambda: status(lab)["state"] == "OPERATIONAL", 20, "the state stayed")
