"""The way to a service of our own information systems: HTTP(S), one request, its answer taken completely."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from appliance.access.rights import Service
from appliance.errors import PeerProtocolError, UnavailableError, XacbeError
from appliance.exchange.ports import Body, Sealed, SoapAnswer, SystemAnswer
from appliance.net import http1, tls
from appliance.net.connection import ClientConnection, PeerClosedError
from appliance.net.dialer import Dialer
from appliance.net.http1 import ResponseHead
from appliance.net.message_protocol import service_url
from appliance.net.multipart import make_boundary
from appliance.net.soap_mime import SoapReader, related
from appliance.net.soap_protocol import ServiceAnswerError
from appliance.net.soap_reader import read_fault
from appliance.net.tls_engine import Peer
from appliance.net.transport_parts import TransportLimits
from appliance.relay import gates, monitoring
from appliance.relay.bodies import BodyStore
from appliance.relay.incoming import IncomingSoap, PeerFaultError
from appliance.relay.outgoing import Outgoing

HTTPS_PORT, HTTP_PORT = 443, 80
SOAP_STATUSES = (200, 500)
"""What X-Road takes from a SOAP service; 500 goes with a fault."""
TRIES = 3
"""Kept connections that turn out to be closed before a byte was sent."""


class ServiceUnreachableError(UnavailableError):
    """The information system takes no connection, or not this one."""

    kind = "service.unreachable"


class ServiceTimeoutError(UnavailableError):
    """The information system did not answer within the service's time."""

    kind = "service.timeout"


class ServiceBrokenError(UnavailableError):
    """The information system's answer broke off or is not HTTP."""

    kind = "service.broken"


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one call goes: taken from the configured URL, never from a message's host."""

    host: str
    port: int
    secure: bool
    target: str
    authority: str


