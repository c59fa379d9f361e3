"""Ports, certificates, and a line that breaks: what tests of remote targets need of the loopback."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

LOOPBACK = "127.0.55.9"
START_S_MAX = 180.0
"""Swift takes 8 s alone, and minutes on a machine that does much else."""


@dataclass(frozen=True)
class Certificate:
    """Self-signed, for LOOPBACK: its own authority."""

    chain: Path
    key: Path


def certificate(directory: Path) -> Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "archive service")])
    now = datetime.now().astimezone()  # noqa: TID251  the server's clock is the system's
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address(LOOPBACK))])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - timedelta(1), now + timedelta(9))
        .add_extension(alternative, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    found = Certificate(directory / "service.pem", directory / "service.key")
    found.chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    kind = serialization.PrivateFormat.PKCS8
    found.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption()))
    return found


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def until_open(port: int) -> None:
    end = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection((LOOPBACK, port), 1).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


class BreakingLine:
    """A way to a port that is cut, both directions, when so many bytes went up; `None`: never."""

    def __init__(self, port: int, cut_after: int | None = None) -> None:
        self._port, self.cut_after = port, cut_after
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        """Both directions of one connection, and both sockets closed when they have ended."""
        with near, suppress(OSError), socket.create_connection((LOOPBACK, self._port)) as far:
            back = threading.Thread(target=self._pass, args=(far, near, None), daemon=True)
            back.start()
            self._pass(near, far, self.cut_after)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, sink: socket.socket, left: int | None) -> None:
        with suppress(OSError):
            while data := source.recv(4096 if left is None else min(4096, max(left, 1))):
                if left is not None:
                    left -= len(data)
                sink.sendall(data)
                if left is not None and left <= 0:
                    break
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
