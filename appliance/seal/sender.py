"""Who sent a stored message, read from /message.xml as strictly as X-Road reads it.

Pure. Sheet 3.4, 5.1: a request is its client's; a response is the provider's, the service without its code. For containers only: on the
wire the message protocol reads the head, and the relay says who the sender is.
"""

from __future__ import annotations

from lxml import etree

from appliance.errors import UnverifiedError
from appliance.model.identifiers import ClientId, IdentifierError, ServiceId
from appliance.model.xml_input import XmlRefusedError, local_name, parse_known

HEAD_BYTES_MAX = 64 * 1024
SOAP_BYTES_MAX = 32 * 1024 * 1024
_NEVER_TRAVEL = frozenset(
    "transfer-encoding keep-alive proxy-authenticate proxy-authorization te trailer upgrade connection user-agent host"
    " content-length server expect".split()
)
"""X-Road refuses a head with one of these (sheet 2.4)."""
_SOAP = "{http://schemas.xmlsoap.org/soap/envelope/}"
_XROAD = "{http://x-road.eu/xsd/xroad.xsd}"
_ID = "{http://x-road.eu/xsd/identifiers}"
_CLIENT_PARTS = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode")


class SenderUnreadableError(UnverifiedError):
    """The message does not say who sent it in a form that both protocols know."""

    kind = "seal.sender_unreadable"


def sender_of(message: bytes) -> ClientId:
    """The sender of a REST head or a SOAP envelope. Raises SenderUnreadableError."""
    try:
        if message.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<":
            return _soap_sender(message)
        return _rest_sender(message)
    except (IdentifierError, XmlRefusedError) as error:
        raise SenderUnreadableError(str(error)) from None


def _rest_sender(head: bytes) -> ClientId:
    if len(head) > HEAD_BYTES_MAX:
        raise SenderUnreadableError(f"a head of {len(head)} bytes, at most {HEAD_BYTES_MAX}")
    try:
        lines = head.decode().replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise SenderUnreadableError("the head is not UTF-8") from None
    if len(lines) < 3:
        raise SenderUnreadableError("a head has a first line, a second line and headers")
    headers: dict[str, str] = {}
    for line in lines[2:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name.lower() in _NEVER_TRAVEL:
            raise SenderUnreadableError("a line that is no header, or a header that never travels")
        headers[name.lower()] = value
    is_response = lines[0][:1] in "123456789"
    wanted = "x-road-service" if is_response else "x-road-client"
    if wanted not in headers:
        raise SenderUnreadableError(f"no {wanted}")
    if is_response and not ("x-road-id" in headers and "x-road-request-hash" in headers):
        raise SenderUnreadableError("a response without x-road-id or x-road-request-hash")
    return ServiceId.decode(headers[wanted]).provider if is_response else ClientId.decode(headers[wanted])


def _soap_sender(envelope: bytes) -> ClientId:
    root = parse_known(envelope, bytes_max=SOAP_BYTES_MAX)
    header, body = root.find(_SOAP + "Header"), root.find(_SOAP + "Body")
    if root.tag != _SOAP + "Envelope" or header is None or body is None or len(body) != 1:
        raise SenderUnreadableError("not a SOAP 1.1 envelope with a header and one element in its body")
    service = _parts(header, "service")
    code = service.get("serviceCode", "")
    # the answer to `x` is `xResponse`; a service may itself be called `xResponse`
    if code and local_name(body[0]) == code + "Response":
        return _client(service)
    return _client(_parts(header, "client"))


def _parts(header: etree._Element, name: str) -> dict[str, str]:
    found = header.findall(_XROAD + name)
    if len(found) != 1:
        raise SenderUnreadableError(f"not exactly one {name}")
    parts: dict[str, str] = {}
    for part in found[0]:
        key = local_name(part)
        if part.tag != _ID + key or key in parts:
            raise SenderUnreadableError(f"{key} in {name}")
        parts[key] = part.text or ""
    return parts


def _client(parts: dict[str, str]) -> ClientId:
    return ClientId.of([parts[name] for name in _CLIENT_PARTS if name in parts])
