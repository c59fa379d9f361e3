"""Keys renewed under load: the seal key and the TLS key of both boxes, old and new certificates overlapping, no request lost (T17)."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from appliance.seal import xades
from appliance.seal.container import read_container
from provisioning.lab import network
from tests.boxes.conftest import BIN, Lab
from tests.depth import DEEP

pytestmark = pytest.mark.lab

BASE = "127.0.36"
SOONER = "\n[trust_agent]\nconfiguration_fetch_interval_s = 1\n"
CLIENTS = 4
SHORT_WAIT_S, TRIES = 2, 40
"""A peer is given six seconds (`renewal.PEERS_MARGIN_S` and the interval above): three commands and more."""


@pytest.fixture(scope="module", params=["softhsm", "swtpm"] if DEEP else ["softhsm"])
def own_lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A network whose boxes fetch the configuration every second: the wait for the slowest peer is short."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-renewal-"))
    document = network.up(directory, 2, request.param, BASE, 1, lambda line: None, settings=SOONER)
    yield Lab(directory, document)
    network.down(directory)
    shutil.rmtree(directory)


class Load(threading.Thread):
    """One request after the other over new and kept connections; every failure counts."""

    def __init__(self, lab: Lab) -> None:
        super().__init__(daemon=True)
        self._lab, self._ended = lab, threading.Event()
        self.answered: list[str] = []
        self.failures: list[str] = []

    def run(self) -> None:
        while not self._ended.is_set():
            query = str(uuid.uuid4())
            headers = {"X-Road-Client": self._lab.client, "X-Road-Id": query}
            try:
                answer = requests.post(self._lab.url("/eco"), data=query, headers=headers, timeout=20)
            except requests.RequestException as error:
                self.failures.append(str(error))
                continue
            if answer.status_code == 200:
                self.answered.append(query)
            else:
                self.failures.append(answer.text)

    def stop(self) -> None:
        self._ended.set()
        self.join(30)


@pytest.mark.case("T17")
@pytest.mark.rule("IV.3.III")
def test_seal_and_tls_keys_are_renewed_under_load_without_a_failed_request(own_lab: Lab, tmp_path: Path) -> None:
    loads = [Load(own_lab) for _ in range(CLIENTS)]
    for load in loads:
        load.start()
    try:
        time.sleep(1.0)
        for number in (1, 2):
            _renew(own_lab, number, tmp_path)
        time.sleep(8.0)  # the relays look for certificates every few seconds; then new handshakes show them
    finally:
        for load in loads:
            load.stop()

    assert [failure for load in loads for failure in load.failures] == []
    in_order = max((load.answered for load in loads), key=len)
    assert len(in_order) > 50
    assert _shown_to_peers(own_lab, 2) == _newest(own_lab, 2, "tls-peer")
    for number, direction in ((1, "--request"), (2, "--response")):
        signers = [_signer(own_lab, number, query, direction, tmp_path) for query in (in_order[0], *in_order[-3:])]
        assert signers[0] != signers[-1], "the first and the last seal were made with the same certificate"
        assert signers[-1] == _newest(own_lab, number, f"seal/{'/'.join(_member(own_lab, number))}")


def _renew(lab: Lab, number: int, place: Path) -> None:
    """As on the bench: keys and request, CEIQROO's answer, import and switch."""
    labels = (f"seal/{'/'.join(_member(lab, number))}", "tls-peer", "tls-internal")
    asked, answer = place / f"{number}.request.json", place / f"{number}.answer.json"
    done = lab.xacbe(number, "key", "renew", *labels, "--out", str(asked))
    assert done.returncode == 0, done.stderr
    centre = lab.document["ceiqroo"]["directory"]
    approved = subprocess.run(
        [str(BIN / "ceiqroo"), "enrolment", "renew", centre, str(asked), "--out", str(answer)], capture_output=True, text=True, check=False
    )
    assert approved.returncode == 0, approved.stderr
    early = lab.xacbe(number, "key", "renew", "tls-peer", "--install", str(answer), "--wait", "0")
    assert (early.returncode, early.stderr.partition(":")[0]) == (3, "key.not_yet_usable")
    for _ in range(TRIES):  # a wait that is too short for the slowest peer: given again, the command goes on where it was
        done = lab.xacbe(number, "key", "renew", *labels, "--install", str(answer), "--wait", f"{SHORT_WAIT_S}")
        if done.returncode == 0:
            return
        assert (done.returncode, done.stderr.partition(":")[0]) == (3, "key.not_yet_usable"), done.stderr
    raise AssertionError(f"not usable after {TRIES} commands")


def _member(lab: Lab, number: int) -> tuple[str, str]:
    _, member_class, member_code, _ = lab.box(number)["server_id"].split("/")
    return member_class, member_code


def _newest(lab: Lab, number: int, label: str) -> str:
    """SHA-256 of the certificate in force."""
    keys = json.loads(lab.xacbe(number, "key", "list", "--json").stdout)
    (key,) = (key for key in keys if key["label"] == label)
    assert [version["state"] for version in key["versions"]] == ["in_force", "former"]
    return str(key["certificates"][0]["sha256"])


def _shown_to_peers(lab: Lab, number: int) -> str:
    """What the peer port shows in a handshake, by openssl (it needs no certificate of its own to see ours)."""
    address = f"{lab.box(number)['address']}:5500"
    shown = subprocess.run(["openssl", "s_client", "-connect", address], input=b"", capture_output=True, check=False, timeout=20).stdout
    pem = shown[shown.index(b"-----BEGIN CERTIFICATE-----") : shown.index(b"-----END CERTIFICATE-----")]
    return hashlib.sha256(base64.b64decode(pem.partition(b"\n")[2])).hexdigest()


def _signer(lab: Lab, number: int, query: str, direction: str, place: Path) -> str:
    """SHA-256 of the certificate in a container that the verifier believes."""
    file = place / f"{number}.{query}.asice"
    done = lab.xacbe(number, "log", "export", query, direction, "--out", str(file))
    assert done.returncode == 0, done.stderr
    configuration = Path(lab.box(number)["state"]) / "trust" / "configuration"
    judged = subprocess.run(
        [str(BIN / "xacbe"), "verify", str(file), "--configuration", str(configuration)], capture_output=True, text=True, check=False
    )
    assert judged.returncode == 0, judged.stdout + judged.stderr
    signature = xades.parse(read_container(file.read_bytes()).signature)
    return hashlib.sha256(signature.certificate).hexdigest()
