"""HTTP/1.1 with our limits: bytes in, heads and body pieces out; and the heads that we write.

Pure. llhttp (httptools) takes a complete head apart, one fresh parser a head (1.4 us); where it is lenient the checks below are ours
(T03). Where a body ends is decided here and in `appliance.net.chunks`, so that nothing behind the body is ever taken for part of it.
Targets, header names and values stay the received bytes, in the received order: they are signed.

Invariant of the readers: any cut of the same bytes gives the same events (pieces of a body joined), or the same error in the same message;
arbitrary bytes give events or one of MalformedError, OversizedError. A reader stops at the end of each message until `next_message` is
called: the rest waits unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import httptools
import msgspec

from appliance.errors import PeerProtocolError
from appliance.net.chunks import ChunkReader
from appliance.net.chunks import MalformedError as MalformedError  # callers know it from here

METHODS = frozenset({b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE"})
"""Sheet 2.2; others fail in the parser."""
CHUNKED, UNTIL_CLOSE = -1, -2
"""`body_bytes` of a head whose body has no length: framed by chunks, or by the end of the connection (responses only)."""
INFORMATIONAL_MAX = 8
"""1xx answers skipped before the answer itself."""

_FRAMING_LENGTHS = frozenset({4, 6, 10, 14, 17})
"""Of host, expect, connection, content-length, transfer-encoding."""

_ABSOLUTE = re.compile(rb"(?i:http)://[A-Za-z0-9.\-]{1,255}(?::[0-9]{1,5})?(?=/|$)")

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

LARGE_HEAD_BYTES = 8 << 10
"""From here on headers are counted before they are parsed: 16,000 empty ones would cost 3 ms."""
LENGTH_DIGITS_MAX = 18
"""Below 2^63."""


class OversizedError(PeerProtocolError):
    """More than we take. `status` is what a server answers before it closes: 413, 414 or 431."""

    kind = "peer.oversized"

    def __init__(self, message: str, status: int = 413) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLimits:
    """Bounds of one head (T44). Bytes count everything up to and including the empty line."""

    head_bytes_max: int = 64 << 10
    target_bytes_max: int = 8 << 10
    headers_max: int = 100
    absolute_targets: bool = False
    """Take `http://any/path` for `/path` (RFC 9112, 3.2.2): client packages exist that use a security server as their HTTP proxy."""


class RequestHead(msgspec.Struct, frozen=True):
    """A request up to its body. `body_bytes` is its length (0: none) or CHUNKED."""

    method: bytes
    target: bytes
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    http_minor: int
    expects_continue: bool
    body_bytes: int

    def header(self, name: bytes) -> bytes | None:
        """The last value under this lower-case name, as X-Road reads its own headers (sheet 2.3)."""
        return _last(self.headers, name)


class ResponseHead(msgspec.Struct, frozen=True):
    """A final response up to its body. `body_bytes` is its length (0: none), CHUNKED or UNTIL_CLOSE."""

    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    http_minor: int
    body_bytes: int

    def header(self, name: bytes) -> bytes | None:
        """The last value under this lower-case name."""
        return _last(self.headers, name)


Head = RequestHead | ResponseHead
Event = Head | bytes | None
"""A head, a piece of its body (never empty), or None: the message is complete."""


def _last(headers: list[tuple[bytes, bytes]], wanted: bytes) -> bytes | None:
    for name, value in reversed(headers):
        if len(name) == len(wanted) and name.lower() == wanted:
            return value
    return None


class _Fields:
    """What llhttp reports of one head."""

    __slots__ = ("headers", "reason", "target")
    # llhttp asks for these; None costs less than an attribute that is not there.
    on_body = on_chunk_complete = on_chunk_header = on_headers_complete = on_message_begin = on_message_complete = None

    def __init__(self) -> None:
        self.target = self.reason = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))


class _Reader:
    """Where one message ends and the next begins, for both directions."""

    __slots__ = ("_chunks", "_ended", "_left", "_limits", "_rest")

    def __init__(self, limits: HeadLimits) -> None:
        self._limits = limits
        self._rest = b""
        """Received and not parsed: part of a head, or what follows a message that has ended."""
        self._left: int | None = None
        """Bytes of the body still to come, CHUNKED or UNTIL_CLOSE; None while a head is read."""
        self._chunks: ChunkReader | None = None
        self._ended = False

    @property
    def held_bytes(self) -> int:
        """Received but not parsed yet."""
        return len(self._rest)

    @property
    def between_messages(self) -> bool:
        """No byte of the next message has been seen."""
        return not self._rest and (self._ended or self._left is None)

    def next_message(self) -> list[Event]:
        """Goes on to the next message; its events as far as they have arrived. RuntimeError before the end of this one."""
        if not self._ended:
            raise RuntimeError("the message has not ended")
        self._ended = False
        self._left = None
        if not self._rest:
            return []
        rest, self._rest = self._rest, b""
        return self.feed(rest)

    def feed(self, data: bytes) -> list[Event]:
        """The events of the current message that are complete now. Raises MalformedError, OversizedError; then the reader is done for."""
        left = self._left
        if self._ended:
            self._rest += data
            return []
        if left is None:
            return self._feed_head(self._rest + data if self._rest else data)
        if left > len(data) or left == UNTIL_CLOSE:
            if left > 0:
                self._left = left - len(data)
            return [data] if data else []
        return self._feed_body(data, [])

    def end_of_stream(self) -> list[Event]:
        """The other side will send no more. Raises MalformedError in the middle of a message."""
        if self._left == UNTIL_CLOSE and not self._ended:
            self._ended = True
            return [None]
        if not (self.between_messages or self._ended):
            raise MalformedError("the message was cut short")
        return []

    def _feed_head(self, buffer: bytes) -> list[Event]:
        while True:
            end = _head_end(buffer, self._limits.head_bytes_max)
            if not end:
                self._rest = buffer
                return []
            self._rest = b""
            head = self._head(buffer if end == len(buffer) else buffer[:end])
            if head is not None:
                break
            buffer = buffer[end:]  # a 1xx answer: the answer itself follows
        left = self._left = head.body_bytes
        if left == len(buffer) - end:  # the usual case: all of it came together, and nothing else
            self._ended = True
            return [head, buffer[end:], None] if left else [head, None]
        if left == CHUNKED:
            self._chunks = ChunkReader()
        return self._feed_body(buffer[end:], [head]) if end < len(buffer) else [head]

    def _feed_body(self, data: bytes, events: list[Event]) -> list[Event]:
        left = self._left
        rest: bytes | None
        if left == CHUNKED:
            if self._chunks is None:
                raise RuntimeError("chunks without a reader")
            body, rest = self._chunks.feed(data)
        elif left == UNTIL_CLOSE:
            body, rest = data, None
        elif left is None:
            raise RuntimeError("a body before its head")
        else:
            body, rest = (data, b"") if len(data) == left else (data[:left], data[left:])
            self._left = left - len(body)
            if self._left:
                rest = None
        if body:
            events.append(body)
        if rest is not None:
            self._ended, self._rest, self._chunks = True, rest, None
            events.append(None)
        return events

    def _head(self, raw: bytes) -> Head | None:
        raise NotImplementedError


class RequestReader(_Reader):
    """Requests of one connection, one after the other."""

    __slots__ = ()

    def _head(self, raw: bytes) -> RequestHead:
        fields = _Fields()
        parser = httptools.HttpRequestParser(fields)
        _parse(parser, fields, raw, self._limits)
        method, target = parser.get_method(), fields.target
        if len(target) > self._limits.target_bytes_max:
            raise OversizedError(f"target of {len(target)} bytes", 414)
        if method not in METHODS:
            raise MalformedError("a method that we do not know", 501)
        # llhttp also takes HTTP/0.9, several blanks, absolute-form, fragments: each of them somebody else reads differently.
        modern = raw.startswith(b"%b %b HTTP/1.1\r\n" % (method, target))
        if not modern and not raw.startswith(b"%b %b HTTP/1.0\r\n" % (method, target)):
            raise MalformedError("not a request line of HTTP/1.1")
        if self._limits.absolute_targets and (absolute := _ABSOLUTE.match(target)):
            target = target[absolute.end() :] or b"/"
        if not target.startswith(b"/") or b"#" in target:
            raise MalformedError("the target is not a path")
        framing = _Framing(fields.headers, modern)
        if framing.hosts != 1 and (framing.hosts or modern):
            raise MalformedError("not one Host")
        return RequestHead(
            method,
            target,
            fields.headers,
            modern and not framing.close,
            int(modern),
            modern and framing.expects_continue,
            framing.body_bytes or 0,
        )


class ResponseReader(_Reader):
    """Responses of one connection. `expect_answer_to` says which request comes next: an answer to HEAD has no body."""

    __slots__ = ("_informational", "_to_head")

    def __init__(self, limits: HeadLimits) -> None:
        super().__init__(limits)
        self._to_head = False
        self._informational = 0

    def expect_answer_to(self, method: bytes) -> None:
        self._to_head = method == b"HEAD"
        self._informational = 0

    def _head(self, raw: bytes) -> ResponseHead | None:
        fields = _Fields()
        parser = httptools.HttpResponseParser(fields)
        _parse(parser, fields, raw, self._limits)
        status, modern = parser.get_status_code(), raw.startswith(b"HTTP/1.1 ")
        if not (modern or raw.startswith(b"HTTP/1.0 ")) or not 100 <= status <= 599:
            raise MalformedError("not a status line of HTTP/1.1")
        if status < 200:
            self._informational += 1
            if status == 101 or self._informational > INFORMATIONAL_MAX:
                raise MalformedError("an upgrade nobody asked for, or too many informational answers")
            return None
        framing = _Framing(fields.headers, modern)
        if self._to_head or status in (204, 304):
            body_bytes = 0
        else:
            body_bytes = UNTIL_CLOSE if framing.body_bytes is None else framing.body_bytes
        keep_alive = modern and body_bytes != UNTIL_CLOSE and not framing.close
        return ResponseHead(status, fields.reason, fields.headers, keep_alive, int(modern), body_bytes)


def _head_end(buffer: bytes, bytes_max: int) -> int:
    """Where the head's empty line ends, 0 while it has not come. What is refused here does not depend on the cut."""
    if not buffer:
        return 0
    if not 65 <= buffer[0] <= 90:  # a method, or HTTP: a capital letter
        raise MalformedError("not HTTP")
    found = buffer.find(b"\r\n\r\n", 0, bytes_max)
    if found >= 0:
        return found + 4
    size = min(len(buffer), bytes_max)
    if buffer.count(b"\n", 0, size) != buffer.count(b"\r\n", 0, size):  # llhttp would say so, but only of a complete head
        raise MalformedError("a bare line feed")
    if size == bytes_max:
        raise OversizedError(f"head of more than {bytes_max} bytes", 431)
    return 0


