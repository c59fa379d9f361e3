"""Settings talk back: every mistake is said with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance import settings
from appliance.errors import SettingsError

BOX = '[box]\ninstance = "QROO-TEST"\nmember_class = "MUN"\nmember_code = "TULUM"\nserver_code = "SS1"\n'


def test_the_defaults_need_only_the_name_of_the_box(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text(BOX)

    relay = settings.load(tmp_path, settings.RelaySettings)

    assert relay.peer == "0.0.0.0:5500"
    assert relay.system_idle_s_max < 5, "common servers close a kept connection after 5 s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOX + "[relay]\nbody_byte_max = 5\n", "relay.body_byte_max: unknown key, did you mean body_bytes_max?"),
        (BOX + "[rellay]\n", "rellay: unknown section, did you mean relay?"),
        ("[box]\n", "box.instance: missing"),
        (BOX + "[relay]\ninstances = true\n", "relay.instances: must be int"),
        (BOX + '[relay]\ninstances = "2"\n', "relay.instances: must be int"),
        (BOX + "[relay]\ninstances = 0\n", "relay.instances: must be 1 to 16"),
        (BOX + "[relay]\nsystem_idle_s_max = 0\n", "relay.system_idle_s_max: must be 1 to 3600"),
        (BOX + "[trust_agent]\nocsp_fetch_interval_s = 2881\n", "trust_agent.ocsp_fetch_interval_s: must be 60 to 2880"),
        (BOX + "[recorder]\nsegment_bytes_max = 1000\n", "recorder.segment_bytes_max: must be 32768 to 1073741824"),
        (BOX + "[recorder]\nreserve_bytes = 0\n", "recorder.reserve_bytes: must be 1048576 to 4294967296"),
        (BOX + "[recorder]\nwaiting_max = 1\n", "recorder.waiting_max: must be 16 to 65536"),
        (BOX + "[relay]\npeer_port = 70000\n", "relay.peer_port: must be 1 to 65535"),
        (BOX + "[supervisor]\nannouncement_s_max = 0\n", "supervisor.announcement_s_max: must be 1 to 3600"),
        (BOX + '[signer]\ntoken = "paper"\n', "signer.token: must be pkcs11, tpm2 or software"),
    ],
)
def test_a_mistake_is_said_with_its_key(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "box.toml").write_text(text)

    with pytest.raises(SettingsError, match=said.replace("?", r"\?").replace(".", r"\.")):
        settings.load(tmp_path, settings.BoxSettings)
