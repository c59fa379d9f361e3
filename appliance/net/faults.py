"""Where errors meet the outside: a kind becomes an X-Road code, an HTTP status and the body of an error answer. Nowhere else.

Pure. Sheet 2.6 and 3.7. A code grows from the left: `server.serverproxy.` is this box as the provider's, `server.clientproxy.` as the
client's. What a peer says is passed on as it is. Evidence that does not hold is told without the reason inside; the kind is in our own log.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

import msgspec

from appliance.errors import XacbeError
from appliance.net.fault_codes import INTERNAL, NEVER_OUTSIDE, ROWS, Row
from appliance.net.multipart import Header
from appliance.net.soap_protocol import ServiceAnswerError
from appliance.net.soap_reader import PeerFault, read_fault
from appliance.seal.codes import xroad_code as evidence_code

__all__ = ["PeerFault", "read_fault"]

CLIENT_SIDE, PROVIDER_SIDE = "clientproxy", "serverproxy"
"""Our role in the exchange that failed."""
SOAP_REQUEST = "client"
"""Where the SOAP message of our own information system is at fault: those codes begin with `client` (sheet 2.6)."""
SPELLING_78, SPELLING_77 = "7.8", "7.7"
MESSAGE_CHARACTERS_MAX = 1000
DOCUMENT_BYTES_MAX = 64 << 10
"""The longest fault that a box takes; a longer one of a service is told in short."""

_ABOUT_ANSWER = ("multipart.", "transport.", "envelope.", "soap.", "xml.", "rest.inconsistent_response", "exchange.inconsistent_response")
"""At the client's box these speak of the provider's answer, which X-Road puts behind `service_failed`."""
_EVIDENCE = {
    "seal.": "the seal of the message does not hold",
    "chain.": "a certificate is not acceptable",
    "certificate.": "a certificate is not acceptable",
    "ocsp.": "the state of a certificate could not be confirmed",
}
_CAMEL = {
    "clientproxy": "ClientProxy",
    "serverproxy": "ServerProxy",
    "opmonitor": "OpMonitor",
    "io_error": "IOError",
    "hsm_non_operational": "HSMNonOperational",
    "hashchain_unused_inputs": "HashChainUnusedInputs",
    "global_conf_outdated": "OutdatedGlobalConf",
}
"""Old spellings that do not follow from the new ones."""
_XML_TYPES = {"text/xml": "text/xml", "application/xml": "application/xml", "text/*": "text/xml"}
_CONTROL = {code: " " for code in range(0x20) if code not in (0x09, 0x0A, 0x0D)} | {0x7F: " ", 0xFFFE: " ", 0xFFFF: " "}


@dataclass(frozen=True, slots=True)
class Fault:
    """An error as the outside sees it. `kind` is ours, for the log; `status` is for REST answers, SOAP faults are always 200."""

    code: str
    status: int
    message: str
    detail: str
    kind: str
    retry_after_s: float | None = None
    document: bytes = b""
    """A peer's fault as it came, for SOAP systems."""


def fault_of(error: XacbeError, where: str, *, detail: str = "", spelling: str = SPELLING_78, soap: bool = False) -> Fault:
    """The fault for an error of ours. `where`: CLIENT_SIDE, PROVIDER_SIDE or SOAP_REQUEST; `detail`: the request's id, for support.
    `soap`: what a service did wrong stands behind `service_failed`, which REST leaves out (sheet 2.6).

    A kind without a code (of a neighbour that is newer than this process) is an internal error that keeps its kind for our log.
    """
    row = _row(error.kind)
    code = _row(error.about).code if isinstance(error, ServiceAnswerError) else row.code
    if (where == CLIENT_SIDE and error.kind.startswith(_ABOUT_ANSWER)) or (soap and error.kind.startswith("service.")):
        code = f"service_failed.{code}"
    if soap and code == "missing_rest":
        code = "missing_soap"
    code = spelled(_coded(where, code), spelling)
    message = (str(error) if row.text is None else row.text)[:MESSAGE_CHARACTERS_MAX]
    return Fault(code, status_of(code), message, detail, error.kind, getattr(error, "retry_after_s", None))


def fault_of_bug(where: str, *, detail: str = "", spelling: str = SPELLING_78) -> Fault:
    """The fault for what should never happen: it says nothing about the inside."""
    code = spelled(_coded(where, INTERNAL), spelling)
    return Fault(code, status_of(code), "internal error", detail, "box.bug")


