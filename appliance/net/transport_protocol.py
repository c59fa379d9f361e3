"""The transport protocol between two boxes: reads the parts of a message in their order, and writes them.

Pure. Sheet 3.7. The reader follows the content types: OCSP responses, head, body or attachments, hash chain result and hash chain,
signature (or a fault in its place); what stands elsewhere is refused. Bodies are given out as they come, everything else is bounded and
kept. Digests are SHA-512 of bytes that we read ourselves: they, and nothing that the peer states, are what a seal is verified against.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

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
    closing,
    content_type_of,
    free,
    make_boundary,
    media_type,
    part_begin,
)
from appliance.net.soap_reader import PeerFault, read_fault
from appliance.net.transport_parts import (
    ANY_HEAD,
    ATTACHMENTS,
    CHAIN,
    CHAIN_RESULT,
    OCSP,
    REST_BODY,
    REST_REQUEST,
    REST_RESPONSE,
    SIGNATURE,
    SOAP,
    TEXT_XML,
    XOP,
    BodyBegan,
    BodyData,
    BodyEnded,
    ChainPart,
    ChainResultPart,
    ExtraContentError,
    FaultPart,
    HeadMissingError,
    HeadPart,
    OcspPart,
    OcspPartError,
    SealedMessage,
    SignatureMissingError,
    SignaturePart,
    TransportEvent,
    TransportLimits,
    UnexpectedPartError,
)

_START, _HEAD, _BODY, _CHAIN_RESULT, _CHAIN, _OVER = "the start", "the head", "the body", "the chain result", "the chain", "the end"
_HEAD_KINDS = {REST_REQUEST: REST_REQUEST, REST_RESPONSE: REST_RESPONSE, XOP: SOAP, TEXT_XML: SOAP}
# What each part may follow. A chain result without its chain, or a chain alone, proves nothing and is refused here.
_FOLLOWS = {
    OCSP: (_START,),
    REST_REQUEST: (_START,),
    REST_RESPONSE: (_START,),
    XOP: (_START,),
    TEXT_XML: (_START, _HEAD, _BODY, _CHAIN),
    REST_BODY: (_HEAD,),
    ATTACHMENTS: (_HEAD,),
    CHAIN_RESULT: (_HEAD, _BODY),
    CHAIN: (_CHAIN_RESULT,),
    SIGNATURE: (_HEAD, _BODY, _CHAIN),
}
_LIMITS = {
    OCSP: "ocsp_bytes_max",
    TEXT_XML: "fault_bytes_max",
    CHAIN_RESULT: "chain_bytes_max",
    CHAIN: "chain_bytes_max",
    SIGNATURE: "signature_bytes_max",
}
_AFTER = {REST_BODY: _BODY, ATTACHMENTS: _BODY, CHAIN_RESULT: _CHAIN_RESULT, CHAIN: _CHAIN, SIGNATURE: _OVER}


class TransportReader:
    """Reads one message. Invariant: only the small parts are held, each within its limit; a body byte is given out once, in order.

    `expects`: the kinds of head that are welcome (REST_REQUEST at a provider, REST_RESPONSE at a client, SOAP at both).
    """

    def __init__(
        self, boundary: bytes, expects: frozenset[str] = ANY_HEAD, limits: TransportLimits | None = None, hold: Hold = free
    ) -> None:
        self._limits, self._hold = limits or TransportLimits(), hold
        # Head, body, chain result, chain, signature; and one more, so that content after the signature gets its own error.
        self._parts = MultipartReader(boundary, parts_max=self._limits.ocsp_parts_max + 6)
        self._expects = expects
        self._fresh = True
        """Nothing was fed yet: a small message mostly comes in one piece."""
        self._after = _START
        self._type = ""
        self._headers: tuple[Header, ...] = ()
        self._held: list[bytes] = []
        self._room = 0
        """How many more bytes this part may have; for bodies, how many more all of them may have."""
        self._attachments: MultipartReader | None = None
        self._digest = hashlib.sha512()
        self._size = 0
        self._ocsp: list[bytes] = []
        self._head: HeadPart | None = None
        self._bodies: list[BodyEnded] = []
        self._chain_result: bytes | None = None
        self._chain: bytes | None = None
        self._signature: bytes | None = None
        self._fault: FaultPart | None = None

    def feed(self, data: bytes) -> list[TransportEvent]:
        """What is certain now. Raises PeerProtocolError leaves: multipart.*, peer.oversized, transport.*, soap.*, xml.refused."""
        events: list[TransportEvent] = []
        whole = self._parts.whole(data) if self._fresh else None
        self._fresh = False
        for part, body in whole or ():
            self._began(part, events)
            if body:
                self._data(body, events)
            self._ended(events)
        if whole is not None:
            return events
        for event in self._parts.feed(data):
            if isinstance(event, PartData):
                self._data(event.data, events)
            elif isinstance(event, PartBegan):
                self._began(event, events)
            elif isinstance(event, PartEnded):
                self._ended(events)
        return events

    def finish(self) -> SealedMessage | FaultPart:
        """The message, when the HTTP body has ended. Raises the leaves of an incomplete message."""
        self._parts.end()
        if self._fault is not None:
            return self._fault
        if self._head is None:
            raise HeadMissingError("the message ends before its head")
        if self._signature is None:
            raise SignatureMissingError("the message ends before its signature")
        return SealedMessage(self._head, tuple(self._bodies), self._chain_result, self._chain, self._signature)

    def _began(self, part: PartBegan, events: list[TransportEvent]) -> None:
        content_type = part.content_type
        self._type = kind = media_type(content_type)
        self._headers = part.headers
        if self._after == _OVER:
            raise ExtraContentError(f"a part of type {kind[:80]!r} after the end")
        # OCSP responses come before the head only; a text/xml part at the start is a SOAP head or a fault, later it is a fault.
        if self._after not in _FOLLOWS.get(kind, ()) or not self._is_welcome(kind):
            raise UnexpectedPartError(f"a part of type {kind[:80]!r} after {self._after}")
        self._held = []
        if kind == REST_BODY:
            self._room = self._limits.body_bytes_max
            self._begin_body(part, events)
        elif kind == ATTACHMENTS:
            self._room = self._limits.body_bytes_max
            self._attachments = MultipartReader(boundary_of(content_type), parts_max=self._limits.attachments_max)
        else:
            self._room = self._bytes_max(kind)

    def _is_welcome(self, kind: str) -> bool:
        if kind in (REST_BODY, ATTACHMENTS):
            return self._head is not None and (self._head.kind == SOAP) == (kind == ATTACHMENTS)
        if kind == OCSP:
            return len(self._ocsp) < self._limits.ocsp_parts_max
        return kind == TEXT_XML or kind not in _HEAD_KINDS or _HEAD_KINDS[kind] in self._expects

    def _bytes_max(self, kind: str) -> int:
        limits = self._limits
        if kind == XOP or (kind == TEXT_XML and self._after == _START and SOAP in self._expects):
            return limits.soap_bytes_max
        name = _LIMITS.get(kind)
        return limits.head_bytes_max if name is None else int(getattr(limits, name))

    def _data(self, data: bytes, events: list[TransportEvent]) -> None:
        if self._attachments is not None:
            self._attachment_data(self._attachments, data, events)
            return
        self._room -= len(data)
        if self._room < 0:
            raise PartOversizedError(self._type, self._limits.body_bytes_max if self._type == REST_BODY else self._bytes_max(self._type))
        if self._type == REST_BODY:
            self._body_data(data, events)
        else:
            self._hold(len(data))
            self._held.append(data)

    def _attachment_data(self, reader: MultipartReader, data: bytes, events: list[TransportEvent]) -> None:
        for event in reader.feed(data):
            if isinstance(event, PartData):
                self._room -= len(event.data)
                if self._room < 0:
                    raise PartOversizedError("attachments", self._limits.body_bytes_max)
                self._body_data(event.data, events)
            elif isinstance(event, PartBegan):
                self._begin_body(event, events)
            elif isinstance(event, PartEnded):
                self._end_body(events)

    def _begin_body(self, part: PartBegan, events: list[TransportEvent]) -> None:
        self._digest, self._size = hashlib.sha512(), 0
        events.append(BodyBegan(len(self._bodies) + 1, part.headers, part.raw))

    def _body_data(self, data: bytes, events: list[TransportEvent]) -> None:
        self._digest.update(data)
        self._size += len(data)
        events.append(BodyData(data))

    def _end_body(self, events: list[TransportEvent]) -> None:
        ended = BodyEnded(len(self._bodies) + 1, self._size, self._digest.digest())
        self._bodies.append(ended)
        events.append(ended)

    def _ended(self, events: list[TransportEvent]) -> None:
        kind, data = self._type, b"".join(self._held)
        self._held = []
        if kind == OCSP:
            _check_der(data)
            self._ocsp.append(data)
            events.append(OcspPart(data))
            return
        if kind in _HEAD_KINDS:
            self._end_head_or_fault(kind, data, events)
            return
        self._after = _AFTER[kind]
        if kind == REST_BODY:
            self._end_body(events)
        elif self._attachments is not None:
            self._attachments.end()
            self._attachments = None
        elif kind == CHAIN_RESULT:
            self._chain_result = data
            events.append(ChainResultPart(data))
        elif kind == CHAIN:
            self._chain = data
            events.append(ChainPart(data))
        else:
            self._signature = data
            events.append(SignaturePart(data))

    def _end_head_or_fault(self, kind: str, data: bytes, events: list[TransportEvent]) -> None:
        fault = self._read_fault(kind, data)
        if fault is not None:
            self._after = _OVER
            self._fault = FaultPart(fault, data)
            events.append(self._fault)
            return
        if self._after != _START or _HEAD_KINDS[kind] not in self._expects:
            raise UnexpectedPartError(f"a part of type {kind} that is not a fault after {self._after}")
        self._after = _HEAD
        self._head = HeadPart(_HEAD_KINDS[kind], data, hashlib.sha512(data).digest(), self._headers, tuple(self._ocsp))
        events.append(self._head)

    def _read_fault(self, kind: str, data: bytes) -> PeerFault | None:
        if kind != TEXT_XML:
            return None
        try:
            return read_fault(data)
        except PeerProtocolError:
            if self._after == _START and SOAP in self._expects:
                raise
            raise UnexpectedPartError(f"a part of type {kind} that is not a fault after {self._after}") from None


def _check_der(data: bytes) -> None:
    """One DER SEQUENCE and nothing else: what is inside is judged where it is verified."""
    length, start = (data[1], 2) if len(data) > 2 else (0, 2)
    if length & 0x80:
        start = 2 + (length & 0x7F)
        length = int.from_bytes(data[2:start], "big") if start <= 6 else 0
    if data[:1] != b"0" or not length or len(data) != start + length:
        raise OcspPartError("a part that should be an OCSP response is not DER")


def message_boundary(random: bytes) -> bytes:
    """The boundary of a new message, from 30 random bytes, as X-Road makes them."""
    return make_boundary(b"xtop", random)


def prologue(boundary: bytes, head_type: str, head: bytes, *, ocsp: Sequence[bytes] = (), with_body: bool = False) -> bytes:
    """Everything in front of a REST body that is streamed (`with_body`), or of the seal where there is none. Requests carry `ocsp`."""
    pieces: list[bytes] = []
    for response in ocsp:
        pieces += (part_begin(boundary, b"application/ocsp-response", first=not pieces), response)
    pieces += (part_begin(boundary, head_type.encode(), first=not pieces), head)
    if with_body:
        pieces.append(part_begin(boundary, b"application/x-road-rest-body"))
    return b"".join(pieces)


def soap_frames(
    boundary: bytes,
    inner: bytes,
    head_headers: Sequence[Header],
    head: bytes,
    attachments: Sequence[bytes],
    seal: bytes,
    *,
    ocsp: Sequence[bytes] = (),
) -> tuple[bytes, ...]:
    """The bytes before, between and behind the attachments of a SOAP message. `head_headers`: of the SOAP part, Content-Type first;
    `attachments`: the header lines of each; `inner`: the boundary of the nested multipart; `seal`: what `epilogue` gives.
    """
    (_, content_type), *more = head_headers
    pieces: list[bytes] = []
    for response in ocsp:
        pieces += (part_begin(boundary, b"application/ocsp-response", first=not pieces), response)
    lines = b"".join([b"%b: %b\r\n" % header for header in more])
    pieces += (part_begin(boundary, content_type, lines, first=not pieces), head)
    if not attachments:
        return (b"".join((*pieces, seal)),)
    frames = [b"\r\n--%b\r\n%b\r\n" % (inner, lines) for lines in attachments]
    frames[0] = b"".join((*pieces, part_begin(boundary, content_type_of(inner)), frames[0]))
    return (*frames, closing(inner) + seal)


def epilogue(boundary: bytes, signature: bytes, chain_result: bytes | None = None, chain: bytes | None = None) -> bytes:
    """The seal behind the last byte of head or body, and the end of the message. A chain result and its chain come together."""
    pieces: list[bytes] = []
    if chain_result is not None and chain is not None:
        pieces = [part_begin(boundary, b"application/hash-chain-result"), chain_result]
        pieces += (part_begin(boundary, b"application/hash-chain"), chain)
    pieces += (part_begin(boundary, b"signature/bdoc-1.0/ts"), signature, closing(boundary))
    return b"".join(pieces)


def fault_epilogue(boundary: bytes, fault: bytes, *, first: bool = False) -> bytes:
    """A SOAP fault in place of the rest of a message whose stream has begun; `first`: nothing of it was written yet."""
    return part_begin(boundary, b"text/xml; charset=UTF-8", first=first) + fault + closing(boundary)


def whole_message(
    boundary: bytes,
    head_type: str,
    head: bytes,
    body: bytes | None,
    signature: bytes,
    chain_result: bytes | None = None,
    chain: bytes | None = None,
    *,
    ocsp: Sequence[bytes] = (),
) -> bytes:
    """A message with a small body, or none, in one piece: one write, one TLS record or two."""
    begin = prologue(boundary, head_type, head, ocsp=ocsp, with_body=body is not None)
    return b"".join((begin, body or b"", epilogue(boundary, signature, chain_result, chain)))
