"""A signer's channel where only `wrap` and `unwrap` answer, in a thread: for recorders that run as processes of their own."""

from __future__ import annotations

import asyncio
import socket
import threading
from pathlib import Path

import msgspec

from appliance.errors import UnavailableError, XacbeError
from appliance.hsm.wire import WrapRequest
from appliance.net import frames
from appliance.net.frames import ANSWER, Frame, FrameReader
from tests.fakes.wrapping_token import WrappingToken
from tests.supervision.box import bind_channels


class WrappingSigner:
    """Holds the signer's sockets of one box."""

    def __init__(self, state: Path) -> None:
        self.token = WrappingToken()
        self._listeners = bind_channels(state, "signer")
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, args=(self._listeners["recorder"],), daemon=True).start()

    def close(self) -> None:
        for one in [*self._listeners.values(), *self._open]:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed by the other side
            one.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            self._open.append(sock)
            threading.Thread(target=self._answer, args=(sock,), daemon=True).start()

    def _answer(self, sock: socket.socket) -> None:
        reader = FrameReader()
        try:
            while data := sock.recv(65536):
                for frame in reader.feed(data):
                    sock.sendall(self._answered(frame))
        except OSError:
            return  # closed by either side

    def _answered(self, frame: Frame) -> bytes:
        if frame.name not in ("wrap", "unwrap"):
            return frames.encode_error(frame.call, UnavailableError("only data keys"))
        try:
            request = msgspec.msgpack.decode(frame.payload, type=WrapRequest)
            made = asyncio.run(self.token.call(frame.name, request, bytes, 1.0))
        except XacbeError as error:
            return frames.encode_error(frame.call, error)
        return frames.encode(ANSWER, frame.call, "", msgspec.msgpack.encode(made))
