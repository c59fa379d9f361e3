"""The credential and the note of a refused PIN."""

from __future__ import annotations

from pathlib import Path

from appliance.hsm import pin
from provisioning.lab import tokens


def test_the_note_knows_the_refused_pin_and_no_other(tmp_path: Path) -> None:
    note = pin.RefusedPin(tmp_path)
    assert not note.is_noted("1234")
    note.note("1234")

    assert pin.RefusedPin(tmp_path).is_noted("1234")
    assert not note.is_noted("1235")
    assert b"1234" not in (tmp_path / "pin_refused").read_bytes()
    note.forget()
    assert not note.is_noted("1234")


def test_the_credential_is_read_from_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    assert pin.credential(tmp_path, "signer") is None
    chosen = tokens.random_pin()
    tokens.write_pin(tmp_path, chosen)

    assert pin.credential(tmp_path, "signer") == chosen
    assert (tmp_path / "credentials/signer/pin").stat().st_mode & 0o777 == 0o400
