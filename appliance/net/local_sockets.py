"""Local sockets between the box's processes: server, asynchronous client, blocking client.

Each caller has a socket of its own at the owner (`appliance.topology`), so the channel is the identity; where processes run under users of
their own the kernel's word (SO_PEERCRED) must agree. The listening sockets belong to the parent (systemd, or the laboratory's keeper) and
survive the owner's death: callers reconnect and wait in the backlog until the owner is back.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import contextvars
import errno
import functools
import os
import pwd
import socket
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from appliance import topology
from appliance.errors import UNREADABLE, CorruptStateError, PeerProtocolError, RefusedError, UnavailableError, XacbeError
from appliance.net import frames
from appliance.net.deadlines import Deadlines
from appliance.net.frames import ANSWER, ANSWER_WITH_DESCRIPTOR, REFUSAL, REQUEST, Frame, FrameReader

IN_FLIGHT_MAX = 4096
"""Calls waiting on one channel: above the relay's exchanges_max times its calls at a time."""
CONNECTIONS_MAX = 288
"""Of one channel at once. A relay has one for its loop and one for each handshake thread and TLS key: 17, and a box has up to 16 relays;
`xacbe` has one for each command that runs. The next one waits in the backlog until another ends: who opens too many keeps only its own
channel waiting, and leaves an owner most of its 1024 descriptors for everybody else."""
RECEIVE_BYTES = 256 << 10
SEND_BYTES = 256 << 10
"""Joined for one look at the socket, whose buffer takes about as much: a batch's answers at once would be copied again for each."""
BLOCKING_RECEIVE_BYTES = 32 << 10
"""Of a client in a thread, which mostly waits for a signature."""
UNREAD_BYTES_MAX = 4 << 20
"""Answers that a caller has not taken: above it nothing more is read of that connection. One answer of the largest size fits."""
DESCRIPTORS_MAX = 4
"""Received and not handed on yet. One comes with the first byte of its frame, so that one waits at most."""
ACCEPT_AGAIN_S = 0.2
"""After an accept that found no descriptor or memory: callers wait in the backlog until some are free."""
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED})
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_local = threading.local()
CALL_S_MAX = 15.0
"""Default wait for an answer: longer than the slowest signature allowed (10 s)."""

Answer = TypeVar("Answer")


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


class NeighbourAwayError(UnavailableError):
    """The other process does not answer: restarting, or not started yet."""

    kind = "process.away"


class CallRefusedError(RefusedError):
    """The topology does not grant this operation to this channel."""

    kind = "caller.not_granted"


def channel_path(state: Path, owner: str, caller: str) -> Path:
    """Where the caller connects: `<state>/run/<owner>/<caller>.sock`."""
    return state / "run" / owner / f"{caller}.sock"


def bind(sock: socket.socket, path: Path) -> None:
    """Binds a UNIX socket at a path of any length: the kernel takes 107 bytes, so the directory goes by descriptor."""
    _by_directory(sock.bind, path)


def connect(sock: socket.socket, path: Path) -> None:
    """Connects to a path of any length."""
    _by_directory(sock.connect, path)


