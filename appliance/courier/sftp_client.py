"""One SFTP session over OpenSSH's own client, which is the only one to see key and cipher.

Blocking, for a worker thread; `close` may be called from any thread and ends whatever waits. Many reads and writes are on their way at once
(WINDOW), so that a long line is filled.
"""

from __future__ import annotations

import hashlib
import os
import select
import struct
import subprocess  # nosec B404
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from appliance.courier import sftp_frames as frames
from appliance.courier.errors import (
    CredentialsRefusedError,
    HostKeyWrongError,
    PlaceMissingError,
    TargetRefusedError,
    TargetUnreachableError,
)
from appliance.courier.sftp_frames import Answer, Attributes

Parsed = TypeVar("Parsed")

WINDOW = 32
"""Requests on their way: 1 MiB, enough for 80 Mbit/s at 100 ms."""
STALL_S_MAX = 60.0
"""Without a byte from the server while we wait for one."""
STDERR_BYTES_MAX = 4096
_REASONS: tuple[tuple[str, type[TargetUnreachableError | HostKeyWrongError | CredentialsRefusedError]], ...] = (
    ("Host key verification failed", HostKeyWrongError),
    ("host key for", HostKeyWrongError),
    ("no matching host key type", HostKeyWrongError),
    ("Permission denied", CredentialsRefusedError),
    ("Load key", CredentialsRefusedError),
    ("bad permissions", CredentialsRefusedError),
)
"""OpenSSH's words on standard error: it says nothing else of why it ended."""


