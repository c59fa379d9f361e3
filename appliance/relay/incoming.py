"""A peer's message while it arrives: its head first, so that a refusal comes before the body, then the rest."""

from __future__ import annotations

from appliance.errors import UnavailableError
from appliance.exchange.ports import Body, Sealed
from appliance.messagelog.wire import Seal
from appliance.net.soap_reader import PeerFault
from appliance.net.transport_parts import BodyBegan, BodyData, BodyEnded, FaultPart, HeadPart, TransportEvent
from appliance.net.transport_protocol import TransportReader
from appliance.relay.bodies import BodySink, BodyStore, NextChunk


class PeerFaultError(UnavailableError):
    """The peer answered with a fault: it is passed on as it is, without a prefix (sheet 3.7)."""

    kind = "peer.fault"

    def __init__(self, fault: PeerFault) -> None:
        super().__init__(f"{fault.code}: {fault.message}")
        self.fault = fault


class IncomingMessage:
    """One multipart message. `head` once, then `rest` once."""

    def __init__(self, next_chunk: NextChunk, reader: TransportReader, store: BodyStore) -> None:
        self._next_chunk, self._reader, self._store = next_chunk, reader, store
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
        return Sealed(message.head.data, self._body, Seal(message.signature, message.chain_result, message.chain, 0, 0))

    async def _feed(self) -> list[TransportEvent]:
        chunk = await self._next_chunk()
        if chunk is None:
            self._ended = True
            return []
        return self._reader.feed(chunk)

    async def _take(self, events: list[TransportEvent]) -> None:
        for event in events:
            if isinstance(event, BodyBegan):
                self._sink = self._store.sink(hashing=False)
            elif isinstance(event, BodyData) and self._sink is not None:
                await self._sink.add(event.data)
            elif isinstance(event, BodyEnded) and self._sink is not None:
                self._body = await self._sink.end(event.digest)
                self._sink = None
