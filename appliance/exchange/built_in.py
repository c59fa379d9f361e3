"""Services that a box answers by itself, for each of its members and subsystems: one table, from a service code to who answers.

Pure. Sheet 2.7, part 8. Such a request is an ordinary sealed message (peer, seal, evidence, log, stamp as for all others); only right, kind
and switch of a service do not apply, and no information system is asked. The codes are reserved (`access.catalogue.RESERVED_CODES`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from lxml import etree

from appliance.access.catalogue import IDENTIFIERS, XROAD
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Attachment, Body, Sealed, SoapAnswer, SystemAnswer
from appliance.model.xml_input import parse_known
from appliance.net.message_protocol import RestRequest
from appliance.net.soap_protocol import SoapFraming, SoapRequest
from appliance.net.soap_reader import SOAP_BYTES_MAX

Request = RestRequest | SoapRequest
ENVELOPE = "http://schemas.xmlsoap.org/soap/envelope/"
GET = frozenset({"GET"})
_PLAIN = b"text/xml; charset=UTF-8"
_RELATED = b'multipart/related; type="text/xml"; boundary="related"'
"""That it is multipart is what counts: every box frames the parts anew, with a boundary of its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer may rest on: the whole request, verified and durable, and this box's own configuration as it is now."""

    sealed: Sealed
    local: LocalView


def _anybody(request: Request, local: LocalView) -> None:
    """No right needed: every registered client may ask."""


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """Who answers one service code. None: not a service of that protocol, so an unknown one."""

    rest: Callable[[RestRequest, Asked], Awaitable[SystemAnswer]] | None = None
    """Any UnavailableError or RefusedError it raises is told as a fault, and nothing is sealed."""
    soap: Callable[[SoapRequest, Asked], Awaitable[SoapAnswer]] | None = None
    methods: frozenset[str] = GET
    """With another method it is an unknown service."""
    admit: Callable[[Request, LocalView], None] = _anybody
    """Who may ask; asked before the body is received and again after every wait. Raises access.* leaves."""

    def takes(self, request: Request) -> bool:
        """Whatever the version: X-Road's own examples name one for getWsdl."""
        if isinstance(request, SoapRequest):
            return self.soap is not None
        return self.rest is not None and request.method in self.methods


BuiltIns = Mapping[str, BuiltIn]


def find(table: BuiltIns, request: Request) -> BuiltIn | None:
    """Who answers the request; None: a service of an information system, or of nobody."""
    built_in = table.get(request.service.code)
    return built_in if built_in is not None and built_in.takes(request) else None


def rest_answer(content: bytes, content_type: bytes = b"application/json", status: int = 200, reason: bytes = b"OK") -> SystemAnswer:
    """An answer with a small body. Only the content type goes with it: X-Road's own servers send back the request's headers, too, which
    nobody needs and which may hold what was meant for the server alone.
    """
    return SystemAnswer(status, reason, [(b"Content-Type", content_type)], _body(content))


def soap_answer(
    request: SoapRequest, content: etree._Element, attachment: tuple[bytes, bytes] | None = None, *, content_id: bytes = b""
) -> SoapAnswer:
    """An answer with the request's SOAP header, `content` in its body, and one attachment (content type, bytes) at most. `content_id`: of
    the attachment, where `content` speaks of it.

    The request's hash is put in where every answer gets it, in `provider_side`.
    """
    asked = parse_known(request.head, bytes_max=SOAP_BYTES_MAX)
    root = etree.Element(f"{{{ENVELOPE}}}Envelope", nsmap={"SOAP-ENV": ENVELOPE, "xrd": XROAD, "id": IDENTIFIERS})
    header = asked.find(f"{{{ENVELOPE}}}Header")
    if header is None:
        raise RuntimeError("a request without a SOAP header was read as one")
    root.append(copy.deepcopy(header))
    etree.SubElement(root, f"{{{ENVELOPE}}}Body").append(content)
    head: bytes = etree.tostring(root, encoding="UTF-8", xml_declaration=True)
    if attachment is None:
        return SoapAnswer(head, SoapFraming(((b"Content-Type", _PLAIN),), _PLAIN), None)
    content_type, data = attachment
    headers = b"Content-Type: %b\r\nContent-Transfer-Encoding: binary\r\n" % content_type
    if content_id:
        headers += b"Content-ID: <%b>\r\n" % content_id
    whole = _body(data, (Attachment(len(data), hashlib.sha512(data).digest(), headers),))
    return SoapAnswer(head, SoapFraming(((b"Content-Type", _PLAIN),), _RELATED), whole)


def _body(content: bytes, attachments: tuple[Attachment, ...] = ()) -> Body:
    return Body(len(content), hashlib.sha512(content).digest(), inline=content, attachments=attachments)
