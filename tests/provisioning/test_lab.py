"""A laboratory that cannot come up says so at once, and leaves nothing behind."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from provisioning.lab import addresses, layout, network
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
