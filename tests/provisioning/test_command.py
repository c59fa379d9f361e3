"""`ceiqroo` from outside: an instance made, a box approved, a certificate revoked."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509

from provisioning.centre import Centre
from tests.provisioning.parts import box_keys, enrolment_request


def ceiqroo(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "provisioning", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.rule("II.2.I")
def test_an_instance_a_box_and_a_revocation_by_command(tmp_path: Path) -> None:
    place = tmp_path / "QROO-TEST"
    made = ceiqroo("authority", "init", place, "--instance", "QROO-TEST", "--address", "127.0.11.1")
    assert made.returncode == 0, made.stderr
    shown = ceiqroo("anchor", place)
    assert shown.stdout == Centre.open(place).anchor_file.read_text()
    assert shown.stderr.strip() in made.stdout

    (tmp_path / "request.json").write_text(json.dumps(enrolment_request(box_keys())))
    out = tmp_path / "approval.json"
    approved = ceiqroo("enrolment", "approve", place, tmp_path / "request.json", "--address", "127.0.11.21", "--out", out)
    assert approved.returncode == 0, approved.stderr
    approval = json.loads(out.read_text())
    assert set(approval) == {"server", "certificates", "issuers", "anchor", "broker", "clients"}

    peer = x509.load_der_x509_certificate(base64.b64decode(approval["certificates"]["tls-peer"]))
    serial = f"{peer.serial_number:x}"
    assert ceiqroo("certificate", "revoke", place, serial, "--reason", "superseded").returncode == 0
    rows = {row["serial"]: row for row in json.loads(ceiqroo("certificate", "list", place, "--json").stdout)}
    assert rows[serial]["reason"] == "superseded"
    assert rows[serial]["holder"] == "QROO-TEST/MUN/TULUM/SS1"
    assert len([row for row in rows.values() if row["revoked"]]) == 1


def test_a_refusal_is_one_line_with_its_kind(tmp_path: Path) -> None:
    for words in (("anchor", tmp_path), ("member", "suspend", tmp_path, "QROO-TEST/MUN/TULUM")):
        done = ceiqroo(*words)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("centre.missing: ahí no hay ninguna instancia de CEIQROO (")
        assert len(done.stderr.splitlines()) == 1
