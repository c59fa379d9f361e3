"""TCP in memory: connections between hosts that are delayed, held up, reset, or changed on the way.

Bytes of one direction keep their order, as in TCP; what is sent at one moment on two connections may arrive in either order. A held link
keeps what is sent until it heals, as retransmission does; a reset one breaks what is open and refuses what comes. A host that is off
answers nothing. A listening socket belongs to the host's parent process: while its process is dead, callers wait in the backlog.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
import socket
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.virtual_time import OUTSIDE, PROCESS, SimLoop, SimProcess

Address = tuple[str, int]


@dataclass
class Link:
    """What lies between two hosts, in both directions."""

    delay_s: tuple[float, float] = (0.0002, 0.004)
    held: int = 0
    refused: int = 0
    tamper: Callable[[bytes], bytes | None] | None = None
    """Sees every piece; what it gives back instead arrives."""
    ends: list[weakref.ref[End]] = field(default_factory=list)


class ListeningSocket:
    """What `inherited_sockets` gives: a place that callers reach."""

    def __init__(self, host: str, port: int) -> None:
        self.address: Address = (host, port)


class _Server:
    def __init__(self, network: SimNetwork, address: Address) -> None:
        self._network, self._address = network, address

    def close(self) -> None:
        self._network.stop(self._address)


@dataclass
class _Place:
    """A listening address: who accepts there now, and who waits."""

    factory: Callable[[], Any] | None = None
    context: contextvars.Context | None = None
    backlog: list[End] = field(default_factory=list)


class End(asyncio.Transport):
    """One end of a connection."""

    def __init__(self, network: SimNetwork, host: str, peer: Address) -> None:
        super().__init__()
        self._network, self.host, self.peer = network, host, peer
        self.other: End
        self.context: contextvars.Context | None = None
        self.process: SimProcess | None = None
        self._protocol: Any = None
        self._held: list[bytes | None] = []
        """Arrived before there was a protocol, or while it does not read; None: the end."""
        self._paused = self._closing = self._lost = self._eof_sent = self._eof_told = False
        self.last_at_s = 0.0

    # what a protocol asks of it

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.peer if name == "peername" else default

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol
        if not self._paused and self._held:
            self._network.soon(self, self._flush)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is buffered here: what is written is under way."""

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        if not (self._closing or self._lost or self._eof_sent) and data:
            self._network.send(self, bytes(data))

    def write_eof(self) -> None:
        if not (self._eof_sent or self._lost):
            self._eof_sent = True
            self._network.send(self, None)

    def can_write_eof(self) -> bool:
        return True

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def is_reading(self) -> bool:
        return not self._paused

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._network.soon(self, self._flush)

    def close(self) -> None:
        if not (self._closing or self._lost):
            self.write_eof()
            self._closing = True
            self._network.soon(self, self.lose, None)

    def abort(self) -> None:
        if not self._lost:
            self._network.reset(self.other)
            self._network.soon(self, self.lose, None)
            self._closing = True

    # what the network does to it

    def attach(self, protocol: Any, context: contextvars.Context) -> None:
        """A process takes it."""
        self.context, self.process = context, context.get(PROCESS)
        self._protocol = protocol
        if self.process is not None:
            self.process.on_death.append(self._died)

    def arrive(self, data: bytes | None) -> None:
        if self._lost:
            return
        self._held.append(data)
        self._flush()

    def _flush(self) -> None:
        while self._held and self._protocol is not None and not self._paused and not self._lost and not self._closing:
            data = self._held.pop(0)
            if data is not None:
                self._protocol.data_received(data)
            elif not self._eof_told:
                self._eof_told = True
                stays = self._protocol.eof_received()
                if not stays:
                    self.close()

    def lose(self, error: Exception | None) -> None:
        """The last thing that the protocol hears."""
        if not self._lost:
            self._lost = True
            if self._protocol is not None:
                self._protocol.connection_lost(error)
            if self.process is not None and self._died in self.process.on_death:
                self.process.on_death.remove(self._died)

    def _died(self) -> None:
        """The kernel closes what a dead process had open."""
        if not self._lost:
            self._lost = True
            self._network.reset(self.other)