def passed_on(fault: PeerFault) -> Fault:
    """A peer's fault for our information system: same code, text and detail, without a prefix of ours (sheet 3.7)."""
    return Fault(fault.code or INTERNAL, status_of(fault.code), fault.message, fault.detail, "peer.fault", document=fault.document)


def _coded(where: str, code: str) -> str:
    if code.startswith(f"{SOAP_REQUEST}."):
        return code  # whoever answers: the asker is at fault (sheet 8.3)
    return f"client.{code}" if where == SOAP_REQUEST else f"server.{where}.{code}"


def status_of(code: str) -> int:
    """500 for codes of servers in either spelling, else 400 (sheet 2.6)."""
    return 500 if code.lower().startswith("server.") else 400


def spelled(code: str, spelling: str) -> str:
    """A code of 7.8 in the spelling that is wanted: `server.serverproxy.access_denied` is `Server.ServerProxy.AccessDenied` in 7.7."""
    if spelling == SPELLING_78:
        return code
    return ".".join(_CAMEL.get(part) or "".join(word.capitalize() for word in part.split("_")) for part in code.split("."))


def same_code(one: str, other: str) -> bool:
    """Whether two codes mean the same, whichever release spelled them."""
    return spelled(one.lower(), SPELLING_77).lower() == spelled(other.lower(), SPELLING_77).lower()


def rest_error(fault: Fault, accept: Iterable[bytes]) -> tuple[list[Header], bytes]:
    """Headers and body of a REST error answer: JSON, or XML where an Accept value names it (the first found counts, q is ignored)."""
    xml = next((_XML_TYPES[one] for one in _accepted(accept) if one in _XML_TYPES), None)
    content_type = f"{xml or 'application/json'};charset=UTF-8"
    headers = [(b"Content-Type", content_type.encode()), (b"X-Road-Error", _header_value(fault.code))]
    if fault.retry_after_s is not None:
        headers.append((b"Retry-After", b"%d" % max(1, round(fault.retry_after_s))))
    if xml is None:
        return headers, msgspec.json.encode({"type": fault.code, "message": fault.message, "detail": fault.detail})
    fields = (("type", fault.code), ("message", fault.message), ("detail", fault.detail))
    content = "".join(f"<{name}>{_escaped(text)}</{name}>" for name, text in fields)
    return headers, f'<?xml version="1.0" encoding="UTF-8"?><error>{content}</error>'.encode()


def soap_fault(fault: Fault) -> bytes:
    """A SOAP 1.1 fault, as boxes and SOAP information systems get it; a peer's or a service's goes on byte for byte."""
    if 0 < len(fault.document) <= DOCUMENT_BYTES_MAX:
        return fault.document
    return (
        '<?xml version="1.0" encoding="UTF-8"?>'
        '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"><SOAP-ENV:Body><SOAP-ENV:Fault>'
        f"<faultcode>{_escaped(fault.code)}</faultcode><faultstring>{_escaped(fault.message)}</faultstring><faultactor></faultactor>"
        f"<detail><faultDetail>{_escaped(fault.detail)}</faultDetail></detail>"
        "</SOAP-ENV:Fault></SOAP-ENV:Body></SOAP-ENV:Envelope>"
    ).encode()


def has_code(kind: str) -> bool:
    """Whether it was decided what a kind is called outside: for every kind of the box it must be."""
    return kind in ROWS or evidence_code(kind) is not None or kind.startswith(NEVER_OUTSIDE)


def code_of(kind: str) -> str:
    """The code without the prefix of a server, for reports."""
    return _row(kind).code


def _row(kind: str) -> Row:
    row = ROWS.get(kind)
    if row is not None:
        return row
    code = evidence_code(kind)
    if code is None:
        return ROWS["box.error"]
    text = next((text for prefix, text in _EVIDENCE.items() if kind.startswith(prefix)), "evidence does not hold")
    return Row(f"signature_verification.{code}", text)


def _accepted(values: Iterable[bytes]) -> Sequence[str]:
    return [one.partition(b";")[0].strip().decode("latin-1").lower() for value in values for one in value.split(b",")]


def _header_value(code: str) -> bytes:
    # A peer's code may hold anything: only what cannot break a header line goes into one.
    return bytes(byte for byte in code.encode() if 0x20 < byte < 0x7F)


def _escaped(text: str) -> str:
    return escape(text.translate(_CONTROL))
