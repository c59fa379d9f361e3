"""Port 5500 and X-Road's TLS profile: a server that the settings do not name is told so in a fault, and nothing of it is read."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.exchange.foreign import ForeignServers
from appliance.model.identifiers import ClientId, ServerId
from appliance.net import tls
from appliance.net.faults import Fault
from appliance.net.tls_engine import HandshakeThreads, TlsRejectedError
from appliance.relay.contexts import PEER_KEY, Contexts
from appliance.relay.gates import BusyError
from appliance.relay.peer_front import PeerFront
from tests.net.serving import run, serving
from tests.net.test_foreign_tls import answer, as_box, ask, peer, s_client, s_server, server_context
from tests.net.test_tls import made

NAMED = ServerId(ClientId("DEV", "COM", "P1"), "SS1")


class Box:
    """What the peer's front asks before it reads: every certificate is that of NAMED."""

    def __init__(self) -> None:
        self.audited: list[tuple[str, str]] = []

    def instances(self) -> list[Any]:
        return []

    def check_registered(self, certificate: bytes, *instances: Any) -> Any:
        return SimpleNamespace(id=NAMED, address="10.0.0.1")

    def strangers_event(self, name: str, kind: str, address: str, reason: str) -> bool:
        return True

    async def stranger(self, name: str, kind: str, address: str, reason: str) -> None:
        self.audited.append((name, kind))

    def begin(self) -> Any:
        return SimpleNamespace(request_id="", other_address="", fault=None)

    def end(self, course: Any, side: str) -> None:
        """Nothing is noted here."""

    def arrive(self, address: str) -> Any:
        """The message would be read now."""
        raise BusyError("reached")

    async def fault(self, error: Exception, *_: Any, **__: Any) -> Fault:
        return Fault(str(error), 500, "", "", "")


@pytest.mark.parametrize(
    ("foreign", "words", "read"),
    [
        ("DEV/COM/P2/SS1", ("-tls1_2", "-cipher", tls.FOREIGN_SUITES), False),
        ("DEV/COM/P2/SS1", ("-tls1_3",), True),
        (str(NAMED), ("-tls1_2", "-cipher", tls.FOREIGN_SUITES), True),
    ],
)
def test_only_named_servers_are_heard_over_tls_1_2(tmp_path: Path, foreign: str, words: tuple[str, ...], read: bool) -> None:
    async def main() -> None:
        box, context = Box(), server_context(foreign=True)
        part: Any = box
        front = PeerFront(part, part, part, part, part, part, part, Counter(), part, 1 << 20, ForeignServers(foreign))
        async with serving(front.serve, context=lambda: context, threads=HandshakeThreads()) as served:
            _, said = await s_client(served.port, peer(tmp_path, "EC"), *words)
        assert ("<faultcode>reached<" in said) == read
        assert ("ssl_authentication_failed" in said) != read
        assert box.audited == ([] if read else [("peer.refused", "peer.tls_profile")])

    run(main)


@pytest.mark.parametrize("named", [False, True])
def test_the_relays_own_contexts_take_a_server_with_client_auth_alone_and_offer_the_profile_only_when_asked(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer: Any = None
    contexts = Contexts(tmp_path, logging.getLogger("test"), signer, foreign=named)
    monkeypatch.setattr(contexts, "_loader", lambda label: as_box(made().a))
    contexts._chains, contexts._anchors = {PEER_KEY: (made().a.der,)}, (made().ca.der,)
    contexts._make_peer()

    async def main() -> None:
        file = peer(tmp_path, "EC")
        async with s_server(file, "-tls1_3") as port:
            assert await ask(port, contexts.peer_client_context()) == "TLSv1.3"
        async with s_server(file, "-tls1_2") as port:
            with pytest.raises(TlsRejectedError):
                await ask(port, contexts.peer_client_context())
            if not named:
                with pytest.raises(TlsRejectedError):
                    await ask(port, contexts.peer_client_context(foreign=True))
        if named:
            async with s_server(file, "-tls1_2") as port:
                assert await ask(port, contexts.peer_client_context(foreign=True)) == "TLSv1.2"
        context = contexts.peer_server_context()
        async with serving(answer, context=lambda: context, threads=HandshakeThreads()) as served:
            done, _ = await s_client(served.port, file, "-tls1_2", "-cipher", tls.FOREIGN_SUITES)
            assert done == named

    run(main)
