"""The provider's metadata services: listMethods and allowedMethods for REST and for SOAP, getOpenAPI, getWsdl.

Pure over the port `Descriptions`. Sheet 2.7; PR-META, PR-MREST. Every registered client may ask. Each protocol lists its own services only.
Descriptions come from the box's own copy, the one in force, not from the information system as X-Road does: what is told is what the
technician accepted, and a question of a stranger makes no connection into the institution's network.
"""

from __future__ import annotations

from typing import Protocol
from urllib.parse import parse_qs

from lxml import etree

from appliance.access import catalogue, wsdl
from appliance.access.catalogue import IDENTIFIERS, TAGS, XROAD
from appliance.access.rights import OPENAPI3, REST_KINDS, WSDL, Service, UnknownServiceError
from appliance.errors import PeerProtocolError, RefusedError
from appliance.exchange.built_in import Asked, BuiltIn, BuiltIns, Request, rest_answer, soap_answer
from appliance.exchange.ports import SoapAnswer, SystemAnswer
from appliance.model.identifiers import ServiceId
from appliance.model.xml_input import parse_known
from appliance.net.message_protocol import RestRequest
from appliance.net.soap_protocol import SoapRequest
from appliance.net.soap_reader import SOAP_BYTES_MAX

FIELDS_MAX = 16
"""Query parameters that are looked at; the one that counts is `serviceCode`."""
_BODY = "{http://schemas.xmlsoap.org/soap/envelope/}Body"


class MetadataRequestError(PeerProtocolError):
    """The question does not say of which one service it speaks."""

    kind = "metadata.request"


class NoDescriptionError(RefusedError):
    """The service has no description, or none of the kind that was asked for."""

    kind = "metadata.no_description"


class Descriptions(Protocol):
    """The box's copies of service descriptions."""

    async def read(self, service: Service) -> bytes:
        """The document in force. Raises DescriptionAwayError."""
        ...


class Metadata:
    """The handlers of one box."""

    def __init__(self, descriptions: Descriptions) -> None:
        self._descriptions = descriptions

    def built_in(self) -> BuiltIns:
        return {
            "listMethods": BuiltIn(rest=self.list_methods, soap=self.list_methods_soap),
            "allowedMethods": BuiltIn(rest=self.allowed_methods, soap=self.allowed_methods_soap),
            "getOpenAPI": BuiltIn(rest=self.open_api),
            "getWsdl": BuiltIn(soap=self.wsdl),
        }

    async def list_methods(self, request: RestRequest, asked: Asked) -> SystemAnswer:
        return rest_answer(catalogue.method_list_json(_offered(request, asked, REST_KINDS)))

    async def allowed_methods(self, request: RestRequest, asked: Asked) -> SystemAnswer:
        offered = _offered(request, asked, REST_KINDS)
        return rest_answer(catalogue.method_list_json(catalogue.allowed_services(offered, asked.local.rights, request.client)))

    async def list_methods_soap(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        return soap_answer(request, _method_list("listMethodsResponse", _offered(request, asked, (WSDL,))))

    async def allowed_methods_soap(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        """A SOAP call needs a right to the whole service: a right to an endpoint allows nothing here (sheet 9.1)."""
        rights = asked.local.rights
        allowed = [one for one in _offered(request, asked, (WSDL,)) if rights.decide_whole(request.client, one.id).allowed]
        return soap_answer(request, _method_list("allowedMethodsResponse", allowed))

    async def open_api(self, request: RestRequest, asked: Asked) -> SystemAnswer:
        """Raises MetadataRequestError, UnknownServiceError, NoDescriptionError, DescriptionAwayError."""
        code = _asked_code(request.query)
        service = next((one for one in _offered(request, asked, REST_KINDS) if ServiceId.parse(one.id).code == code), None)
        if service is None:
            raise UnknownServiceError(f"{request.service.provider}/{code[:80]} is not offered here")
        if service.kind != OPENAPI3 or not service.document:
            raise NoDescriptionError(f"{service.id} has no OpenAPI description")
        return rest_answer(catalogue.rewritten_description(await self._descriptions.read(service)))

    async def wsdl(self, request: SoapRequest, asked: Asked) -> SoapAnswer:
        """Without a version: the WSDL of the code, where all its versions are in one. Raises as `open_api`."""
        code, version = _asked_wsdl(request)
        named = [one for one in _offered(request, asked, (WSDL,)) if ServiceId.parse(one.id).code == code]
        found = [one for one in named if version in (None, one.version)]
        if not found:
            raise UnknownServiceError(f"{request.service.provider}/{code[:80]} is not offered here")
        documents = {one.document: one for one in found}
        if len(documents) > 1:
            raise MetadataRequestError(f"{code} has versions in several WSDLs: name one")
        (service,) = documents.values()
        if not service.document:
            raise NoDescriptionError(f"{service.id} has no WSDL")
        told = etree.Element(f"{{{XROAD}}}getWsdlResponse", nsmap={"xrd": XROAD})
        for tag, text in (("serviceCode", code), ("serviceVersion", version)):
            if text is not None:
                etree.SubElement(told, f"{{{XROAD}}}{tag}").text = text
        content_id = f"wsdl={service.document[:32]}@x-road.eu".encode()  # X-Road's form, with a random number
        return soap_answer(request, told, (b"text/xml", wsdl.rewritten(await self._descriptions.read(service))), content_id=content_id)


def _offered(request: Request, asked: Asked, kinds: tuple[str, ...]) -> list[Service]:
    """What the asked subsystem offers, in the order of the names."""
    provider = request.service.provider
    offered = [one for one in asked.local.services() if one.kind in kinds and ServiceId.parse(one.id).provider == provider]
    return sorted(offered, key=lambda one: (one.id, one.version))


def _method_list(name: str, services: list[Service]) -> etree._Element:
    """The body element `name`: one `service` for each code and version."""
    root = etree.Element(f"{{{XROAD}}}{name}", nsmap={"xrd": XROAD, "id": IDENTIFIERS})
    for service in services:
        listed = etree.SubElement(root, f"{{{XROAD}}}service", {f"{{{IDENTIFIERS}}}objectType": "SERVICE"})
        parts = (*ServiceId.parse(service.id).parts, *([service.version] if service.version else []))
        for tag, part in zip((*TAGS, "serviceCode", "serviceVersion"), parts, strict=False):
            etree.SubElement(listed, f"{{{IDENTIFIERS}}}{tag}").text = part
    return root


def _asked_code(query: str | None) -> str:
    try:
        found = parse_qs(query or "", keep_blank_values=True, max_num_fields=FIELDS_MAX).get("serviceCode", [])
    except ValueError:
        found = []
    if len(found) != 1 or not found[0]:
        raise MetadataRequestError("exactly one serviceCode is needed")
    return found[0]


def _asked_wsdl(request: SoapRequest) -> tuple[str, str | None]:
    body = parse_known(request.head, bytes_max=SOAP_BYTES_MAX).find(_BODY)
    element = body[0] if body is not None and len(body) == 1 else None
    if element is None:
        raise RuntimeError("a SOAP request without one element in its body was read as one")
    codes, versions = (element.findall(f"{{{XROAD}}}{name}") for name in ("serviceCode", "serviceVersion"))
    code = (codes[0].text or "").strip() if len(codes) == 1 else ""
    if not code or len(versions) > 1:
        raise MetadataRequestError("exactly one serviceCode, and one serviceVersion at most, are needed")
    return code, ((versions[0].text or "").strip() or None) if versions else None
