"""Checkpoints as notes: what the specification and OpenSSL make of them, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from appliance.hsm.wire import CheckpointRequest
from appliance.messagelog import checkpoint
from appliance.messagelog.checkpoint import Checkpoint, CheckpointInvalidError, origin_of
from tests.messagelog.drafts import NOW_US, StillClock
from tests.messagelog.log_key import SERVER, LogKey

ROOT = hashlib.sha256(b"root").digest()
KEY = LogKey(StillClock())
NOTE = KEY.sign(CheckpointRequest(20_852_163, ROOT, NOW_US, 7)).note


def test_a_note_has_the_lines_of_the_specification() -> None:
    assert NOTE.decode().split("\n")[:6] == [
        f"xacbe.log/{SERVER}",
        "20852163",
        base64.b64encode(ROOT).decode(),
        f"at {NOW_US}",
        "counter 7",
        "",
    ]
    *_, signature_line, end = NOTE.decode().split("\n")
    assert end == ""
    mark, name, signed = signature_line.split(" ")
    assert (mark, name) == ("—", f"xacbe.log/{SERVER}")
    assert base64.b64decode(signed)[:4] == hashlib.sha256(KEY.public_key).digest()[:4]


def test_openssl_agrees_with_the_signature(tmp_path: Path) -> None:
    text, _, signature_line = NOTE.decode().rpartition("\n\n")
    (tmp_path / "text").write_text(text + "\n")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature_line.split(" ")[2])[4:])
    (tmp_path / "key.pem").write_bytes(KEY.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "text"]
    judged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert judged.stdout.strip() == "Verified OK"


@given(st.integers(0, 1 << 60), st.binary(min_size=32, max_size=32), st.one_of(st.none(), st.integers(0, 1 << 60)))
def test_what_was_signed_is_what_is_read(size: int, root: bytes, counter: int | None) -> None:
    note = KEY.sign(CheckpointRequest(size, root, NOW_US, counter)).note

    found = checkpoint.check(note, [KEY.public_key])

    assert found == Checkpoint(origin_of(SERVER), size, root, NOW_US, counter)
    assert found.server == SERVER


@pytest.mark.case("T26")
def test_every_changed_byte_of_a_note_is_found() -> None:
    for at in range(len(NOTE)):
        for change in (0x01, 0x20, 0x80):
            changed = bytearray(NOTE)
            changed[at] ^= change
            with pytest.raises(CheckpointInvalidError):
                checkpoint.check(bytes(changed), [KEY.public_key])


def test_an_unknown_signature_beside_ours_is_ignored_and_one_alone_refused() -> None:
    other = LogKey(StillClock()).sign(CheckpointRequest(20_852_163, ROOT, NOW_US, 7)).note
    both = NOTE + other.rpartition(b"\n\n")[2]

    assert checkpoint.check(both, [KEY.public_key]).size == 20_852_163
    with pytest.raises(CheckpointInvalidError):
        checkpoint.check(other, [KEY.public_key])


def test_an_rsa_key_signs_under_an_id_of_its_own() -> None:
    key = rsa.generate_private_key(65537, 2048)
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = Checkpoint(origin_of(SERVER), 5, ROOT, NOW_US)
    note = checkpoint.note_of(made, der, key.sign(made.text, padding.PKCS1v15(), hashes.SHA256()))

    assert checkpoint.check(note, [der, KEY.public_key]) == made
    assert checkpoint.read_note(note).signatures[0][1] != hashlib.sha256(der).digest()[:4]


def test_a_key_that_signs_no_checkpoints_is_refused_by_name() -> None:
    with pytest.raises(CheckpointInvalidError):
        checkpoint.check(NOTE, [b"no key"])
    curve = ec.generate_private_key(ec.SECP384R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(CheckpointInvalidError):
        checkpoint.check(NOTE, [curve])


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_no_checkpoint(noise: bytes) -> None:
    for data in (noise, NOTE[:100] + noise, noise + NOTE[-120:]):
        with pytest.raises(CheckpointInvalidError):
            checkpoint.read_checkpoint(data)


def test_a_server_id_with_odd_letters_gives_an_origin_without_spaces() -> None:
    origin = origin_of("QROO-TEST/GOB/Año 1+1/SS 1")

    assert " " not in origin
    assert "+" not in origin
    assert Checkpoint(origin, 0, ROOT, 0).server == "QROO-TEST/GOB/Año 1+1/SS 1"