def _parse(parser: httptools.HttpRequestParser | httptools.HttpResponseParser, fields: _Fields, raw: bytes, limits: HeadLimits) -> None:
    if len(raw) > LARGE_HEAD_BYTES and raw.count(b"\r\n") > limits.headers_max + 2:
        raise OversizedError(f"more than {limits.headers_max} headers", 431)
    try:
        parser.feed_data(raw)
    except httptools.HttpParserUpgrade:
        pass  # an offer to upgrade is not taken up; CONNECT is refused by its method
    except httptools.HttpParserError as error:
        raise MalformedError(str(error)) from None
    if len(fields.headers) > limits.headers_max:
        raise OversizedError(f"more than {limits.headers_max} headers", 431)
    if b" \r\n" in raw or b"\t\r\n" in raw:
        fields.headers = [(name, value.rstrip(b" \t")) for name, value in fields.headers]


class _Framing:
    """What the framing headers of one head say: the length of its body or CHUNKED, None without either."""

    __slots__ = ("body_bytes", "close", "expects_continue", "hosts")

    def __init__(self, headers: list[tuple[bytes, bytes]], modern: bool) -> None:
        self.body_bytes: int | None = None
        self.close = self.expects_continue = False
        self.hosts = 0
        for name, value in headers:
            if len(name) in _FRAMING_LENGTHS:  # spares most names their lower case
                lowered = name.lower()
                if lowered == b"host":
                    self.hosts += 1
                elif lowered == b"content-length":
                    self._body(_length(value))
                elif lowered == b"connection":
                    self.close |= value != b"keep-alive" and b"close" in map(bytes.strip, value.lower().split(b","))
                elif lowered == b"transfer-encoding":
                    if value.lower() != b"chunked":
                        raise MalformedError("a transfer coding that we do not know", 501)
                    if not modern:
                        raise MalformedError("chunks in HTTP/1.0")
                    self._body(CHUNKED)
                elif lowered == b"expect":
                    if value.lower() != b"100-continue":
                        raise MalformedError("an expectation that we do not know", 417)
                    self.expects_continue = True

    def _body(self, size: int) -> None:
        if self.body_bytes is not None:
            raise MalformedError("the length of the body said twice")  # (T03) whoever is in front may believe the other one
        self.body_bytes = size


