"""A local socket in the event loop, as both ends of a channel have it: frames and file descriptors, with a bound on what is not taken."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Sequence

from appliance.errors import PeerProtocolError
from appliance.net import frames
from appliance.net.frames import ANSWER_WITH_DESCRIPTOR, Frame, FrameReader

IN_FLIGHT_MAX = 4096
"""Calls waiting on one channel: above the relay's exchanges_max times its calls at a time."""
RECEIVE_BYTES = 256 << 10
SEND_BYTES = 256 << 10
"""Joined for one look at the socket, whose buffer takes about as much: a batch's answers at once would be copied again for each."""
UNREAD_BYTES_MAX = 4 << 20
"""Answers that a caller has not taken: above it nothing more is read of that connection. One answer of the largest size fits."""
DESCRIPTORS_MAX = 4
"""Received and not handed on yet. One comes with the first byte of its frame, so that one waits at most."""
_ANCILLARY_BYTES = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
_local = threading.local()


class FrameStream:
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
