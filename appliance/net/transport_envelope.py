"""The HTTP envelope of the transport protocol: which headers a message between boxes has, built and checked.

Pure. Sheet 3.6: POST to `/`; `x-hash-algorithm` is spelled in lower case on responses, since real servers look it up by case. Names
are compared without case when we read. A header that decides something and is there twice with different values is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from appliance.errors import PeerProtocolError
from appliance.net.multipart import Header, MultipartMalformedError, boundary_of, content_type_of, media_type
from appliance.net.transport_parts import ATTACHMENTS, TEXT_XML

PROXY_VERSION = "7.8.0"
"""What we say we are: Estonian and Finnish providers refuse clients below 7.6.0."""
HASH_ALGORITHM = b"SHA-512"
"""The only one that works throughout (sheet 3.5)."""
_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})(?:[-+][0-9A-Za-z.+-]{1,64})?")
_ANSWER_SAYS = frozenset(b"content-type x-hash-algorithm x-original-content-type".split())
_REQUEST_SAYS = _ANSWER_SAYS | frozenset(b"x-road-message-type x-road-request-id x-proxy-version x-original-soapaction".split())
_OUR_TYPE = re.compile(re.escape(content_type_of(b"")) + rb"([A-Za-z]{1,70})")
"""The content type as boxes write it: the usual case, without taking parameters apart."""
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,255}")


class EnvelopeError(PeerProtocolError):
    """A header of the envelope is missing, wrong, or there twice with different values."""

    kind = "envelope.malformed"


class EnvelopeTypeError(PeerProtocolError):
    """The content is neither multipart/mixed with a boundary nor, in an answer, a fault."""

    kind = "envelope.content_type"


class EnvelopeMethodError(PeerProtocolError):
    """A message between boxes is a POST."""

    kind = "envelope.method"


class ProxyVersionError(PeerProtocolError):
    """The client's box is older than this provider accepts, or does not say how old it is."""

    kind = "envelope.version"


class HttpStatusError(PeerProtocolError):
    """The provider's box answered with a status that the protocol does not know."""

    kind = "envelope.status"


@dataclass(frozen=True, slots=True)
class RequestEnvelope:
    """What the envelope of a request says. `rest` is false for SOAP; `request_id` is empty where the sender gave none."""

    boundary: bytes
    rest: bool
    request_id: str
    proxy_version: str
    original_content_type: bytes
    original_soap_action: bytes | None


@dataclass(frozen=True, slots=True)
class ResponseEnvelope:
    """What the envelope of an answer says: a message with a boundary, or (`boundary` None) a fault as the whole content."""

    boundary: bytes | None
    original_content_type: bytes


def request_headers(boundary: bytes, request_id: str, original_content_type: bytes = b"", *, rest: bool = True) -> list[Header]:
    """The headers of a request, without those of HTTP itself (host, framing)."""
    headers = [
        (b"Content-Type", content_type_of(boundary)),
        (b"x-hash-algorithm", HASH_ALGORITHM),
        (b"x-proxy-version", PROXY_VERSION.encode()),
        (b"x-road-request-id", request_id.encode()),
        (b"x-original-content-type", original_content_type),
    ]
    if rest:
        headers.insert(4, (b"x-road-message-type", b"REST"))
    return headers


def response_headers(boundary: bytes, original_content_type: bytes | None = None) -> list[Header]:
    """The headers of a sealed answer; SOAP answers name the original content type."""
    headers = [(b"Content-Type", content_type_of(boundary)), (b"x-hash-algorithm", HASH_ALGORITHM)]
    if original_content_type is not None:
        headers.append((b"x-original-content-type", original_content_type))
    return headers


def fault_headers() -> list[Header]:
    """The headers of an answer that is a SOAP fault and nothing else; its status is 200."""
    return [(b"Content-Type", b"text/xml;charset=utf-8"), (b"SOAPAction", b"")]


def check_request(method: bytes, headers: Sequence[Header]) -> RequestEnvelope:
    """The envelope of a request that came in. Raises EnvelopeMethodError, EnvelopeTypeError, EnvelopeError."""
    if method != b"POST":
        raise EnvelopeMethodError("a message between boxes is a POST")
    said = _said(headers, _REQUEST_SAYS)
    boundary = _boundary(said.get(b"content-type"))
    _check_hash(said)
    message_type = said.get(b"x-road-message-type")
    if message_type not in (None, b"REST"):
        raise EnvelopeError("x-road-message-type is neither REST nor absent")
    request_id = said.get(b"x-road-request-id", b"").decode("latin-1")
    if request_id and not _REQUEST_ID.fullmatch(request_id):
        raise EnvelopeError("x-road-request-id is no identifier")
    return RequestEnvelope(
        boundary=boundary,
        rest=message_type is not None,
        request_id=request_id,
        proxy_version=said.get(b"x-proxy-version", b"").decode("latin-1"),
        original_content_type=said.get(b"x-original-content-type", b""),
        original_soap_action=said.get(b"x-original-soapaction"),
    )


def check_response(status: int, headers: Sequence[Header]) -> ResponseEnvelope:
    """The envelope of an answer. Raises HttpStatusError, EnvelopeTypeError, EnvelopeError."""
    if status not in (200, 500):
        raise HttpStatusError(f"the provider's box answered with status {status}")
    said = _said(headers, _ANSWER_SAYS)
    content_type = said.get(b"content-type")
    if content_type is not None and media_type(content_type) == TEXT_XML:
        return ResponseEnvelope(None, b"")
    boundary = _boundary(content_type)
    _check_hash(said)
    return ResponseEnvelope(boundary, said.get(b"x-original-content-type", b""))


def check_version(version: str, minimum: str) -> None:
    """The client's box is at least `minimum`, where a provider asks for one. Raises ProxyVersionError."""
    theirs, ours = _VERSION.fullmatch(version), _VERSION.fullmatch(minimum)
    if ours is None:
        raise RuntimeError(f"not a version: {minimum}")
    if theirs is None or tuple(map(int, theirs.groups())) < tuple(map(int, ours.groups())):
        raise ProxyVersionError(f"at least version {minimum} is needed")


def _check_hash(said: Mapping[bytes, bytes]) -> None:
    if said.get(b"x-hash-algorithm") != HASH_ALGORITHM:
        raise EnvelopeError("x-hash-algorithm is not SHA-512")


def _boundary(content_type: bytes | None) -> bytes:
    if content_type is not None and (ours := _OUR_TYPE.fullmatch(content_type)) is not None:
        return ours[1]
    if content_type is None or media_type(content_type) != ATTACHMENTS:
        raise EnvelopeTypeError("the content is not multipart/mixed")
    try:
        return boundary_of(content_type)
    except MultipartMalformedError as error:
        raise EnvelopeTypeError(str(error)) from None


def _said(headers: Sequence[Header], deciding: frozenset[bytes]) -> dict[bytes, bytes]:
    """The headers that decide something here, by lower-case name. Equal repetitions are harmless, different ones are refused."""
    said: dict[bytes, bytes] = {}
    for header, value in headers:
        name = header.lower()
        if name in deciding and said.setdefault(name, value) != value:
            raise EnvelopeError(f"{name.decode()} is there with different values")
    return said
