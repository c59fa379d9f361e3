"""What a WSDL says about the services behind it: codes, versions, addresses. For the command that adds it; the supervisor parses no XML.

Pure. WSDL 1.1 with SOAP 1.1 bindings, as X-Road takes them: the operation's name is the service code, `xrd:version` in the binding's
operation its version, the port's `soap:address` its address. Imports are not followed: nothing that a document names is fetched.
"""

from __future__ import annotations

from lxml import etree

from appliance.access.catalogue import ENDPOINTS_MAX, DescriptionError
from appliance.access.descriptions import Operation
from appliance.model.xml_input import XmlRefusedError, parse_xml

WSDL_BYTES_MAX = 2 << 20
PUBLIC_ADDRESS = "http://example.org/xroad-endpoint"
"""X-Road's word for: ask through your own security server."""
_WSDL, _SOAP = "{http://schemas.xmlsoap.org/wsdl/}", "{http://schemas.xmlsoap.org/wsdl/soap/}"
_VERSION = "{http://x-road.eu/xsd/xroad.xsd}version"


def operations_of(document: bytes) -> tuple[Operation, ...]:
    """Every operation that a port offers over SOAP 1.1, sorted. Raises DescriptionError."""
    try:
        root = parse_xml(document, bytes_max=WSDL_BYTES_MAX)
    except XmlRefusedError as error:
        raise DescriptionError(f"the WSDL cannot be read: {error}") from None
    if root.tag != _WSDL + "definitions":
        raise DescriptionError("not a WSDL 1.1 document")
    bindings = {name: one for one in root.findall(_WSDL + "binding") if (name := one.get("name"))}
    found: dict[tuple[str, str], Operation] = {}
    for port in root.iterfind(f"{_WSDL}service/{_WSDL}port"):
        address = port.find(_SOAP + "address")
        binding = bindings.get((port.get("binding") or "").rpartition(":")[2])
        if address is None or binding is None or binding.find(_SOAP + "binding") is None:
            continue  # another transport, or SOAP 1.2
        for operation in _operations(binding, address.get("location") or ""):
            key = (operation.code, operation.version)
            if found.setdefault(key, operation) != operation:
                raise DescriptionError(f"{' '.join(key)} is there twice with different addresses")
    if not found:
        raise DescriptionError("the WSDL offers no operation over SOAP 1.1")
    if len(found) > ENDPOINTS_MAX:
        raise DescriptionError(f"{len(found)} operations, at most {ENDPOINTS_MAX}")
    return tuple(found[key] for key in sorted(found))


def rewritten(document: bytes) -> bytes:
    """getWsdl: every address of a port becomes PUBLIC_ADDRESS, so that no internal one is told (sheet 2.7). Raises DescriptionError."""
    try:
        root = parse_xml(document, bytes_max=WSDL_BYTES_MAX)
    except XmlRefusedError as error:
        raise DescriptionError(f"the WSDL cannot be read: {error}") from None
    for address in root.iterfind(f"{_WSDL}service/{_WSDL}port/{{*}}address"):
        address.set("location", PUBLIC_ADDRESS)
    written: bytes = etree.tostring(root, encoding="UTF-8", xml_declaration=True)
    return written


def _operations(binding: etree._Element, address: str) -> list[Operation]:
    found = []
    for operation in binding.findall(_WSDL + "operation"):
        code = operation.get("name") or ""
        if not code:
            raise DescriptionError("an operation without a name")
        versions = operation.findall(_VERSION)
        if len(versions) > 1:
            raise DescriptionError(f"{code}: more than one xrd:version")
        version = (versions[0].text or "").strip() if versions else ""
        found.append(Operation(code, version, url=address.strip()))
    return found
