"""A working part that stands where the recorder stands: it takes audit records, in memory, and can be away."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path

import msgspec

from appliance.messagelog.wire import Audit
from appliance.net import frames
from appliance.net.frames import ANSWER, Frame, FrameReader
from tests.supervision.box import bind_channels


class AuditingRecorder:
    """Answers `audit` on every channel of the recorder; any other operation is refused. Invariant: what it answered is in `records`."""

    def __init__(self, state: Path) -> None:
        self.records: list[tuple[str, Audit]] = []
        self._listeners = bind_channels(state, "recorder")
        self._open: list[socket.socket] = []
        self._closed = False
        for caller, listener in self._listeners.items():
            threading.Thread(target=self._accept, args=(caller, listener), daemon=True).start()

    def close(self) -> None:
        self._closed = True
        for one in [*self._listeners.values(), *self._open]:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it was closed by the other side
            one.close()

    def _accept(self, caller: str, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._open.append(sock)
            if self._closed:  # it came while the others were closed
                sock.close()
                return
            threading.Thread(target=self._answer, args=(caller, sock), daemon=True).start()

    def _answer(self, caller: str, sock: socket.socket) -> None:
        reader = FrameReader()
        try:
            while data := sock.recv(65536):
                for frame in reader.feed(data):
                    self._answer_one(caller, sock, frame)
        except OSError:
            return  # closed by either side

    def _answer_one(self, caller: str, sock: socket.socket, frame: Frame) -> None:
        if frame.name != "audit":
            sock.sendall(frames.encode_error(frame.call, frames.FrameError(frame.name)))
            return
        self.records.append((caller, msgspec.msgpack.decode(frame.payload, type=Audit)))
        sock.sendall(frames.encode(ANSWER, frame.call, "", msgspec.msgpack.encode(None)))
