"""`ceiqroo fleet watch` as a program, against a real broker and a real reporter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.health.broker import Broker, TestAuthority, needs_mosquitto
from tests.supervision.box import RunningProcess, make_box

PROGRAM = [sys.executable, "-c", "from provisioning.fleet.commands import fleet_app; fleet_app()", "watch"]


@needs_mosquitto
def test_a_snapshot_shows_live_dead_and_unheard_boxes(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    broker = Broker(tmp_path, authority, "127.0.12.2")
    monitor = authority.issue("monitor")
    keys = f'broker_host = "{broker.address}"\nbroker_port = {broker.port}\nreport_interval_s = 1\nkeep_alive_s = 5'
    state = make_box(tmp_path / "state", reporter=keys)
    (state / "box").mkdir()
    (state / "box" / "broker-ca.pem").write_bytes(authority.ca.read_bytes())
    program = ["tests.health.reporter_with_files", str(state), *map(str, authority.issue("box-1"))]
    reporter = RunningProcess(state, "reporter", program)
    server_ids = ["QROO-TEST/MUN/BENITO-JUAREZ/SS1", "QROO-TEST/EST/SSP/SS1"]
    told = {"host": broker.address, "port": broker.port, "ca": str(authority.ca)}
    told |= {"monitor_cert": str(monitor[0]), "monitor_key": str(monitor[1])}
    laboratory = {"ceiqroo": {"broker": told}, "boxes": [{"server_id": server_id} for server_id in server_ids]}
    (tmp_path / "lab.json").write_text(json.dumps(laboratory))
    try:
        done = subprocess.run([*PROGRAM, str(tmp_path), "--json", "--seconds", "3"], capture_output=True, text=True, timeout=20)
        boxes = {box["edge_node"]: box for box in json.loads(done.stdout)["boxes"]}
        assert boxes["MUN:BENITO-JUAREZ:SS1"]["alive"] is True
        assert boxes["MUN:BENITO-JUAREZ:SS1"]["metrics"]["Host/Processors"] >= 1
        assert boxes["EST:SSP:SS1"]["state"] == "UNHEARD"

        watching = subprocess.Popen([*PROGRAM, str(tmp_path), "--json", "--seconds", "3"], stdout=subprocess.PIPE, text=True)
        _kill_later(reporter)
        output, _ = watching.communicate(timeout=20)
        boxes = {box["edge_node"]: box for box in json.loads(output)["boxes"]}
        assert boxes["MUN:BENITO-JUAREZ:SS1"]["state"] == "DEAD"
    finally:
        reporter.close()
        broker.stop()


def _kill_later(reporter: RunningProcess) -> None:
    import time

    time.sleep(2.2)
    reporter.kill()


def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run([*PROGRAM, str(tmp_path)], capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert "lab.json" in done.stderr


@needs_mosquitto
def test_the_table_is_drawn_in_spanish(tmp_path: Path) -> None:
    authority = TestAuthority(tmp_path)
    broker = Broker(tmp_path, authority, "127.0.12.3")
    cert, key = authority.issue("monitor")
    try:
        where = ["--broker", f"{broker.address}:{broker.port}", "--ca", str(authority.ca), "--cert", str(cert), "--key", str(key)]
        done = subprocess.run([*PROGRAM, *where, "--seconds", "1"], capture_output=True, text=True, timeout=20)
    finally:
        broker.stop()
    assert done.returncode == 0, done.stderr
    assert "Cajas de la red: 0" in done.stdout
