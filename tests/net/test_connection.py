from __future__ import annotations

import asyncio
import contextlib
import resource

import pytest

from appliance.net import http1
from appliance.net.chunks import LAST_CHUNK, chunk
from appliance.net.connection import PeerClosedError, PeerTimeoutError, ServerConnection, StreamLimits
from appliance.net.http1 import OversizedError
from appliance.net.listener import ListenerLimits
from tests.net.serving import run, serving, until

MIB = 1 << 20


def answer(body: bytes, status: int = 200) -> bytes:
    return http1.response_head(status, [(b"Content-Length", b"%d" % len(body))]) + body


def post(body: bytes = b"", *, size: int | None = None, headers: bytes = b"") -> bytes:
    length = len(body) if size is None else size
    return b"POST / HTTP/1.1\r\nHost: box\r\n%bContent-Length: %d\r\n\r\n%b" % (headers, length, body)


async def echo(connection: ServerConnection) -> None:
    while (await connection.request()) is not None:
        connection.write(answer(await connection.read_body(MIB)))
        await connection.drain()


def limits(**seconds: float) -> ListenerLimits:
    return ListenerLimits(stream=StreamLimits(**seconds))  # type: ignore[arg-type]  # only its numbers of seconds are given


def test_pipelined_requests_are_answered_in_order_one_at_a_time() -> None:
    async def main() -> None:
        at_once, most = 0, 0

        async def slow(connection: ServerConnection) -> None:
            nonlocal at_once, most
            while (await connection.request()) is not None:
                at_once += 1
                most = max(most, at_once)
                body = await connection.read_body(100)
                await asyncio.sleep(0.005)
                at_once -= 1
                connection.write(answer(body))

        async with serving(slow) as served:
            reader, writer = await served.connect()
            writer.write(b"".join(post(b"%d" % number) for number in range(20)))
            for number in range(20):
                await reader.readuntil(b"\r\n\r\n")
                assert await reader.readexactly(len(b"%d" % number)) == b"%d" % number
            writer.close()
        assert most == 1

    run(main)


def test_a_body_in_chunks_that_comes_byte_by_byte_is_the_same_body() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            reader, writer = await served.connect()
            for byte in b"POST / HTTP/1.1\r\nHost: box\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(b"hello") + chunk(b"!") + LAST_CHUNK:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            assert (await reader.readuntil(b"hello!")).endswith(b"\r\n\r\nhello!")
            writer.close()

    run(main)


