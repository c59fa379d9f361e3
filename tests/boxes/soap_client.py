"""A SOAP information system's own hand: envelopes, multipart/related, and what came back, without a line of the box."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from typing import Any

import requests

from tests.boxes.conftest import Lab

NAMES = ("xRoadInstance", "memberClass", "memberCode", "subsystemCode", "serviceCode", "serviceVersion")
FAULT_TYPE = "text/xml;charset=utf-8"


def identifier(path: str, kind: str) -> dict[str, str]:
    """As zeep takes it."""
    return {**dict(zip(NAMES, path.split("/"), strict=False)), "objectType": kind}


def provider(lab: Lab) -> str:
    return str(lab.box(2)["subsystems"][0])


def headers(lab: Lab, operation: str, version: str = "v1", query: str = "") -> dict[str, Any]:
    service = identifier(f"{provider(lab)}/{operation}/{version}", "SERVICE")
    client = identifier(lab.client, "SUBSYSTEM")
    return {"client": client, "service": service, "userId": "agente-7", "id": query or str(uuid.uuid4()), "protocolVersion": "4.0"}


def envelope(lab: Lab, operation: str, body: str = "", *, query: str = "", prolog: str = "", header: str = "") -> bytes:
    """A request by hand, with whatever shall stand in it."""

    def element(name: str, path: str, kind: str) -> str:
        parts = "".join(f"<id:{tag}>{part}</id:{tag}>" for tag, part in zip(NAMES, path.split("/"), strict=False))
        return f'<xrd:{name} id:objectType="{kind}">{parts}</xrd:{name}>'

    parties = element("client", lab.client, "SUBSYSTEM") + element("service", f"{provider(lab)}/{operation}/v1", "SERVICE")
    return (
        f'{prolog}<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" xmlns:id="http://x-road.eu/xsd/identifiers"'
        f' xmlns:xrd="http://x-road.eu/xsd/xroad.xsd"><s:Header>{parties}<xrd:id>{query or uuid.uuid4()}</xrd:id>'
        f'<xrd:protocolVersion>4.0</xrd:protocolVersion>{header}</s:Header><s:Body><{operation} xmlns="urn:qroo:vehiculos">{body}'
        f"</{operation}></s:Body></s:Envelope>"
    ).encode()


def related(soap: bytes, attachments: Sequence[bytes], boundary: str = "") -> tuple[str, bytes]:
    """Content type and content of a message with attachments."""
    boundary = boundary or f"b-{secrets.token_hex(16)}"
    pieces = [f"--{boundary}\r\nContent-Type: text/xml; charset=UTF-8\r\nContent-ID: <raiz>\r\n\r\n".encode(), soap]
    for at, content in enumerate(attachments):
        head = f"\r\n--{boundary}\r\nContent-Type: application/x-prueba\r\nContent-ID: <a{at}>\r\nX-Propia: ñ\r\n\r\n"
        pieces += (head.encode(), content)
    return f'multipart/related; type="text/xml"; start="<raiz>"; boundary="{boundary}"', b"".join(
        (*pieces, f"\r\n--{boundary}--\r\n".encode())
    )


def post(lab: Lab, content: bytes, content_type: str = "text/xml; charset=utf-8", **more: str) -> requests.Response:
    url = lab.box(1)["client_http"] + "/"
    sent = {"Content-Type": content_type, "SOAPAction": '""', **{name.replace("_", "-"): value for name, value in more.items()}}
    return requests.post(url, data=content, headers=sent, timeout=60)


def fault_code(answer: requests.Response) -> str:
    """The code of a fault, empty where the answer is none. Faults are always 200 (sheet 2.6)."""
    assert answer.status_code == 200
    return answer.text.partition("<faultcode>")[2].partition("</faultcode>")[0]
