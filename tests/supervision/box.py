"""A box's directory with channels bound by the test, and one of its processes started as its parent would."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance import topology
from appliance.net import local_sockets
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path


def make_box(state: Path, **sections: str) -> Path:
    """A state directory with settings; extra keys by section: `reporter='broker_port = 1'`."""
    lines = ["[box]", 'instance = "QROO-TEST"', 'member_class = "MUN"', 'member_code = "BENITO-JUAREZ"', 'server_code = "SS1"']
    for section, keys in sections.items():
        lines += [f"[{section}]", keys]
    state.mkdir(parents=True, exist_ok=True)
    (state / "box.toml").write_text("\n".join(lines) + "\n")
    return state


def bind_channels(state: Path, owner: str) -> dict[str, socket.socket]:
    """The listening sockets of one process, as the parent keeps them over its deaths."""
    listeners = {}
    for caller in topology.channels(owner):
        path = channel_path(state, owner, caller)
        path.parent.mkdir(parents=True, exist_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        local_sockets.bind(listener, path)
        listener.listen(64)
        listeners[caller] = listener
    return listeners


class RunningProcess:
    """One process of the box as its own program, with its channels passed on as systemd does."""

    def __init__(self, state: Path, name: str, program: list[str] | None = None) -> None:
        self.state, self.name = state, name
        self._program = program or ["appliance", name, "--state", str(state)]
        self.listeners = bind_channels(state, name)
        self.log = state / f"{name}.log"
        self._clients: list[BlockingClient] = []
        self._start()

    def _start(self) -> None:
        names = ":".join(f"channel.{caller}" for caller in self.listeners)
        environment = os.environ | {  # noqa: TID251  what the parent passes on
            "LISTEN_FDS": str(len(self.listeners)),
            "LISTEN_FDNAMES": names,
        }
        wanted = [listener.fileno() for listener in self.listeners.values()]
        with self.log.open("ab") as log:
            self.child = subprocess.Popen(
                [sys.executable, "-c", _MOVER, json.dumps(wanted), *self._program],
                env=environment,
                pass_fds=wanted,
                stderr=log,
            )

    def restart(self) -> None:
        self._start()

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.child.send_signal(signal.SIGTERM)
        return self.child.wait(5)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        if self.child.poll() is None:
            self.kill()
        for listener in self.listeners.values():
            listener.close()

    def client(self, caller: str) -> BlockingClient:
        self._clients.append(BlockingClient(channel_path(self.state, self.name, caller), 10))
        return self._clients[-1]

    def events(self) -> list[dict[str, object]]:
        """Its system log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


# Descriptors must be 3, 4, ...: they are moved out of the way first, because wanted and given numbers overlap.
_MOVER = """
import fcntl, json, os, sys
given = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for fd in json.loads(sys.argv[1])]
for place, fd in enumerate(given, 3):
    os.dup2(fd, place, inheritable=True)
    os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.executable, [sys.executable, "-m", *sys.argv[2:]])
"""


def until(true: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Asks again every 50 ms until it is true; the last answer. Fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = true()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
