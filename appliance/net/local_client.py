"""The ways to a neighbour over its local socket: for an event loop, and for threads and commands."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance.errors import PeerProtocolError, UnavailableError
from appliance.net import frames
from appliance.net.deadlines import Deadlines
from appliance.net.frames import REFUSAL, REQUEST, Frame, FrameReader
from appliance.net.local_sockets import connect
from appliance.net.local_stream import IN_FLIGHT_MAX, FrameStream

BLOCKING_RECEIVE_BYTES = 32 << 10
"""Of a client in a thread, which mostly waits for a signature."""
CALL_S_MAX = 15.0
"""Default wait for an answer: longer than the slowest signature allowed (10 s)."""

Answer = TypeVar("Answer")


class NeighbourAwayError(UnavailableError):
    """The other process does not answer: restarting, or not started yet."""

    kind = "process.away"


class _Call:
    """One question under way. `deadline` and `expired` are for Deadlines: a timer for each call would cost more than the call."""

    __slots__ = ("_about", "answer", "deadline")

    def __init__(self, answer: asyncio.Future[tuple[bytes, int | None]], deadline: float, about: str) -> None:
        self.answer, self.deadline, self._about = answer, deadline, about

    def expired(self) -> None:
        if not self.answer.done():
            self.answer.set_exception(NeighbourAwayError(f"{self._about}: no answer in time"))


class LocalClient:
    """One process's way to a neighbour: connects when first needed, reconnects after its death, fails fast while it is away."""

    def __init__(self, path: Path) -> None:
        self._path, self._owner = path, path.parent.name
        self._stream: FrameStream | None = None
        self._waiting: dict[int, _Call] = {}
        self._deadlines: Deadlines | None = None
        self._next = 0

    async def call(self, operation: str, request: object = None, answer: type[Answer] | Any = None, timeout_s: float = CALL_S_MAX) -> Any:
        """Calls an operation and decodes its answer as `answer`. Raises the owner's error by kind, or NeighbourAwayError."""
        payload, descriptor = await self._call(operation, request, timeout_s)
        if descriptor is not None:
            os.close(descriptor)
        return None if answer is None else msgspec.msgpack.decode(payload, type=answer)

    def tell(self, operation: str, request: object = None) -> None:
        """Calls without waiting for the answer, for what may as well get lost: a neighbour that is away is told nothing."""
        with contextlib.suppress(NeighbourAwayError):
            stream = self._connected()
            self._next = call = (self._next + 1) & 0xFFFFFFFF
            stream.send(frames.encode(REQUEST, call, operation, msgspec.msgpack.encode(request)))

    async def call_for_descriptor(
        self, operation: str, request: object, answer: type[Answer], timeout_s: float = CALL_S_MAX
    ) -> tuple[Answer, int]:
        """Like `call`, for operations that hand over a file descriptor; the caller closes it."""
        payload, descriptor = await self._call(operation, request, timeout_s)
        if descriptor is None:
            raise NeighbourAwayError(f"{operation}: no descriptor came")
        return msgspec.msgpack.decode(payload, type=answer), descriptor

    async def _call(self, operation: str, request: object, timeout_s: float) -> tuple[bytes, int | None]:
        stream = self._connected()
        if len(self._waiting) >= IN_FLIGHT_MAX:
            raise NeighbourAwayError(f"{self._owner}: {IN_FLIGHT_MAX} calls wait already")
        self._next = call = (self._next + 1) & 0xFFFFFFFF
        data = frames.encode(REQUEST, call, operation, msgspec.msgpack.encode(request))
        loop = asyncio.get_running_loop()
        if self._deadlines is None:
            self._deadlines = Deadlines()
        waiting = _Call(loop.create_future(), loop.time() + timeout_s, f"{self._owner}, {operation}")
        self._waiting[call] = waiting
        self._deadlines.add(waiting)
        stream.send(data)
        try:
            return await waiting.answer
        finally:
            self._waiting.pop(call, None)
            self._deadlines.discard(waiting)

    def _connected(self) -> FrameStream:
        if self._stream is None or self._stream.closed:
            sock = None
            try:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                sock.setblocking(False)  # a local socket connects or refuses at once; a full backlog is a refusal
                connect(sock, self._path)
                self._stream = FrameStream(sock, self._answered, self._lost)
            except OSError as error:  # nobody there, or no descriptor left here
                if sock is not None:
                    sock.close()
                raise NeighbourAwayError(f"{self._owner}: {error.strerror}") from None
        return self._stream

    def _answered(self, frame: Frame, descriptor: int | None) -> None:
        waiting = self._waiting.get(frame.call)
        if waiting is None or waiting.answer.done():
            if descriptor is not None:
                os.close(descriptor)
        elif frame.kind == REFUSAL:
            waiting.answer.set_exception(frames.decode_error(frame.payload))
        else:
            waiting.answer.set_result((frame.payload, descriptor))

    def _lost(self) -> None:
        for waiting in self._waiting.values():
            if not waiting.answer.done():
                waiting.answer.set_exception(NeighbourAwayError(f"{self._owner}: the process went away"))

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


class BlockingClient:
    """The same for threads and commands: one call at a time, reconnecting when needed. Not shared between threads."""

    def __init__(self, path: Path, timeout_s: float = CALL_S_MAX) -> None:
        self._path, self._timeout_s = path, timeout_s
        self._sock: socket.socket | None = None
        self._reader = FrameReader()

    def call(self, operation: str, request: object = None, answer: type[Answer] | Any = None) -> Any:
        """As LocalClient.call. A call that was cut is not repeated: whether it took effect is unknown."""
        try:
            sock = self._connected()
            sock.sendall(frames.encode(REQUEST, 1, operation, msgspec.msgpack.encode(request)))
            while True:
                data = sock.recv(BLOCKING_RECEIVE_BYTES)
                if not data:
                    raise NeighbourAwayError(f"{self._path.parent.name}: the process went away")
                for frame in self._reader.feed(data):
                    if frame.kind == REFUSAL:
                        raise frames.decode_error(frame.payload)
                    return None if answer is None else msgspec.msgpack.decode(frame.payload, type=answer)
        except OSError as error:
            self.close()
            raise NeighbourAwayError(f"{self._path.parent.name}: {error.strerror or error}") from None
        except (NeighbourAwayError, PeerProtocolError):
            self.close()
            raise

    def _connected(self) -> socket.socket:
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            sock.settimeout(self._timeout_s)
            try:
                connect(sock, self._path)
            except OSError:
                sock.close()
                raise
            self._sock, self._reader = sock, FrameReader()
        return self._sock

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self._sock is not None:
                self._sock.close()
        self._sock = None
