"""The message protocol for REST: what an information system says to its box, and the signed heads that boxes exchange.

Pure. Sheet 2.2 to 2.4, 3.4, 3.5. A head is `METHOD CRLF target CRLF` or `status CRLF reason CRLF`, then lines `name:value` without a blank
after the colon. Received bytes are signed, logged and hashed as they are; what is parsed here is a copy. Where X-Road takes the last
of several differing headers, we refuse: two readers must not see two different clients.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

import msgspec

from appliance.errors import PeerProtocolError
from appliance.model.identifiers import PART_CHARACTERS_MAX, ClientId, IdentifierError, ServerId, ServiceId, decode_part
from appliance.net.multipart import Header, PartOversizedError

HEAD_BYTES_MAX = 64 << 10
"""X-Road states no limit; its listener takes 8 KiB of headers."""
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
NEVER_TRAVEL = frozenset(
    b"transfer-encoding keep-alive proxy-authenticate proxy-authorization te trailer upgrade connection user-agent host"
    b" content-length server expect".split()
)
"""Dropped before a head is built, refused in a head that arrives (sheet 2.4)."""
_SET_BY_US = frozenset({b"x-road-request-id", b"x-road-request-hash"})
_SET_BY_PROVIDER = _SET_BY_US | {b"x-road-id", b"x-road-client"}
_ONCE = frozenset(
    b"x-road-client x-road-id x-road-security-server x-road-represented-party x-road-userid x-road-issue x-road-request-hash".split()
)
_FORWARDS_BODY = frozenset({"PATCH", "POST", "PUT"})
_PATH, _ESCAPE = r"[A-Za-z0-9\-._~!$&'()*+,;=:@/]*", "%[0-9A-Fa-f]{2}"
_QUERY = r"[\x21\x22\x24-\x7e]*"
"""Whatever a head can carry: the query is the service's own business and travels unchanged (sheet 2.2)."""
_TARGET = re.compile(rf"/{_PATH}(?:{_ESCAPE}{_PATH})*(?:\?{_QUERY})?")
_VERSION = re.compile(r"r[0-9]")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
NAMES_KEPT, NAME_BYTES_MAX = 256, 100
"""Names of headers that were found to be fit to travel: the same dozen in every message."""
_STATUS = re.compile(rb"[2-5][0-9]{2}")
"""A final status: an informational one would make our client read the next answer where the body of this one is."""


class HeadMalformedError(PeerProtocolError):
    """Not the head of a REST message."""

    kind = "rest.malformed_head"


class TargetMalformedError(PeerProtocolError):
    """The path does not name a service, or the target is not a valid URI."""

    kind = "rest.malformed_target"


class MethodUnknownError(PeerProtocolError):
    """A method that the protocol does not know."""

    kind = "rest.unknown_method"


class HeaderForbiddenError(PeerProtocolError):
    """A header in a received head that never travels between boxes."""

    kind = "rest.forbidden_header"


class HeaderConflictError(PeerProtocolError):
    """A header that must be unambiguous is there twice with different values."""

    kind = "rest.conflicting_header"


class ClientInvalidError(PeerProtocolError):
    """X-Road-Client is missing or names no client."""

    kind = "rest.invalid_client"


class ResponseInconsistentError(PeerProtocolError):
    """The answer does not belong to this request."""

    kind = "rest.inconsistent_response"


class RestRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a request. `head` is what is signed; `headers` are those of the head, in order."""

    head: bytes
    digest: bytes
    """SHA-512 of `head`."""
    method: str
    target: str
    """Path and query as received, never decoded or normalised."""
    service: ServiceId
    service_path: str
    """What follows the service code: empty, or from the slash on; still encoded."""
    query: str | None
    headers: tuple[Header, ...]
    client: ClientId
    query_id: str
    """X-Road-Id."""
    request_id: str
    """x-road-request-id; empty where the head has none in that very spelling."""
    security_server: ServerId | None
    represented_party: str | None
    """`class/code` or `code`, decoded."""
    user_id: str | None
    issue: str | None

    @property
    def service_target(self) -> str:
        """What the provider appends to the service's URL."""
        return self.service_path if self.query is None else f"{self.service_path}?{self.query}"

    @property
    def forwards_body(self) -> bool:
        return forwards_body(self.method)


