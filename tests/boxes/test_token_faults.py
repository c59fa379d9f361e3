"""A token that is pulled out of a running box, comes back, or comes back as another one: told in a second, over in five, nobody restarted
(T57)."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from appliance.errors import XacbeError
from appliance.hsm.wire import TokenStatus
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from provisioning.lab import keeper, network, tokens
from tests.boxes.conftest import Lab
from tests.depth import DEEP
from tests.hsm import parts

pytestmark = [pytest.mark.lab, pytest.mark.case("T57")]

BASE = "127.0.37"
DETECTED_S_MAX, RECOVERED_S_MAX = 1.0, 5.0
KINDS = ("softhsm", "swtpm") if DEEP else ("softhsm",)
"""By day on the laboratory that all tests of boxes share, and one box of it; at night on laboratories of both kinds."""


@dataclass(frozen=True)
class Pulled:
    """One box's token, seen from outside."""

    lab: Lab
    number: int
    kind: str

    @property
    def directory(self) -> Path:
        return Path(self.lab.box(self.number)["state"]) / "token"

    def pull(self) -> float:
        """Gone with all that serves its connections: the keeper leaves no child of a unit behind. The moment."""
        begun = time.monotonic()
        keeper.ask(self.lab.directory, f"hold box{self.number}.token")
        return begun

    def plug(self) -> float:
        begun = time.monotonic()
        keeper.ask(self.lab.directory, f"release box{self.number}.token")
        return begun

    def state(self) -> str:
        with contextlib.closing(BlockingClient(channel_path(Path(self.lab.box(self.number)["state"]), "signer", "console"), 5.0)) as signer:
            try:
                return str(signer.call("token_status", None, TokenStatus).state)
            except XacbeError as error:
                return error.kind


@pytest.fixture(scope="module", params=KINDS)
def own_lab(request: pytest.FixtureRequest) -> Iterator[tuple[Lab, str]]:
    if not DEEP:
        yield request.getfixturevalue("lab"), "softhsm"
        return
    if tokens.missing(request.param):
        pytest.skip(str(tokens.missing(request.param)))
    directory = Path(tempfile.mkdtemp(prefix="xacbe-token-"))
    document = network.up(directory, 2, request.param, BASE, 1, lambda line: None)
    yield Lab(directory, document), request.param
    network.down(directory)
    shutil.rmtree(directory)


@pytest.fixture(params=[1, 2] if DEEP else [2], ids=lambda number: f"box {number}")
def pulled(request: pytest.FixtureRequest, own_lab: tuple[Lab, str]) -> Pulled:
    return Pulled(own_lab[0], request.param, own_lab[1])


def ask(lab: Lab) -> requests.Response:
    return requests.post(lab.url("/eco"), data=b"x", headers={"X-Road-Client": lab.client}, timeout=20)


def until(holds: Callable[[], bool], begun: float, seconds: float) -> float:
    parts.until(holds, "it", seconds + 5.0)
    return time.monotonic() - begun


def served_by(lab: Lab) -> dict[tuple[int, str], list[int]]:
    return {(number, name): lab.pids(number, name) for number in (1, 2) for name in ("signer", "relay", "recorder", "supervisor")}


def test_a_pulled_token_is_told_within_a_second_and_used_within_five_when_it_is_back(pulled: Pulled) -> None:
    lab = pulled.lab
    assert ask(lab).status_code == 200
    before = served_by(lab)

    begun = pulled.pull()
    detected = until(lambda: pulled.state() == "absent", begun, DETECTED_S_MAX)
    asked = time.monotonic()
    answer = ask(lab)
    told = time.monotonic() - asked
    shown = lab.xacbe(pulled.number, "token", "status", "--language", "en")
    begun = pulled.plug()
    recovered = until(lambda: ask(lab).status_code == 200, begun, RECOVERED_S_MAX)

    assert detected < DETECTED_S_MAX
    assert (answer.status_code, told < 2.0) == (500, True), answer.text
    assert answer.json()["type"].endswith(".hsm_non_operational"), answer.text
    assert (shown.returncode, shown.stdout) == (1, "Token: absent\n")
    print(f"{pulled.kind}, box {pulled.number}: known after {detected:.2f} s, used again after {recovered:.2f} s")
    assert recovered < RECOVERED_S_MAX
    assert served_by(lab) == before, "nobody was restarted"


@pytest.mark.skipif(not DEEP, reason="nightly: tests/hsm/test_token_faults.py holds the same for the token alone")
def test_another_token_in_its_place_is_not_used_and_the_right_one_is_again(pulled: Pulled) -> None:
    """The same label on another SoftHSM2; a TPM that has lost its seed."""
    lab, away = pulled.lab, pulled.directory.with_name("token-away")
    before = served_by(lab)
    owner = pulled.directory.stat()
    pulled.pull()
    pulled.directory.rename(away)
    _another(pulled, owner.st_uid)
    pulled.plug()
    named = "absent" if pulled.kind == "softhsm" else "ready"
    begun = time.monotonic()
    until(lambda: pulled.state() == named, begun, RECOVERED_S_MAX)
    time.sleep(1.5)  # time for a mistake

    answer = ask(lab)
    assert answer.status_code == 500, answer.text
    uses = lab.xacbe(pulled.number, "log", "audit", "--json")
    assert (uses.returncode, "token.pin_refused" in uses.stdout) == (0, False)
    pulled.pull()
    shutil.rmtree(pulled.directory)
    away.rename(pulled.directory)
    begun = pulled.plug()
    recovered = until(lambda: ask(lab).status_code == 200, begun, RECOVERED_S_MAX)
    assert recovered < RECOVERED_S_MAX
    assert served_by(lab) == before


def _another(pulled: Pulled, user: int) -> None:
    if pulled.kind == "softhsm":
        tokens.prepare_softhsm(pulled.directory, f"xacbe-{pulled.number}", parts.PIN, parts.SO_PIN)
    else:
        tokens.prepare_swtpm(pulled.directory)
    for place in (pulled.directory, *pulled.directory.rglob("*")):
        os.chown(place, user, user)
