"""No file of a box and no memory of its processes holds private key bytes or its PIN, while the token does: searched for, not asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance.hsm.wire import KeyRecord
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from tests.boxes.conftest import Lab
from tests.hsm import softhsm_store

pytestmark = [pytest.mark.lab, pytest.mark.case("T60")]

PROCESSES = ("supervisor", "signer", "recorder", "trust_agent", "relay", "reporter")
PIECE = 1 << 20


def memory(pid: int) -> Iterator[bytes]:
    """What a process could write to as well as read, in pieces that overlap by more than any key is long."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as mem:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            where, rights, *_ = line.split()
            if not rights.startswith("rw") or "[vvar" in line:
                continue
            first, last = (int(part, 16) for part in where.split("-"))
            for at in range(first, last, PIECE):
                try:
                    mem.seek(at)
                    yield mem.read(min(PIECE + 128, last - at))
                except OSError:  # a page that was given back meanwhile, or one of a device
                    continue


def holds(pieces: Iterator[bytes], wanted: dict[str, bytes]) -> set[str]:
    found: set[str] = set()
    for piece in pieces:
        found |= {name for name, value in wanted.items() if value in piece}
    return found


def test_private_keys_are_in_the_token_alone(lab: Lab) -> None:
    state = Path(lab.box(1)["state"])
    for _ in range(3):
        answer = requests.post(lab.url("/eco"), data=b"x", headers={"X-Road-Client": lab.client, "Connection": "close"}, timeout=20)
        assert answer.status_code == 200
    pin = (state / "credentials" / "signer" / "pin").read_text()
    secrets = softhsm_store.private_values(state / "token" / "tokens", pin)
    with contextlib.closing(BlockingClient(channel_path(state, "signer", "console"))) as console:
        records: list[KeyRecord] = console.call("list_keys", None, list[KeyRecord])
    assert set(secrets) == {version.label for record in records for version in record.versions}
    for record in records:
        if record.public_key:  # these are the very keys that the box uses
            scalar = int.from_bytes(secrets[record.label])
            made = ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            assert made == record.public_key
    wanted = {f"{label} {order}": value[::step] for label, value in secrets.items() for order, step in (("big", 1), ("little", -1))}
    shown = {"certificate": x509.load_der_x509_certificate(records[0].certificates[0]).public_bytes(Encoding.DER)[:64]}

    pids = {name: pid for name in PROCESSES for pid in lab.pids(1, name)}
    assert set(pids) == set(PROCESSES)
    for name, pid in pids.items():
        assert holds(memory(pid), wanted) == set(), name
        assert ("pin" in holds(memory(pid), {"pin": pin.encode()})) == (name == "signer"), name
    assert holds(memory(pids["signer"]), shown) == {"certificate"}, "the search finds what is there"

    files = [file for file in state.rglob("*") if file.is_file() and state / "token" not in file.parents]
    assert len(files) > 20
    for file in files:
        data = file.read_bytes()
        assert not [name for name, value in wanted.items() if value in data or value.hex().encode() in data], file
        assert (pin.encode() in data) == (file == state / "credentials" / "signer" / "pin"), file
