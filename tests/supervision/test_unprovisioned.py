"""A box without settings: every process starts, stays, and says what it waits for. Driven by the laboratory's keeper, as systemd does."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from appliance import settings, topology
from appliance.errors import SettingsError, XacbeError
from appliance.hsm.makers import open_token
from appliance.net.local_sockets import BlockingClient, channel_path
from appliance.settings import NOBODY, BoxSettings, RelaySettings, SignerSettings
from appliance.supervision.wire import BoxStatus
from provisioning.lab import keeper, layout
from provisioning.lab.keeper import Plan
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


@pytest.mark.lab
def test_every_process_of_an_unprovisioned_box_is_up_and_names_what_it_waits_for(tmp_path: Path) -> None:
    box = dataclasses.replace(layout.boxes(tmp_path, "127.0.50", 1, False)[0], address="127.0.50.61")
    layout.make_state(box)
    (tmp_path / keeper.PLAN_FILE).write_bytes(msgspec.json.encode(Plan(layout.box_units(box))))
    child = subprocess.Popen([sys.executable, "-I", "-m", "provisioning.lab.keeper", str(tmp_path)])
    console = BlockingClient(channel_path(box.state, "supervisor", topology.CONSOLE), 5)

    def everybody() -> BoxStatus | None:
        try:
            found: BoxStatus = console.call("box_status", None, BoxStatus)
        except XacbeError:
            return None
        return found if {one.process for one in found.processes} == set(topology.BY_NAME) else None

    try:
        status = until(everybody, 30)
        waits = {one.process: one.waits_for for one in status.processes}
        running = keeper.ask(tmp_path, "status")
    finally:
        console.close()
        keeper.ask(tmp_path, "stop", timeout_s=30)
        child.wait(20)

    assert status.state == "UNPROVISIONED"
    assert status.advice[0] == "advice.enrol"
    assert "token" in waits["signer"]
    assert "anchor" in waits["trust_agent"]
    assert {"configuration", "certificates"} <= {*waits["relay"]}
    assert all(waits[name][0] == "settings" for name in topology.BY_NAME if name != "supervisor")
    assert running is not None
    assert {unit["restarts"] for unit in running["units"].values()} == {0}
