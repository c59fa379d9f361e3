from __future__ import annotations

import asyncio
import atexit
import functools
import shutil
import ssl
import tempfile
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from appliance.errors import XacbeError
from appliance.net import tls, token_key
from appliance.net.chunks import LAST_CHUNK, chunk
from appliance.net.connection import ClientConnection, PeerClosedError, ServerConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.http1 import response_head
from appliance.net.listener import ListenerLimits
from appliance.net.tls_engine import HandshakeThreads, Peer, TlsRejectedError
from appliance.net.token_key import use_token_key
from tests.net import pki
from tests.net.pki import Identity, Pki
from tests.net.serving import Served, run, serving, until

GET = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n"
MIB = 1 << 20


@functools.cache
def made() -> Pki:
    directory = Path(tempfile.mkdtemp(prefix="pki-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)  # shared by three test files, so no fixture's
    return pki.make(directory)


async def who(connection: ServerConnection) -> None:
    """Answers with what the server knows of its peer."""
    while (await connection.request()) is not None:
        await connection.read_body(MIB)
        peer = connection.peer
        assert peer.chain[:1] == ((peer.certificate,) if peer.certificate else ())
        body = b"%d %d" % (len(peer.certificate or b""), peer.resumed)
        connection.write(response_head(200, [(b"Content-Length", b"%d" % len(body))]) + body)


def server_context(*, foreign: bool = False) -> ssl.SSLContext:
    return tls.peer_server_context([made().ca.der], made().b.load, foreign=foreign)


def client_context(identity: Identity, *, anchor: Identity | None = None, foreign: bool = False) -> ssl.SSLContext:
    return tls.peer_client_context([(anchor or made().ca).der], identity.load, foreign=foreign)


async def ask(dialer: Dialer, served: Served, context: ssl.SSLContext) -> tuple[Peer, bytes]:
    connection = await dialer.acquire([("127.0.0.1", served.port)], "peer", context=context)
    try:
        connection.start(b"GET", GET)
        await connection.response(5)
        return connection.peer, await connection.read_body(100)
    finally:
        dialer.release(connection)


def test_two_boxes_talk_tls_1_3_and_each_sees_the_certificate_of_the_other() -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: context, threads=threads) as served:
            peer, seen = await ask(dialer, served, client_context(made().a))
            assert (peer.protocol, peer.certificate, peer.chain[0]) == ("TLSv1.3", made().b.der, made().b.der)
            assert seen == b"%d 0" % len(made().a.der)
            assert served.refused == []
            await dialer.close()

    run(main)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("stranger", "unable to get local issuer certificate"), ("expired", "certificate has expired"), ("system", "self-signed")],
)
def test_a_refused_peer_gets_an_alert_and_the_audit_the_reason(name: str, reason: str) -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: context, threads=threads) as served:
            with pytest.raises(TlsRejectedError) as caught:
                await ask(dialer, served, client_context(getattr(made(), name)))
            assert "ALERT" in str(caught.value).upper()
            await until(lambda: bool(served.refused))
            ((address, error),) = served.refused
            assert (address, error.kind) == ("127.0.0.1", "peer.tls_rejected")
            assert reason in str(error)
            assert served.listener.refusals == {"peer.tls_rejected": 1}
            await dialer.close()

    run(main)


def test_a_peer_without_a_certificate_is_refused() -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        async with serving(who, context=lambda: context, threads=threads) as served:
            bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            bare.check_hostname, bare.verify_mode = False, ssl.CERT_NONE
            reader, writer = await served.connect(bare)
            writer.write(GET)
            with pytest.raises(ssl.SSLError, match="ALERT"):
                await reader.read()
            await until(lambda: served.kinds == ["peer.tls_rejected"])

    run(main)


def test_a_server_under_another_authority_is_refused_by_the_client_before_it_sends() -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: context, threads=threads) as served:
            with pytest.raises(TlsRejectedError, match="self-signed certificate in certificate chain"):
                await ask(dialer, served, client_context(made().a, anchor=made().other_ca))
            await until(lambda: served.kinds == ["peer.tls_rejected"])
            await dialer.close()

    run(main)