def _by_directory(act: Callable[[str], None], path: Path) -> None:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        act(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def inherited_sockets() -> dict[str, socket.socket]:
    """The listening sockets that the parent passed on, by name, as systemd does (LISTEN_FDS, LISTEN_FDNAMES)."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):  # noqa: TID251  systemd's own interface
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")  # noqa: TID251  systemd's own interface
    return {name: socket.socket(fileno=3 + index) for index, name in enumerate(names)}


class _Stream:
    """A non-blocking UNIX stream that carries frames and descriptors; writes of one loop round leave together."""

    def __init__(
        self, sock: socket.socket, on_frame: Callable[[Frame, int | None], None], on_end: Callable[[], None], *, answers: bool = False
    ) -> None:
        """`answers`: a server's end, which stops reading while too much of what it said is not taken. A client's end always reads, so
        that the two never wait for each other."""
        self._sock, self._on_frame, self._on_end = sock, on_frame, on_end
        self._unsent, self._unsent_max, self._paused = 0, UNREAD_BYTES_MAX if answers else None, False
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader()
        self._received: deque[int | None] = deque()
        self._out: deque[tuple[bytes | memoryview, int | None]] = deque()
        self._flush_asked = self._writing = self.closed = False
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, data: bytes, descriptor: int | None = None) -> None:
        if self.closed:
            if descriptor is not None:
                os.close(descriptor)
            return
        self._out.append((data, descriptor))
        self._unsent += len(data)
        if self._unsent_max is not None and self._unsent > self._unsent_max and not self._paused:
            self._paused = True
            self._loop.remove_reader(self._sock.fileno())
        if not self._flush_asked and not self._writing:
            self._flush_asked = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_asked = False
        while self._out and not self.closed:
            data, descriptor = self._out.popleft()
            if descriptor is None and self._out:
                run, size = [data], len(data)
                while self._out and self._out[0][1] is None and size < SEND_BYTES:
                    run.append(self._out.popleft()[0])
                    size += len(run[-1])
                data = b"".join(run)
            try:
                if descriptor is None:
                    sent = self._sock.send(data)
                else:
                    sent = socket.send_fds(self._sock, [data], [descriptor])
                    os.close(descriptor)
            except BlockingIOError:
                self._out.appendleft((data, descriptor))
                self._wait_writable()
                return
            except OSError:
                self.close()
                return
            self._taken(sent)
            if sent < len(data):
                self._out.appendleft((memoryview(data)[sent:], None))
                self._wait_writable()
                return
        if self._writing and not self.closed:
            self._writing = False
            self._loop.remove_writer(self._sock.fileno())

    def _taken(self, sent: int) -> None:
        self._unsent -= sent
        if self._paused and self._unsent_max is not None and self._unsent <= self._unsent_max // 2:
            self._paused = False
            self._loop.add_reader(self._sock.fileno(), self._readable)

    def _wait_writable(self) -> None:
        if not self._writing:
            self._writing = True
            self._loop.add_writer(self._sock.fileno(), self._flush)

    def _readable(self) -> None:
        try:
            size, ancillary, flags, _ = self._sock.recvmsg_into([view := _received()], _ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        data, descriptors = bytes(view[:size]), _descriptors(ancillary) if ancillary else ()
        self._received.extend(descriptors)
        if flags & socket.MSG_CTRUNC and not descriptors:
            self._received.append(None)  # we have no room for it (EMFILE): in its place, or later frames would take each other's
        if not data:
            self.close()
            return
        try:
            for frame in self._reader.feed(data):
                comes = frame.kind == ANSWER_WITH_DESCRIPTOR and len(self._received) > 0
                self._on_frame(frame, self._received.popleft() if comes else None)  # without it that call fails, and no other
            if len(self._received) > DESCRIPTORS_MAX:
                raise frames.FrameError("descriptors that no frame names")
        except PeerProtocolError:
            self.close()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for descriptor in (*self._received, *(d for _, d in self._out)):
            if descriptor is not None:
                os.close(descriptor)
        self._received.clear()
        self._out.clear()
        self._sock.close()
        self._on_end()


def _received() -> memoryview:
    """The buffer into which every stream of this thread receives: a new one of this size for each look costs ten times the look itself."""
    view: memoryview | None = getattr(_local, "view", None)
    if view is None:
        view = _local.view = memoryview(bytearray(RECEIVE_BYTES))
    return view


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> Sequence[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found


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
        self._stream = _Stream(sock, self._request, lambda: on_end(self), answers=True)

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
        self._stream: _Stream | None = None
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

    def _connected(self) -> _Stream:
        if self._stream is None or self._stream.closed:
            sock = None
            try:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                sock.setblocking(False)  # a local socket connects or refuses at once; a full backlog is a refusal
                connect(sock, self._path)
                self._stream = _Stream(sock, self._answered, self._lost)
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
