"""SFTP version 3 (draft-ietf-secsh-filexfer-02), as much of it as carries a file. Pure: bytes in, bytes out.

OpenSSH's extension `fsync@openssh.com` is used where the server announces it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VERSION = 3
PACKET_BYTES_MAX = 256 << 10
"""OpenSSH's own limit; a longer length is no SFTP."""
CHUNK_BYTES = 32 << 10
"""What every server takes in one READ or WRITE (the draft's section 3)."""
INIT, OPEN, CLOSE, READ, WRITE, REMOVE, STAT, RENAME, EXTENDED = 1, 3, 4, 5, 6, 13, 17, 18, 200
VERSION_ANSWER, STATUS, HANDLE, DATA, ATTRS = 2, 101, 102, 103, 105
FOR_READING, FOR_WRITING, CREATE, TRUNCATE = 0x01, 0x02, 0x08, 0x10
OK, END_OF_FILE, NO_SUCH_FILE, PERMISSION_DENIED = 0, 1, 2, 3
FSYNC = b"fsync@openssh.com"
_SIZE, _UID_GID, _PERMISSIONS, _DIRECTORY, _KIND = 0x01, 0x02, 0x04, 0o040000, 0o170000


class NotSftpError(ValueError):
    """The bytes are no packet of SFTP. Never leaves the client."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One packet of the server: its number, which request it answers, and the rest."""

    type: int
    request: int
    rest: bytes


@dataclass(frozen=True, slots=True)
class Attributes:
    """`size` in bytes, where the server says it."""

    size: int | None
    is_directory: bool


def packet(kind: int, payload: bytes) -> bytes:
    return struct.pack(">IB", len(payload) + 1, kind) + payload


def request(kind: int, number: int, *strings: bytes, end: bytes = b"") -> bytes:
    """A request whose payload is strings, and what follows them."""
    return packet(kind, struct.pack(">I", number) + b"".join(map(string, strings)) + end)


def string(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def open_end(flags: int) -> bytes:
    """Flags and attributes of OPEN: a file that is made belongs to the account alone (0600)."""
    return struct.pack(">III", flags, _PERMISSIONS, 0o600)


def read_end(offset: int, size: int) -> bytes:
    return struct.pack(">QI", offset, size)


def write_end(offset: int, data: bytes) -> bytes:
    return struct.pack(">Q", offset) + string(data)


def length_of(head: bytes) -> int:
    """From the four bytes before a packet. Raises NotSftpError."""
    (length,) = struct.unpack(">I", head)
    if not 1 <= length <= PACKET_BYTES_MAX:
        raise NotSftpError(f"a packet of {length} bytes")
    return int(length)


def answer(body: bytes) -> Answer:
    """Raises NotSftpError."""
    if body[0] == VERSION_ANSWER:
        return Answer(VERSION_ANSWER, 0, body[1:])
    if len(body) < 5:
        raise NotSftpError("a cut packet")
    return Answer(body[0], struct.unpack_from(">I", body, 1)[0], body[5:])


def version_of(rest: bytes) -> tuple[int, set[bytes]]:
    """(version, names of extensions). Raises NotSftpError."""
    if len(rest) < 4:
        raise NotSftpError("a cut VERSION")
    (version,) = struct.unpack_from(">I", rest)
    words, rest = [], rest[4:]
    while rest:
        word, rest = _taken(rest)
        words.append(word)
    return version, set(words[::2])


def status_of(rest: bytes) -> tuple[int, str]:
    """(code, the server's words, cut). Raises NotSftpError."""
    if len(rest) < 4:
        raise NotSftpError("a cut STATUS")
    words = _taken(rest[4:])[0] if len(rest) > 4 else b""
    return struct.unpack_from(">I", rest)[0], words[:200].decode("utf-8", "replace")


def string_of(rest: bytes) -> bytes:
    """The one string of HANDLE or DATA. Raises NotSftpError."""
    return _taken(rest)[0]


def attributes_of(rest: bytes) -> Attributes:
    """Raises NotSftpError."""
    try:
        (flags,), at, size = struct.unpack_from(">I", rest), 4, None
        if flags & _SIZE:
            (size,) = struct.unpack_from(">Q", rest, at)
            at += 8
        at += 8 if flags & _UID_GID else 0
        mode = struct.unpack_from(">I", rest, at)[0] if flags & _PERMISSIONS else 0
    except struct.error:
        raise NotSftpError("cut ATTRS") from None
    return Attributes(size, mode & _KIND == _DIRECTORY)


def _taken(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < 4:
        raise NotSftpError("a cut string")
    end = 4 + struct.unpack_from(">I", data)[0]
    if end > len(data):
        raise NotSftpError("a cut string")
    return data[4:end], data[end:]
