"""Two instances with centres of their own: a client of one, a service of the other, and only what both centres agreed on (II.2.X)."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from provisioning.lab import network
from tests.boxes.conftest import BIN, Lab

pytestmark = pytest.mark.lab

SOONER = "\n[trust_agent]\nconfiguration_fetch_interval_s = 1\n"
SEEN_S_MAX = 20.0


@dataclass(frozen=True)
class Pair:
    """Two laboratories; `own` asks, `foreign` has the service."""

    own: Lab
    foreign: Lab

    def ask(self) -> requests.Response:
        url = f"{self.own.document['boxes'][0]['client_http']}/r1/{self.foreign.service}/eco"
        return requests.post(url, data=b"{}", headers={"X-Road-Client": self.own.client}, timeout=30)

    def until(self, status: int, kind: str = "") -> requests.Response:
        """The answer, once the boxes have seen a change of the configuration."""
        deadline = time.monotonic() + SEEN_S_MAX
        while True:
            answer = self.ask()
            if (answer.status_code == status and kind in answer.text) or time.monotonic() > deadline:
                return answer
            time.sleep(0.2)


def ceiqroo(lab: Lab, *words: str) -> str:
    noun, verb, *more = words
    command = [str(BIN / "ceiqroo"), noun, verb, str(lab.directory / "ceiqroo"), *more]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def federate(asker: Lab, other: Lab) -> None:
    """What two officers do: one hands over its external anchor, the other enters it."""
    command = [str(BIN / "ceiqroo"), "anchor", str(other.directory / "ceiqroo"), "--external"]
    anchor = asker.directory / "foreign-anchor.xml"
    anchor.write_bytes(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    ceiqroo(asker, "federation", "add", str(anchor))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    labs = []
    for instance, base in (("QROO-TEST", "127.0.32"), ("YUC-TEST", "127.0.33")):
        directory = Path(tempfile.mkdtemp(prefix=f"xacbe-{instance.lower()}-"))
        labs.append(Lab(directory, network.up(directory, 1, "softhsm", base, 1, lambda line: None, settings=SOONER, instance=instance)))
    yield Pair(*labs)
    for lab in labs:
        network.down(lab.directory)
        shutil.rmtree(lab.directory)


@pytest.mark.rule("II.2.X")
def test_a_client_of_one_instance_uses_a_service_of_another_once_both_centres_agreed(pair: Pair) -> None:
    strangers = pair.ask()
    assert strangers.status_code >= 500
    assert strangers.json()["type"] == "server.clientproxy.unknown_member", strangers.text

    federate(pair.own, pair.foreign)
    half = pair.until(500, "ssl_authentication_failed")  # the other side does not know us yet
    assert half.status_code == 500, half.text

    federate(pair.foreign, pair.own)
    foreign_box = pair.foreign.xacbe(1, "access", "add", pair.foreign.service, pair.own.client)
    assert foreign_box.returncode == 0, foreign_box.stderr
    answered = pair.until(200)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-road-service"] == pair.foreign.service

    listed = json.loads(ceiqroo(pair.own, "federation", "list", "--json"))
    assert [row["instance"] for row in listed] == ["YUC-TEST"]
    container = pair.own.directory / "answer.asice"
    query = answered.headers["x-road-id"]
    exported = pair.own.xacbe(1, "log", "export", query, "--out", str(container))
    assert exported.returncode == 0, exported.stderr
    for file in pair.own.directory.glob("*.asice"):
        verified = subprocess.run(
            [str(BIN / "xacbe"), "verify", str(file), "--configuration", f"{pair.own.document['boxes'][0]['state']}/trust/configuration"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert verified.returncode == 0, verified.stdout

    ceiqroo(pair.own, "federation", "remove", "YUC-TEST")
    ended = pair.until(500, "unknown_member")
    assert ended.json()["type"] == "server.clientproxy.unknown_member", ended.text
