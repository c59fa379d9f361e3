"""The trust agent as a real process, against a real HTTP server, with a signer that answers on a real local socket."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance import topology
from appliance.configuration_files import load_directory
from appliance.errors import XacbeError
from appliance.hsm.wire import KeyRecord
from appliance.net import frames, local_sockets
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.trust import timestamps
from appliance.trust.wire import AnchorInstall, News, OwnEvidence, StampReply, StampRequest, TrustStatus, View
from tests.trust import centre, pki
from tests.trust.services import Services, real, serving

SETTINGS = """
[box]
instance = "QROO-TEST"
member_class = "GOB"
member_code = "SSP"
server_code = "ss1"

[trust_agent]
configuration_fetch_interval_s = 1
connect_s_max = 2
read_s_max = 5
"""
IMPRINT = hashlib.sha512(b"signature value").digest()
STARTER = """
import os, sys
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", "appliance", "trust_agent", "--state", sys.argv[1]])
"""


class Signer:
    """Answers `list_keys` on the trust agent's channel, nothing else."""

    def __init__(self, state: Path) -> None:
        self.records: list[KeyRecord] = []
        self.delay_s = 0.0
        path = channel_path(state, "signer", "trust_agent")
        path.parent.mkdir(parents=True)
        self._listener = socket.socket(socket.AF_UNIX)
        local_sockets.bind(self._listener, path)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connections = []
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                thread = threading.Thread(target=self._answer, args=(sock,))
                thread.start()
                connections.append((sock, thread))
        for sock, thread in connections:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            thread.join()
            sock.close()

    def _answer(self, sock: socket.socket) -> None:
        reader = frames.FrameReader()
        with contextlib.suppress(OSError):
            while data := sock.recv(65536):
                for frame in reader.feed(data):
                    time.sleep(self.delay_s)
                    sock.sendall(frames.encode(frames.ANSWER, frame.call, "", msgspec.msgpack.encode(self.records)))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()


