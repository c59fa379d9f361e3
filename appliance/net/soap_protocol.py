"""The message protocol 4.0 for SOAP: requests and answers, and what makes an answer the answer to a request.

Pure. Sheet 2.9. The SOAP part is signed, logged, hashed and passed on as the bytes that came; what is parsed here is a copy. Only the
provider's box changes one thing, before it seals: it puts the request's hash behind the `id` of its own system's answer, by splicing
bytes, never by writing the document anew.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass
from xml.parsers import expat  # nosec B405  only for documents that `read_header` has read before: no DTD, bounded

from appliance.errors import PeerProtocolError, UnavailableError, XacbeError
from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.net.multipart import Header, media_type, parameter
from appliance.net.soap_reader import SHA512, SoapHeader, SoapHeaderMissingError, SoapMalformedError, read_header
from appliance.net.transport_parts import TEXT_XML, XOP

PROTOCOL_VERSION = "4."
"""protocolVersion must begin with it."""
_XROAD_ID, _XROAD_HASH = "http://x-road.eu/xsd/xroad.xsd id", "http://x-road.eu/xsd/xroad.xsd requestHash"
_SOAP_HEADER = "http://schemas.xmlsoap.org/soap/envelope/ Header"
_HEADER_LEVEL = 2
_ACTION = re.compile(rb'"[A-Za-z0-9\-._~:/?#\[\]@!$&\'()*+,;=%]*"')
_TRANSFER_ENCODINGS = (b"", b"binary", b"8bit", b"7bit")


class SoapContentTypeError(PeerProtocolError):
    """Neither text/xml in UTF-8 nor multipart/related with such a part first."""

    kind = "soap.content_type"


class SoapActionError(PeerProtocolError):
    """A SOAPAction that is neither empty nor a URI in quotes."""

    kind = "soap.action"


class SoapVersionError(PeerProtocolError):
    """A protocolVersion that is not 4.x."""

    kind = "soap.protocol_version"


class SoapInconsistentError(PeerProtocolError):
    """The body's element is not named after the service."""

    kind = "soap.inconsistent_headers"


class SoapResponseInconsistentError(PeerProtocolError):
    """The answer does not belong to this request."""

    kind = "soap.inconsistent_response"


class ServiceAnswerError(UnavailableError):
    """Our own information system answered with something that is no SOAP answer to the request; `about`: the kind of what is wrong."""

    kind = "service.answer_malformed"

    def __init__(self, about: XacbeError) -> None:
        super().__init__(f"the service's answer: {about}")
        self.about = about.kind


@dataclass(frozen=True, slots=True)
class SoapFraming:
    """What travels beside the signed parts: headers of the SOAP part, and how the sender's system had framed it all. Unsigned."""

    part_headers: tuple[Header, ...]
    """Of the SOAP part; Content-Type is the first."""
    content_type: bytes
    """Of the whole: `x-original-content-type`."""
    action: bytes | None = None


@dataclass(frozen=True, slots=True)
class SoapRequest:
    """A request with everything that decides something. `head` is the SOAP part: what is signed."""

    head: bytes
    digest: bytes
    header: SoapHeader
    framing: SoapFraming
    request_id: str
    """Of the envelope between the boxes; SOAP itself has none."""

    @property
    def client(self) -> ClientId:
        return self.header.client

    @property
    def service(self) -> ServiceId:
        return self.header.service

    @property
    def query_id(self) -> str:
        return self.header.query_id

    @property
    def security_server(self) -> ServerId | None:
        return self.header.security_server

    @property
    def represented_party(self) -> str | None:
        return self.header.represented_party

    @property
    def user_id(self) -> str | None:
        return self.header.user_id


@dataclass(frozen=True, slots=True)
class SoapResponse:
    """An answer. `head` is the SOAP part."""

    head: bytes
    digest: bytes
    header: SoapHeader


def parse_request(head: bytes, framing: SoapFraming, request_id: str) -> SoapRequest:
    """A SOAP part as a request. Raises soap.* leaves, XmlRefusedError, IdentifierError."""
    check_framing(framing)
    header = read_header(head)
    if header.protocol_version is None:
        raise SoapHeaderMissingError("no protocolVersion")
    if not header.protocol_version.startswith(PROTOCOL_VERSION):
        raise SoapVersionError("protocolVersion is not 4.x")
    if not header.body_name.startswith(header.service.code):
        raise SoapInconsistentError("the element in the body is not named after the service")
    if header.is_response:
        raise SoapInconsistentError("the body of a request is named like an answer")
    return SoapRequest(head, hashlib.sha512(head).digest(), header, framing, request_id)


def parse_response(head: bytes) -> SoapResponse:
    """A SOAP part as an answer. Raises soap.* leaves, XmlRefusedError, IdentifierError."""
    return SoapResponse(head, hashlib.sha512(head).digest(), read_header(head))