class RestResponse(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of an answer. `head` is what is signed."""

    head: bytes
    digest: bytes
    status: int
    reason: bytes
    headers: tuple[Header, ...]
    client: ClientId
    service: ServiceId
    query_id: str
    request_id: str
    request_hash: bytes


def request_from_system(method: bytes, target: bytes, headers: Iterable[Header], *, request_id: str, generated_id: str) -> RestRequest:
    """A request as our information system sent it, with the head that is signed. `request_id`: a fresh UUID; `generated_id`:
    `<instance>-<UUID>`, used where the system gave no X-Road-Id.

    Header values that are not UTF-8 are taken as Latin-1 and rewritten: the head is UTF-8. Raises leaves rest.*, peer.oversized and
    IdentifierError.
    """
    kept = [(name, _utf8(value)) for name, value in headers if (lower := name.lower()) not in NEVER_TRAVEL and lower not in _SET_BY_US]
    _check_lines(kept)
    kept.append((b"x-road-request-id", request_id.encode()))
    if not any(name.lower() == b"x-road-id" for name, _ in kept):
        kept.append((b"x-road-id", generated_id.encode()))
    return _request(b"%b\r\n%b\r\n%b" % (method, target, _header_lines(kept)), method, target, kept)


def parse_head(head: bytes) -> RestRequest | RestResponse:
    """A received head, strictly (sheet 3.4): the first byte tells requests from answers. Raises as request_from_system does."""
    if len(head) > HEAD_BYTES_MAX:
        raise PartOversizedError("head", HEAD_BYTES_MAX)
    _text(head)
    pieces = _LINE_END.split(head)
    if len(pieces) > 2 and not pieces[-1]:
        pieces.pop()  # behind the last line's own end
    if len(pieces) < 2:
        raise HeadMalformedError("a head has at least two lines")
    first, second, *lines = pieces
    headers = [_header(line) for line in lines]
    if head[:1] in (b"1", b"2", b"3", b"4", b"5", b"6", b"7", b"8", b"9"):
        return _response(head, first, second, headers)
    return _request(head, first, second, headers)


def response_head(
    status: int, reason: bytes, headers: Iterable[Header], request: RestRequest, hash_of_request: bytes, *, request_id: str | None = None
) -> bytes:
    """The head of our service's answer: its headers without those that never travel or that only we may set, then our five.

    `request_id`: from the envelope, where the request's head has none. Raises HeadMalformedError, PartOversizedError.
    """
    kept = [
        (name, _utf8(value)) for name, value in headers if (lower := name.lower()) not in NEVER_TRAVEL and lower not in _SET_BY_PROVIDER
    ]
    reason = _utf8(reason)
    if not 200 <= status <= 599 or _CONTROL.search(reason):
        raise HeadMalformedError("a status line that cannot travel")
    _check_lines(kept)
    kept += [
        (b"x-road-id", request.query_id.encode()),
        (b"x-road-client", request.client.encoded().encode()),
        (b"x-road-service", request.service.encoded().encode()),
        (b"x-road-request-id", (request.request_id or request_id or "").encode()),
        (b"x-road-request-hash", base64.b64encode(hash_of_request)),
    ]
    head = b"%d\r\n%b\r\n%b" % (status, reason, _header_lines(kept))
    if len(head) > HEAD_BYTES_MAX:
        raise PartOversizedError("head", HEAD_BYTES_MAX)
    return head


def digest_of(part: bytes) -> bytes:
    """SHA-512: of heads, bodies, everything on this wire."""
    return hashlib.sha512(part).digest()


def request_hash(head_digest: bytes, body_digest: bytes | None) -> bytes:
    """What X-Road-Request-Hash carries in base64. `body_digest` is None only where there was no body part, not where it was empty."""
    return head_digest if body_digest is None else hashlib.sha512(head_digest + body_digest).digest()


def check_response(response: RestResponse, request: RestRequest, hash_of_request: bytes) -> None:
    """The answer is the answer to this very request: client, id, service, request id and hash. Raises ResponseInconsistentError."""
    for name, ours, theirs in (
        ("x-road-client", request.client, response.client),
        ("x-road-id", request.query_id, response.query_id),
        ("x-road-service", request.service, response.service),
        ("x-road-request-id", request.request_id, response.request_id),
        ("x-road-request-hash", hash_of_request, response.request_hash),
    ):
        if ours != theirs:
            raise ResponseInconsistentError(f"{name} of the answer is not that of the request")


def forwards_body(method: str) -> bool:
    """Whether the provider gives the body to its service: a body on other methods is signed and logged only."""
    return method in _FORWARDS_BODY


def headers_for_system(response: RestResponse) -> list[Header]:
    """What the information system gets: every header of the head; of several Date headers the last."""
    dates = [value for name, value in response.headers if name.lower() == b"date"]
    kept = [(name, value) for name, value in response.headers if name.lower() != b"date"]
    return kept + [(b"Date", value) for value in dates[-1:]]


def service_url(base: str, service_target: str) -> str:
    """Where the provider's request goes: the configured URL and what follows the service code, with one slash at the join."""
    return base + service_target[1:] if base.endswith("/") and service_target.startswith("/") else base + service_target


def _request(head: bytes, method: bytes, target: bytes, headers: Sequence[Header]) -> RestRequest:
    if len(head) > HEAD_BYTES_MAX:
        raise PartOversizedError("head", HEAD_BYTES_MAX)
    verb = method.decode("latin-1")
    if verb not in METHODS:
        raise MethodUnknownError(f"method {verb[:20]!r}")
    spelled, service, service_path, query = _parse_target(target)
    facts = _facts(headers)
    server, party = facts.get(b"x-road-security-server"), facts.get(b"x-road-represented-party")
    return RestRequest(
        head=head,
        digest=digest_of(head),
        method=verb,
        target=spelled,
        service=service,
        service_path=service_path,
        query=query,
        headers=tuple(headers),
        client=_client(facts),
        query_id=_query_id(facts),
        request_id=next((_text(value) for name, value in headers if name == b"x-road-request-id"), ""),
        security_server=None if server is None else ServerId.decode(_text(server)),
        represented_party=None if party is None else _represented_party(_text(party)),
        user_id=_optional(facts, b"x-road-userid"),
        issue=_optional(facts, b"x-road-issue"),
    )


def _response(head: bytes, status: bytes, reason: bytes, headers: Sequence[Header]) -> RestResponse:
    if not _STATUS.fullmatch(status) or _CONTROL.search(reason):
        raise HeadMalformedError("not a status line")
    facts = _facts(headers)
    # A service may have set x-road-service itself; real providers append theirs behind it, and the last one counts (sheet 2.4).
    services = [value for name, value in headers if name.lower() == b"x-road-service"]
    if not services:
        raise HeadMalformedError("an answer without x-road-service")
    return RestResponse(
        head=head,
        digest=digest_of(head),
        status=int(status),
        reason=reason,
        headers=tuple(headers),
        client=_client(facts),
        service=ServiceId.decode(_text(services[-1])),
        query_id=_query_id(facts),
        request_id=next((_text(value) for name, value in headers if name.lower() == b"x-road-request-id"), ""),
        request_hash=_request_hash(facts),
    )


def _parse_target(target: bytes) -> tuple[str, ServiceId, str, str | None]:
    spelled = target.decode("latin-1")
    if not _TARGET.fullmatch(spelled):
        raise TargetMalformedError("the target has characters that are not percent-encoded")
    path, mark, query = spelled.partition("?")
    pieces = path.split("/", 7)
    if len(pieces) < 7:
        raise TargetMalformedError("the path does not name a service")
    if not _VERSION.fullmatch(pieces[1]):
        raise TargetMalformedError("the path does not begin with a protocol version")
    if pieces[1] != "r1":
        raise TargetMalformedError("this version of the protocol is not supported")
    service = ServiceId.decode("/".join(pieces[2:7]))
    return spelled, service, "/" + pieces[7] if len(pieces) == 8 else "", query if mark else None


def _facts(headers: Iterable[Header]) -> dict[bytes, bytes]:
    """The headers that decide something, by lower-case name. Equal repetitions are harmless, different ones are refused."""
    facts: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower in _ONCE and facts.setdefault(lower, value) != value:
            raise HeaderConflictError(f"{lower.decode()} is there twice with different values")
    return facts


def _client(facts: dict[bytes, bytes]) -> ClientId:
    value = facts.get(b"x-road-client")
    if value is None:
        raise ClientInvalidError("X-Road-Client is missing")
    try:
        return ClientId.decode(_text(value))
    except IdentifierError as error:
        raise ClientInvalidError(f"X-Road-Client: {error}") from None


def _query_id(facts: dict[bytes, bytes]) -> str:
    value = _text(facts.get(b"x-road-id", b""))
    if not value or len(value) > PART_CHARACTERS_MAX:
        raise HeadMalformedError("x-road-id is missing, empty or too long")
    return value


def _request_hash(facts: dict[bytes, bytes]) -> bytes:
    try:
        value = base64.b64decode(facts.get(b"x-road-request-hash", b""), validate=True)
    except binascii.Error:
        value = b""
    if not value:
        raise HeadMalformedError("an answer without x-road-request-hash")
    return value


def _represented_party(value: str) -> str:
    parts = [decode_part(part) for part in value.split("/")]
    if len(parts) > 2 or not all(parts):
        raise IdentifierError("a represented party has one or two parts")
    return "/".join(parts)


def _optional(facts: dict[bytes, bytes], name: bytes) -> str | None:
    value = facts.get(name)
    return None if value is None else _text(value)


@lru_cache(maxsize=NAMES_KEPT)
def _travels(name: bytes) -> bool:
    """A header's name that may stand in a head. Names repeat from message to message; values are never kept."""
    return _NAME.fullmatch(name) is not None and name.lower() not in NEVER_TRAVEL


def _header(line: bytes) -> Header:
    name, colon, value = line.partition(b":")
    if colon and len(name) <= NAME_BYTES_MAX and _travels(name) and not _CONTROL.search(value):
        return name, value
    if not colon:  # what is wrong with it, by name
        raise HeadMalformedError("a line without a colon")
    if name.lower() in NEVER_TRAVEL:
        raise HeaderForbiddenError(f"{name.decode('latin-1')} must not travel between boxes")
    if not _NAME.fullmatch(name) or _CONTROL.search(value):
        raise HeadMalformedError("a header that is not name:value")
    return name, value


def _check_lines(headers: Iterable[Header]) -> None:
    """Nothing in a header may become a line of its own in the signed head."""
    for name, value in headers:
        if not _NAME.fullmatch(name) or _CONTROL.search(value):
            raise HeadMalformedError("a header that cannot travel")


def _header_lines(headers: Iterable[Header]) -> bytes:
    return b"".join([b"%b:%b\r\n" % header for header in headers])


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise HeadMalformedError("not UTF-8") from None


def _utf8(value: bytes) -> bytes:
    if value.isascii():
        return value
    try:
        value.decode()
        return value
    except UnicodeDecodeError:
        return value.decode("latin-1").encode()
