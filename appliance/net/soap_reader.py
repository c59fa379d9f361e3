"""What a box reads of a SOAP message: the X-Road headers, and faults. The bytes themselves are signed and passed on untouched.

Pure. Sheet 1.3, 2.9. A copy is parsed, with no DTD, no entities, no network; libxml2 stops at 256 levels. The order inside identifiers
is not checked; presence, duplicates and object types are.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from lxml import etree

from appliance.errors import PeerProtocolError
from appliance.model.identifiers import PART_CHARACTERS_MAX, ClientId, ServerId, ServiceId
from appliance.model.xml_input import XmlRefusedError, local_name, parse_known

SOAP_BYTES_MAX = 3 << 20
"""The SOAP part is held in memory and goes to the recorder in one frame of 4 MiB, beside its seal; X-Road has no bound of its own but the
10 MiB that its log takes (sheet 2.5). What is larger travels as an attachment.
"""
MARKS_MAX = 300_000
"""Of `<` and `=` in a SOAP part: elements and attributes cost 100 bytes and half a microsecond each, so that a tree is 40 MiB and 0.2 s at
worst. A list of 100,000 rows of text fits.
"""
FAULT_TEXT_CHARACTERS_MAX = 2000
SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"

_ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
_XROAD = "http://x-road.eu/xsd/xroad.xsd"
_IDENTIFIERS = "http://x-road.eu/xsd/identifiers"
_REPRESENTATION = "http://x-road.eu/xsd/representation.xsd"
_ENCODING = re.compile(rb"""^(?:\xef\xbb\xbf)?<\?xml[^>]*?\sencoding\s*=\s*["']([^"'>]*)["']""")
_CLIENT_PARTS = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")
_SERVICE_PARTS = (*_CLIENT_PARTS, "serviceCode", "serviceVersion")


class SoapMalformedError(PeerProtocolError):
    """Identifiers that are none, or a header that is not text."""

    kind = "soap.malformed"


class SoapEnvelopeMissingError(PeerProtocolError):
    """XML, but no SOAP 1.1 envelope."""

    kind = "soap.no_envelope"


class SoapNoHeaderError(PeerProtocolError):
    """An envelope without a Header."""

    kind = "soap.no_header"


class SoapNoBodyError(PeerProtocolError):
    """An envelope without a Body."""

    kind = "soap.no_body"


class SoapBodyError(PeerProtocolError):
    """A body that has not exactly one element."""

    kind = "soap.body"


class SoapHeaderMissingError(PeerProtocolError):
    """A header that X-Road requires is not there."""

    kind = "soap.header_missing"


class SoapEncodingError(PeerProtocolError):
    """The document declares another encoding than UTF-8: another reader could take the same bytes for another message."""

    kind = "soap.encoding"


class SoapHeaderDuplicateError(PeerProtocolError):
    """A header, or a part of an identifier, is there twice."""

    kind = "soap.header_duplicate"


@dataclass(frozen=True, slots=True)
class PeerFault:
    """A fault that a peer sent; its code is passed on as it is, without a prefix of ours (sheet 3.7)."""

    code: str
    message: str
    detail: str
    document: bytes = field(default=b"", compare=False, repr=False)
    """The whole envelope as it came: a SOAP information system gets it byte for byte, as from X-Road. Empty where it carries more than
    the fault: nobody sealed that.
    """


@dataclass(frozen=True, slots=True)
class SoapHeader:
    """The facts of a SOAP message: who asks what of whom. Optional headers are None where they are not there."""

    client: ClientId
    service: ServiceId
    query_id: str
    body_name: str
    """Local name of the body's only element."""
    protocol_version: str | None = None
    user_id: str | None = None
    issue: str | None = None
    security_server: ServerId | None = None
    represented_party: str | None = None
    """`class/code` or `code`."""
    request_hash: bytes | None = None
    """Empty where the element is there without a SHA-512 in it."""

    @property
    def is_response(self) -> bool:
        """The answer to `x` is `xResponse`; a service may itself be called `xResponse`."""
        return self.body_name == self.service.code + "Response"

    @property
    def sender(self) -> ClientId:
        """Whose seal the message must carry: the client's, or in a response the provider's."""
        return self.service.provider if self.is_response else self.client


def read_fault(data: bytes) -> PeerFault | None:
    """The fault in an envelope; None where it carries something else. Raises XmlRefusedError, SoapMalformedError."""
    body = _body(_envelope(data))
    fault = body.find(f"{{{_ENVELOPE}}}Fault")
    if fault is None:
        return None
    detail = fault.find("detail")
    return PeerFault(
        code=_text(fault.find("faultcode")),
        message=_text(fault.find("faultstring")),
        detail="" if detail is None else _bounded("".join(map(str, detail.itertext()))),
        document=data if len(body) == 1 else b"",
    )


def read_header(data: bytes) -> SoapHeader:
    """The X-Road headers of a request or response. Raises XmlRefusedError and the leaves of this module."""
    root = _envelope(data)
    header = _only(root, f"{{{_ENVELOPE}}}Header", "Header", SoapNoHeaderError)
    protocol_version = _optional(header, "protocolVersion")
    query_id = _leaf(_only(header, f"{{{_XROAD}}}id", "id"))
    if not query_id or len(query_id) > PART_CHARACTERS_MAX:
        raise SoapMalformedError("the id is empty or too long")
    client = _parts(_only(header, f"{{{_XROAD}}}client", "client"), ("MEMBER", "SUBSYSTEM"), _CLIENT_PARTS)
    service = _parts(_only(header, f"{{{_XROAD}}}service", "service"), ("SERVICE",), _SERVICE_PARTS)
    if "serviceCode" not in service:
        raise SoapHeaderMissingError("service: no serviceCode")
    provider = ClientId.of([service[name] for name in _CLIENT_PARTS if name in service])
    content = list(_body(root))
    if len(content) != 1:
        raise SoapBodyError("the SOAP body has not exactly one element")
    return SoapHeader(
        client=ClientId.of(list(client.values())),
        service=ServiceId(provider, service["serviceCode"], service.get("serviceVersion")),
        query_id=query_id,
        body_name=local_name(content[0]),
        protocol_version=protocol_version,
        user_id=_optional(header, "userId"),
        issue=_optional(header, "issue"),
        security_server=_security_server(header),
        represented_party=_represented_party(header),
        request_hash=_request_hash(header),
    )