def test_sessions_resume_and_still_show_the_certificate() -> None:
    async def main() -> None:
        threads, context, mine = HandshakeThreads(), server_context(), client_context(made().a)
        dialer = Dialer(DialerLimits(idle_s_max=0), threads)  # nothing is kept: each exchange connects anew
        async with serving(who, context=lambda: context, threads=threads) as served:
            first, _ = await ask(dialer, served, mine)
            await until(lambda: not dialer._connections)
            second, seen = await ask(dialer, served, mine)
            assert (first.resumed, second.resumed) == (False, True)
            assert second.certificate == made().b.der
            assert seen == b"%d 1" % len(made().a.der)
            await dialer.close()

    run(main)


def test_a_new_context_is_used_at_once_and_resumes_no_old_session() -> None:
    async def main() -> None:
        threads, contexts, mine = HandshakeThreads(), [server_context()], client_context(made().a)
        dialer = Dialer(DialerLimits(idle_s_max=0), threads)
        async with serving(who, context=lambda: contexts[-1], threads=threads) as served:
            await ask(dialer, served, mine)
            await until(lambda: not dialer._connections)
            contexts.append(tls.peer_server_context([made().other_ca.der], made().b.load))
            with pytest.raises(XacbeError):
                await ask(dialer, served, mine)
            await dialer.close()

    run(main)


def test_tls_1_2_is_spoken_with_foreign_servers_only_and_in_their_suites() -> None:
    async def main() -> None:
        threads, strict, lenient = HandshakeThreads(), server_context(), server_context(foreign=True)
        old = client_context(made().a, foreign=True)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: strict, threads=threads) as served:
            with pytest.raises(TlsRejectedError):
                await ask(dialer, served, old)
        async with serving(who, context=lambda: lenient, threads=threads) as served:
            peer, _ = await ask(dialer, served, old)
            assert peer.protocol == "TLSv1.2"
            await dialer.close()

    run(main)


def test_contexts_are_as_the_house_wants_them() -> None:
    nobody = made().a.load
    for context in (server_context(), client_context(made().a)):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.verify_flags & ssl.VERIFY_X509_PARTIAL_CHAIN
        assert not context.check_hostname
    for context in (tls.client_https_context(nobody), tls.system_client_context([])):
        old = [each["name"] for each in context.get_ciphers() if each["protocol"] == "TLSv1.2"]
        assert old
        assert all("GCM" in name or "CHACHA20" in name for name in old)
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_RENEGOTIATION
    assert tls.system_client_context(None).verify_mode is ssl.CERT_NONE
    assert tls.system_client_context([]).verify_mode is ssl.CERT_REQUIRED
    assert tls.system_client_context([]).check_hostname
    assert not tls.system_client_context([made().b.der], ca_file=str(made().ca.file)).check_hostname


def test_an_information_system_may_show_any_certificate_or_none_and_we_see_which() -> None:
    async def main() -> None:
        threads = HandshakeThreads()
        late = pki.identity(made().a.file.parent, "late", days=(-9, -1), usages=())
        context = tls.client_https_context(made().b.load)
        token_key.accept_any_certificate(context)
        pinned = [made().b.der]
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: context, threads=threads) as served:
            for identity in (made().system, late, made().a):
                _, seen = await ask(dialer, served, tls.system_client_context(pinned, identity.load))
                assert seen == b"%d 0" % len(identity.der)
            _, seen = await ask(dialer, served, tls.system_client_context(pinned))
            assert seen == b"0 0"
            with pytest.raises(TlsRejectedError):
                await ask(dialer, served, tls.system_client_context([made().a.der]))
            await dialer.close()

    run(main)


def test_without_the_callback_a_certificate_without_an_anchor_is_refused() -> None:
    async def main() -> None:
        threads = HandshakeThreads()
        context = tls.client_https_context(made().b.load)
        dialer = Dialer(DialerLimits(), threads)
        async with serving(who, context=lambda: context, threads=threads) as served:
            with pytest.raises(TlsRejectedError):
                await ask(dialer, served, tls.system_client_context([made().b.der], made().a.load))
            await dialer.close()

    run(main)


