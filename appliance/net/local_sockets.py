"""The paths of the local sockets between the box's processes, and what of them a parent passes on.

Each caller has a socket of its own at the owner (`appliance.topology`), so the channel is the identity; where processes run under users of
their own the kernel's word (SO_PEERCRED) must agree. The listening sockets belong to the parent (systemd, or the laboratory's keeper) and
survive the owner's death: callers reconnect and wait in the backlog until the owner is back. Who answers is `local_server`, who asks
`local_client`; both speak frames over a `local_stream`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path


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
