"""The owner's end of its local sockets: takes its callers' requests, each for what the topology grants to its channel, and answers."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from appliance import topology
from appliance.errors import UNREADABLE, CorruptStateError, RefusedError, XacbeError
from appliance.net import frames
from appliance.net.frames import ANSWER, ANSWER_WITH_DESCRIPTOR, REQUEST, Frame
from appliance.net.local_stream import IN_FLIGHT_MAX, FrameStream

CONNECTIONS_MAX = 288
"""Of one channel at once. A relay has one for its loop and one for each handshake thread and TLS key: 17, and a box has up to 16 relays;
`xacbe` has one for each command that runs. The next one waits in the backlog until another ends: who opens too many keeps only its own
channel waiting, and leaves an owner most of its 1024 descriptors for everybody else."""
ACCEPT_AGAIN_S = 0.2
"""After an accept that found no descriptor or memory: callers wait in the backlog until some are free."""
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})


_CALLER_UID: contextvars.ContextVar[int | None] = contextvars.ContextVar("caller_uid", default=None)


def caller_uid() -> int | None:
    """In a handler: the user id of whoever calls, as the kernel knows it (SO_PEERCRED). None outside of a request."""
    return _CALLER_UID.get()


def caller_user() -> str:
    """In a handler: that user's name; `uid:N` where the system has none."""
    uid = caller_uid()
    if uid is None:
        return ""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid:{uid}"


@contextlib.contextmanager
def called_by(uid: int) -> Iterator[None]:
    """What is done inside is done for this user."""
    token = _CALLER_UID.set(uid)
    try:
        yield
    finally:
        _CALLER_UID.reset(token)


class Reply:
    """What a handler gives back when a file descriptor goes along; the server closes its copy after sending."""

    __slots__ = ("descriptor", "value")

    def __init__(self, value: object, descriptor: int) -> None:
        self.value, self.descriptor = value, descriptor


Handler = Callable[[str, bytes], Awaitable[object]]
"""`await handler(caller, payload)`: decodes its own request struct, returns a struct, None or a Reply; raises XacbeError leaves."""


AtOnce = Callable[[str, bytes], "asyncio.Future[Any] | None"]
"""The same without a task: begins now and gives the answer's future. None: nothing was begun, the Handler has to do it."""


class CallRefusedError(RefusedError):
    """The topology does not grant this operation to this channel."""

    kind = "caller.not_granted"


