"""Forty and more bad certificates and chains, as a client's and as a server's: none is believed, whatever else about it is good."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.clock import SystemClock
from appliance.errors import XacbeError
from appliance.exchange.peer_trust import PeerTrust
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.connection import ServerConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.http1 import response_head
from appliance.net.tls_engine import HandshakeThreads, Peer, TlsRejectedError
from appliance.relay.contexts import PEER_KEY, Contexts
from appliance.trust.global_configuration import SecurityServer, SharedParameters
from tests.net.serving import run, serving, until
from tests.net.test_tls import made as files
from tests.relay import bad_peers
from tests.relay.bad_peers import BAD, Bad, Shown
from tests.trust import pki

pytestmark = [pytest.mark.case("T09", "T10", "T12"), pytest.mark.rule("I.4.XVIII")]

MEMBER = ClientId("QROO-TEST", "GOB", "SSP", "SOLOMON")
OTHER = ClientId("QROO-TEST", "GOB", "FGE", "SOLOMON")
GET = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n"
ENDED_S_MAX = 5.0
CPU_S_MAX = 0.1
"""For the chains that are made to be dear (T10): the goal is half of it, 0.02 was seen beside a load of 8, and machines differ."""


def configuration(*certificates: bytes) -> SharedParameters:
    """The member's box has these certificates; another member's box has another."""
    server = ServerId(MEMBER.member, "SS1")
    boxes = (
        SecurityServer(server, "127.0.0.1", frozenset(hashlib.sha256(each).digest() for each in certificates), frozenset((MEMBER,)), None),
        SecurityServer(
            ServerId(OTHER.member, "SS1"),
            "127.0.0.2",
            frozenset((hashlib.sha256(bad_peers.other_server().der).digest(),)),
            frozenset((OTHER,)),
            None,
        ),
    )
    return SharedParameters("QROO-TEST", 6, (pki.approved(bad_peers.authority()),), (), {}, boxes, {}, 8 * 3600)


class Threads(HandshakeThreads):
    """What our end of the handshakes costs: all of it happens here, nothing of the peer's."""

    def __init__(self) -> None:
        super().__init__()
        self.spent_s = 0.0

    def run(self, step: Callable[[], Peer | None]) -> asyncio.Future[Peer | None]:
        def measured() -> Peer | None:
            began = time.thread_time()
            try:
                return step()
            finally:
                self.spent_s += time.thread_time() - began

        return super().run(measured)


class Box:
    """Ours: the contexts that a relay makes, and what it asks of a peer afterwards."""

    def __init__(self, shown: Shown, directory: Path) -> None:
        registered = (shown.leaf.der,) if shown.registered and shown.leaf is not bad_peers.other_server() else shown.enclosed[:1]
        self.shared, self.trust = configuration(*registered), PeerTrust(SystemClock())
        self.responses = bad_peers.expected_responses(shown)
        signer: Any = None
        self.contexts = Contexts(directory, logging.getLogger("test"), signer, foreign=False)
        self.contexts._loader = lambda label: files().b.load  # type: ignore[method-assign]  # our key is not the question
        self.contexts._chains = {PEER_KEY: (files().b.der,)}
        self.contexts.configuration_changed([self.shared])
        self.threads = Threads()
        self.file = directory / "peer.pem"
        self.file.write_bytes(shown.pem)

    def judge(self, peer: Peer, *, sends: bool) -> None:
        certificate = peer.certificate or b""
        self.trust.check_registered(certificate, self.shared)
        check = self.trust.check_sender if sends else self.trust.check_provider
        check(certificate, self.responses, MEMBER, self.shared)

    def raw(self, side: ssl._SSLMethod) -> ssl.SSLContext:
        """The peer's own TLS, with every scruple taken out of it."""
        context = ssl.SSLContext(side)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.load_cert_chain(self.file)
        return context


async def as_client(box: Box) -> str:
    """It connects to us: `good`, `tls`, or the kind of the refusal."""
    judged: list[str] = []

    async def serve(connection: ServerConnection) -> None:
        try:
            box.judge(connection.peer, sends=True)
            judged.append("good")
        except XacbeError as error:
            judged.append(error.kind)
        await connection.request()
        connection.refuse(response_head(200, [(b"Content-Length", b"0"), (b"Connection", b"close")]))

    async with serving(serve, context=box.contexts.peer_server_context, threads=box.threads) as served:
        try:
            reader, writer = await served.connect(box.raw(ssl.PROTOCOL_TLS_CLIENT))
            writer.write(GET)
            await reader.read()
        except (ssl.SSLError, ConnectionError):
            pass
        await until(lambda: bool(judged or served.refused))
        if judged:
            return judged[0]
        assert served.kinds[0] == "peer.tls_rejected"
        return "tls"


async def as_server(box: Box) -> str:
    """We connect to it."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.transport.abort()

    async def check(peer: Peer) -> None:
        box.judge(peer, sends=False)

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=box.raw(ssl.PROTOCOL_TLS_SERVER))
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # what the peer thinks of it is not our question
    dialer = Dialer(DialerLimits(), box.threads)
    try:
        port = server.sockets[0].getsockname()[1]
        connection = await dialer.acquire([("127.0.0.1", port)], "peer", context=box.contexts.peer_client_context(), check=check)
        connection.abort()
        dialer.release(connection)
        return "good"
    except TlsRejectedError:
        return "tls"
    except XacbeError as error:
        return error.kind
    finally:
        await dialer.close()
        server.close()


DIRECTIONS = {"as a client": as_client, "as a server": as_server}


def judged(shown: Shown, direction: str, directory: Path) -> tuple[str, float]:
    """The outcome, and the CPU that our end of the handshake spent."""
    box, found = Box(shown, directory), list[str]()

    async def main() -> None:
        found.append(await asyncio.wait_for(DIRECTIONS[direction](box), ENDED_S_MAX))

    run(main)
    return found[0], box.threads.spent_s


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_a_bad_certificate_is_believed_in_neither_direction(tmp_path: Path, bad: Bad, direction: str) -> None:
    outcome, _ = judged(bad.make(), direction, tmp_path)

    assert outcome in bad.kinds


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_what_the_table_calls_bad_is_bad_for_that_reason_alone(tmp_path: Path, direction: str) -> None:
    assert judged(bad_peers.good(), direction, tmp_path)[0] == "good"
    assert len(BAD) >= 40


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("make", [bad_peers.a_hundred_links, bad_peers.a_lattice], ids=["a hundred links", "a lattice"])
def test_a_chain_that_is_made_to_be_dear_is_not(tmp_path: Path, make: Any, direction: str) -> None:
    shown = make()
    spent = min(judged(shown, direction, tmp_path)[1] for _ in range(3))  # the machine does other things as well

    print(f"{len(shown.enclosed)} certificates beside its own: {spent * 1000:.1f} ms")
    assert spent < CPU_S_MAX
