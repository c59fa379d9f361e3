"""Small HTTP client for CEIQROO's trust services: one request, one connection, bounded size and time.

What comes back is believed only for its signature, so plain HTTP is enough (X-Road fetches configuration, OCSP and time stamps the same
way); an https address is asked by TLS with the server's certificate and name checked. Redirects are not followed: no address that a
message or an answer names is ever asked. Not for the hot path.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

import httptools

from appliance.errors import UnavailableError

READ_BYTES = 64 << 10
HEAD_BYTES_MAX = 16 << 10
HEADERS_MAX = 64


class FetchError(UnavailableError):
    """The service did not give an answer: name, connection, time or HTTP was at fault."""

    kind = "fetch.failed"


class FetchOversizedError(UnavailableError):
    """The answer is larger than anything that is expected there."""

    kind = "fetch.oversized"


class FetchStatusError(UnavailableError):
    """The service answered with another HTTP status than 200."""

    kind = "fetch.status"


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """`connect_s_max`: name, connection and TLS handshake; `read_s_max`: from the request to the answer's last byte."""

    connect_s_max: float
    read_s_max: float
    bytes_max: int
    https: ssl.SSLContext | None = None
    """For https addresses; None: the system's authorities."""


@dataclass(frozen=True, slots=True)
class FetchAnswer:
    status: int
    content_type: str
    body: bytes


async def get(url: str, limits: FetchLimits) -> FetchAnswer:
    """GET, any status. Raises FetchError, FetchOversizedError."""
    return await _exchange(url, "GET", "", b"", limits)


async def post(url: str, content_type: str, body: bytes, limits: FetchLimits) -> bytes:
    """POST; the body of the answer, whose status must be 200. Raises FetchError, FetchOversizedError, FetchStatusError."""
    answer = await _exchange(url, "POST", content_type, body, limits)
    if answer.status != 200:
        raise FetchStatusError(f"{url}: status {answer.status}")
    return answer.body


async def _exchange(url: str, method: str, content_type: str, body: bytes, limits: FetchLimits) -> FetchAnswer:
    host, port, target, secure = _taken_apart(url)
    context = (limits.https or ssl.create_default_context()) if secure else None
    try:
        async with asyncio.timeout(limits.connect_s_max):
            reader, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, UnicodeError) as error:  # TimeoutError and ssl.SSLError are OSErrors
        raise FetchError(f"{url}: no connection: {_reason(error)}") from None
    try:
        async with asyncio.timeout(limits.read_s_max):
            writer.write(_request(method, target, f"{host}:{port}", content_type, body))
            return await _answer(reader, url, limits.bytes_max)
    except OSError as error:
        raise FetchError(f"{url}: no answer: {_reason(error)}") from None
    finally:
        writer.transport.abort()


def _taken_apart(url: str) -> tuple[str, int, str, bool]:
    """Host, port, target, and whether it is asked by TLS."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        raise FetchError("not a URL") from None
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise FetchError(f"{url[:200]}: neither http nor https")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not all(0x21 <= ord(character) <= 0x7E for character in target + host):
        raise FetchError("a URL with characters that do not belong there")
    return host, port, target, parts.scheme == "https"


def _request(method: str, target: str, host: str, content_type: str, body: bytes) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept: */*", "Connection: close"]
    if method == "POST":
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


class _Reading:
    """Callbacks of the parser (llhttp): collects one answer within its bounds."""

    def __init__(self, url: str, bytes_max: int) -> None:
        self._url, self._bytes_max = url, bytes_max
        self._headers = 0
        self.length, self.body, self.complete, self.content_type, self.error = 0, bytearray(), False, "", ""
        self.head_done = self.has_length = False
        self.status = 0
        self.parser: httptools.HttpResponseParser | None = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > HEADERS_MAX:
            self.error = "too many headers"
        match name.lower():
            case b"content-type":
                self.content_type = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self.has_length = True

    def on_headers_complete(self) -> None:
        if not self.head_done and self.parser is not None:  # of the first head: what may follow the answer is nobody's
            self.status = self.parser.get_status_code()
        self.head_done = True

    def on_body(self, data: bytes) -> None:
        if self.complete:
            return
        self.length += len(data)
        if self.length <= self._bytes_max:
            self.body += data

    def on_message_complete(self) -> None:
        self.complete = True

    def check(self) -> None:
        if self.error:
            raise FetchError(f"{self._url}: {self.error}")
        if self.head_done and self.status < 200:  # nothing in our requests asks for one; 101 would end HTTP
            raise FetchError(f"{self._url}: status {self.status} is no answer")
        if self.length > self._bytes_max:
            raise FetchOversizedError(f"{self._url}: more than {self._bytes_max} bytes")


async def _answer(reader: asyncio.StreamReader, url: str, bytes_max: int) -> FetchAnswer:
    reading = _Reading(url, bytes_max)
    parser = reading.parser = httptools.HttpResponseParser(reading)
    head_bytes = 0
    while not reading.complete:
        data = await reader.read(READ_BYTES)
        if not data:
            break
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:  # no family of their own: each stands under Exception
            if not reading.complete:  # bytes after a complete answer are nobody's
                raise FetchError(f"{url}: not HTTP: {error}") from None
        reading.check()
        head_bytes += 0 if reading.head_done else len(data)
        if head_bytes > HEAD_BYTES_MAX:
            raise FetchOversizedError(f"{url}: a head of more than {HEAD_BYTES_MAX} bytes")
    _check_end(reading, url)
    return FetchAnswer(reading.status, reading.content_type, bytes(reading.body))


def _check_end(reading: _Reading, url: str) -> None:
    """An answer without a length ends with the connection (HTTP/1.0 services do that); with a length it must be whole."""
    if not reading.head_done or (not reading.complete and reading.has_length):
        raise FetchError(f"{url}: the answer was cut off")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return getattr(error, "strerror", None) or type(error).__name__
