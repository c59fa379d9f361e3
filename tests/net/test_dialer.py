from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

import pytest

from appliance.errors import UnavailableError, UnverifiedError
from appliance.net import tls
from appliance.net.connection import ClientConnection, ServerConnection
from appliance.net.dialer import Address, Dialer, DialerLimits, UnreachableError
from appliance.net.http1 import response_head
from appliance.net.tls_engine import HandshakeThreads, Peer, TlsRejectedError
from tests.net.serving import run, serving, until
from tests.net.test_tls import client_context, made, server_context

GET = b"GET / HTTP/1.1\r\nHost: box\r\n\r\n"


async def ok(connection: ServerConnection) -> None:
    while (await connection.request()) is not None:
        connection.write(response_head(200, [(b"Content-Length", b"0")]))


async def exchange(dialer: Dialer, *addresses: Address) -> ClientConnection:
    connection = await dialer.acquire(addresses, "peer")
    try:
        connection.start(b"GET", GET)
        await connection.response(5)
        await connection.read_body(10)
    finally:
        dialer.release(connection)
    return connection


def nobody_listens() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return ("127.0.0.1", int(sock.getsockname()[1]))


def deaf() -> tuple[socket.socket, list[socket.socket], Address]:
    """An address that neither takes nor refuses a connection: its backlog is full."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(0)
    fill = []
    for _ in range(3):
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(sock.getsockname())
        fill.append(one)
    return sock, fill, ("127.0.0.1", int(sock.getsockname()[1]))


def test_a_connection_is_used_again_and_the_last_one_first() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits())
        async with serving(ok) as served:
            address = ("127.0.0.1", served.port)
            first = await dialer.acquire([address], "peer")
            second = await dialer.acquire([address], "peer")
            dialer.release(first)
            dialer.release(second)
            assert await exchange(dialer, address) is second
            assert await exchange(dialer, address) is second
            assert served.listener.connections == 2
            await dialer.close()

    run(main)


def test_what_the_peer_closed_meanwhile_is_replaced() -> None:
    async def main() -> None:
        async def once(connection: ServerConnection) -> None:
            await connection.request()
            connection.write(response_head(200, [(b"Content-Length", b"0")]))

        dialer = Dialer(DialerLimits())
        async with serving(once) as served:
            first = await exchange(dialer, ("127.0.0.1", served.port))
            await until(lambda: not first.reusable)
            assert await exchange(dialer, ("127.0.0.1", served.port)) is not first
            await dialer.close()

    run(main)


def test_an_unfinished_exchange_is_never_used_again() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits())
        async with serving(ok) as served:
            address = ("127.0.0.1", served.port)
            connection = await dialer.acquire([address], "peer")
            connection.start(b"GET", GET)
            dialer.release(connection)
            assert await dialer.acquire([address], "peer") is not connection
            await dialer.close()

    run(main)


def test_idle_connections_end_after_their_limit() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(idle_s_max=0.2))
        async with serving(ok) as served:
            await exchange(dialer, ("127.0.0.1", served.port))
            await until(lambda: served.listener.connections == 0)
            await dialer.close()

    run(main)


def test_over_the_bound_callers_wait_for_a_connection_to_come_free() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(connections_per_route_max=2, connect_s_max=1))
        async with serving(ok) as served:
            address = ("127.0.0.1", served.port)
            async with asyncio.TaskGroup() as group:
                for _ in range(50):
                    group.create_task(exchange(dialer, address))
            assert served.listener.connections == 2
            held = [await dialer.acquire([address], "peer") for _ in range(2)]
            with pytest.raises(UnreachableError):
                await dialer.acquire([address], "peer")
            waiting = asyncio.ensure_future(dialer.acquire([address], "peer"))
            await asyncio.sleep(0.05)
            held[0].abort()  # a place comes free instead of a connection
            assert (await waiting).reusable
            await dialer.close()

    run(main)


def test_a_caller_that_gave_up_waiting_takes_no_connection_along() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(connections_per_route_max=1))
        async with serving(ok) as served:
            address = ("127.0.0.1", served.port)
            held = await dialer.acquire([address], "peer")
            waiting = asyncio.ensure_future(dialer.acquire([address], "peer"))
            await asyncio.sleep(0.05)
            dialer.release(held)
            waiting.cancel()  # in the same round in which its turn came
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await exchange(dialer, address) is held
            await dialer.close()

    run(main)


def test_nobody_there_is_unreachable() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits())
        with pytest.raises(UnreachableError) as caught:
            await dialer.acquire([nobody_listens()], "peer")
        assert caught.value.kind == "peer.unreachable"
        with pytest.raises(UnreachableError):
            await dialer.acquire([nobody_listens(), nobody_listens()], "peer")
        with pytest.raises(UnreachableError):
            await dialer.acquire([], "peer")

    run(main)


def resetting() -> tuple[socket.socket, threading.Thread]:
    """A service that resets every connection at once, as one does whose process is overloaded or behind a wall."""
    sock = socket.create_server(("127.0.0.1", 0))

    def reset() -> None:
        with contextlib.suppress(OSError):
            while True:
                accepted, _ = sock.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()

    thread = threading.Thread(target=reset)
    thread.start()
    return sock, thread


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.case("T39")
def test_whoever_resets_what_it_accepts_is_an_error_of_ours_and_nothing_stays_open(secure: bool) -> None:
    async def main() -> None:
        sock, thread = resetting()
        address = ("127.0.0.1", int(sock.getsockname()[1]))
        context = client_context(made().a) if secure else None
        dialer = Dialer(DialerLimits(), HandshakeThreads())
        for wait_s in [0.0] * 20 + [0.01] * 3:  # before, while and after the reset arrives
            try:
                connection = await dialer.acquire([address], "system", context=context)
            except UnavailableError:
                continue
            try:
                await asyncio.sleep(wait_s)
                connection.start(b"GET", GET)
                with pytest.raises(UnavailableError):
                    await connection.response(5)
            except UnavailableError:
                pass
            finally:
                dialer.release(connection)
        await until(lambda: all(not route.open for route in dialer._routes.values()))
        await dialer.close()
        sock.shutdown(socket.SHUT_RDWR)
        sock.close()
        await asyncio.to_thread(thread.join)

    run(main)


def test_a_connection_that_was_reset_before_it_is_used_is_unreachable() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(), HandshakeThreads())
        with socket.create_server(("127.0.0.1", 0)) as service:
            address = ("127.0.0.1", int(service.getsockname()[1]))
            for context in (None, client_context(made().a)):
                sock = socket.create_connection(address)
                accepted, _ = service.accept()
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                accepted.close()
                sock.setblocking(False)
                await until(lambda sock=sock: gone(sock))  # type: ignore[misc]  # bound to this turn's socket
                route = dialer._route((address,), "system")
                with contextlib.suppress(UnreachableError, TlsRejectedError):  # unless the transport has not noticed yet
                    connection = await dialer._establish(route, address, sock, context, None, None)
                    assert connection.peer.address == "127.0.0.1"
                    await until(lambda: connection.lost)  # noqa: B023  awaited in this turn
        await dialer.close()

    run(main)


def gone(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return True
    return False


def test_a_socket_that_no_transport_takes_is_unreachable_and_closed() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(), HandshakeThreads())
        for context in (None, client_context(made().a)):
            address = nobody_listens()
            sock = socket.socket()
            sock.close()  # the loop finds nothing that it could watch
            route = dialer._route((address,), "system")
            with pytest.raises(UnreachableError):
                await dialer._establish(route, address, sock, context, None, None)
            assert sock.fileno() == -1

    run(main)


def test_a_service_that_speaks_first_breaks_only_its_own_connection() -> None:
    async def main() -> None:
        async def banner(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"220 ready\r\n")
            writer.close()

        server = await asyncio.start_server(banner, "127.0.0.1", 0)
        dialer = Dialer(DialerLimits())
        for _ in range(20):
            with contextlib.suppress(UnavailableError):
                connection = await dialer.acquire([("127.0.0.1", server.sockets[0].getsockname()[1])], "system")
                await until(lambda: connection.lost)  # noqa: B023  awaited in this turn
                dialer.release(connection)
        await dialer.close()
        server.close()

    run(main)


@pytest.mark.parametrize("host", ["a..b", ".a", "a" * 64 + ".gob.mx"])
def test_a_name_that_cannot_be_looked_up_is_unreachable(host: str) -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits())
        with pytest.raises(UnreachableError):
            await dialer.acquire([(host, 80)], "system")
        with pytest.raises(UnreachableError):
            await dialer.acquire([(host, 80), nobody_listens()], "system")

    run(main)


def test_the_fastest_of_several_addresses_wins_and_is_tried_first_afterwards() -> None:
    async def main() -> None:
        dialer = Dialer(DialerLimits(connect_s_max=2, idle_s_max=0))
        sock, fill, silent = deaf()
        async with serving(ok) as served:
            good = ("127.0.0.1", served.port)
            begin = asyncio.get_running_loop().time()
            for _ in range(5):
                connection = await exchange(dialer, silent, good, nobody_listens())
                assert connection.key[1] == good
            assert asyncio.get_running_loop().time() - begin < 1
            await dialer.close()
        for each in (sock, *fill):
            each.close()

    run(main)


def test_an_address_whose_certificate_is_refused_by_the_caller_is_left_for_the_next() -> None:
    async def main() -> None:
        threads, b = HandshakeThreads(), server_context()
        a = tls.peer_server_context([made().ca.der], made().a.load)
        seen: list[bytes | None] = []

        async def only_b(peer: Peer) -> None:
            seen.append(peer.certificate)
            if peer.certificate != made().b.der:
                raise UnverifiedError("not registered", kind="peer.not_registered")

        mine = client_context(made().a)
        async with (
            serving(ok, context=lambda: a, threads=threads) as wrong,
            serving(ok, context=lambda: b, threads=threads) as right,
        ):
            for _ in range(4):
                dialer = Dialer(DialerLimits(), threads)
                addresses = [("127.0.0.1", wrong.port), ("127.0.0.1", right.port)]
                connection = await dialer.acquire(addresses, "peer", context=mine, check=only_b)
                assert connection.peer.certificate == made().b.der
                with pytest.raises(UnverifiedError):
                    await dialer.acquire(addresses[:1], "peer", context=mine, check=only_b)
                await dialer.close()
            await until(lambda: wrong.listener.connections == 0)
            count = len(seen)
            dialer = Dialer(DialerLimits(), threads)
            dialer.release(await dialer.acquire([addresses[1]], "peer", context=mine, check=only_b))
            dialer.release(await dialer.acquire([addresses[1]], "peer", context=mine, check=only_b))
            assert len(seen) == count + 1  # a kept connection was checked when it was made
            await dialer.close()

    run(main)


def test_a_kept_connection_of_an_older_context_is_dropped() -> None:
    async def main() -> None:
        threads, context = HandshakeThreads(), server_context()
        dialer = Dialer(DialerLimits(), threads)
        async with serving(ok, context=lambda: context, threads=threads) as served:
            address = ("127.0.0.1", served.port)
            old = await dialer.acquire([address], "peer", context=client_context(made().a))
            dialer.release(old)
            new = await dialer.acquire([address], "peer", context=client_context(made().a))
            assert new is not old
            await until(lambda: old.lost)
            await dialer.close()

    run(main)
