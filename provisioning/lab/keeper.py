"""The laboratory's keeper: what systemd is in the image. Opens sockets, starts units, restarts what dies, stops everything.

One small single-threaded process for a whole laboratory. It reads a plan (units with command, user, sockets), holds the listening
sockets so that callers wait in the backlog while a process restarts, and answers `status` and `stop` on a UNIX socket in the
laboratory's directory. Units die with it (PR_SET_PDEATHSIG), so nothing is ever left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from appliance.clock import Clock, SystemClock
from appliance.net import local_sockets
from appliance.supervision import policy

PLAN_FILE, CONTROL_SOCKET = "keeper.json", "keeper.sock"
STOP_S_MAX = 5.0
"""From SIGTERM to SIGKILL: longer than the 3 s that a process of the box may take to stop."""
BACKLOG = 1024
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class Socket(msgspec.Struct):
    """A listening socket of a unit: UNIX path (owned by the one user that may connect) or `address:port`."""

    name: str
    unix: str = ""
    tcp: str = ""
    uid: int = 0


class Unit(msgspec.Struct):
    """One process: what a service unit of the image says. `stop_rank`: higher ranks stop later (tokens outlive signers)."""

    name: str
    argv: list[str]
    log: str
    environment: dict[str, str] = {}
    uid: int = 0
    sockets: list[Socket] = []
    descriptors_max: int = 1024
    stop_rank: int = 0
    held_mark: str = ""
    """File that says why the unit is held; the box's supervisor reads it."""


class Plan(msgspec.Struct):
    """All units of the laboratory, in starting order."""

    units: list[Unit]


@dataclass
class _Running:
    unit: Unit
    pid: int = 0
    started_s: float = 0.0
    held: bool = False
    away: bool = False
    """Stopped by a person (`hold`), until `release`."""
    restarts: int = 0


class Keeper:
    """Runs a plan until `stop`."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self._clock = clock
        self._running = {unit.name: _Running(unit) for unit in plan.units}
        self._sockets: dict[str, socket.socket] = {}
        self._policy = policy.RestartPolicy()
        self._stopping = False
        self.stopped = asyncio.Event()

    def start(self) -> None:
        """Opens every socket first, so that any starting order works, then starts every unit."""
        for running in self._running.values():
            for wanted in running.unit.sockets:
                self._open(wanted)
        for running in self._running.values():
            self._spawn(running)

    def status(self) -> dict[str, dict[str, Any]]:
        return {name: {"pid": running.pid, "restarts": running.restarts, "held": running.held} for name, running in self._running.items()}

    def reap(self) -> None:
        """SIGCHLD: buries the dead and decides by policy when they come back."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = next((one for one in self._running.values() if one.pid == pid), None)
            if running is not None:
                self._ended(running, status)

    def _ended(self, running: _Running, status: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)  # its children go with it, as systemd does: a token's server has one for each connection
        running.pid = 0
        if self._stopping or running.away:
            return
        now_s = self._clock.monotonic_s()
        ended = policy.ProcessEnded(running.unit.name, os.waitstatus_to_exitcode(status), now_s - running.started_s, now_s)
        for effect in self._policy.handle(ended):
            match effect:
                case policy.RestartAfter():
                    running.restarts += 1
                    asyncio.get_running_loop().call_later(effect.seconds, self._spawn, running)
                case policy.StartWhenCalled():
                    for sock in self._sockets_of(running.unit):
                        asyncio.get_running_loop().add_reader(sock, self._spawn, running)
                case policy.Hold():
                    running.held = True
                    if running.unit.held_mark:
                        Path(running.unit.held_mark).write_text(effect.reason)
                case policy.RaiseIncident():
                    pass  # the box's own supervisor sees the silence; in the laboratory nobody else asks

    async def stop(self) -> None:
        """SIGTERM rank by rank, SIGKILL for what does not listen; returns when nothing runs."""
        self._stopping = True
        for rank in sorted({running.unit.stop_rank for running in self._running.values()}):
            units = [running for running in self._running.values() if running.unit.stop_rank == rank]
            self._signal(units, signal.SIGTERM)
            deadline = self._clock.monotonic_s() + STOP_S_MAX
            while any(running.pid for running in units):
                await asyncio.sleep(0.02)
                if self._clock.monotonic_s() > deadline:
                    self._signal(units, signal.SIGKILL)
        self.stopped.set()

    async def hold(self, name: str) -> None:
        """Stops one unit until `release`: how a laboratory shows what a service's silence does. An unknown name changes nothing."""
        running = self._running.get(name)
        if running is None:
            return
        running.away = True
        self._signal([running], signal.SIGTERM)
        deadline = self._clock.monotonic_s() + STOP_S_MAX
        while running.pid:
            await asyncio.sleep(0.02)
            if self._clock.monotonic_s() > deadline:
                self._signal([running], signal.SIGKILL)

    def release(self, name: str) -> None:
        """Starts a unit that was held."""
        running = self._running.get(name)
        if running is not None and running.away:
            running.away = False
            self._spawn(running)

    def _signal(self, units: Iterable[_Running], number: signal.Signals) -> None:
        for running in units:
            if running.pid:
                os.kill(running.pid, number)

    def _open(self, wanted: Socket) -> None:
        key = wanted.unix or wanted.tcp
        if key in self._sockets:
            return
        if wanted.unix:
            path = Path(wanted.unix)
            path.unlink(missing_ok=True)
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            local_sockets.bind(sock, path)
            path.chmod(0o600)
            os.chown(path, wanted.uid, -1)
        else:
            host, _, port = wanted.tcp.rpartition(":")
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only where it sees TCP
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, int(port)))
        sock.listen(BACKLOG)
        self._sockets[key] = sock

    def _sockets_of(self, unit: Unit) -> list[socket.socket]:
        return [self._sockets[wanted.unix or wanted.tcp] for wanted in unit.sockets]

    def _spawn(self, running: _Running) -> None:
        for sock in self._sockets_of(running.unit):
            asyncio.get_running_loop().remove_reader(sock)  # a unit that rested accepts for itself again
        if self._stopping or running.away or running.pid:
            return
        unit = running.unit
        inherited = [sock.fileno() for sock in self._sockets_of(unit)]
        pid = os.fork()
        if pid == 0:
            try:
                _become(unit, inherited)
            except BaseException as error:
                os.write(2, f"{unit.name}: {error!r}\n".encode())
            finally:
                os._exit(127)
        running.pid, running.started_s = pid, self._clock.monotonic_s()


