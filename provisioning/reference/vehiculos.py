"""The reference SOAP information system "vehículos": message protocol 4.0 behind a box, with attachments both ways.

Shell. Plain HTTP/1.1 and XML, no knowledge of Xacbe: its own reading of multipart, so that box and system cannot be wrong in the same way.
`consultaVehiculo` answers or fails with a fault, `adjuntaDocumentos` lists what came with the message, `recuperaDocumento` gives a document
back (MTOM). `GET /vehiculos?wsdl` is its description; data are fictional.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import secrets
import socket
from collections.abc import Sequence
from email.message import Message as MimeHeaders
from pathlib import Path
from typing import Any

import uvicorn
from lxml import etree

from provisioning.reference.incidentes import Receive, Scope, Send, Server

WSDL_FILE = Path(__file__).with_name("vehiculos.wsdl")
MESSAGE_BYTES_MAX = 96 << 20
"""Held in memory: a demonstration of attachments, not of their largest size."""
DOCUMENT_BYTES_MAX = 32 << 20
_SOAP, _OWN = "{http://schemas.xmlsoap.org/soap/envelope/}", "{urn:qroo:vehiculos}"
_XROAD = "{http://x-road.eu/xsd/xroad.xsd}"
_XOP = "http://www.w3.org/2004/08/xop/include"
_VEHICLES = {"UTP-01-01": ("Nissan Versa 2019, blanco", False), "UTP-02-02": ("Italika 150, roja", True)}
_DOCUMENT = bytes(range(256)) * 256

Part = tuple[MimeHeaders, bytes]


class FaultError(Exception):
    """What the service answers instead: `code` is `Client` or `Server`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Vehicles:
    """The application: an ASGI callable."""

    def __init__(self, address: str) -> None:
        self._wsdl = WSDL_FILE.read_bytes().replace(b"http://127.0.10.2:8091", address.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["method"] == "GET":
            await _answer(send, 200, "text/xml; charset=UTF-8", self._wsdl)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            if len(body) > MESSAGE_BYTES_MAX:
                await _answer(send, 413, "text/plain", b"demasiado grande")
                return
            more = message.get("more_body", False)
        try:
            content_type, answer = _serve(headers, bytes(body))
        except FaultError as error:
            await _answer(send, 500, "text/xml; charset=UTF-8", _fault(error))
            return
        await _answer(send, 200, content_type, answer)


def _serve(headers: dict[str, str], body: bytes) -> tuple[str, bytes]:
    parts = _parts(headers.get("content-type", ""), body)
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(parts[0][1], parser)
    except etree.XMLSyntaxError as error:
        raise FaultError("Client", f"XML: {error}") from None
    header, content = root.find(_SOAP + "Header"), root.find(_SOAP + "Body")
    if header is None or content is None or len(content) != 1:
        raise FaultError("Client", "no es un mensaje SOAP con cabecera y un elemento")
    asked = content[0]
    operation = asked.tag.removeprefix(_OWN)
    if operation == "consultaVehiculo":
        return "text/xml; charset=utf-8", _envelope(header, _vehicle(asked))
    if operation == "adjuntaDocumentos":
        return "text/xml; charset=utf-8", _envelope(header, _documents(parts[1:]))
    if operation == "recuperaDocumento":
        return _document(header, asked)
    raise FaultError("Client", f"operación desconocida: {asked.tag}")


def _vehicle(asked: etree._Element) -> etree._Element:
    plate = asked.findtext(_OWN + "placa", "")
    if plate not in _VEHICLES:
        raise FaultError("Server", f"no hay vehículo con placa {plate}")
    description, stolen = _VEHICLES[plate]
    answer = etree.Element(_OWN + "consultaVehiculoResponse")
    for name, value in (("placa", plate), ("descripcion", description), ("reporteDeRobo", str(stolen).lower())):
        etree.SubElement(answer, _OWN + name).text = value
    return answer


def _documents(parts: Sequence[Part]) -> etree._Element:
    answer = etree.Element(_OWN + "adjuntaDocumentosResponse")
    for headers, content in parts:
        one = etree.SubElement(answer, _OWN + "documento")
        one.set("contentId", headers.get("Content-ID", ""))
        one.set("contentType", headers.get("Content-Type", ""))
        one.set("bytes", str(len(content)))
        one.set("sha256", hashlib.sha256(content).hexdigest())
    return answer


def _document(header: etree._Element, asked: etree._Element) -> tuple[str, bytes]:
    """As MTOM: the bytes are an attachment, the element holds a reference."""
    count = int(asked.findtext(_OWN + "bytes", "0"))
    if not 0 <= count <= DOCUMENT_BYTES_MAX:
        raise FaultError("Client", f"bytes: de 0 a {DOCUMENT_BYTES_MAX}")
    answer = etree.Element(_OWN + "recuperaDocumentoResponse")
    include = etree.SubElement(etree.SubElement(answer, _OWN + "contenido"), f"{{{_XOP}}}Include")
    include.set("href", "cid:documento@vehiculos")
    document = (_DOCUMENT * (count // len(_DOCUMENT) + 1))[:count]
    boundary = f"frontera{secrets.token_hex(16)}"
    pieces = (
        f'--{boundary}\r\nContent-Type: application/xop+xml; charset=UTF-8; type="text/xml"\r\nContent-Transfer-Encoding: binary\r\n'
        f"Content-ID: <raiz@vehiculos>\r\n\r\n".encode(),
        _envelope(header, answer),
        f"\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary\r\n"
        f"Content-ID: <documento@vehiculos>\r\n\r\n".encode(),
        document,
        f"\r\n--{boundary}--\r\n".encode(),
    )
    content_type = f'multipart/related; type="application/xop+xml"; start="<raiz@vehiculos>"; start-info="text/xml"; boundary="{boundary}"'
    return content_type, b"".join(pieces)


def _envelope(header: etree._Element, answer: etree._Element) -> bytes:
    """The request's own header goes back, as the protocol asks."""
    root = etree.Element(_SOAP + "Envelope", nsmap={"soapenv": _SOAP[1:-1]})
    root.append(copy.deepcopy(header))
    etree.SubElement(root, _SOAP + "Body").append(answer)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _fault(error: FaultError) -> bytes:
    root = etree.Element(_SOAP + "Envelope", nsmap={"soapenv": _SOAP[1:-1]})
    fault = etree.SubElement(etree.SubElement(root, _SOAP + "Body"), _SOAP + "Fault")
    etree.SubElement(fault, "faultcode").text = f"soapenv:{error.code}"
    etree.SubElement(fault, "faultstring").text = str(error)
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")


def _parts(content_type: str, body: bytes) -> list[Part]:
    """(headers, content) of each part; the whole where it is not multipart. Contents are binary as they come."""
    kind = MimeHeaders()
    kind["Content-Type"] = content_type
    if kind.get_content_type() != "multipart/related":
        return [(kind, body)]
    dash = b"--" + (kind.get_boundary() or "").encode()
    found: list[Part] = []
    for piece in (b"\r\n" + body).split(b"\r\n" + dash)[1:]:
        if piece.startswith(b"--"):
            return found
        lines, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = MimeHeaders()
        for line in lines.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            headers[name] = value.strip()
        found.append((headers, content))
    raise FaultError("Client", "el mensaje no termina")


async def _answer(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"content-type", content_type.encode()), (b"content-length", str(len(body)).encode())]
    start: dict[str, Any] = {"type": "http.response.start", "status": status, "headers": headers}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def main(argv: list[str] | None = None) -> None:
    """`python -m provisioning.reference.vehiculos --address A --port P`; says `ready` once it listens."""
    parser = argparse.ArgumentParser(description="Sistema de información SOAP de referencia: vehículos.")
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8091)
    arguments = parser.parse_args(argv)
    listener = socket.create_server((arguments.address, arguments.port))
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    application = Vehicles(f"http://{arguments.address}:{arguments.port}")
    config = uvicorn.Config(application, lifespan="off", access_log=False, log_level="warning", timeout_graceful_shutdown=1)
    Server(config).run([listener])


if __name__ == "__main__":
    main()
