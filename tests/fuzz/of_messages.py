"""Fuzzing targets: what arrives over HTTP."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from appliance.errors import XacbeError
from appliance.model.identifiers import ClientId, ServerId, ServiceId
from appliance.net import message_protocol, multipart, soap_protocol, soap_reader
from appliance.net.http1 import HeadLimits, RequestReader, ResponseReader
from appliance.net.soap_mime import SoapReader
from appliance.net.soap_protocol import SoapFraming
from appliance.net.transport_parts import TransportLimits
from appliance.net.transport_protocol import TransportReader
from tests.exchange.institutions import Network
from tests.exchange.test_soap import envelope
from tests.exchange.two_boxes import TwoBoxes
from tests.fuzz.target import Target
from tests.net.test_mutations import ours


def _request(data: bytes) -> None:
    reader, at = RequestReader(HeadLimits(absolute_targets=True)), len(data) // 2
    events = reader.feed(data[:at]) + reader.feed(data[at:])
    while events and events[-1] is None:
        events = reader.next_message()
    reader.end_of_stream()


def _response(data: bytes) -> None:
    reader, at = ResponseReader(HeadLimits()), len(data) // 2
    reader.expect_answer_to(b"GET")
    reader.feed(data[:at])
    reader.feed(data[at:])
    reader.end_of_stream()


REQUESTS = (
    b"GET /r1/QROO-TEST/EST/SSP/SOLOMON/incidentes/x?y=1 HTTP/1.1\r\nHost: box\r\nX-Road-Client: QROO-TEST/MUN/B/S\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: box\r\nContent-Type: text/xml\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST http://box/ HTTP/1.1\r\nHost: box\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"5;a=b\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: application/json\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\nto the end",
)


def _multipart(data: bytes) -> None:
    reader, at = multipart.MultipartReader(b"xx", parts_max=8), len(data) // 2
    for piece in (data[:at], data[at:]):
        for event in reader.feed(piece):
            if isinstance(event, multipart.PartBegan):
                _ = multipart.media_type(event.content_type)
    reader.end()


def _media(data: bytes) -> None:
    multipart.media_type(data)
    multipart.parameter(data, "boundary")
    multipart.boundary_of(data)


PARTS = (
    b'--xx\r\nContent-Type: text/xml\r\nContent-ID: <1>\r\n\r\n<a/>\r\n--xx\r\nContent-Type: a/b; n="v"\r\n\r\nbody\r\n--xx--\r\n',
    b"--xx\nContent-Type: text/plain\n\nLF only\n--xx--",
)


@functools.cache
def sealed_rest() -> bytes:
    return ours("rest")


@functools.cache
def sealed_soap() -> bytes:
    return ours("soap")


def _transport(data: bytes) -> None:
    reader, at = (
        TransportReader(data[2 : data.find(b"\n")].rstrip()[:70] or b"x", limits=TransportLimits(body_bytes_max=1 << 20)),
        len(data) // 2,
    )
    reader.feed(data[:at])
    reader.feed(data[at:])
    reader.finish()


@functools.cache
def soap_text() -> bytes:
    network = Network()
    return envelope(network.asker.client, ServiceId(network.provider.client, "vehiculo", "v1"))


PLAIN = SoapFraming(((b"Content-Type", b"text/xml"),), b"text/xml", b'""')


def _soap(data: bytes) -> None:
    request = soap_protocol.parse_request(data, PLAIN, "r-1")
    soap_protocol.with_request_hash(data, request)


def _soap_mime(data: bytes) -> None:
    kind, _, rest = data.partition(b"\n")
    reader = SoapReader(kind, TransportLimits(body_bytes_max=1 << 20), b'""')
    reader.feed(rest[: len(rest) // 2])
    reader.feed(rest[len(rest) // 2 :])
    reader.finish()


def soap_mimes() -> Sequence[bytes]:
    related = b'multipart/related; type="text/xml"; boundary=xx; start="<1>"\n'
    part = b"--xx\r\nContent-Type: text/xml; charset=UTF-8\r\nContent-ID: <1>\r\n\r\n" + soap_text()
    return (b"text/xml\n" + soap_text(), related + part + b"\r\n--xx\r\nContent-Type: a/b\r\nContent-ID: <2>\r\n\r\nmore\r\n--xx--\r\n")


FAULT = (
    b'<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><s:Fault><faultcode>server.x</faultcode>'
    b"<faultstring>no</faultstring></s:Fault></s:Body></s:Envelope>"
)


@functools.cache
def rest_heads() -> tuple[bytes, bytes]:
    boxes = TwoBoxes(Network())
    request = boxes.request()
    headers = [(b"Content-Type", b"application/json")]
    return request.head, message_protocol.response_head(200, b"OK", headers, request, b"\x00" * 64, request_id="r-1")


def _target_line(data: bytes) -> None:
    target, _, value = data.partition(b"\n")
    headers = [(b"X-Road-Client", value), (b"Content-Type", b"a/b")]
    message_protocol.request_from_system(b"GET", target, headers, request_id="r", generated_id="g")


def _names(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    for kind in (ClientId, ServiceId, ServerId):
        for read in (kind.parse, kind.decode):
            try:
                read(text)
            except XacbeError:
                continue


TARGETS: tuple[Target, ...] = (
    Target("http-request", _request, lambda: REQUESTS, 10),
    Target("http-response", _response, lambda: RESPONSES, 10),
    Target("multipart", _multipart, lambda: PARTS, 10),
    Target("media-type", _media, lambda: (b'multipart/mixed; boundary="a b"; x=y', b"multipart/related; type=text/xml; boundary=xtop")),
    Target("transport", _transport, lambda: (sealed_rest(), sealed_soap()), 4),
    Target("soap", _soap, lambda: (soap_text(),), 5),
    Target("soap-fault", soap_reader.read_fault, lambda: (FAULT, soap_text()), 5),
    Target("soap-mime", _soap_mime, soap_mimes, 8),
    Target("rest-head", message_protocol.parse_head, rest_heads, 8),
    Target("rest-target", _target_line, lambda: (b"/r1/QROO-TEST/EST/SSP/SOLOMON/incidentes/a%2Fb?c=d\nQROO-TEST/MUN/B/S",), 8),
    Target("names", _names, lambda: (b"QROO-TEST/EST/SSP/SOLOMON/x/v1", b"A/B/C%2FD"), 6),
)  # fmt: skip