def test_who_expects_100_gets_it_only_when_the_body_is_wanted() -> None:
    async def choosy(connection: ServerConnection) -> None:
        while (request := await connection.request()) is not None:
            if request.target == b"/":
                connection.write(answer(await connection.read_body(100)))
            else:
                connection.write(answer(b"no", 403))

    async def main() -> None:
        async with serving(choosy) as served:
            reader, writer = await served.connect()
            writer.write(post(size=2, headers=b"Expect: 100-continue\r\n"))
            assert await reader.readuntil(b"\r\n\r\n") == http1.CONTINUE
            writer.write(b"hi" + b"POST /no HTTP/1.1\r\nHost: b\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
            assert await reader.read() == answer(b"hi") + answer(b"no", 403)  # and then closed: the body may come or not
            writer.close()

    run(main)


@pytest.mark.case("T42")
def test_a_head_that_comes_drop_by_drop_is_cut_at_its_limit() -> None:
    async def main() -> None:
        async with serving(echo, limits(head_s_max=0.5)) as served:
            _, writer = await served.connect()
            begin = asyncio.get_running_loop().time()
            with contextlib.suppress(ConnectionError):
                while not served.refused:
                    writer.write(b"G" if asyncio.get_running_loop().time() == begin else b"E")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            assert asyncio.get_running_loop().time() - begin < 1.5
            writer.close()
            await until(lambda: served.kinds == ["peer.timeout"])

    run(main)


@pytest.mark.case("T42")
def test_a_byte_of_body_now_and_then_does_not_renew_the_limit() -> None:
    async def main() -> None:
        async with serving(echo, limits(body_stall_s_max=0.5)) as served:
            _, writer = await served.connect()
            writer.write(post(size=1000))
            begin = asyncio.get_running_loop().time()
            while not served.refused and asyncio.get_running_loop().time() - begin < 3:
                writer.write(b"x")
                await asyncio.sleep(0.05)
            assert served.kinds == ["peer.timeout"]
            assert asyncio.get_running_loop().time() - begin < 1.5
            writer.close()

    run(main)


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def main() -> None:
        async with serving(echo, limits(idle_s_max=0.3)) as served:
            reader, writer = await served.connect()
            writer.write(post(b"a"))
            assert await reader.read() == answer(b"a")
            assert served.refused == []
            writer.close()

    run(main)


@pytest.mark.case("T44")
def test_a_body_over_the_limit_is_refused_before_it_is_read_and_the_answer_arrives() -> None:
    async def main() -> None:
        async def small(connection: ServerConnection) -> None:
            while (await connection.request()) is not None:
                connection.write(answer(await connection.read_body(1000)))

        async with serving(small) as served:
            for headers, body in (
                (b"Content-Length: 2000000", b"x" * 2_000_000),
                (b"Transfer-Encoding: chunked", chunk(b"x" * 100_000) * 10),
            ):
                reader, writer = await served.connect()
                writer.write(b"POST / HTTP/1.1\r\nHost: box\r\n" + headers + b"\r\n\r\n" + body)
                assert (await reader.read()).startswith(b"HTTP/1.1 413 ")
                writer.close()
            assert served.kinds == ["peer.oversized"] * 2

    run(main)


@pytest.mark.case("T03")
def test_a_malformed_second_request_is_answered_400_after_the_answer_to_the_first() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            reader, writer = await served.connect()
            writer.write(post(b"a") + b"GET http://x/ HTTP/1.1\r\nHost: a\r\n\r\n" + post(b"never"))
            got = await reader.read()
            assert got.startswith(answer(b"a") + b"HTTP/1.1 400 Bad Request\r\n")
            assert got.count(b"HTTP/1.1") == 2
            assert served.kinds == ["http.malformed"]
            writer.close()

    run(main)


def test_a_body_that_the_handler_did_not_want_is_skipped() -> None:
    async def deaf(connection: ServerConnection) -> None:
        while (request := await connection.request()) is not None:
            connection.write(answer(request.target))

    async def main() -> None:
        async with serving(deaf) as served:
            reader, writer = await served.connect()
            writer.write(post(b"x" * 1000) + b"GET /second HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n")
            assert await reader.read() == answer(b"/") + answer(b"/second")
            writer.close()

    run(main)


def test_a_request_that_is_cut_short_reaches_no_handler_as_whole() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            _, writer = await served.connect()
            writer.write(post(b"half", size=8))
            writer.close()
            await until(lambda: served.kinds == ["peer.closed"])

    run(main)


def test_a_client_that_half_closes_still_gets_its_answer() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            reader, writer = await served.connect()
            writer.write(post(b"a"))
            writer.write_eof()
            assert await reader.read() == answer(b"a")
            assert served.refused == []
            writer.close()

    run(main)


def test_a_reader_that_does_not_read_holds_a_bounded_amount_and_is_cut() -> None:
    async def main() -> None:
        sent = 0

        async def endless(connection: ServerConnection) -> None:
            nonlocal sent
            await connection.request()
            connection.write(http1.response_head(200, [(b"Content-Length", b"1000000000")]))
            while True:
                connection.write(b"x" * 65536)
                sent += 65536
                await connection.drain()

        async with serving(endless, limits(body_stall_s_max=0.5)) as served:
            _, writer = await served.connect()
            writer.write(post())
            await until(lambda: served.kinds == ["peer.timeout"])
            assert sent < 16 * MIB  # what the kernel's own buffers take, and 256 KiB
            writer.close()

    run(main)


def test_nobody_reads_for_a_handler_that_does_not_take_the_body() -> None:
    async def main() -> None:
        go_on = asyncio.Event()

        async def late(connection: ServerConnection) -> None:
            await connection.request()
            await go_on.wait()
            size = 0
            while (piece := await connection.next_chunk()) is not None:
                size += len(piece)
            connection.write(answer(b"%d" % size))

        async with serving(late) as served:
            reader, writer = await served.connect()
            writer.write(post(size=100 * MIB))
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        writer.write(bytes(65536))
                        sent += 65536
                        await writer.drain()
            assert sent < 16 * MIB
            go_on.set()
            while sent < 100 * MIB:
                writer.write(bytes(65536))
                sent += 65536
                await writer.drain()
            assert (await reader.readuntil(b"104857600")).startswith(b"HTTP/1.1 200")
            writer.close()

    run(main)


def test_a_client_that_still_sends_notices_the_early_answer_and_can_read_it() -> None:
    async def main() -> None:
        async def hasty(connection: ServerConnection) -> None:
            await connection.request()
            connection.write(answer(b"no room", 503))

        async with serving(hasty) as served:
            client = await served.dial()
            client.start(b"POST", post(size=100 * MIB), more=True)
            sent = 0
            while not client.response_started and sent < 100 * MIB:
                client.write(bytes(65536))
                sent += 65536
                await client.drain()
            head = await client.response(5)
            assert (head.status, await client.read_body(100)) == (503, b"no room")
            assert sent < 20 * MIB
            assert not client.reusable

    run(main)


def test_a_hundred_megabytes_up_and_down_do_not_stay_in_memory() -> None:
    async def main() -> None:
        async def origin(connection: ServerConnection) -> None:
            while (await connection.request()) is not None:
                size = 0
                while (piece := await connection.next_chunk()) is not None:
                    size += len(piece)
                connection.write(http1.response_head(200, [(b"Content-Length", b"%d" % size)]))
                for _ in range(size // 65536):
                    connection.write(bytes(65536))
                    await connection.drain()

        async with serving(origin) as served:
            client = await served.dial()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            client.start(b"POST", post(size=100 * MIB), more=True)
            for _ in range(1600):
                client.write(bytes(65536))
                await client.drain()
            client.finish()
            received = 0
            while (piece := await client.next_chunk()) is not None:
                received += len(piece)
            assert received == 100 * MIB
            assert client.reusable
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 << 10  # KiB

    run(main)


def test_a_connection_reset_in_the_middle_of_an_answer_is_named() -> None:
    async def main() -> None:
        async def cut(connection: ServerConnection) -> None:
            await connection.request()
            connection.write(http1.response_head(200, [(b"Content-Length", b"100")]) + b"half")
            await asyncio.sleep(0.05)
            connection.abort()

        async with serving(cut) as served:
            client = await served.dial()
            client.start(b"GET", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
            await client.response(5)
            with pytest.raises(PeerClosedError):
                await client.read_body(1000)
            assert not client.reusable

    run(main)


def test_an_answer_that_does_not_come_is_a_timeout() -> None:
    async def main() -> None:
        async def silent(connection: ServerConnection) -> None:
            await connection.request()
            await asyncio.sleep(1)

        async with serving(silent) as served:
            client = await served.dial()
            client.start(b"GET", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
            with pytest.raises(PeerTimeoutError):
                await client.response(0.2)

    run(main)


def test_a_client_bounds_the_body_it_takes() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            client = await served.dial()
            client.start(b"POST", post(b"x" * 2000))
            await client.response(5)
            with pytest.raises(OversizedError):
                await client.read_body(1000)

    run(main)


def test_a_connection_that_the_peer_closed_while_idle_is_not_used() -> None:
    async def main() -> None:
        async def once(connection: ServerConnection) -> None:
            await connection.request()
            connection.write(answer(b"a"))

        async with serving(once) as served:
            client = await served.dial()
            client.start(b"GET", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")
            await client.response(5)
            await client.read_body(10)
            client.rest(asyncio.get_running_loop().time() + 60)
            await until(lambda: not client.reusable)
            with pytest.raises(PeerClosedError):
                client.start(b"GET", b"GET / HTTP/1.1\r\nHost: b\r\n\r\n")

    run(main)


def test_the_previous_exchange_must_be_over() -> None:
    async def main() -> None:
        async with serving(echo) as served:
            client = await served.dial()
            client.start(b"POST", post(b"a"))
            with pytest.raises(RuntimeError):
                client.start(b"POST", post(b"b"))

    run(main)
