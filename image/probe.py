"""Runs inside the guest of the test profile, as root: does what the test asks over a virtio-serial port, one JSON object a line.

Carried by the test profile's kernel image alone (`image/testing.py`); no root of a box has it. Standard library only.

    {"do": "run", "argv": [...], "wait_s": 60}      -> {"code": 0, "out": "...", "err": "..."}
    {"do": "write", "path": "...", "text": "..."}   -> {}
    {"do": "read", "path": "..."}                   -> {"text": "..."}
    {"do": "forward", "ways": [[address, port, port at 10.0.2.2], ...]}   -> {}    TCP from the guest's loopback to the host's
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

PORT = "/dev/virtio-ports/xacbe.test"
HOST = "10.0.2.2"


def main() -> None:
    with open(PORT, "r+b", buffering=0) as port:
        port.write(b'{"ready": true}\n')
        rest = b""
        while True:
            data = port.read(65536)
            if not data:
                threading.Event().wait(0.1)  # nobody at the other end
                continue
            *whole, rest = (rest + data).split(b"\n")
            for line in whole:
                said = json.dumps(answer(json.loads(line))).encode() + b"\n"
                while said:
                    said = said[port.write(said) or 0 :]  # a port takes 32 KiB at once


def answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return HANDLERS[asked.pop("do")](**asked)
    except Exception as error:  # told to the test, which fails with it
        return {"error": repr(error)}


def run(argv: list[str], wait_s: float = 60) -> dict[str, Any]:
    done = subprocess.run(argv, capture_output=True, timeout=wait_s, check=False)
    return {"code": done.returncode, "out": done.stdout.decode(errors="replace"), "err": done.stderr.decode(errors="replace")}


def write(path: str, text: str) -> dict[str, Any]:
    with open(path + ".new", "w") as file:
        file.write(text)
    os.chmod(path + ".new", 0o644)
    os.replace(path + ".new", path)
    return {}


def read(path: str) -> dict[str, Any]:
    with open(path, errors="replace") as file:
        return {"text": file.read()}


def forward(ways: list[tuple[str, int, int]]) -> dict[str, Any]:
    for address, port, there in ways:
        carry(socket.create_server((address, port), backlog=64), (HOST, there))
    return {}


def carry(listener: socket.socket, there: tuple[str, int]) -> None:
    """Leads every connection of the listener to that place, for as long as the process lives. The test does the same on its side."""
    threading.Thread(target=_accept, args=(listener, there), daemon=True).start()


def _accept(listener: socket.socket, there: tuple[str, int]) -> None:
    while True:
        near, _ = listener.accept()
        try:
            far = socket.create_connection(there, 10)
        except OSError:
            near.close()
            continue
        far.settimeout(None)
        threading.Thread(target=_join, args=(near, far), daemon=True).start()


def _join(near: socket.socket, far: socket.socket) -> None:
    """Both directions, until both have ended."""
    with near, far:
        back = threading.Thread(target=_pour, args=(far, near), daemon=True)
        back.start()
        _pour(near, far)
        back.join()


def _pour(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:  # one end is gone: the other direction must not wait for it
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


HANDLERS: dict[str, Callable[..., dict[str, Any]]] = {"run": run, "write": write, "read": read, "forward": forward}

if __name__ == "__main__":
    main()