class LocalServer:
    """Answers the operations of one process, to the callers that the topology names."""

    def __init__(
        self,
        owner: str,
        handlers: dict[str, Handler],
        *,
        expected_users: dict[str, int] | None = None,
        at_once: dict[str, AtOnce] | None = None,
    ) -> None:
        """`at_once`: of the handlers' operations, those on the way of every message."""
        self._at_once = at_once or {}
        self._owner, self._handlers, self._users = owner, handlers, expected_users or {}
        self.counts: dict[str, int] = {}
        self._served: set[_Served] = set()
        unknown = set(handlers) ^ set(topology.BY_NAME[owner].callers)
        if unknown:
            raise RuntimeError(f"{owner}: topology and handlers differ: {sorted(unknown)}")

    @property
    def callers_connected(self) -> int:
        return len(self._served)

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Accepts on every channel (`{caller: listening socket}`) until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                try:
                    for caller, listener in listeners.items():
                        listener.setblocking(False)
                        group.create_task(self._accept(caller, listener, group))
                    await asyncio.Event().wait()
                finally:
                    for served in self._served:
                        served.stop()  # a request that comes now could not become a task of the group any more
        finally:
            for served in [*self._served]:
                served.close()

    async def _accept(self, caller: str, listener: socket.socket, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        room = asyncio.Semaphore(CONNECTIONS_MAX)

        def ended(served: _Served) -> None:
            self._served.discard(served)
            room.release()

        while True:
            await room.acquire()
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
                room.release()
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            uid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if uid not in (self._users.get(caller, uid), 0):
                sock.close()
                room.release()
                continue
            self._served.add(_Served(sock, caller, uid, self, group, ended))

    def begin(self, caller: str, frame: Frame) -> asyncio.Future[Any] | bytes | None:
        """The answer to come, or the frame of a refusal. None: it takes a task (`answer`)."""
        begin = self._at_once.get(frame.name)
        if begin is None or not topology.may_call(caller, self._owner, frame.name):
            return None
        try:
            begun = begin(caller, frame.payload)
        except Exception as error:
            if isinstance(error, XacbeError) and not isinstance(error, CorruptStateError):
                return frames.encode_error(frame.call, error)
            # Met again in the task: what ends the process ends it out of the group; from here it would take the frames behind it along.
            return None
        if begun is not None:
            self.counts[frame.name] = self.counts.get(frame.name, 0) + 1
        return begun

    async def answer(self, caller: str, frame: Frame) -> bytes | tuple[bytes, int]:
        """The answer's frame, with its descriptor where there is one."""
        try:
            if not topology.may_call(caller, self._owner, frame.name):
                raise CallRefusedError(f"{caller} may not call {frame.name} of {self._owner}")
            self.counts[frame.name] = self.counts.get(frame.name, 0) + 1  # of names that exist: a caller's own would grow without end
            return _encoded(frame.call, await self._handlers[frame.name](caller, frame.payload))
        except CorruptStateError:
            raise  # out of the server's group: the process stops, no answer is given (house taxonomy)
        except XacbeError as error:
            return frames.encode_error(frame.call, error)
        except UNREADABLE as error:
            return frames.encode_error(frame.call, frames.FrameError(f"{frame.name}: {error}"))


def _encoded(call: int, result: object) -> bytes | tuple[bytes, int]:
    """Raises FrameError where the answer is over FRAME_BYTES_MAX: the caller's to deal with, not the end of the owner."""
    if not isinstance(result, Reply):
        return frames.encode(ANSWER, call, "", msgspec.msgpack.encode(result))
    try:
        return frames.encode(ANSWER_WITH_DESCRIPTOR, call, "", msgspec.msgpack.encode(result.value)), result.descriptor
    except BaseException:
        os.close(result.descriptor)
        raise


class _Served:
    """One caller's connection at the server. Its tasks belong to the server's group; a lost caller cancels none of them: work that
    has begun (an append) ends, its answer goes nowhere."""

    def __init__(
        self,
        sock: socket.socket,
        caller: str,
        uid: int,
        server: LocalServer,
        group: asyncio.TaskGroup,
        on_end: Callable[[_Served], None],
    ) -> None:
        self._uid = uid
        self._caller, self._server, self._group, self._in_flight, self._stopped = caller, server, group, 0, False
        self._stream = FrameStream(sock, self._request, lambda: on_end(self), answers=True)

    def stop(self) -> None:
        """Takes no further request; the caller learns it when the process is gone."""
        self._stopped = True

    def close(self) -> None:
        self._stream.close()

    def _request(self, frame: Frame, descriptor: int | None) -> None:
        if descriptor is not None:
            os.close(descriptor)
        if self._stopped:
            return
        if frame.kind != REQUEST or self._in_flight >= IN_FLIGHT_MAX:
            raise frames.FrameError("not a request, or too many at once")
        begun = self._server.begin(self._caller, frame)
        if isinstance(begun, bytes):
            self._stream.send(begun)
            return
        self._in_flight += 1
        if begun is None:
            self._group.create_task(self._answer(frame))
        else:
            begun.add_done_callback(functools.partial(self._answered, frame.call))

    def _answered(self, call: int, answer: asyncio.Future[Any]) -> None:
        self._in_flight -= 1
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._stream.send(frames.encode(ANSWER, call, "", msgspec.msgpack.encode(answer.result())))
        elif isinstance(error, XacbeError) and not isinstance(error, CorruptStateError):
            self._stream.send(frames.encode_error(call, error))
        else:
            self._group.create_task(_raise(error))

    async def _answer(self, frame: Frame) -> None:
        _CALLER_UID.set(self._uid)  # of this task alone
        try:
            answer = await self._server.answer(self._caller, frame)
        finally:
            self._in_flight -= 1
        if isinstance(answer, tuple):
            self._stream.send(*answer)
        else:
            self._stream.send(answer)


async def _raise(error: BaseException) -> None:
    """In a task of the server's group: what ends the process ends it from there."""
    raise error