class SftpClient:
    """`argv` starts a program that speaks SFTP on its standard input and output. Raises the leaves of `courier.errors`."""

    def __init__(self, argv: list[str]) -> None:
        self._number, self._stderr, self._buffer = 0, bytearray(), bytearray()
        try:
            pipe = subprocess.PIPE
            environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
            self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0, env=environment)  # noqa: S603  # nosec B603
        except OSError as error:
            raise TargetUnreachableError(f"{argv[0]}: {error.strerror}") from None
        self._drain = threading.Thread(target=self._listen, name="ssh-words", daemon=True)
        self._drain.start()
        try:
            self._send(frames.packet(frames.INIT, struct.pack(">I", frames.VERSION)))
            version, self._extensions = self._parsed(frames.version_of, self._received().rest)
            if version < frames.VERSION:
                raise TargetRefusedError(f"the server speaks SFTP {version}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        with suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    # -- files

    def stat(self, path: str) -> Attributes | None:
        """None: nothing has this name."""
        found = self._asked(frames.STAT, path.encode())
        if found.type == frames.ATTRS:
            return self._parsed(frames.attributes_of, found.rest)
        code, words = self._parsed(frames.status_of, found.rest)
        if code == frames.NO_SUCH_FILE:
            return None
        raise _refusal(code, f"{path}: {words}")

    def write(self, path: str, source: int, offset: int, size: int) -> None:
        """Bytes `offset` to `size` of the descriptor `source`, at the same place of the file; synced where the server can. A file is made
        anew for offset 0. The server carries requests out in their order: what a broken connection leaves is a beginning of the file."""
        flags = frames.FOR_WRITING | frames.CREATE | (0 if offset else frames.TRUNCATE)
        handle = self._handle(path, flags)
        waiting = 0
        while offset < size or waiting:
            if offset < size and waiting < WINDOW:
                data = os.pread(source, min(frames.CHUNK_BYTES, size - offset), offset)
                if not data:
                    raise RuntimeError("the archive is shorter than its manifest says")
                self._number += 1
                self._send(frames.request(frames.WRITE, self._number, handle, end=frames.write_end(offset, data)))
                offset += len(data)
                waiting += 1
            else:
                self._expect_ok(self._received(), path)
                waiting -= 1
        if frames.FSYNC in self._extensions:
            self._expect_ok(self._asked(frames.EXTENDED, frames.FSYNC, handle), path)
        self._expect_ok(self._asked(frames.CLOSE, handle), path)

    def sha256(self, path: str, size: int) -> str:
        """Of the first `size` bytes, read back. A file that is shorter gives another digest."""
        handle, state = self._handle(path, frames.FOR_READING), hashlib.sha256()
        asked = got = 0
        wanted: dict[int, tuple[int, int]] = {}
        early: dict[int, bytes] = {}
        while got < size:
            while asked < size and len(wanted) + len(early) < WINDOW:
                piece = min(frames.CHUNK_BYTES, size - asked)
                self._number += 1
                wanted[self._number] = (asked, piece)
                self._send(frames.request(frames.READ, self._number, handle, end=frames.read_end(asked, piece)))
                asked += piece
            found = self._received()
            offset, piece = wanted.pop(found.request, (-1, 0))
            if found.type != frames.DATA or offset < 0:
                code, words = self._parsed(frames.status_of, found.rest)
                if code == frames.END_OF_FILE:
                    return ""
                raise _refusal(code, f"{path}: {words}")
            data = self._parsed(frames.string_of, found.rest)
            if len(data) != piece:
                return ""  # servers give less only at the end of a file
            early[offset] = data
            while got in early:
                data = early.pop(got)
                state.update(data)
                got += len(data)
        self._expect_ok(self._asked(frames.CLOSE, handle), path)
        return state.hexdigest()

    def rename(self, old: str, new: str) -> None:
        """Never over a file that is there: version 3 forbids it."""
        self._expect_ok(self._asked(frames.RENAME, old.encode(), new.encode()), new)

    def remove(self, path: str) -> None:
        self._expect_ok(self._asked(frames.REMOVE, path.encode()), path)

    # -- within

    def _handle(self, path: str, flags: int) -> bytes:
        found = self._asked(frames.OPEN, path.encode(), end=frames.open_end(flags))
        if found.type == frames.HANDLE:
            return self._parsed(frames.string_of, found.rest)
        raise _refusal(*self._parsed(frames.status_of, found.rest))

    def _expect_ok(self, found: Answer, path: str) -> None:
        code, words = self._parsed(frames.status_of, found.rest)
        if found.type != frames.STATUS or code != frames.OK:
            raise _refusal(code, f"{path}: {words}")

    def _asked(self, kind: int, *strings: bytes, end: bytes = b"") -> Answer:
        self._number += 1
        self._send(frames.request(kind, self._number, *strings, end=end))
        found = self._received()
        if found.request != self._number:
            raise TargetUnreachableError("the server answers out of turn")
        return found

    def _send(self, data: bytes) -> None:
        stream = self._process.stdin
        if stream is None:
            raise RuntimeError("no pipe")
        view = memoryview(data)
        try:
            while view:
                _, ready, _ = select.select([], [stream], [], STALL_S_MAX)
                if not ready:
                    raise TargetUnreachableError(f"the server takes nothing for {STALL_S_MAX:.0f} s")
                view = view[os.write(stream.fileno(), view[: select.PIPE_BUF]) :]
        except (OSError, ValueError):
            raise self._ended() from None

    def _received(self) -> Answer:
        head = self._bytes(4)
        return self._parsed(frames.answer, self._bytes(self._parsed(frames.length_of, head)))

    def _bytes(self, size: int) -> bytes:
        stream = self._process.stdout
        if stream is None:
            raise RuntimeError("no pipe")
        while len(self._buffer) < size:
            try:
                ready, _, _ = select.select([stream], [], [], STALL_S_MAX)
                data = os.read(stream.fileno(), 64 << 10) if ready else None
            except (OSError, ValueError):
                raise self._ended() from None
            if data is None:
                raise TargetUnreachableError(f"the server says nothing for {STALL_S_MAX:.0f} s")
            if not data:
                raise self._ended()
            self._buffer += data
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken

    def _listen(self) -> None:
        stream = self._process.stderr
        with suppress(OSError, ValueError):
            while stream is not None and (data := stream.read(1024)):
                self._stderr += data[: max(0, STDERR_BYTES_MAX - len(self._stderr))]
        if stream is not None:
            stream.close()

    def _ended(self) -> Exception:
        """The error that OpenSSH's last words stand for."""
        self._drain.join(2.0)
        words = " ".join(self._stderr.decode("utf-8", "replace").split())
        kind = next((kind for said, kind in _REASONS if said in words), TargetUnreachableError)
        return kind(words[-200:] or "the connection ended")

    def _parsed(self, parse: Callable[[bytes], Parsed], data: bytes) -> Parsed:
        try:
            return parse(data)
        except frames.NotSftpError as error:
            raise TargetUnreachableError(f"the server does not speak SFTP: {error}") from None


def _refusal(code: int, words: str) -> Exception:
    match code:
        case frames.NO_SUCH_FILE:
            return PlaceMissingError(words)
        case frames.PERMISSION_DENIED:
            return CredentialsRefusedError(words)
        case _:
            return TargetRefusedError(words)
