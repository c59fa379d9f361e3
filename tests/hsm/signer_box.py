"""A signer as a real process, with its channels, its token and a recorder that only audits."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from appliance import topology
from appliance.errors import UnavailableError
from appliance.hsm.wire import CertificateImport, KeyRecord, KeyRequest, TokenStatus
from appliance.messagelog.wire import Audit
from appliance.net import local_sockets
from appliance.net.local_client import LocalClient
from appliance.net.local_server import LocalServer
from appliance.net.local_sockets import channel_path
from provisioning.lab import tokens
from provisioning.lab.tokens import TokenPlan
from tests.hsm import parts

SEAL = "seal/MUN/BENITO-JUAREZ"
MEMBER = "MUN/BENITO-JUAREZ"


class Recorder:
    """Keeps audit records in memory; away on demand."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self.records: list[Audit] = []
        self.away = False

    async def serve(self) -> None:
        async def refuse(caller: str, payload: bytes) -> None:
            raise UnavailableError("only audits")

        async def audit(caller: str, payload: bytes) -> None:
            if self.away:
                raise UnavailableError("away")
            self.records.append(msgspec.msgpack.decode(payload, type=Audit))

        handlers: dict[str, Any] = dict.fromkeys(topology.BY_NAME["recorder"].callers, refuse) | {"audit": audit}
        await LocalServer("recorder", handlers).serve({"signer": self._listener})

    def events(self) -> list[str]:
        return [record.event for record in self.records]


class SignerBox:
    """State directory, listening channels (they outlive the process, as with systemd), and the signer's process."""

    def __init__(self, state: Path, plan: TokenPlan, **signer: object) -> None:
        self.state, self.plan = state, plan
        for directory in ("keys", "run/signer", "run/recorder", "run/supervisor"):
            (state / directory).mkdir(parents=True, exist_ok=True)
        signing = "\n".join(f"{key} = {msgspec.json.encode(value).decode()}" for key, value in {**plan.settings, **signer}.items())
        box = 'instance = "QROO-TEST"\nmember_class = "MUN"\nmember_code = "BENITO-JUAREZ"\nserver_code = "SS1"'
        (state / "box.toml").write_text(f"[box]\n{box}\n[signer]\n{signing}\n")
        if plan.pin and signer.get("pin_mode") != "attended":
            tokens.write_pin(state, plan.pin)
        self._listeners = {caller: _listener(state, "signer", caller) for caller in topology.channels("signer")}
        self.recorder = Recorder(_listener(state, "recorder", "signer"))
        self.process: subprocess.Popen[bytes] | None = None
        self._clients: dict[str, LocalClient] = {}

    def start(self, *under: str) -> None:
        """As systemd passes sockets: descriptors from 3 on, LISTEN_PID the process itself. `under`: words of a program that runs it."""
        high = [fcntl.fcntl(sock.fileno(), fcntl.F_DUPFD, 50) for sock in self._listeners.values()]
        moved = " ".join(f"{3 + place}<&{fd}" for place, fd in enumerate(high))
        names = ":".join(f"channel.{caller}" for caller in self._listeners)
        command = ["/bin/bash", "-c", f'LISTEN_PID=$$ LISTEN_FDNAMES={names} exec "$@" {moved}', "sh"]
        command += [*under, sys.executable, "-m", "appliance", "signer", "--state", str(self.state)]
        with (self.state / "signer.log").open("ab") as log:
            self.process = subprocess.Popen(command, pass_fds=high, stderr=log, env={"PATH": os.defpath})
        for fd in high:
            os.close(fd)

    def kill(self) -> None:
        """SIGKILL; its callers' connections are gone with it."""
        for client in self._clients.values():
            client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def client(self, caller: str) -> LocalClient:
        """A client on the caller's own channel."""
        return self._clients.setdefault(caller, LocalClient(channel_path(self.state, "signer", caller)))

    async def status(self) -> TokenStatus:
        found: TokenStatus = await self.client("console").call("token_status", None, TokenStatus)
        return found

    async def until_state(self, state: str, seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds):
            while (await self.status()).state != state:
                await asyncio.sleep(0.02)

    async def until_audited(self, *events: str) -> None:
        """What happened is recorded after the answer."""
        async with asyncio.timeout(3):
            while not set(events) <= set(self.recorder.events()):
                await asyncio.sleep(0.01)

    async def with_key(self, label: str = SEAL, algorithm: str = "EC-P256") -> KeyRecord:
        """Generates a key and imports a certificate for it."""
        made = await self.client("console").call("generate_key", KeyRequest(label, algorithm), KeyRecord, timeout_s=60.0)
        seals = label.startswith("seal/")
        der = parts.certificate_for(made.public_key, seals=seals, client=not seals)
        known: KeyRecord = await self.client("console").call("import_certificate", CertificateImport(label, der), KeyRecord)
        return known

    async def close(self) -> int | None:
        """Ends the process orderly; its exit code."""
        for client in self._clients.values():
            client.close()
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return await asyncio.to_thread(self.process.wait, 5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@contextlib.asynccontextmanager
async def signer_box(state: Path, plan: TokenPlan, *, start: bool = True, **signer: object) -> AsyncIterator[SignerBox]:
    """A running signer with its recorder; ends with both. An error in the journal is shown by the failing test's output."""
    state.mkdir(exist_ok=True)
    box = SignerBox(state, plan, **signer)
    async with asyncio.TaskGroup() as group:
        recorder = group.create_task(box.recorder.serve())
        try:
            if start:
                box.start()
            yield box
        finally:
            await box.close()
            recorder.cancel()
            for listener in (*box._listeners.values(), box.recorder._listener):
                listener.close()


def _listener(state: Path, owner: str, caller: str) -> socket.socket:
    path = channel_path(state, owner, caller)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    local_sockets.bind(sock, path)
    sock.listen(64)
    return sock