def test_large_bodies_pass_both_ways_and_come_out_the_same() -> None:
    async def echo(connection: ServerConnection) -> None:
        while (await connection.request()) is not None:
            connection.write(response_head(200, [(b"Transfer-Encoding", b"chunked")]))
            for piece in [await connection.read_body(8 * MIB)]:
                connection.write(chunk(piece))
            connection.write(LAST_CHUNK)

    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(echo, context=lambda: context, threads=threads) as served:
            connection = await dialer.acquire([("127.0.0.1", served.port)], "peer", context=client_context(made().a))
            body = bytes(range(256)) * 12345
            connection.start(b"POST", b"POST / HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            await connection.response(5)
            assert await connection.read_body(8 * MIB) == body
            dialer.release(connection)
            await dialer.close()

    run(main)


def test_a_body_until_close_is_whole_only_with_a_close_notify() -> None:
    async def open_ended(connection: ServerConnection) -> None:
        request = await connection.request()
        connection.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        if request is not None and request.target == b"/cut":
            await asyncio.sleep(0.05)
            connection._transport._raw.close()  # type: ignore[attr-defined]  # what somebody on the wire can do
            await asyncio.sleep(0.2)

    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(open_ended, context=lambda: context, threads=threads) as served:

            async def get(target: bytes) -> bytes:
                connection: ClientConnection = await dialer.acquire([("127.0.0.1", served.port)], "peer", context=client_context(made().a))
                try:
                    connection.start(b"GET", b"GET %b HTTP/1.1\r\nHost: b\r\n\r\n" % target)
                    await connection.response(5)
                    return await connection.read_body(100)
                finally:
                    dialer.release(connection)

            assert await get(b"/") == b"half"
            with pytest.raises(PeerClosedError):
                await get(b"/cut")
            await dialer.close()

    run(main)


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", b"\x16\x03\x01\x00\x05hello", bytes(100)])
def test_what_is_not_tls_is_refused_at_once(data: bytes) -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        async with serving(who, context=lambda: context, threads=threads) as served:
            reader, writer = await served.connect()
            writer.write(data)
            await reader.read()
            assert served.kinds == ["peer.tls_rejected"]

    run(main)


def test_slow_keys_do_not_hold_up_the_loop() -> None:
    async def main() -> None:
        threads = HandshakeThreads()

        def slowly(identity: Identity) -> tls.KeyLoader:
            def sign(digest: bytes) -> bytes:
                time.sleep(0.1)  # a token
                return identity.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))

            return lambda context: use_token_key(context, [identity.der], sign)

        context = tls.peer_server_context([made().ca.der], slowly(made().b))
        mine = tls.peer_client_context([made().ca.der], slowly(made().a))
        dialer = Dialer(DialerLimits(), threads)
        lags: list[float] = []

        async def heartbeat() -> None:
            while True:
                begin = time.perf_counter()
                await asyncio.sleep(0.001)
                lags.append(time.perf_counter() - begin - 0.001)

        async with serving(who, context=lambda: context, threads=threads) as served, asyncio.TaskGroup() as group:
            beat = group.create_task(heartbeat())
            async with asyncio.TaskGroup() as askers:
                for _ in range(10):
                    askers.create_task(ask(dialer, served, mine))
            beat.cancel()
            lags.sort()
            print(
                f"loop lag during 10 slow handshakes: p50 {lags[len(lags) // 2] * 1e3:.2f} ms, p99 {lags[-len(lags) // 100] * 1e3:.2f} ms"
            )
            assert lags[len(lags) // 2] < 0.05  # a key on the loop would cost 0.1; the 99th percentile is for the bench: machines are busy
            await dialer.close()

    run(main)


def test_a_stalled_handshake_ends_at_its_limit() -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        async with serving(who, ListenerLimits(handshake_s_max=0.3), context=lambda: context, threads=threads) as served:
            reader, writer = await served.connect()
            writer.write(b"\x16\x03\x01\x01\x00\x01")
            assert await reader.read() == b""
            assert served.kinds == ["peer.timeout"]

    run(main)