class SimNetwork:
    """All hosts and what is between them."""

    def __init__(self, loop: SimLoop, chance: random.Random, note: Callable[..., None]) -> None:
        self._loop, self._chance, self._note = loop, chance, note
        self._places: dict[Address, _Place] = {}
        self._links: dict[tuple[str, str], Link] = {}
        self._dialled: weakref.WeakKeyDictionary[socket.socket, End] = weakref.WeakKeyDictionary()
        self.off: set[str] = set()
        self._healed = asyncio.Event()

    def link(self, one: str, other: str) -> Link:
        return self._links.setdefault((min(one, other), max(one, other)), Link())

    # -- faults

    def hold(self, one: str, other: str) -> None:
        self.link(one, other).held += 1

    def free(self, one: str, other: str) -> None:
        link = self.link(one, other)
        link.held -= 1
        if not link.held:
            self._healed.set()
            self._healed = asyncio.Event()

    def cut(self, one: str, other: str) -> None:
        """Breaks every connection of the link."""
        link = self.link(one, other)
        for reference in link.ends:
            if (end := reference()) is not None:
                self.reset(end)
        link.ends = []

    # -- data

    def send(self, end: End, data: bytes | None) -> None:
        link = self.link(end.host, end.other.host)
        if data is not None and link.tamper is not None:
            data = link.tamper(data) or data
        when = max(self._loop.now + self._chance.uniform(*link.delay_s), end.other.last_at_s + 1e-7)
        end.other.last_at_s = when
        self._deliver(when, link, end.other, data)

    def _deliver(self, when: float, link: Link, end: End, data: bytes | None) -> None:
        def arrive() -> None:
            if link.held or end.host in self.off:  # sent again until somebody takes it
                end.last_at_s = max(end.last_at_s, self._loop.now)
                self._loop.call_later(0.2, arrive, context=OUTSIDE)
            elif end.context is None:
                end.arrive(data)
            else:
                self._loop.call_soon(end.arrive, data, context=end.context)

        self._loop.call_at(when, arrive, context=OUTSIDE)

    def soon(self, end: End, act: Callable[..., None], *args: Any) -> None:
        self._loop.call_soon(act, *args, context=end.context or OUTSIDE)

    def reset(self, end: End) -> None:
        self.soon(end, end.lose, ConnectionResetError("reset"))

    # -- connections

    async def connect(self, address: Address) -> End:
        process = PROCESS.get()
        here = process.host if process is not None else ""
        link = self.link(here, address[0])
        await asyncio.sleep(self._chance.uniform(*link.delay_s))
        while link.held or address[0] in self.off:
            await asyncio.sleep(0.5)
        place = self._places.get(address)
        if link.refused or place is None:
            raise ConnectionRefusedError(111, f"{address[0]}:{address[1]} refuses")
        ours, theirs = End(self, here, address), End(self, address[0], (here, 40000))
        ours.other, theirs.other = theirs, ours
        link.ends = [one for one in link.ends if one() is not None]
        link.ends += [weakref.ref(ours), weakref.ref(theirs)]
        if place.factory is None:
            place.backlog.append(theirs)
        else:
            self._accept(place, theirs)
        return ours

    def _accept(self, place: _Place, end: End) -> None:
        if place.context is None or place.factory is None:
            raise RuntimeError("nobody accepts here")
        context, factory = place.context.copy(), place.factory

        def made() -> None:
            protocol = factory()
            end.attach(protocol, context)
            protocol.connection_made(end)

        self._loop.call_soon(made, context=context)

    async def sock_connect(self, sock: socket.socket, address: Address) -> None:
        self._dialled[sock] = await self.connect(address)

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, *, sock: Any = None, **more: Any) -> Any:
        if more.get("ssl") is not None:
            raise NotImplementedError("no TLS in the simulation")
        if sock is not None:
            end = self._dialled.pop(sock)
            sock.close()
        else:
            end = await self.connect((host, port))
        protocol = factory()
        end.attach(protocol, contextvars.copy_context())
        protocol.connection_made(end)
        if end._held:
            self.soon(end, end._flush)
        return end, protocol

    def listen(self, address: Address) -> ListeningSocket:
        """As the parent does at start: callers may wait from now on."""
        self._places.setdefault(address, _Place())
        return ListeningSocket(*address)

    def serve(self, factory: Callable[[], Any], sock: ListeningSocket) -> _Server:
        place = self._places[sock.address]
        place.factory, place.context = factory, contextvars.copy_context()
        process = PROCESS.get()
        if process is not None:
            process.on_death.append(lambda: self.stop(sock.address, factory))
        waiting, place.backlog = place.backlog, []
        for end in waiting:
            self._accept(place, end)
        return _Server(self, sock.address)

    def stop(self, address: Address, factory: Callable[[], Any] | None = None) -> None:
        place = self._places[address]
        if factory is None or place.factory is factory:
            place.factory = None

    def switch_off(self, host: str) -> None:
        """The whole host: who waited in its backlogs is reset when it is back, and hears nothing before."""
        self.off.add(host)
        for (at, _), place in self._places.items():
            if at == host:
                waiting, place.backlog = place.backlog, []
                for end in waiting:
                    self.reset(end.other)

    def switch_on(self, host: str) -> None:
        self.off.discard(host)


class NetworkLoop(SimLoop):
    """A SimLoop whose TCP is a SimNetwork."""

    network: SimNetwork

    async def getaddrinfo(self, host: Any, port: Any, **more: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]

    async def sock_connect(self, sock: Any, address: Any) -> None:
        await self.network.sock_connect(sock, address)

    async def create_connection(self, factory: Any, *args: Any, **more: Any) -> Any:
        return await self.network.create_connection(factory, *args, **more)

    async def create_server(self, factory: Any, *args: Any, sock: Any = None, **more: Any) -> Any:
        return self.network.serve(factory, sock)
