"""A message while it arrives: its head first, so that a refusal comes before the body, then the rest."""

from __future__ import annotations

from dataclasses import replace

from appliance.errors import UnavailableError
from appliance.exchange.ports import Attachment, Body, Sealed
from appliance.messagelog.wire import Seal
from appliance.net.soap_mime import SoapEvent, SoapPart, SoapReader, header_lines
from appliance.net.soap_protocol import SoapFraming
from appliance.net.soap_reader import PeerFault
from appliance.net.transport_parts import SOAP, BodyBegan, BodyData, BodyEnded, FaultPart, HeadPart, TransportEvent
from appliance.net.transport_protocol import TransportReader
from appliance.relay.bodies import BodySink, BodyStore, NextChunk


class PeerFaultError(UnavailableError):
    """The peer answered with a fault: it is passed on as it is, without a prefix (sheet 3.7)."""

    kind = "peer.fault"

    def __init__(self, fault: PeerFault) -> None:
        super().__init__(f"{fault.code}: {fault.message}")
        self.fault = fault


class Attachments:
    """Takes the attachments of one SOAP message into one body, each hashed by whoever reads it."""

    def __init__(self, store: BodyStore) -> None:
        self._store = store
        self._sink: BodySink | None = None
        self._headers = b""
        self._taken: list[Attachment] = []

    async def take(self, event: TransportEvent | SoapEvent) -> None:
        """Raises BodyOversizedError, log.full."""
        if isinstance(event, BodyBegan):
            self._headers = header_lines(event.headers)
            self._sink = self._sink or self._store.sink()
        elif isinstance(event, BodyData) and self._sink is not None:
            await self._sink.add(event.data)
        elif isinstance(event, BodyEnded):
            self._taken.append(Attachment(event.size, event.digest, self._headers))

    async def end(self) -> Body | None:
        """None where the message has no attachments."""
        return None if self._sink is None else replace(await self._sink.end(), attachments=tuple(self._taken))


class IncomingSoap:
    """A SOAP message of an information system, request or answer. `head` once, then `rest` once."""

    def __init__(self, next_chunk: NextChunk, reader: SoapReader, store: BodyStore) -> None:
        self._next_chunk, self._reader = next_chunk, reader
        self._attachments = Attachments(store)
        self._early: list[SoapEvent] = []
        self._ended = False

    async def head(self) -> SoapPart:
        """The SOAP part as soon as it is complete. Raises leaves of a broken message."""
        while True:
            events = await self._feed()
            for at, event in enumerate(events):
                if isinstance(event, SoapPart):
                    self._early = events[at + 1 :]
                    return event

    async def rest(self) -> Body | None:
        """The attachments."""
        for event in self._early:
            await self._attachments.take(event)
        while not self._ended:
            for event in await self._feed():
                await self._attachments.take(event)
        return await self._attachments.end()

    async def _feed(self) -> list[SoapEvent]:
        chunk = await self._next_chunk()
        if chunk is None:
            self._ended = True
            return self._reader.finish()
        return self._reader.feed(chunk)


class IncomingMessage:
    """One multipart message of a peer. `head` once, then `rest` once. `content_type`, `action`: of SOAP, from the envelope."""

    def __init__(
        self, next_chunk: NextChunk, reader: TransportReader, store: BodyStore, content_type: bytes = b"", action: bytes | None = None
    ) -> None:
        self._next_chunk, self._reader, self._store = next_chunk, reader, store
        self._content_type, self._action = content_type, action
        self._attachments: Attachments | None = None
        self._early: list[TransportEvent] = []
        self._sink: BodySink | None = None
        self._ended = False
        self._body: Body | None = None

    async def head(self) -> HeadPart:
        """The head as soon as it is complete. Raises PeerFaultError and leaves of a broken message."""
        while not self._ended:
            events = await self._feed()
            for at, event in enumerate(events):
                if isinstance(event, HeadPart):
                    self._early = events[at + 1 :]
                    self._attachments = Attachments(self._store) if event.kind == SOAP else None
                    return event
                if isinstance(event, FaultPart):
                    raise PeerFaultError(event.fault)
        self._reader.finish()
        raise RuntimeError("a message without a head was called complete")

    async def rest(self) -> Sealed:
        """Body and seal. Every body byte has been hashed by the reader; the seal is not verified yet."""
        await self._take(self._early)
        while not self._ended:
            await self._take(await self._feed())
        message = self._reader.finish()
        if isinstance(message, FaultPart):
            raise PeerFaultError(message.fault)
        seal = Seal(message.signature, message.chain_result, message.chain, 0, 0)
        if self._attachments is None:
            return Sealed(message.head.data, self._body, seal)
        return Sealed(message.head.data, await self._attachments.end(), seal, soap=self.framing(message.head))

    def framing(self, head: HeadPart) -> SoapFraming:
        """What travels beside a SOAP head."""
        own = [header for header in head.headers if header[0].lower() == b"content-type"]
        more = [header for header in head.headers if header[0].lower() != b"content-type"]
        return SoapFraming((*own, *more), self._content_type, self._action)

    async def _feed(self) -> list[TransportEvent]:
        chunk = await self._next_chunk()
        if chunk is None:
            self._ended = True
            return []
        return self._reader.feed(chunk)

    async def _take(self, events: list[TransportEvent]) -> None:
        for event in events:
            if self._attachments is not None:
                await self._attachments.take(event)
            elif isinstance(event, BodyBegan):
                self._sink = self._store.sink(hashing=False)
            elif isinstance(event, BodyData) and self._sink is not None:
                await self._sink.add(event.data)
            elif isinstance(event, BodyEnded) and self._sink is not None:
                self._body = await self._sink.end(event.digest)
                self._sink = None
