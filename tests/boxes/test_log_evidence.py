"""The evidence of a whole box's log: proofs, the audit, CEIQROO as witness, and an attacker with root who made everything fit again."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
import requests

from appliance.messagelog import record
from tests.boxes.conftest import BIN, Lab
from tests.messagelog import forger

pytestmark = pytest.mark.lab
HEARD_S_MAX = 45.0
"""Reports go out every 30 s; a rebirth asks for one at once."""


def ceiqroo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(BIN / "ceiqroo"), *words], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.case("T26")
@pytest.mark.case("T27")
@pytest.mark.case("T29")
@pytest.mark.case("T31")
def test_a_log_is_proven_audited_witnessed_and_a_rewritten_copy_convicted(lab: Lab, tmp_path: Path) -> None:
    query = f"evidencia-{uuid.uuid4()}"
    headers = {"X-Road-Client": lab.client, "X-Road-Id": query, "X-Road-UserId": "MX-ana"}
    assert requests.post(lab.url("/eco"), data=b"x", headers=headers, timeout=30).status_code == 200
    asked = next(one for one in lab.records(2, "--id", query) if one["direction"] == "request")

    # a proof that a third person checks with CEIQROO's certificate alone
    proof, issuing = tmp_path / "record.tlog-proof", lab.document["ceiqroo"]["issuing_cert"]
    done = lab.xacbe(2, "log", "prove", str(asked["sequence"]), "--out", str(proof))
    assert done.returncode == 0, done.stderr
    checked = subprocess.run([str(BIN / "xacbe"), "log", "check", str(proof), "--ca", issuing, "--json"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    shown = json.loads(checked.stdout)
    assert (shown["verdict"], shown["server"], shown["sequence"]) == ("valid", lab.box(2)["server_id"], asked["sequence"])
    proof.write_bytes(proof.read_bytes().replace(b"index ", b"index 1", 1))
    assert subprocess.run([str(BIN / "xacbe"), "log", "check", str(proof), "--ca", issuing], capture_output=True).returncode == 1

    # who asked, counted without content; without a role or a reason nothing
    report = json.loads(lab.xacbe(2, "log", "report", "--from", "2020-01-01", "--to", "2100-01-01", "--json").stdout)
    assert any(one["end_user"] == "MX-ana" for one in report)
    acts = json.loads(lab.xacbe(2, "log", "acts", "--json").stdout)
    assert {"find", "prove", "report"} <= {one["act"] for one in acts if one["event"] == "log.read"}

    # the whole log, by its own checkpoints, under CEIQROO's configuration
    state = Path(lab.box(2)["state"])
    audited = lab.xacbe(2, "log", "audit", "--json")
    assert audited.returncode == 0, audited.stdout
    assert json.loads(audited.stdout)["covered"] >= asked["sequence"]

    # CEIQROO keeps what the box signed
    covered = witnessed(lab, asked["sequence"])
    copy = tmp_path / "log"
    shutil.copytree(state / "log", copy)
    assert judged(lab, copy) == (0, "intact")

    # both boxes' logs beside each other: what the client's box has of the exchange, this one has too
    other = Path(lab.box(1)["state"]) / "log"
    compared = subprocess.run(
        [str(BIN / "xacbe"), "log", "compare", str(other), "--log", str(copy), "--json"], capture_output=True, text=True
    )
    assert compared.returncode in (0, 1), compared.stderr  # other tests let a foreign box speak for this one
    sides = json.loads(compared.stdout)
    assert min(side["compared"] for side in sides.values()) >= 2
    assert [one for side in sides.values() for one in side["missing"] if one["at_us"] >= asked["at_us"]] == []

    # root rewrites one record, relinks all of it, throws away every checkpoint and tile
    def rewrite(found: list[record.Record]) -> list[record.Record]:
        found[asked["sequence"] - 1].payload = record.encode_entry(record.CloseEntry())
        return [each for each in found if each.kind != record.CHECKPOINT]

    forger.relink(copy, rewrite)
    shutil.rmtree(copy / "tiles")
    assert judged(lab, copy) == (1, "tampered")
    assert covered >= asked["sequence"]


def witnessed(lab: Lab, sequence: int) -> int:
    """Waits until CEIQROO has a checkpoint over the record."""
    deadline = time.monotonic() + HEARD_S_MAX
    while True:
        ceiqroo("fleet", "watch", str(lab.directory), "--json", "--seconds", "2")  # asks for rebirths
        found = row_of(lab)
        if found is not None and found["records"] >= sequence:
            return int(found["records"])
        assert time.monotonic() < deadline, found


def row_of(lab: Lab) -> dict[str, Any] | None:
    done = ceiqroo("log", "witness", lab.document["ceiqroo"]["directory"], "--box", lab.box(2)["server_id"], "--json")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows[0] if rows else None


def judged(lab: Lab, log: Path) -> tuple[int, str]:
    words = ["log", "witness", lab.document["ceiqroo"]["directory"], "--box", lab.box(2)["server_id"], "--log", str(log), "--json"]
    done = ceiqroo(*words)
    return done.returncode, json.loads(done.stdout)[0]["verdict"]