def _length(value: bytes) -> int:
    if not value.isdigit() or len(value) > LENGTH_DIGITS_MAX:
        raise MalformedError("not a Content-Length")
    return int(value)


REASONS = {
    200: b"OK", 201: b"Created", 202: b"Accepted", 204: b"No Content", 301: b"Moved Permanently", 302: b"Found", 304: b"Not Modified",
    400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed", 408: b"Request Timeout",
    409: b"Conflict", 413: b"Content Too Large", 414: b"URI Too Long", 415: b"Unsupported Media Type", 417: b"Expectation Failed",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 500: b"Internal Server Error", 501: b"Not Implemented",
    502: b"Bad Gateway", 503: b"Service Unavailable", 504: b"Gateway Timeout",
}  # fmt: skip


def request_head(method: bytes, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request up to its body, names exactly as given. Raises MalformedError where a part would break out of its line."""
    return _lines(b"%b %b HTTP/1.1\r\n" % (method, target), headers)


def response_head(status: int, headers: Iterable[tuple[bytes, bytes]], reason: bytes | None = None) -> bytes:
    """A response up to its body, names exactly as given. Raises MalformedError where a part would break out of its line."""
    return _lines(b"HTTP/1.1 %d %b\r\n" % (status, REASONS.get(status, b"") if reason is None else reason), headers)


def _lines(first: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in headers]
    head = b"%b%b\r\n" % (first, b"".join(lines))
    breaks = len(lines) + 2
    if head.count(b"\r") != breaks or head.count(b"\n") != breaks or b"\0" in head:
        raise MalformedError("a line break or NUL inside a header")  # (T03) a sealed header must not become two
    return head
