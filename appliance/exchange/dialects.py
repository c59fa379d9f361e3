"""Where the two message protocols differ in an exchange: REST heads or SOAP envelopes, everything else is the same way.

Pure. Sheet 2.2-2.4 (REST), 2.9 (SOAP), 3.7.
"""

from __future__ import annotations

from appliance.access.rights import (
    REST_KINDS,
    WSDL,
    Decision,
    NoRightError,
    Service,
    ServiceDisabledError,
    ServiceTypeError,
    UnknownServiceError,
)
from appliance.exchange.local_view import LocalView
from appliance.exchange.ports import Body, Sealed
from appliance.exchange.routing import AnswerBrokenError
from appliance.net import message_protocol, soap_protocol
from appliance.net.message_protocol import RestRequest, RestResponse
from appliance.net.soap_protocol import SoapRequest, SoapResponse

Request = RestRequest | SoapRequest
Response = RestResponse | SoapResponse

BODILESS = frozenset({204, 304})
"""REST answers of these statuses end with their head (RFC 9110): a body behind one would be read as the next answer."""


def read_answer(request: Request, answer: Sealed) -> Response:
    """The answer's own facts, in the protocol of its request. Raises AnswerBrokenError, leaves rest.* and soap.*."""
    if isinstance(request, SoapRequest):
        if answer.soap is None:
            raise AnswerBrokenError("the peer answered SOAP with REST")
        soap_protocol.check_framing(answer.soap)
        return soap_protocol.parse_response(answer.head)
    if answer.soap is not None:
        raise AnswerBrokenError("the peer answered REST with SOAP")
    response = message_protocol.parse_head(answer.head)
    if not isinstance(response, RestResponse):
        raise AnswerBrokenError("the peer answered with a request")
    if answer.body is not None and response.status in BODILESS:
        raise AnswerBrokenError(f"an answer of status {response.status} with a body")
    return response


def check_answer(response: Response, request: Request, body: Body | None) -> None:
    """The answer is the answer to this very request. Raises rest.inconsistent_response, soap.inconsistent_response."""
    if isinstance(request, SoapRequest) and isinstance(response, SoapResponse):
        soap_protocol.check_response(response, request)
    elif isinstance(request, RestRequest) and isinstance(response, RestResponse):
        asked = message_protocol.request_hash(request.digest, body.digest if body else None)
        message_protocol.check_response(response, request, asked)
    else:
        raise RuntimeError("an answer in another protocol was read as one")


def service_for(request: Request, local: LocalView) -> Service:
    """The service that the request may call now, by kind, right and switch (sheet 9.1, in this order). Raises access.* leaves."""
    service = local.service(request.service)
    if service is None:
        raise UnknownServiceError(f"{request.service} is not offered here")
    soap = isinstance(request, SoapRequest)
    if service.kind not in ((WSDL,) if soap else REST_KINDS):
        raise ServiceTypeError(f"{request.service} is a {service.kind} service: not to be called with {'SOAP' if soap else 'REST'}")
    decision = _decide(request, service, local)
    if not decision.allowed:
        raise NoRightError(f"{request.client} may not use {request.service}: {decision.detail}")
    if not service.enabled:
        raise ServiceDisabledError(f"{request.service} is switched off")
    return service


def _decide(request: Request, service: Service, local: LocalView) -> Decision:
    if isinstance(request, SoapRequest):  # no method, no path, and versions share their rights
        return local.rights.decide_whole(request.client, service.id)
    return local.rights.decide(request.client, service.id, request.method, request.service_path)
