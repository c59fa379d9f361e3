"""Connections that do their worst, in a process of their own: `python -m tests.boxes.flooder HOST PORT KIND COUNT SOURCES A_SECOND`.

    half-open  connects and says nothing
    hello      begins a TLS handshake and says no more
    head       a request head, one byte every ten seconds
    body       a whole head, then one byte of its body every ten seconds
    ask        a whole request, and waits for its answer for ever
    deaf       the same, and never reads

Whatever is cut is opened again, at most A_SECOND new ones each second; a line on standard output says how many stand once all do, or as
many as there is room for. Ends with its standard input.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

DRIBBLE_S = 10.0
TICK_S = 0.02
SETTLED_S = 1.0
"""Without another connection standing: so many there is room for."""


def client_hello() -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, sent).do_handshake()
    return sent.read()


class Flood:
    """The sockets of one flood. `first` is sent as soon as a connection stands, `then` every DRIBBLE_S."""

    def __init__(self, place: tuple[str, int], sources: list[str], first: bytes, then: bytes, *, reads: bool = True) -> None:
        self._place, self._sources, self._first, self._then, self._reads = place, sources, first, then, reads
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._made = 0

    def __len__(self) -> int:
        return len(self._open)

    def add(self) -> bool:
        sock = socket.socket()
        sock.bind((self._sources[self._made % len(self._sources)], 0))
        sock.settimeout(5)
        if not self._reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._made += 1
        try:
            sock.connect(self._place)
            sock.setblocking(False)
            if self._first:
                sock.send(self._first)
        except OSError:
            sock.close()
            return False
        self._open[sock.fileno()] = sock, time.monotonic() + DRIBBLE_S
        self._poll.register(sock, (select.EPOLLIN if self._reads else 0) | select.EPOLLRDHUP)
        return True

    def turn(self, wait_s: float) -> None:
        """Closes what was cut, sends the next byte where it is due."""
        for fd, events in self._poll.poll(wait_s):
            sock, _ = self._open[fd]
            try:
                alive = not events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR) and bool(sock.recv(65536))
            except BlockingIOError:
                alive = True
            except OSError:
                alive = False
            if not alive:
                del self._open[fd]
                self._poll.unregister(fd)
                sock.close()
        now = time.monotonic()
        for fd, (sock, due) in list(self._open.items()) if self._then else ():
            if now >= due:
                with contextlib.suppress(OSError):
                    sock.send(self._then)
                self._open[fd] = sock, now + DRIBBLE_S


def flood_of(kind: str, place: tuple[str, int], sources: list[str], request: bytes) -> Flood:
    head = request or b"POST / HTTP/1.1\r\nHost: box\r\nContent-Length: 1000000\r\n\r\n"
    kinds = {
        "half-open": (b"", b""),
        "hello": (client_hello(), b""),
        "head": (b"G", b"E"),
        "body": (head, b"x"),
        "ask": (head, b""),
        "deaf": (head, b""),
    }
    first, then = kinds[kind]
    return Flood(place, sources, first, then, reads=kind != "deaf")


def main(host: str, port: int, kind: str, count: int, sources: int, a_second: int, request: str = "") -> None:
    network = host.rpartition(".")[0]
    flood = flood_of(kind, (host, port), [f"{network}.{100 + number}" for number in range(sources)], bytes.fromhex(request))
    began, told = time.monotonic(), False
    allowance, last, grown, most = 0.0, began, began, 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        now = time.monotonic()
        allowance, last = min(a_second, allowance + a_second * (now - last)), now
        while allowance >= 1 and len(flood) < count:
            allowance -= 1
            flood.add()
        flood.turn(TICK_S)
        if len(flood) > most:
            most, grown = len(flood), now
        if not told and (len(flood) == count or now - grown > SETTLED_S):
            told = True
            print(most, flush=True)


@contextmanager
def flooding(host: str, port: int, kind: str, count: int, *, sources: int, a_second: int, request: bytes = b"") -> Iterator[int]:
    """A flood that stands, while the block runs: how many connections it holds."""
    words = [host, str(port), kind, str(count), str(sources), str(a_second), request.hex()]
    child = subprocess.Popen([sys.executable, "-m", __name__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline())
    finally:
        child.stdin.close()
        try:
            child.wait(timeout=20)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


if __name__ == "__main__":
    host, port, kind, *numbers = sys.argv[1:]
    main(host, int(port), kind, *(int(number) for number in numbers[:3]), *numbers[3:])
