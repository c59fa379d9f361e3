"""What a message between two boxes is made of: content types, limits, events of its reader, and what can be wrong with it.

Pure. Sheet 3.7.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from appliance.errors import PeerProtocolError
from appliance.net.multipart import Header
from appliance.net.soap_reader import SOAP_BYTES_MAX, PeerFault

OCSP = "application/ocsp-response"
REST_REQUEST, REST_RESPONSE = "application/x-road-rest-request", "application/x-road-rest-response"
REST_BODY, ATTACHMENTS = "application/x-road-rest-body", "multipart/mixed"
CHAIN_RESULT, CHAIN, SIGNATURE = "application/hash-chain-result", "application/hash-chain", "signature/bdoc-1.0/ts"
TEXT_XML, XOP = "text/xml", "application/xop+xml"
SOAP = "soap"
"""The kind of head that a part of type text/xml or application/xop+xml is."""
ANY_HEAD = frozenset({REST_REQUEST, REST_RESPONSE, SOAP})


class UnexpectedPartError(PeerProtocolError):
    """A part of a type that has no place there."""

    kind = "transport.unexpected_part"


class ExtraContentError(PeerProtocolError):
    """Something stands after the signature or the fault."""

    kind = "transport.extra_content"


class HeadMissingError(PeerProtocolError):
    """The message ended before its head."""

    kind = "transport.missing_head"


class SignatureMissingError(PeerProtocolError):
    """The message ended before its signature."""

    kind = "transport.missing_signature"


class OcspPartError(PeerProtocolError):
    """A part that claims to be an OCSP response is not even DER."""

    kind = "transport.ocsp_malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """How much of a message is read. The small parts are kept in memory: a REST message costs at most 1.4 MiB, a SOAP message 4.3."""

    head_bytes_max: int = 64 << 10
    """REST; a SOAP head is content as well and may have soap_bytes_max."""
    soap_bytes_max: int = SOAP_BYTES_MAX
    body_bytes_max: int = 1 << 30
    """Body, or all attachments together."""
    attachments_max: int = 64
    ocsp_bytes_max: int = 64 << 10
    ocsp_parts_max: int = 8
    """A TLS chain has a leaf and at most a few intermediates."""
    chain_bytes_max: int = 256 << 10
    signature_bytes_max: int = 256 << 10
    """Real ones are 6 to 12 KB."""
    fault_bytes_max: int = 64 << 10


class OcspPart(msgspec.Struct, frozen=True):
    """A response for a certificate of the sender's TLS chain, DER."""

    data: bytes


class HeadPart(msgspec.Struct, frozen=True):
    """The head is complete: who asks what of whom can be decided before the body comes. `kind`: REST_REQUEST, REST_RESPONSE or SOAP."""

    kind: str
    data: bytes
    digest: bytes
    """SHA-512."""
    headers: tuple[Header, ...]
    """Of the part: a SOAP head's content type and further headers travel on."""
    ocsp: tuple[bytes, ...]


class BodyBegan(msgspec.Struct, frozen=True):
    """A REST body (number 1) or a SOAP attachment (from 1) begins; `raw_headers` are the part's header lines, verbatim."""

    number: int
    headers: tuple[Header, ...]
    raw_headers: bytes


class BodyData(msgspec.Struct, frozen=True):
    """Some bytes of the body that began last."""

    data: bytes


class BodyEnded(msgspec.Struct, frozen=True):
    """A body is complete; `digest` is SHA-512 of the bytes that were given out."""

    number: int
    size: int
    digest: bytes


class ChainResultPart(msgspec.Struct, frozen=True):
    """The hash chain result: what is signed."""

    data: bytes


class ChainPart(msgspec.Struct, frozen=True):
    """The hash chain that leads from this message to the result."""

    data: bytes


class SignaturePart(msgspec.Struct, frozen=True):
    """The signature document."""

    data: bytes


class FaultPart(msgspec.Struct, frozen=True):
    """The sender's fault, in place of the message or of its signature."""

    fault: PeerFault
    data: bytes


TransportEvent = OcspPart | HeadPart | BodyBegan | BodyData | BodyEnded | ChainResultPart | ChainPart | SignaturePart | FaultPart


class SealedMessage(msgspec.Struct, frozen=True):
    """A whole message as it was received; its seal is not verified yet."""

    head: HeadPart
    bodies: tuple[BodyEnded, ...]
    chain_result: bytes | None
    chain: bytes | None
    signature: bytes

    @property
    def attachment_digests(self) -> tuple[bytes, ...]:
        """SHA-512 of body or attachments in order: signatures call them `/attachment1` and so on."""
        return tuple(body.digest for body in self.bodies)
