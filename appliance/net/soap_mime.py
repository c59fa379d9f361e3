"""SOAP messages as information systems frame them: plain text/xml, or multipart/related with the SOAP part first (SwA, MTOM).

Pure. Sheet 2.9. The first part is the message whatever `start` says; a `start` that names another part is refused, because the system
behind us would take that one for the message. What is written has a boundary of our own and a `start` computed from the SOAP part: the
sender's parameters are not signed, and a boundary that the sender chose could stand in an attachment.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

import msgspec

from appliance.errors import PeerProtocolError
from appliance.net.multipart import (
    Header,
    Hold,
    MultipartReader,
    PartBegan,
    PartData,
    PartEnded,
    PartOversizedError,
    boundary_of,
    free,
    media_type,
    parameter,
)
from appliance.net.soap_protocol import SoapContentTypeError, SoapFraming, check_framing
from appliance.net.transport_parts import TEXT_XML, XOP, BodyBegan, BodyData, BodyEnded, TransportLimits

RELATED = "multipart/related"
PLAIN_TYPE = b"text/xml; charset=UTF-8"
TEXT_BYTES_MAX = 1024
"""Before the first boundary older SOAP libraries tell readers of mail that this is a multi-part message: it is passed over, unsigned."""
_SAFE = re.compile(rb"[\x21\x23-\x5b\x5d-\x7e]{1,200}")
"""What may stand between quotes in a parameter that we pass on."""


class SoapMissingError(PeerProtocolError):
    """No SOAP message came."""

    kind = "soap.missing"


class SoapPart(msgspec.Struct, frozen=True):
    """The SOAP part is complete. `framing` has its headers (Content-Type first) and the whole's content type."""

    data: bytes
    framing: SoapFraming


SoapEvent = SoapPart | BodyBegan | BodyData | BodyEnded


class SoapReader:
    """Reads one message. Invariant: of the attachments nothing is held; the SOAP part is bounded and kept."""

    def __init__(self, content_type: bytes | None, limits: TransportLimits, action: bytes | None = None, hold: Hold = free) -> None:
        """Raises SoapContentTypeError, MultipartMalformedError."""
        self._content_type, self._limits, self._action, self._told = content_type or b"", limits, action, hold
        kind = media_type(self._content_type)
        self._parts: MultipartReader | None = None
        self._headers: tuple[Header, ...] = ((b"Content-Type", self._content_type),)
        if kind == RELATED:
            boundary, parts_max = boundary_of(self._content_type), limits.attachments_max + 1
            self._parts = MultipartReader(boundary, parts_max=parts_max, text_bytes_max=TEXT_BYTES_MAX)
        elif kind != TEXT_XML:
            raise SoapContentTypeError(f"content of type {kind[:80]!r}: neither text/xml nor multipart/related")
        else:
            check_framing(SoapFraming(self._headers, self._content_type, action))
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._part: SoapPart | None = None
        self._number = self._size = self._body_bytes = 0
        self._digest = hashlib.sha512()

    def feed(self, data: bytes) -> list[SoapEvent]:
        """What is certain now. Raises multipart.*, peer.oversized, soap.content_type, soap.action."""
        events: list[SoapEvent] = []
        if self._parts is None:
            self._hold(data)
            return events
        for event in self._parts.feed(data):
            if isinstance(event, PartData):
                self._data(event.data, events)
            elif isinstance(event, PartBegan):
                self._began(event, events)
            elif isinstance(event, PartEnded):
                self._ended(events)
        return events

    def finish(self) -> list[SoapEvent]:
        """The end of the HTTP body: what became certain with it. Raises SoapMissingError, MultipartMalformedError."""
        events: list[SoapEvent] = []
        if self._parts is None:
            self._end_part(events)
        else:
            self._parts.end()
        if self._part is None:
            raise SoapMissingError("no SOAP message")
        return events

    def _began(self, part: PartBegan, events: list[SoapEvent]) -> None:
        if self._part is None:
            own = [(name, value) for name, value in part.headers if name.lower() == b"content-type"]
            self._headers = (*own, *((name, value) for name, value in part.headers if name.lower() != b"content-type"))
            framing = SoapFraming(self._headers, self._content_type, self._action)
            check_framing(framing)
            start = parameter(self._content_type, "start")
            if start is not None and start != content_id(framing):
                raise SoapContentTypeError("the SOAP part must be the first one")
            return
        if len([name for name, _ in part.headers if name.lower() == b"content-id"]) > 1:
            raise SoapContentTypeError("an attachment with two content ids")
        self._number += 1
        self._size, self._digest = 0, hashlib.sha512()
        events.append(BodyBegan(self._number, part.headers, part.raw))

    def _data(self, data: bytes, events: list[SoapEvent]) -> None:
        if self._part is None:
            self._hold(data)
            return
        self._body_bytes += len(data)
        if self._body_bytes > self._limits.body_bytes_max:
            raise PartOversizedError("attachments", self._limits.body_bytes_max)
        self._size += len(data)
        self._digest.update(data)
        events.append(BodyData(data))

    def _ended(self, events: list[SoapEvent]) -> None:
        if self._part is None:
            self._end_part(events)
        else:
            events.append(BodyEnded(self._number, self._size, self._digest.digest()))

    def _hold(self, data: bytes) -> None:
        self._held_bytes += len(data)
        if self._held_bytes > self._limits.soap_bytes_max:
            raise PartOversizedError("SOAP message", self._limits.soap_bytes_max)
        self._told(len(data))
        self._held.append(data)

    def _end_part(self, events: list[SoapEvent]) -> None:
        if not self._held_bytes:
            raise SoapMissingError("the SOAP message is empty")
        self._part = SoapPart(b"".join(self._held), SoapFraming(self._headers, self._content_type, self._action))
        self._held = []
        events.append(self._part)


def content_id(framing: SoapFraming) -> bytes | None:
    """The Content-ID of the SOAP part, as `start` names it."""
    return next((value for name, value in framing.part_headers if name.lower() == b"content-id"), None)


def header_lines(headers: Iterable[Header]) -> bytes:
    """Headers of a part as lines: names and values as they came, folds joined."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def related(framing: SoapFraming, head: bytes, attachments: Sequence[bytes], boundary: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    """Content type and frames of a message for an information system: the bytes before, between and behind the attachments.

    `attachments`: the header lines of each. Without any it is plain XML.
    """
    if not attachments:
        return PLAIN_TYPE, (head,)
    first = b"--%b\r\n%b\r\n%b" % (boundary, header_lines(framing.part_headers), head)
    frames = [b"\r\n--%b\r\n%b\r\n" % (boundary, lines) for lines in attachments]
    frames[0] = first + frames[0]
    return _content_type(framing, boundary), (*frames, b"\r\n--%b--\r\n" % boundary)


def _content_type(framing: SoapFraming, boundary: bytes) -> bytes:
    kind = media_type(framing.part_headers[0][1]).encode()
    start, info = content_id(framing), None
    if media_type(framing.content_type) == RELATED:
        info = parameter(framing.content_type, "start-info")
    pieces = [b'multipart/related; type="%b"' % kind]
    if start is not None and _SAFE.fullmatch(start):
        pieces.append(b'start="%b"' % start)
    if info is not None and _SAFE.fullmatch(info):
        pieces.append(b'start-info="%b"' % info)
    elif kind == XOP.encode():
        pieces.append(b'start-info="text/xml"')
    return b"; ".join((*pieces, b'boundary="%b"' % boundary))
