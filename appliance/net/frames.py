"""Frames on local sockets: one request, one answer, many in flight.

Pure. `length(4) kind(1) call(4) name-length(1) name payload`, big endian; `length` counts what follows it. The payload is MessagePack of
a struct that the owner of the operation declares. A frame of kind ANSWER_WITH_DESCRIPTOR comes with one file descriptor.
"""

from __future__ import annotations

import struct

import msgspec

from appliance.errors import PeerProtocolError, XacbeError, family_of, rebuilt

REQUEST, ANSWER, REFUSAL, ANSWER_WITH_DESCRIPTOR = 0, 1, 2, 3
FRAME_BYTES_MAX = 4 << 20
"""A record with a 64 KiB body, a signature of 12 KiB and chains stays below 100 KiB; service descriptions are the largest."""

_HEAD = struct.Struct("!IBIB")
_AFTER_LENGTH = _HEAD.size - 4


class FrameError(PeerProtocolError):
    """A neighbour sent something that is not a frame."""

    kind = "frame.malformed"


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One frame: `name` is the operation of a request, empty in answers."""

    kind: int
    call: int
    name: str
    payload: bytes


class Refusal(msgspec.Struct, array_like=True):
    """An error that crosses a socket: its kind does, never the exception."""

    family: str
    kind: str
    message: str


def encode(kind: int, call: int, name: str, payload: bytes) -> bytes:
    """The frame's bytes. Raises FrameError where the payload is over FRAME_BYTES_MAX."""
    spelled = name.encode()
    length = _AFTER_LENGTH + len(spelled) + len(payload)
    if length > FRAME_BYTES_MAX:
        raise FrameError(f"frame of {length} bytes, at most {FRAME_BYTES_MAX}")
    return _HEAD.pack(length, kind, call, len(spelled)) + spelled + payload


def encode_error(call: int, error: XacbeError) -> bytes:
    return encode(REFUSAL, call, "", msgspec.msgpack.encode(Refusal(family_of(error), error.kind, str(error)[:2000])))


def decode_error(payload: bytes) -> XacbeError:
    refusal = msgspec.msgpack.decode(payload, type=Refusal)
    return rebuilt(refusal.family, refusal.kind, refusal.message)


class FrameReader:
    """Cuts a byte stream into frames. Invariant: any cut of the same bytes gives the same frames."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._wanted = 0
        """So many bytes have to be there before there is anything to cut."""

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now. Raises FrameError."""
        frames: list[Frame] = []
        if self._held:
            self._held += data
            if len(self._held) < self._wanted:
                return frames
            data = bytes(self._held)
        buffer, at = data, 0
        self._wanted = _HEAD.size
        while len(buffer) - at >= _HEAD.size:
            length, kind, call, name_length = _HEAD.unpack_from(buffer, at)
            if not _AFTER_LENGTH + name_length <= length <= FRAME_BYTES_MAX or kind > ANSWER_WITH_DESCRIPTOR:
                raise FrameError(f"frame of {length} bytes, kind {kind}")
            end = at + 4 + length
            if len(buffer) < end:
                self._wanted = end - at
                break
            name_at = at + _HEAD.size
            name = buffer[name_at : name_at + name_length].decode("ascii", "replace")
            frames.append(Frame(kind, call, name, buffer[name_at + name_length : end]))
            at = end
        self._held = bytearray(buffer[at:])
        return frames