def _become(unit: Unit, inherited: list[int]) -> None:
    """In the child: log, sockets from descriptor 3 on, user, limits, then the program. Only async-safe steps."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    log = os.open(unit.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.fchmod(log, 0o600)  # an older laboratory's too: logs name clients and services; the unit writes through this descriptor alone
    nothing = os.open(os.devnull, os.O_RDONLY)
    high = [os.dup(fd) for fd in inherited]  # out of the way of the places they go to
    while high and min(high) < 3 + len(high):
        high = [os.dup(fd) for fd in high]
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for place, fd in enumerate(high, start=3):
        os.dup2(fd, place, inheritable=True)
    os.closerange(3 + len(high), 4096)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _limit_descriptors(unit.descriptors_max)
    with contextlib.suppress(ValueError, OSError):  # a container's root may not raise it; the signer says whether its memory is locked
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    if unit.uid:
        os.setgroups([])
        os.setresgid(unit.uid, unit.uid, unit.uid)
        os.setresuid(unit.uid, unit.uid, unit.uid)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # after the change of user, which clears it
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **unit.environment}
    if inherited:
        environment |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(inherited))}
        environment["LISTEN_FDNAMES"] = ":".join(wanted.name for wanted in unit.sockets)
    os.execve(unit.argv[0], unit.argv, environment)  # noqa: S606  the plan's own command, no shell


def _limit_descriptors(wanted: int) -> None:
    """As many as the unit is granted, or as many as this machine allows: a container's root may not raise the hard limit."""
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (ValueError, OSError):
        allowed = min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))


async def _serve(directory: Path) -> None:
    plan = msgspec.json.decode((directory / PLAN_FILE).read_bytes(), type=Plan)
    keeper = Keeper(plan, SystemClock())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, keeper.reap)
    async with asyncio.TaskGroup() as group:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: group.create_task(keeper.stop()))
        keeper.start()
        control = directory / CONTROL_SOCKET
        control.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local_sockets.bind(sock, control)
        control.chmod(0o600)

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request, _, name = (await reader.readline()).decode("ascii", "replace").strip().partition(" ")
            match request:
                case "stop":
                    await keeper.stop()
                case "hold":
                    await keeper.hold(name)
                case "release":
                    keeper.release(name)
            writer.write(json.dumps({"pid": os.getpid(), "units": keeper.status()}).encode() + b"\n")
            await writer.drain()
            writer.close()

        server = await asyncio.start_unix_server(answer, sock=sock)
        await keeper.stopped.wait()
        server.close()
        control.unlink(missing_ok=True)


def ask(directory: Path, request: str, timeout_s: float = 20.0) -> dict[str, Any] | None:
    """What the keeper of this laboratory answers to `status`, `stop`, `hold UNIT` or `release UNIT`; None where no keeper runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout_s)
        try:
            local_sockets.connect(sock, directory / CONTROL_SOCKET)
        except OSError:
            return None
        sock.sendall(request.encode() + b"\n")
        with sock.makefile("rb") as answer:
            line = answer.readline()
    return dict(json.loads(line)) if line else None


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
