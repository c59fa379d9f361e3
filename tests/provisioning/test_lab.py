"""A laboratory that cannot come up says so at once and leaves nothing behind; one that runs is described as it is now."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path

import msgspec
import pytest

from provisioning.lab import addresses, keeper, layout, network
from tests.provisioning.test_command import ceiqroo

BASE = "127.0.39"


@pytest.mark.parametrize(
    "base", ["10.0.0", "127.0", "127.0.0.1", "127.0.256", "127.0.-1", "127.0.x", "127.0.01", "127.0.1\n", "", "127.0.²"]
)
def test_a_base_that_is_none_is_refused_before_anything_is_written(tmp_path: Path, base: str) -> None:
    place = tmp_path / "lab"

    with pytest.raises(addresses.AddressError, match="three octets"):
        network.up(place, 1, "software", base, 1, lambda line: None)
    assert not place.exists()


@pytest.mark.parametrize(("host", "port"), [(f"{BASE}.1", layout.OCSP_PORT), (f"{BASE}.2", layout.SYSTEM_PORT), (f"{BASE}.12", 5500)])
def test_an_address_in_use_is_named_before_anything_is_written(tmp_path: Path, host: str, port: int) -> None:
    place = tmp_path / "lab"
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen()

        done = ceiqroo("lab", "up", place, "--boxes", "2", "--token", "software", "--base", BASE)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"lab.address: el laboratorio no puede usar esas direcciones ({host}:{port} is in use)\n"
    assert not place.exists()


def test_a_file_where_the_laboratory_should_be_is_one_line(tmp_path: Path) -> None:
    place = tmp_path / "file"
    place.touch()

    done = ceiqroo("lab", "up", place, "--base", BASE)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"command.failed: el sistema operativo no pudo hacerlo ({place}: File exists)\n"


def test_a_single_box_provides_the_services_itself(tmp_path: Path) -> None:
    [box] = layout.boxes(tmp_path, BASE, 1, separate=False)

    assert {(service["box"], service["id"].rpartition("/")[0]) for service in network._services([box], BASE)} == {(1, box.subsystem)}


def test_the_description_follows_a_process_that_was_started_again(tmp_path: Path) -> None:
    unit = keeper.Unit(name="box1.sleeper", argv=["/bin/sleep", "60"], log=str(tmp_path / "log"))
    (tmp_path / keeper.PLAN_FILE).write_bytes(msgspec.json.encode(keeper.Plan([unit])))
    file = tmp_path / network.LAB_FILE
    file.write_text(json.dumps({"boxes": [{"pids": {}}], "ceiqroo": {}}))
    network._start_keeper(tmp_path)
    try:
        first = _sleeper(tmp_path)
        os.kill(first, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while (second := _sleeper(tmp_path)) in (0, first) and time.monotonic() < deadline:
            time.sleep(0.05)

        assert second not in (0, first)
        assert json.loads(file.read_text())["boxes"][0]["pids"] == {"sleeper": [second]}
    finally:
        network.down(tmp_path)
    assert network.status(tmp_path) is None


def _sleeper(directory: Path) -> int:
    """As `status` gives it; 0 while it does not run."""
    document = network.status(directory)
    assert document is not None
    return int(document["boxes"][0]["pids"].get("sleeper", [0])[0])