def check_framing(framing: SoapFraming) -> None:
    """The SOAP part is XML in UTF-8 as it stands: no other reader may decode it into something else. Raises SoapContentTypeError,
    SoapActionError.
    """
    names = [name.lower() for name, _ in framing.part_headers]
    if names.count(b"content-type") != 1 or names.count(b"content-transfer-encoding") > 1 or names.count(b"content-id") > 1:
        raise SoapContentTypeError("the headers of the SOAP part are missing or doubled")
    values = dict(zip(names, (value for _, value in framing.part_headers), strict=True))
    kind = values[b"content-type"]
    if media_type(kind) not in (TEXT_XML, XOP):
        raise SoapContentTypeError("the SOAP part is neither text/xml nor application/xop+xml")
    if (parameter(kind, "charset") or b"utf-8").lower() not in (b"utf-8", b"utf8"):
        raise SoapContentTypeError("the charset of a SOAP message is UTF-8")
    if values.get(b"content-transfer-encoding", b"").lower() not in _TRANSFER_ENCODINGS:
        raise SoapContentTypeError("the SOAP part is encoded for transfer")
    if framing.action and not _ACTION.fullmatch(framing.action):
        raise SoapActionError("SOAPAction is neither empty nor a URI in quotes")


def check_response(response: SoapResponse, request: SoapRequest, *, hashed: bool = True) -> None:
    """The answer is the answer to this very request (sheet 2.9): same parties, id, user, issue, represented party; and, `hashed`, its
    hash. securityServer and protocolVersion are not compared, but X-Road's readers want the latter in answers as well. Raises
    SoapHeaderMissingError, SoapResponseInconsistentError.
    """
    ours, theirs = request.header, response.header
    if theirs.protocol_version is None:
        raise SoapHeaderMissingError("no protocolVersion in the answer")
    for name, wanted, found in (
        ("client", ours.client, theirs.client),
        ("service", ours.service, theirs.service),
        ("id", ours.query_id, theirs.query_id),
        ("userId", ours.user_id, theirs.user_id),
        ("issue", ours.issue, theirs.issue),
        ("representedParty", ours.represented_party, theirs.represented_party),
        ("requestHash", request.digest if hashed else None, theirs.request_hash if hashed else None),
    ):
        if wanted != found:
            raise SoapResponseInconsistentError(f"{name} of the answer is not that of the request")
    if not theirs.is_response:
        raise SoapResponseInconsistentError("the element in the body is not named after the service with Response behind it")


def with_request_hash(answer: bytes, request: SoapRequest) -> bytes:
    """Our system's answer with the request's hash behind its `id`, in place of any that was there. Every other byte stays.

    `answer` was read by `read_header` before. Raises SoapMalformedError where both readers do not see the same.
    """
    places = _places(answer)
    if len(places.ids) != 1:
        raise SoapMalformedError("not exactly one id in the header")
    value = base64.b64encode(request.digest).decode()
    element = f'<xrd:requestHash xmlns:xrd="http://x-road.eu/xsd/xroad.xsd" algorithmId="{SHA512}">{value}</xrd:requestHash>'.encode()
    cuts = sorted([(start, end, b"") for start, end in places.hashes] + [(places.ids[0][1], places.ids[0][1], element)])
    pieces: list[bytes] = []
    at = 0
    for start, end, put in cuts:
        pieces += (answer[at:start], put)
        at = end
    return b"".join((*pieces, answer[at:]))


class _Places:
    """Where the children of the SOAP header called `id` and `requestHash` stand, as byte offsets (start, end)."""

    def __init__(self) -> None:
        self.ids: list[tuple[int, int]] = []
        self.hashes: list[tuple[int, int]] = []


def _places(document: bytes) -> _Places:
    """expat alone tells byte offsets. An element ends where the next event begins."""
    found = _Places()
    parser = expat.ParserCreate("utf-8", " ")
    path: list[str] = []
    starts: list[int] = []
    closed: list[tuple[list[tuple[int, int]], int]] = []

    def mark() -> None:
        while closed:
            into, start = closed.pop()
            into.append((start, parser.CurrentByteIndex))

    def began(name: str, _: dict[str, str]) -> None:
        mark()
        path.append(name)
        starts.append(parser.CurrentByteIndex)

    def ended(name: str) -> None:
        mark()
        path.pop()
        start = starts.pop()
        if len(path) == _HEADER_LEVEL and path[-1] == _SOAP_HEADER and name in (_XROAD_ID, _XROAD_HASH):
            closed.append((found.ids if name == _XROAD_ID else found.hashes, start))

    def other(_: str) -> None:
        mark()

    def doctype(*_: object) -> None:
        raise SoapMalformedError("a document type declaration")

    parser.StartElementHandler, parser.EndElementHandler, parser.DefaultHandler = began, ended, other
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(document, True)
    except expat.ExpatError as error:
        raise SoapMalformedError(f"not well-formed: {expat.errors.messages.get(error.code, '')}") from None
    return found
