"""Small HTTP client for CEIQROO's trust services: one request, one connection (or a kept one), bounded size and time.

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
KEPT_S_MAX, KEPT_MAX = 3.0, 8
"""An idle connection: below the five seconds after which common servers close theirs; one for each address, a few addresses."""


class FetchError(UnavailableError):
    """The service did not give an answer: name, connection, time or HTTP was at fault."""

    kind = "fetch.failed"


class FetchUnansweredError(FetchError):
    """The connection ended before the first byte of an answer."""


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


class Kept:
    """POSTs to services that are asked again and again: one idle connection to each address is kept for the next request."""

    def __init__(self) -> None:
        self._idle: dict[_Address, _Line] = {}

    async def post(self, url: str, content_type: str, body: bytes, limits: FetchLimits) -> bytes:
        """As `post`. For requests that may be answered twice: one that met a connection which was just being closed is sent once more."""
        host, port, target, secure = _taken_apart(url)
        address = host, port, secure
        request = _request("POST", target, f"{host}:{port}", content_type, body, keep=True)
        kept = self._idle.pop(address, None)
        if kept is not None and kept.is_fresh():
            try:
                return await self._over(kept, address, url, request, limits)
            except FetchUnansweredError:
                pass
        elif kept is not None:
            kept.close()
        return await self._over(await _connected(url, address, limits), address, url, request, limits)

    async def _over(self, line: _Line, address: _Address, url: str, request: bytes, limits: FetchLimits) -> bytes:
        try:
            answer = await line.exchange(url, request, limits)
        except BaseException:
            line.close()
            raise
        if not line.reusable or len(self._idle) >= KEPT_MAX or address in self._idle:
            line.close()
        else:
            line.until_s = asyncio.get_running_loop().time() + KEPT_S_MAX
            self._idle[address] = line
        if answer.status != 200:
            raise FetchStatusError(f"{url}: status {answer.status}")
        return answer.body

    def close(self) -> None:
        while self._idle:
            self._idle.popitem()[1].close()


_Address = tuple[str, int, bool]
"""Host, port, and whether it is asked by TLS."""


class _Line:
    """One connection. `reusable`: its last answer came whole, with nothing behind it, and the service keeps it open."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.reusable, self.until_s = False, 0.0

    async def exchange(self, url: str, request: bytes, limits: FetchLimits) -> FetchAnswer:
        """Raises FetchError; FetchUnansweredError where the connection ended before an answer began."""
        self.reusable = False
        try:
            async with asyncio.timeout(limits.read_s_max):
                self._writer.write(request)
                answer, self.reusable = await _answer(self._reader, url, limits.bytes_max)
                return answer
        except ConnectionError as error:
            raise FetchUnansweredError(f"{url}: no answer: {_reason(error)}") from None
        except OSError as error:
            raise FetchError(f"{url}: no answer: {_reason(error)}") from None

    def is_fresh(self) -> bool:
        """Idle for less than KEPT_S_MAX and open, as far as we know."""
        return asyncio.get_running_loop().time() < self.until_s and not (self._reader.at_eof() or self._writer.is_closing())

    def close(self) -> None:
        self._writer.transport.abort()


async def _connected(url: str, address: _Address, limits: FetchLimits) -> _Line:
    host, port, secure = address
    context = (limits.https or ssl.create_default_context()) if secure else None
    try:
        async with asyncio.timeout(limits.connect_s_max):
            return _Line(*await asyncio.open_connection(host, port, ssl=context))
    except (OSError, UnicodeError) as error:  # TimeoutError and ssl.SSLError are OSErrors
        raise FetchError(f"{url}: no connection: {_reason(error)}") from None


async def _exchange(url: str, method: str, content_type: str, body: bytes, limits: FetchLimits) -> FetchAnswer:
    host, port, target, secure = _taken_apart(url)
    line = await _connected(url, (host, port, secure), limits)
    try:
        return await line.exchange(url, _request(method, target, f"{host}:{port}", content_type, body), limits)
    finally:
        line.close()


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


def _request(method: str, target: str, host: str, content_type: str, body: bytes, *, keep: bool = False) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Accept: */*"]
    if not keep:
        lines.append("Connection: close")
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
        self.stays_open = True
        self.status = self.messages = 0
        self.parser: httptools.HttpResponseParser | None = None

    def on_message_begin(self) -> None:
        self.messages += 1

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers += 1
        if self._headers > HEADERS_MAX:
            self.error = "too many headers"
        match name.lower():
            case b"connection":
                self.stays_open = False  # the default says that it stays: whoever says anything is not kept
            case b"content-type":
                self.content_type = value.decode("latin-1")
            case b"content-length" | b"transfer-encoding":
                self.has_length = True

    def on_headers_complete(self) -> None:
        if not self.head_done and self.parser is not None:  # of the first head: what may follow the answer is nobody's
            self.status = self.parser.get_status_code()
            self.stays_open &= self.parser.get_http_version() == "1.1"
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


async def _answer(reader: asyncio.StreamReader, url: str, bytes_max: int) -> tuple[FetchAnswer, bool]:
    """The answer, and whether the connection may be used again: it is whole, says so, and nothing came behind it."""
    reading = _Reading(url, bytes_max)
    parser = reading.parser = httptools.HttpResponseParser(reading)
    head_bytes = 0
    begun = False
    while not reading.complete:
        data = await reader.read(READ_BYTES)
        if not data:
            if not begun:
                raise FetchUnansweredError(f"{url}: the connection ended before an answer")
            break
        begun = True
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
    reusable = reading.complete and reading.has_length and reading.messages == 1 and reading.stays_open
    return FetchAnswer(reading.status, reading.content_type, bytes(reading.body)), reusable


def _check_end(reading: _Reading, url: str) -> None:
    """An answer without a length ends with the connection (HTTP/1.0 services do that); with a length it must be whole."""
    if not reading.head_done or (not reading.complete and reading.has_length):
        raise FetchError(f"{url}: the answer was cut off")


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "it took too long"
    return getattr(error, "strerror", None) or type(error).__name__
