"""What an information system is sent: the configured place and the caller's own path, byte for byte."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from appliance.access.rights import Service
from appliance.net.connection import ServerConnection
from appliance.net.dialer import Dialer, DialerLimits
from appliance.net.http1 import response_head
from appliance.net.local_client import LocalClient
from appliance.net.message_protocol import service_url
from appliance.net.tls_engine import HandshakeThreads
from appliance.relay.bodies import BodyStore
from appliance.relay.system_call import ServiceUnreachableError, SystemCaller, _head, _place
from tests.fakes.exchange import body_of
from tests.net import pki
from tests.net.pki import Identity
from tests.net.serving import run, serving

PLACES = [
    # service URL, what follows the service code, target, host, port, Host header
    ("http://10.0.0.1", "", "/", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1", "?a=1", "/?a=1", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1:8090", "/7?x=1", "/7?x=1", "10.0.0.1", 8090, "10.0.0.1:8090"),
    ("http://10.0.0.1/base", "/7", "/base/7", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base/", "/7", "/base/7", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base/", "", "/base/", "10.0.0.1", 80, "10.0.0.1"),
    ("http://10.0.0.1/base", "?q", "/base?q", "10.0.0.1", 80, "10.0.0.1"),
    ("https://sistema.gob.mx", "/a", "/a", "sistema.gob.mx", 443, "sistema.gob.mx"),
    ("HTTPS://Sistema.gob.mx:8443/B", "/a", "/B/a", "sistema.gob.mx", 8443, "Sistema.gob.mx:8443"),
    ("http://[::1]:81/b", "/a", "/b/a", "::1", 81, "[::1]:81"),
    # nothing is decoded, tidied or resolved
    ("http://h/b", "/a%2Fb/%C3%A9//c/./;v=1?x=%20&y=a+b??", "/b/a%2Fb/%C3%A9//c/./;v=1?x=%20&y=a+b??", "h", 80, "h"),
    ("http://h", "/a:b@c/http://other/", "/a:b@c/http://other/", "h", 80, "h"),
    ("http://h", "//other.gob.mx/a", "//other.gob.mx/a", "h", 80, "h"),
]


@pytest.mark.parametrize(("url", "target", "expected", "host", "port", "authority"), PLACES)
def test_the_place_is_the_configured_one_and_the_path_the_caller_s(
    url: str, target: str, expected: str, host: str, port: int, authority: str
) -> None:
    place = _place(service_url(url, target))

    assert (place.target, place.host, place.port, place.authority) == (expected, host, port, authority)
    assert place.secure == url.lower().startswith("https")


@pytest.mark.parametrize(
    ("method", "body", "length"),
    [
        ("GET", None, None),
        ("DELETE", None, None),
        ("POST", None, b"0"),
        ("PUT", None, b"0"),
        ("PATCH", None, b"0"),
        ("POST", b"", b"0"),
        ("POST", b"abc", b"3"),
    ],
)
def test_a_length_is_stated_where_a_body_is_or_could_be(method: str, body: bytes | None, length: bytes | None) -> None:
    head = _head(method, _place("http://h:1/a"), [(b"X-A", b"\xc3\xa9"), (b"X-a", b" twice ")], None if body is None else body_of(body))

    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    assert lines[:4] == [method.encode() + b" /a HTTP/1.1", b"Host: h:1", b"X-A: \xc3\xa9", b"X-a:  twice "]
    assert lines[4:] == ([] if length is None else [b"Content-Length: " + length])


async def greets(connection: ServerConnection) -> None:
    while (await connection.request()) is not None:
        connection.write(response_head(200, [(b"Content-Length", b"2")]) + b"hi")


@asynccontextmanager
async def a_system(identity: Identity) -> AsyncIterator[tuple[int, list[str | None]]]:
    """An information system behind TLS at localhost: its port and the names that it was asked for."""
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    identity.load(context)
    context.sni_callback = lambda _, name, __: asked.append(name)
    threads = HandshakeThreads()
    async with serving(greets, context=lambda: context, threads=threads) as served:
        yield served.port, asked
    threads.close()


async def status(url: str, pinned: tuple[bytes, ...] = (), ca_file: str = "") -> int:
    threads = HandshakeThreads()
    dialer = Dialer(DialerLimits(), threads)
    store = BodyStore(LocalClient(Path("/nonexistent/relay.sock")), 1024, 1024)
    try:
        answer = await SystemCaller(dialer, store, None, ca_file).call(
            Service("QROO/MUN/TULUM/A/s", url, certificates=pinned), "GET", "/", [], None
        )
        return answer.status
    finally:
        await dialer.close()
        threads.close()


def test_under_the_institution_s_authority_only_the_host_s_own_certificate_in_force_is_believed(tmp_path: Path) -> None:
    async def main() -> None:
        ca = pki.identity(tmp_path, "ca", authority=True)
        right = pki.identity(tmp_path, "right", ca, host="localhost")
        others = (
            pki.identity(tmp_path, "neighbour", ca, host="otro.gob.mx"),
            pki.identity(tmp_path, "nameless", ca),
            pki.identity(tmp_path, "late", ca, host="localhost", days=(-9, -1)),
            pki.identity(tmp_path, "own", host="localhost"),
        )
        async with a_system(right) as (port, asked):
            assert await status(f"https://localhost:{port}/", ca_file=str(ca.file)) == 200
            assert asked == ["localhost"]
            with pytest.raises(ServiceUnreachableError):
                await status(f"https://localhost:{port}/")
        for other in others:
            async with a_system(other) as (port, _):
                with pytest.raises(ServiceUnreachableError):
                    await status(f"https://localhost:{port}/", ca_file=str(ca.file))

    run(main)


def test_a_registered_certificate_is_believed_under_any_name_and_the_host_is_still_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        ca = pki.identity(tmp_path, "ca", authority=True)
        registered = pki.identity(tmp_path, "registered", host="otro.gob.mx", days=(-9, -1))
        async with a_system(registered) as (port, asked):
            assert await status(f"https://localhost:{port}/", (registered.der,)) == 200
            assert await status(f"https://localhost:{port}/", (registered.der,), str(ca.file)) == 200
            assert asked == ["localhost", "localhost"]
        async with a_system(pki.identity(tmp_path, "right", ca, host="localhost")) as (port, _):
            with pytest.raises(ServiceUnreachableError, match="not registered"):
                await status(f"https://localhost:{port}/", (registered.der,), str(ca.file))

    run(main)


@pytest.mark.parametrize(
    ("url", "pinned", "ca_file"),
    [
        ("http://a..b/", (), ""),
        ("https://a..b/", (), ""),
        ("https://127.0.0.1:1/", (), "/nonexistent/ca.pem"),
        ("https://127.0.0.1:1/", (b"\x30\x02\x05\x00",), ""),
    ],
)
def test_what_cannot_be_called_as_configured_is_an_unreachable_service(url: str, pinned: tuple[bytes, ...], ca_file: str) -> None:
    async def main() -> None:
        with pytest.raises(ServiceUnreachableError):
            await status(url, pinned, ca_file)

    run(main)