class SystemCaller:
    """Calls services; their addresses come from this box's own configuration alone."""

    def __init__(self, dialer: Dialer, store: BodyStore, key_loader: Callable[[ssl.SSLContext], None] | None, ca_file: str) -> None:
        self._dialer, self._store, self._key_loader, self._ca_file = dialer, store, key_loader, ca_file
        self._limits = TransportLimits(body_bytes_max=store.body_bytes_max)
        self._contexts: dict[tuple[bytes, ...], ssl.SSLContext] = {}

    async def call(
        self, service: Service, method: str, target: str, headers: Sequence[tuple[bytes, bytes]], body: Body | None
    ) -> SystemAnswer:
        """Raises ServiceUnreachableError, ServiceTimeoutError, ServiceBrokenError."""
        place = _place(service_url(service.url, target))
        frames = (b"",) if body is None else (b"", b"")
        connection = await self._sent(service, place, method.encode(), _head(method, place, headers, body), Outgoing(frames, body))
        monitoring.left()
        try:
            response = await connection.response(service.timeout_s)
            monitoring.came_back()
            expected = response.body_bytes if response.body_bytes > 0 else None
            answer = await self._store.receive(connection.next_chunk, expected)
            return SystemAnswer(response.status, response.reason, response.headers, answer)
        except XacbeError as error:
            raise _about_service(error) from error
        finally:
            self._dialer.release(connection)

    async def ask(self, service: Service, request: Sealed) -> SoapAnswer:
        """Delivers a SOAP message to the service's URL and takes its answer; the service reads what was sealed, in a frame of ours.

        Raises what `call` raises, ServiceAnswerError, and PeerFaultError for a fault of the service, which is passed on.
        """
        if request.soap is None:
            raise RuntimeError("a REST message delivered as SOAP")
        place = _place(service.url)
        attachments = [one.headers for one in request.body.attachments] if request.body else []
        content_type, frames = related(request.soap, request.head, attachments, make_boundary(b"xmime", os.urandom(30)))
        message = Outgoing(frames, request.body)
        headers = [
            (b"Host", place.authority.encode()),
            (b"Content-Type", content_type),
            (b"SOAPAction", request.soap.action or b'""'),
            (b"Content-Length", b"%d" % message.size),
        ]
        head = http1.request_head(b"POST", place.target.encode(), headers)
        connection = await self._sent(service, place, b"POST", head, message)
        monitoring.left()
        try:
            response = await connection.response(service.timeout_s)
            monitoring.came_back()
            return await self._soap_answer(connection, response)
        except PeerFaultError:
            raise
        except XacbeError as error:
            raise _about_service(error) from error
        finally:
            self._dialer.release(connection)

    async def _soap_answer(self, connection: ClientConnection, response: ResponseHead) -> SoapAnswer:
        if response.status not in SOAP_STATUSES:
            raise ServiceBrokenError(f"the service answered with status {response.status}")
        try:
            reader = SoapReader(response.header(b"content-type"), self._limits, hold=gates.hold)
            message = IncomingSoap(connection.next_chunk, reader, self._store)
            part = await message.head()
            fault = read_fault(part.data)
            if fault is not None:
                raise PeerFaultError(fault)
            return SoapAnswer(part.data, part.framing, await message.rest())
        except PeerProtocolError as error:
            raise ServiceAnswerError(error) from error

    async def _sent(self, service: Service, place: _Place, method: bytes, head: bytes, message: Outgoing) -> ClientConnection:
        """A connection over which the whole request went, or as much as the system wanted to see before it answered."""
        whole = message.whole
        for _ in range(TRIES):
            connection = await self._connected(service, place)
            try:
                if whole is not None:
                    connection.start(method, head + whole)
                    return connection
                connection.start(method, head + message.frames[0], more=True)
            except PeerClosedError:
                self._dialer.release(connection)
                continue
            try:
                await self._send_large(connection, message)
            except BaseException:
                self._dialer.release(connection)
                raise
            return connection
        raise ServiceUnreachableError("every kept connection was closed")

    async def _send_large(self, connection: ClientConnection, message: Outgoing) -> None:
        """All of the body, or as much as the system reads before it answers: its answer counts."""
        try:
            end = await message.send_body(self._store, connection.write, connection.drain, lambda: connection.response_started)
        except XacbeError as error:
            if not connection.response_started:
                raise _about_service(error) from error
        else:
            if not connection.response_started:
                connection.finish(end)

    async def _connected(self, service: Service, place: _Place) -> ClientConnection:
        async def is_pinned(peer: Peer) -> None:
            if service.certificates and peer.certificate not in service.certificates:
                raise ServiceUnreachableError("the system shows a certificate that is not registered for it")

        try:
            context = self._context(service.certificates) if place.secure else None
            return await self._dialer.acquire(
                [(place.host, place.port)],
                f"system:{place.authority}",
                context=context,
                check=is_pinned if place.secure else None,
                hostname=place.host,
            )
        except (XacbeError, OSError) as error:  # OSError: authorities or registered certificates that cannot be loaded
            raise ServiceUnreachableError(str(error)) from error

    def _context(self, pinned: tuple[bytes, ...]) -> ssl.SSLContext:
        context = self._contexts.get(pinned)
        if context is None:
            context = self._contexts[pinned] = tls.system_client_context(pinned, self._key_loader, ca_file=self._ca_file)
        return context


def _place(url: str) -> _Place:
    parts = urlsplit(url)
    secure = parts.scheme == "https"
    host = parts.hostname or ""
    # the raw text behind the authority: urlsplit would drop nothing of it, but a fragment mark must stay where it is, too
    behind = url.partition("//")[2]
    slash = min((at for at in (behind.find("/"), behind.find("?")) if at >= 0), default=len(behind))
    target = behind[slash:]
    return _Place(
        host,
        parts.port or (HTTPS_PORT if secure else HTTP_PORT),
        secure,
        target if target.startswith("/") else "/" + target,
        behind[:slash],
    )


def _head(method: str, place: _Place, headers: Sequence[tuple[bytes, bytes]], body: Body | None) -> bytes:
    lines = [(b"Host", place.authority.encode()), *headers]
    if body is not None:
        lines.append((b"Content-Length", b"%d" % body.size))
    elif method in ("POST", "PUT", "PATCH"):
        lines.append((b"Content-Length", b"0"))
    return http1.request_head(method.encode(), place.target.encode(), lines)


def _about_service(error: XacbeError) -> XacbeError:
    """A connection's error as one of the service: the peer kinds speak of other boxes."""
    if error.kind == "peer.timeout":
        return ServiceTimeoutError("the information system did not answer in time")
    if error.kind.startswith(("peer.", "http.")) and error.kind != "peer.oversized":
        return ServiceBrokenError(str(error))
    return error