def _envelope(data: bytes) -> etree._Element:
    declared = _ENCODING.match(data)
    if declared is not None and declared[1].lower() not in (b"utf-8", b"utf8"):
        raise SoapEncodingError("the document declares another encoding than UTF-8")
    if data.count(b"<") + data.count(b"=") > MARKS_MAX:
        raise XmlRefusedError(f"more than {MARKS_MAX} marks of elements and attributes")
    root = parse_known(data, bytes_max=SOAP_BYTES_MAX)
    if root.tag != f"{{{_ENVELOPE}}}Envelope":
        raise SoapEnvelopeMissingError("not a SOAP 1.1 envelope")
    return root


def _body(root: etree._Element) -> etree._Element:
    return _only(root, f"{{{_ENVELOPE}}}Body", "Body", SoapNoBodyError)


def _only(parent: etree._Element, tag: str, name: str, missing: type[PeerProtocolError] = SoapHeaderMissingError) -> etree._Element:
    found = parent.findall(tag)
    if len(found) > 1:
        raise SoapHeaderDuplicateError(f"{name} is there twice")
    if not found:
        raise missing(f"no {name}")
    return found[0]


def _parts(identifier: etree._Element, types: tuple[str, ...], names: tuple[str, ...]) -> dict[str, str]:
    """The parts of an identifier by name, in the protocol's order, only those that are there."""
    kind = identifier.get(f"{{{_IDENTIFIERS}}}objectType")
    if kind not in types:
        raise SoapMalformedError(f"an identifier of type {kind}")
    parts: dict[str, str] = {}
    for name in names:
        found = identifier.findall(f"{{{_IDENTIFIERS}}}{name}")
        if len(found) > 1:
            raise SoapHeaderDuplicateError(f"{name} is there twice")
        if found:
            text = _leaf(found[0])
            if not text or len(text) > PART_CHARACTERS_MAX:
                raise SoapMalformedError(f"{name} is empty or too long")
            parts[name] = text
    missing = [name for name in _CLIENT_PARTS[:3] if name not in parts]
    if missing or (kind == "SUBSYSTEM") != ("subsystemCode" in parts and kind != "SERVICE"):
        raise SoapMalformedError("an identifier without the parts of its type")
    return parts


def _optional(header: etree._Element, name: str) -> str | None:
    """The text of a header that may be absent. Raises SoapHeaderDuplicateError, SoapMalformedError."""
    found = header.findall(f"{{{_XROAD}}}{name}")
    if len(found) > 1:
        raise SoapHeaderDuplicateError(f"{name} is there twice")
    if not found:
        return None
    text = _leaf(found[0])
    if len(text) > PART_CHARACTERS_MAX:
        raise SoapMalformedError(f"{name} is too long")
    return text


def _security_server(header: etree._Element) -> ServerId | None:
    if not header.findall(f"{{{_XROAD}}}securityServer"):
        return None
    parts = _parts(_only(header, f"{{{_XROAD}}}securityServer", "securityServer"), ("SERVER",), (*_CLIENT_PARTS[:3], "serverCode"))
    if "serverCode" not in parts:
        raise SoapHeaderMissingError("securityServer: no serverCode")
    return ServerId(ClientId.of([parts[name] for name in _CLIENT_PARTS[:3]]), parts["serverCode"])


def _represented_party(header: etree._Element) -> str | None:
    if not header.findall(f"{{{_REPRESENTATION}}}representedParty"):
        return None
    party = _only(header, f"{{{_REPRESENTATION}}}representedParty", "representedParty")
    parts: list[str] = []
    for name in ("partyClass", "partyCode"):
        found = party.findall(f"{{{_REPRESENTATION}}}{name}")
        if len(found) > 1:
            raise SoapHeaderDuplicateError(f"{name} is there twice")
        parts += [_leaf(one) for one in found]
    if not party.findall(f"{{{_REPRESENTATION}}}partyCode") or not all(0 < len(part) <= PART_CHARACTERS_MAX for part in parts):
        raise SoapMalformedError("a represented party without its code, or with an empty or too long part")
    return "/".join(parts)


def _request_hash(header: etree._Element) -> bytes | None:
    found = header.findall(f"{{{_XROAD}}}requestHash")
    if len(found) > 1:
        raise SoapHeaderDuplicateError("requestHash is there twice")
    if not found:
        return None
    try:
        return base64.b64decode(_leaf(found[0]), validate=True) if found[0].get("algorithmId") == SHA512 else b""
    except (binascii.Error, ValueError):
        return b""


def _leaf(element: etree._Element) -> str:
    """The text of an element that has nothing but text: what stands behind a child would be read by some and not by others."""
    if len(element):
        raise SoapMalformedError(f"{local_name(element)} with elements in it")
    return _text(element)


def _text(element: etree._Element | None) -> str:
    return "" if element is None else _bounded(element.text or "")


def _bounded(text: str) -> str:
    return text.strip()[:FAULT_TEXT_CHARACTERS_MAX]
