"""The small HTTP client: bounded in size and time, one named error for everything that goes wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from appliance.errors import XacbeError
from appliance.net import fetch
from appliance.net.fetch import FetchAnswer, FetchLimits

LIMITS = FetchLimits(connect_s_max=1, read_s_max=0.3, bytes_max=1000)
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def against(answer: bytes | Serve, ask: Callable[[str], Awaitable[object]]) -> tuple[object, bytes]:
    """Runs `ask(url)` against a server that answers so; the result (or the error's kind) and the request that it saw."""
    seen = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.extend(await reader.read(65536))
            if callable(answer):
                await answer(reader, writer)
            else:
                writer.write(answer)
                await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.CancelledError):
            writer.transport.abort()

    async def play() -> object:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            try:
                return await ask(f"http://127.0.0.1:{port}/conf?version=6")
            except XacbeError as error:
                return error.kind

    return asyncio.run(play()), bytes(seen)


def got(url: str) -> Awaitable[object]:
    return fetch.get(url, LIMITS)


def test_a_request_names_host_and_target_and_nothing_more() -> None:
    answer, request = against(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi", got)

    assert answer == FetchAnswer(200, "text/plain", b"hi")
    head = request.split(b"\r\n")
    assert head[0] == b"GET /conf?version=6 HTTP/1.1"
    assert head[1].startswith(b"Host: 127.0.0.1:")


def test_a_post_carries_its_body() -> None:
    body, request = against(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        lambda url: fetch.post(url, "application/ocsp-request", b"\x30\x00", LIMITS),
    )

    assert body == b"abcde"
    assert b"Content-Type: application/ocsp-request\r\nContent-Length: 2\r\n\r\n\x30\x00" in request


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nuntil the end", FetchAnswer(200, "", b"until the end")),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", FetchAnswer(404, "", b"")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi and more", FetchAnswer(200, "", b"hi")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ncut", "fetch.failed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "fetch.failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", "fetch.failed"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n", "fetch.failed"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\nand more", "fetch.failed"),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "fetch.failed"),
        (b"HTTP/1.1 200 OK\r\nUpgrade: x\r\nConnection: Upgrade\r\nContent-Length: 2\r\n\r\nhi", FetchAnswer(200, "", b"hi")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nbye", FetchAnswer(200, "", b"hi")),
        (b"SSH-2.0-OpenSSH\r\n", "fetch.failed"),
        (b"", "fetch.failed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + bytes(1001), "fetch.oversized"),
        (b"HTTP/1.0 200 OK\r\n\r\n" + bytes(1001), "fetch.oversized"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 65 + b"\r\n", "fetch.failed"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * (1 << 20), "fetch.oversized"),
    ],
)
@pytest.mark.case("T18")
def test_an_answer_is_whole_or_an_error(answer: bytes, expected: object) -> None:
    assert against(answer, got)[0] == expected


def test_another_status_is_no_answer_to_a_post() -> None:
    assert against(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", lambda url: fetch.post(url, "x/y", b"", LIMITS))[0] == "fetch.status"


@pytest.mark.case("T39")
def test_a_silent_and_a_dripping_service_end_with_their_time() -> None:
    async def drip(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n":
            writer.write(bytes((byte,)))
            await asyncio.sleep(0.05)

    began = time.monotonic()
    assert against(drip, got)[0] == "fetch.failed"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "url",
    ["https://127.0.0.1/", "file:///etc/passwd", "http:///", "http://a@127.0.0.1/", "http://127.0.0.1:99999/", "http://127.0.0.1/a b", ""],
)
def test_other_addresses_are_never_asked(url: str) -> None:
    with pytest.raises(fetch.FetchError):
        asyncio.run(fetch.get(url, LIMITS))


def test_nobody_there_is_an_error_at_once() -> None:
    with pytest.raises(fetch.FetchError):
        asyncio.run(fetch.get("http://127.0.0.1:1/", LIMITS))


def kept(handle: Callable[[int, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], posts: int) -> tuple[list[object], int]:
    """Posts one after the other over kept connections: what each gave, and how many connections the service saw. `handle` is told which."""
    made = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        try:
            await handle(made, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        writer.transport.abort()

    async def play() -> list[object]:
        found: list[object] = []
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            client = fetch.Kept()
            for _ in range(posts):
                try:
                    found.append(await client.post(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", "a/b", b"body", LIMITS))
                except XacbeError as error:
                    found.append(error.kind)
                await asyncio.sleep(0.01)  # for the service to close, if it wants to
            client.close()
        return found

    return asyncio.run(play()), made


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def test_a_kept_connection_serves_one_post_after_the_other() -> None:
    async def handle(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"body"):
            writer.write(OK)

    assert kept(handle, 5) == ([b"hi"] * 5, 1)


@pytest.mark.parametrize(
    "answer",
    [OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), OK + b"and more", OK + b"H", b"HTTP/1.0 200 OK\r\n\r\nhi"],
    ids=["says close", "bytes behind it", "one byte behind it", "until the end"],
)
def test_a_connection_that_is_not_sure_to_be_between_two_answers_is_not_kept(answer: bytes) -> None:
    async def handle(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(answer)
        if b"1.0" in answer:
            writer.write_eof()
        await reader.read()

    assert kept(handle, 3) == ([b"hi"] * 3, 3)


def test_a_connection_that_was_closed_meanwhile_costs_nothing_but_another_one() -> None:
    async def once(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(OK)
        await writer.drain()

    async def only_after_the_second_request(number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await once(number, reader, writer)
        await reader.readuntil(b"body")

    assert kept(once, 3) == ([b"hi"] * 3, 3)
    assert kept(only_after_the_second_request, 3) == ([b"hi"] * 3, 3)


def test_a_service_that_never_answers_is_asked_on_one_fresh_connection_only() -> None:
    async def handle(_: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")

    assert kept(handle, 2) == (["fetch.failed"] * 2, 2)