class Agent:
    """One life after another of the process, over the same state; the test holds the listening sockets, as systemd does."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.signer = Signer(state)
        self._sockets = {}
        for caller in topology.channels("trust_agent"):
            path = channel_path(state, "trust_agent", caller)
            path.parent.mkdir(parents=True, exist_ok=True)
            sock = socket.socket(socket.AF_UNIX)
            local_sockets.bind(sock, path)
            sock.listen(16)
            self._sockets[f"channel.{caller}"] = sock
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        names = sorted(self._sockets)
        numbers = [self._sockets[name].fileno() for name in names]

        def place() -> None:
            spare = [os.dup(number) for number in numbers]
            high = [os.dup2(number, 200 + index) for index, number in enumerate(spare)]
            for index, number in enumerate(high):
                os.dup2(number, 3 + index, inheritable=True)

        with (self.state / "journal").open("ab") as journal:
            self._process = subprocess.Popen(
                [sys.executable, "-c", STARTER, str(self.state)],
                preexec_fn=place,
                close_fds=False,
                stderr=journal,
                env={**os.environ, "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)},  # noqa: TID251  systemd's interface
            )

    def stop(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.terminate()
        return process.wait(5)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(5)
            self._process = None

    def call(self, caller: str, operation: str, request: object, answer: Any = None) -> Any:
        client = BlockingClient(channel_path(self.state, "trust_agent", caller))
        try:
            return client.call(operation, request, answer)
        finally:
            client.close()

    def install(self, anchor: bytes) -> None:
        self.call("console", "install_anchor", AnchorInstall(anchor))

    def view(self, known: int = -1, wait_s: float = 0) -> View:
        return self.call("relay", "view", News(known, wait_s), View)  # type: ignore[no-any-return]  # decoded as View

    def evidence(self, known: int = -1, wait_s: float = 0) -> OwnEvidence:
        return self.call("relay", "own_evidence", News(known, wait_s), OwnEvidence)  # type: ignore[no-any-return]  # decoded

    def stamp(self) -> StampReply:
        return self.call("recorder", "stamp", StampRequest(IMPRINT), StampReply)  # type: ignore[no-any-return]  # decoded

    def status(self) -> TrustStatus:
        return self.call("reporter", "trust_status", None, TrustStatus)  # type: ignore[no-any-return]  # decoded

    def close(self) -> None:
        self.stop()
        self.signer.close()
        for sock in self._sockets.values():
            sock.close()


def until(condition: Callable[[], object], wait_s: float = 8) -> Any:
    """The first true value; fails after `wait_s`."""
    ends = time.monotonic() + wait_s
    while time.monotonic() < ends:
        if value := condition():
            return value
        time.sleep(0.05)
    raise AssertionError("it never came")


def kind_of(act: Callable[[], object]) -> str:
    try:
        act()
    except XacbeError as error:
        return error.kind
    return "good"


@pytest.fixture
def services() -> Iterator[Services]:
    with serving(Services()) as services:
        yield services


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    (tmp_path / "box.toml").write_text(SETTINGS)
    agent = Agent(tmp_path)
    try:
        agent.start()
        yield agent
    finally:
        agent.close()


@pytest.fixture
def enrolled(agent: Agent, services: Services) -> Agent:
    """With anchor, configuration, one sealing certificate and its evidence."""
    leaf = real("C=QROO-TEST,O=GOB,CN=SSP", services.ca)
    services.leaves.append(leaf)
    agent.signer.records.append(KeyRecord("seal/GOB/SSP", "seal", "EC-P256", b"", [leaf.der], 0))
    agent.install(services.anchor())
    assert agent.view(0, 10).generation > 0
    until(lambda: agent.evidence(0, 5).evidence)
    return agent


@pytest.mark.rule("II.2.II")
def test_an_anchor_brings_the_configuration_and_a_restart_keeps_it(agent: Agent, services: Services) -> None:
    assert agent.view() == View(0, "QROO-TEST", 0, 0)

    agent.install(services.anchor())
    view = agent.view(0, 10)

    assert (view.generation > 0, view.instance) == (True, "QROO-TEST")
    loaded = load_directory(agent.state / "trust" / "configuration")
    assert loaded.shared["QROO-TEST"].ocsp_freshness_s == 28_800
    assert loaded.expires_us["QROO-TEST"] == view.expires_us
    services.configuration_up = False
    agent.kill()
    agent.start()
    again = agent.view(0, 10)
    assert again.expires_us >= view.expires_us
    assert again.instance == "QROO-TEST"
    assert agent.stop() == 0


def test_news_wakes_who_waits_and_a_later_expiry_alone_is_no_news(enrolled: Agent, services: Services) -> None:
    first = enrolled.view()

    later = until(lambda: (view := enrolled.view()).expires_us > first.expires_us and view)
    assert later.generation == first.generation
    services.freshness, services.generation = "3600", 2
    changed = enrolled.view(first.generation, 10)

    assert changed.generation > first.generation
    loaded = load_directory(enrolled.state / "trust" / "configuration")
    assert loaded.shared["QROO-TEST"].ocsp_freshness_s == 3600


@pytest.mark.case("T14")
def test_a_replayed_or_forged_configuration_changes_nothing(enrolled: Agent, services: Services) -> None:
    services.freshness, services.generation = "3600", 2
    good = enrolled.view(enrolled.view().generation, 10)

    def fails_with(kind: str) -> None:
        until(lambda: any(one.error == kind for one in enrolled.status().services))
        assert enrolled.view().generation == good.generation

    services.generation = 1
    fails_with("configuration.rolled_back")
    services.generation, services.signer = 3, pki.issue("CN=Configuration")
    fails_with("configuration.untrusted")
    services.configuration_up = False
    fails_with("fetch.status")
    assert load_directory(enrolled.state / "trust" / "configuration").shared["QROO-TEST"].ocsp_freshness_s == 3600


def test_since_when_our_own_tls_certificate_is_published_is_known_and_goes_on_counting(enrolled: Agent, services: Services) -> None:
    """`key renew --install` waits for peers by it, each time that it is given."""
    (first,) = enrolled.status().registered
    time.sleep(1.2)  # a fetch of the same configuration begins nothing anew
    (later,) = enrolled.status().registered

    assert first.certificate_sha256 == later.certificate_sha256 == centre.AUTH_HASH
    assert later.for_s >= first.for_s + 1.2


def test_a_configuration_that_the_disk_does_not_take_is_not_told(enrolled: Agent, services: Services) -> None:
    before = enrolled.view()
    file = enrolled.state / "trust" / "configuration" / "QROO-TEST" / "shared-params.xml"
    file.unlink()
    file.mkdir()
    services.freshness, services.generation, services.validity_s = "3600", 2, 7200

    until(lambda: "configuration.not_stored" in (enrolled.state / "journal").read_text())
    assert enrolled.view().generation == before.generation
    assert enrolled.view().expires_us < before.expires_us + 600 * 1_000_000
    file.rmdir()

    assert enrolled.view(before.generation, 10).expires_us > before.expires_us + 3000 * 1_000_000


def test_an_anchor_of_another_instance_is_refused(agent: Agent, services: Services) -> None:
    other = centre.anchor((services.url("/internalconf"), services.signer), instance="QROO")

    assert kind_of(lambda: agent.install(other)) == "configuration.wrong_instance"
    assert kind_of(lambda: agent.install(b"<x/>")) == "configuration.malformed"
    assert not (agent.state / "trust" / "anchor.xml").exists()


def test_the_newest_version_that_the_centre_has_is_taken(agent: Agent, services: Services) -> None:
    services.version = 4

    agent.install(services.anchor())
    agent.view(0, 10)

    asked = [request for request in services.requests if "internalconf" in request]
    assert [request[-1] for request in asked[:4]] == ["6", "5", "4", "4"] or [request[-1] for request in asked[:3]] == ["6", "5", "4"]


@pytest.mark.case("T38")
def test_evidence_survives_a_restart_while_the_responder_is_silent(enrolled: Agent, services: Services) -> None:
    (before,) = enrolled.evidence().evidence
    services.ocsp_up = False
    enrolled.kill()

    enrolled.start()

    (after,) = until(lambda: enrolled.evidence(0, 5).evidence)
    assert after == before
    until(lambda: any(one.name == "ocsp" and one.error == "fetch.status" for one in enrolled.status().services))


@pytest.mark.case("T38")
def test_a_restart_never_shows_an_empty_list_while_good_evidence_is_stored(enrolled: Agent, services: Services) -> None:
    before = enrolled.evidence()
    services.ocsp_up, services.configuration_up = False, False
    enrolled.signer.delay_s = 0.5  # what is stored is taken up only when the signer has said whose it is
    enrolled.kill()

    enrolled.start()
    first = enrolled.evidence(before.generation, 10)

    assert first.evidence == before.evidence
    assert first.generation not in (0, before.generation)


def test_a_question_for_evidence_waits_no_longer_than_it_says(agent: Agent) -> None:
    began = time.monotonic()

    assert agent.evidence(7, 0.3) == OwnEvidence(0, [])
    assert time.monotonic() - began < 5


def test_without_any_certificate_an_empty_list_is_the_truth_and_has_a_generation(agent: Agent, services: Services) -> None:
    agent.install(services.anchor())

    news = agent.evidence(0, 10)

    assert (news.evidence, news.generation > 0) == ([], True)


def test_a_new_certificate_gets_its_evidence_at_once(enrolled: Agent, services: Services) -> None:
    leaf = real("C=QROO-TEST,O=GOB,CN=ss1", services.ca)
    services.leaves.append(leaf)
    known = enrolled.evidence().generation

    enrolled.signer.records.append(KeyRecord("tls-peer", "tls", "EC-P256", b"", [leaf.der], 0))
    found = until(lambda: len((news := enrolled.evidence(known, 5)).evidence) == 2 and news)

    assert {one.certificate_sha256 for one in found.evidence} == {hashlib.sha256(one.der).digest() for one in services.leaves}
    assert {one.certificate_sha1 for one in found.evidence} == {
        hashlib.sha1(one.der, usedforsecurity=False).digest() for one in services.leaves
    }


@pytest.mark.case("T22")
def test_a_revoked_certificate_loses_its_evidence_at_the_next_refresh(enrolled: Agent, services: Services) -> None:
    services.revoked = True
    enrolled.kill()

    enrolled.start()  # a start asks at once

    until(lambda: any(one.error == "ocsp.revoked" for one in enrolled.status().services))
    until(lambda: not enrolled.evidence().evidence)
    assert not list((enrolled.state / "trust" / "ocsp").iterdir())


def test_a_replayed_old_response_does_not_replace_a_newer_one(enrolled: Agent, services: Services) -> None:
    (before,) = enrolled.evidence().evidence
    services.with_nonce, services.ocsp_produced_ago_s = False, 1800
    asked = len(services.requests)
    enrolled.kill()

    enrolled.start()

    until(lambda: any("/ocsp" in request for request in services.requests[asked:]))
    time.sleep(0.3)
    assert until(lambda: enrolled.evidence(0, 5).evidence) == [before]


@pytest.mark.rule("I.4.IV")
def test_a_stamp_is_verified_and_carries_its_authority(enrolled: Agent, services: Services) -> None:
    reply = enrolled.stamp()

    tsas = load_directory(enrolled.state / "trust" / "configuration").shared["QROO-TEST"].tsas
    facts = timestamps.check_token(reply.token, b"signature value", tsas)
    assert (facts.gen_time_us, facts.accuracy_us, facts.authority) == (reply.gen_time_us, reply.accuracy_us, reply.authority)
    assert reply.authority == "TSA 1"


@pytest.mark.case("T39")
def test_a_silent_authority_costs_less_than_three_seconds_and_is_asked_last_afterwards(enrolled: Agent, services: Services) -> None:
    services.first_tsa = "silent"
    began = time.monotonic()

    assert enrolled.stamp().authority == "TSA 2"
    assert time.monotonic() - began < 3
    began = time.monotonic()
    assert enrolled.stamp().authority == "TSA 2"
    assert time.monotonic() - began < 1


@pytest.mark.case("T19")
def test_a_wrong_stamp_is_never_taken_and_the_next_authority_is_asked(enrolled: Agent, services: Services) -> None:
    services.first_tsa = "wrong"

    assert enrolled.stamp().authority == "TSA 2"
    assert any(one.name == "tsa TSA 1" and one.error == "tsa.mismatch" for one in enrolled.status().services)


@pytest.mark.case("T39")
def test_without_any_authority_there_is_no_stamp(enrolled: Agent, services: Services) -> None:
    services.tsa_up = False

    assert kind_of(enrolled.stamp) == "tsa.unreachable"
    services.tsa_up = True
    assert enrolled.stamp().authority


def test_without_a_configuration_nothing_is_stamped_and_a_bad_imprint_never(agent: Agent) -> None:
    assert kind_of(agent.stamp) == "configuration.absent"
    assert kind_of(lambda: agent.call("recorder", "stamp", StampRequest(b"short"), StampReply)) == "tsa.bad_request"


def test_only_the_granted_callers_are_served(agent: Agent) -> None:
    assert kind_of(lambda: agent.call("relay", "stamp", StampRequest(IMPRINT), StampReply)) == "caller.not_granted"
    assert kind_of(lambda: agent.call("relay", "install_anchor", AnchorInstall(b""))) == "caller.not_granted"


@pytest.mark.case("T14")
def test_an_expired_configuration_stops_stamps_and_is_told(enrolled: Agent, services: Services) -> None:
    services.validity_s, services.generation, services.freshness = 1.5, 2, "3600"
    enrolled.view(enrolled.view().generation, 10)
    services.configuration_up = False

    until(lambda: kind_of(enrolled.stamp) == "configuration.expired")

    assert enrolled.view().expires_us > 0


def offset_s(agent: Agent) -> float | None:
    """Local minus signed time, as every process of the box would see it now."""
    offset = agent.evidence().signed.offset_us(time.time_ns() // 1000, time.monotonic_ns() // 1000)
    return None if offset is None else offset / 1e6


@pytest.mark.case("T40")
def test_signed_times_tell_how_far_the_clock_is_off_and_survive_a_restart(enrolled: Agent, services: Services) -> None:
    assert abs(offset_s(enrolled) or 99) < 3

    services.ahead_s = 400
    enrolled.stamp()
    assert -405 < (offset_s(enrolled) or 0) < -395
    time.sleep(1.5)  # a change is written down within a second
    enrolled.stop()
    services.ocsp_up = False
    enrolled.start()
    assert until(lambda: (offset_s(enrolled) or 0) < -2 or None)

    services.ahead_s, services.ocsp_up = 0, True
    until(lambda: abs(offset_s(enrolled) or 99) < 3, 30)


@pytest.mark.case("T18", "T38")
@pytest.mark.parametrize("fault", ["down", "forging"])
def test_the_next_responder_is_asked_where_the_first_one_fails(agent: Agent, services: Services, fault: str) -> None:
    services.first_responder = fault
    leaf = real("C=QROO-TEST,O=GOB,CN=SSP", services.ca)
    services.leaves.append(leaf)
    agent.signer.records = [KeyRecord("seal/GOB/SSP", "seal", "EC-P256", b"", [leaf.der], 0)]
    agent.install(services.anchor())

    assert until(lambda: agent.evidence().evidence)

    health = {one.url.rpartition("/")[2]: one for one in agent.status().services if one.name == "ocsp"}
    assert (bool(health["first"].error), health["ocsp"].error) == (True, "")


def errors(agent: Agent) -> set[str]:
    return {one.error for one in agent.status().services}


@pytest.mark.case("T22", "T40")
def test_a_responder_that_is_ahead_for_a_while_leaves_nothing_behind_that_keeps_later_responses_out(
    enrolled: Agent, services: Services
) -> None:
    services.ahead_s = 9 * 3600
    leaf = real("C=QROO-TEST,O=GOB,CN=ss1", services.ca)
    services.leaves.append(leaf)
    enrolled.signer.records.append(KeyRecord("tls-peer", "tls", "EC-P256", b"", [leaf.der], 0))
    until(lambda: "ocsp.from_future" in errors(enrolled))
    assert len(enrolled.evidence().evidence) == 1
    assert (offset_s(enrolled) or 0) < -8 * 3600  # it counts for the clock: the box is stopped meanwhile

    services.ahead_s = 0

    news = until(lambda: len((found := enrolled.evidence()).evidence) == 2 and found, 15)
    assert all(one.produced_at_us < time.time_ns() // 1000 + 60_000_000 for one in news.evidence)
    assert abs(offset_s(enrolled) or 99) < 3


@pytest.mark.case("T14", "T40")
def test_a_configuration_that_was_made_in_the_future_is_not_taken_and_the_right_one_after_it_is(
    enrolled: Agent, services: Services
) -> None:
    before = enrolled.view()
    services.freshness, services.configuration_ahead_s = "3600", 10 * 3600
    until(lambda: "configuration.from_future" in errors(enrolled))
    assert enrolled.view().generation == before.generation
    assert abs(offset_s(enrolled) or 99) < 3  # a live answer is the better witness

    services.generation, services.configuration_ahead_s = 2, 0

    assert until(lambda: enrolled.view().generation > before.generation)
