"""A box without settings: every process starts, stays, and says what it waits for. Driven by the laboratory's keeper, as systemd does."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from appliance import settings, topology
from appliance.errors import SettingsError, XacbeError
from appliance.hsm.makers import open_token
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.settings import NOBODY, BoxSettings, RelaySettings, SignerSettings
from appliance.supervision.wire import BoxStatus
from provisioning.lab import keeper, layout
from provisioning.lab.keeper import Plan, Unit
from tests.supervision.box import until


def test_without_a_settings_file_the_defaults_hold_and_the_token_is_the_tpm(tmp_path: Path) -> None:
    assert settings.load(tmp_path, BoxSettings) == NOBODY
    assert settings.load(tmp_path, RelaySettings) == RelaySettings()
    assert settings.load(tmp_path, SignerSettings).token == "tpm2"  # noqa: S105  a kind of token


def test_a_settings_file_that_is_empty_is_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "box.toml").touch()

    with pytest.raises(SettingsError, match=r"box\.instance: missing"):
        settings.load(tmp_path, BoxSettings)


def test_an_image_without_software_keys_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "appliance.hsm.software", None)

    with pytest.raises(SettingsError, match="for the bench"):
        open_token(SignerSettings(token="software"), "QROO-TEST", tmp_path)  # noqa: S106  a kind of token


@pytest.fixture
def box(tmp_path: Path) -> layout.Box:
    made = dataclasses.replace(layout.boxes(tmp_path, "127.0.50", 1, False)[0], address="127.0.50.61")
    layout.make_state(made)
    return made


@contextmanager
def kept(directory: Path, units: list[Unit]) -> Iterator[None]:
    """The keeper with these units, as its own program."""
    (directory / keeper.PLAN_FILE).write_bytes(msgspec.json.encode(Plan(units)))
    child = subprocess.Popen([sys.executable, "-I", "-m", "provisioning.lab.keeper", str(directory)])
    try:
        until(lambda: keeper.ask(directory, "status"), 30)
        yield
    finally:
        keeper.ask(directory, "stop", timeout_s=30)
        child.wait(20)


def heard(console: BlockingClient) -> BoxStatus | None:
    try:
        found: BoxStatus = console.call("box_status", None, BoxStatus)
    except XacbeError:
        return None
    return found


@pytest.mark.lab
def test_every_process_of_an_unprovisioned_box_is_up_and_names_what_it_waits_for(tmp_path: Path, box: layout.Box) -> None:
    console = BlockingClient(channel_path(box.state, "supervisor", topology.CONSOLE), 5)

    def everybody() -> BoxStatus | None:
        found = heard(console)
        return found if found and {one.process for one in found.processes} == set(topology.BY_NAME) else None

    with kept(tmp_path, layout.box_units(box)):
        status = until(everybody, 30)
        waits = {one.process: one.waits_for for one in status.processes}
        running = keeper.ask(tmp_path, "status")
    console.close()

    assert status.state == "UNPROVISIONED"
    assert status.advice[0] == "advice.enrol"
    assert "token" in waits["signer"]
    assert "anchor" in waits["trust_agent"]
    assert {"configuration", "certificates"} <= {*waits["relay"]}
    assert all(waits[name][0] == "settings" for name in topology.BY_NAME if name != "supervisor")
    assert running is not None
    assert {unit["restarts"] for unit in running["units"].values()} == {0}


@pytest.mark.lab
def test_what_has_nothing_to_do_rests_is_known_to_rest_and_answers_when_called(tmp_path: Path, box: layout.Box) -> None:
    units = [unit for unit in layout.box_units(box) if unit.name.rpartition(".")[2] in (*topology.RESTING, "supervisor")]
    console = BlockingClient(channel_path(box.state, "supervisor", topology.CONSOLE), 5)

    def pids() -> dict[str, int]:
        answer = keeper.ask(tmp_path, "status")
        assert answer is not None
        return {name.rpartition(".")[2]: unit["pid"] for name, unit in answer["units"].items()}

    def at_rest() -> bool:
        """The supervisor says so, and there is no process."""
        found = heard(console)
        known = {one.process: (one.state, one.waits_for, one.pid) for one in found.processes} if found else {}
        told = all(known.get(name) == ("resting", ["settings"], 0) for name in topology.RESTING)
        return told and not any(pids()[name] for name in topology.RESTING)

    def known_again() -> bool:
        found = heard(console)
        return bool(found and {one.process for one in found.processes if one.state != "silent"} >= topology.RESTING)

    with kept(tmp_path, units):
        until(at_rest, 60)
        for owner, operation in (("archivist", "list_archives"), ("courier", "list_targets")):
            caller = BlockingClient(channel_path(box.state, owner, topology.CONSOLE), 30)
            assert caller.call(operation, None, list[object]) == []
            assert pids()[owner]
            caller.close()
        os.kill(pids()["supervisor"], signal.SIGKILL)  # the next one heard nobody's last word
        until(known_again, 60)
        answer = keeper.ask(tmp_path, "status")
    console.close()

    assert answer is not None
    assert {name.rpartition(".")[2]: unit["restarts"] for name, unit in answer["units"].items() if unit["restarts"]} == {"supervisor": 1}
