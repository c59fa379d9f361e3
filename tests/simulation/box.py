"""One box: its processes as they are, on a machine that can lose its power, its clock, its token and its disk.

Real: supervisor, signer, recorder, relay and trust agent, everything that they are made of, and the channels between them. Stand-ins: the
token's device (`SimToken`), the disk (`disk.py`), TLS (`pretend_tls.py`), systemd (this file; `RestartPolicy` decides for it).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes

from appliance import topology
from appliance.errors import CorruptStateError
from appliance.hsm import token
from appliance.hsm.certificates import CertificateStore
from appliance.hsm.software import SoftwareToken
from appliance.net import local_sockets
from appliance.net.local_sockets import channel_path
from appliance.processes import recorder as recorder_process
from appliance.processes.announcing import announce_forever
from appliance.processes.relay import Network, Relay
from appliance.processes.signer import Signer
from appliance.processes.supervisor import Supervisor
from appliance.processes.trust_agent import TrustAgent
from appliance.settings import BoxSettings, RecorderSettings, RelaySettings, SignerSettings, SupervisorSettings, TrustAgentSettings
from appliance.supervision.policy import EXIT_CORRUPT, KILLED, Hold, ProcessEnded, Released, RestartAfter, RestartPolicy
from tests.seal.workshop import INSTANCE, NOON_US
from tests.simulation.disk import Platter, SimDisk
from tests.simulation.network import NetworkLoop, SimNetwork
from tests.simulation.pretend_tls import CalmMachine, SimContexts, SimDialer, SimListener
from tests.simulation.randomness import SteadyKey
from tests.simulation.town import CLIENT_PORT, HTTPS_PORT, PEER_OCSP_PORT, PEER_PORT, Institution, Town
from tests.simulation.virtual_time import OUTSIDE, SimProcess, VirtualWorker

START_ORDER = ("supervisor", "signer", "trust_agent", "recorder", "relay")
RECORDER = RecorderSettings(segment_bytes_max=60_000, reserve_bytes=1 << 20, checkpoint_s=15, checkpoint_records=100)
PAGE_BYTES = 4096
TRUE_FROM_S = 1000.0
"""The loop's time at noon."""


class SimClock:
    """A machine's clock: the truth and a step. Monotonic time is the loop's, one boot for the whole run."""

    def __init__(self, loop: NetworkLoop) -> None:
        self._loop, self.step_us = loop, 0

    def true_us(self) -> int:
        return NOON_US + round((self._loop.now - TRUE_FROM_S) * 1_000_000)

    def now_us(self) -> int:
        return self.true_us() + self.step_us

    def monotonic_s(self) -> float:
        return self._loop.now


class SimToken(SoftwareToken):
    """Real keys; `mood`: `ready`, `gone` (pulled out) or `wrong` (signs something else). `signed`: every digest that it put its name to."""

    def __init__(self, institution: Institution) -> None:
        super().__init__(INSTANCE)
        self.mood, self.takes_s = "ready", 0.001
        self.signed: dict[str, set[bytes]] = {}
        self._steady: dict[str, SteadyKey] = institution.keys
        self._keys = {label: key.real for label, key in institution.keys.items()}
        self._secrets = {"wrap": institution.code.encode() * 8}

    def check(self) -> token.TokenFacts:
        if self.mood == "gone":
            raise token.TokenAbsentError("pulled out")
        return super().check()

    def sign_digest(self, label: str, digest: bytes, hash_name: str) -> bytes:
        self._present()
        if self.mood == "wrong":
            return self._steady[label].sign_digest(bytes(len(digest)), hashes.SHA512() if hash_name == "sha512" else hashes.SHA256())
        self.signed.setdefault(label, set()).add(digest)
        return self._steady[label].sign_digest(digest, hashes.SHA512() if hash_name == "sha512" else hashes.SHA256())

    def mac(self, label: str, data: bytes) -> bytes:
        self._present()
        return super().mac(label, data)

    def _present(self) -> None:
        if self.mood == "gone":
            raise token.TokenAbsentError("pulled out")


class Box:
    """`note(subject, what)`: a line of the trace."""

    def __init__(
        self,
        root: Path,
        town: Town,
        institution: Institution,
        loop: NetworkLoop,
        network: SimNetwork,
        chance: random.Random,
        note: Callable[..., None],
        log: logging.Logger,
    ) -> None:
        self.institution, self.state, self._loop, self._network, self._chance = institution, root / institution.host, loop, network, chance
        self._note, self._log = note, log
        shutil.copytree(town.template(institution), self.state)
        self.clock, self.token, self.platter = SimClock(loop), SimToken(institution), Platter(note)
        self.sync_s = 0.002
        self.processes: dict[str, SimProcess] = {}
        self.graves: list[SimProcess] = []
        self.bugs: list[str] = []
        """Ends that no fault explains."""
        self._policy, self._since_s = RestartPolicy(), dict[str, float]()
        self._held: set[str] = set()
        self.is_off = False
        self._boot = 0
        self.relay: Relay | None = None
        self._channels = {owner: self._listen(owner) for owner in START_ORDER if owner != "relay"}
        names = {"client_http": CLIENT_PORT, "client_https": HTTPS_PORT, "peer": PEER_PORT, "ocsp": PEER_OCSP_PORT}
        self._ports = {f"tcp.{name}": network.listen((institution.host, port)) for name, port in names.items()}

    # -- the machine

    def _listen(self, owner: str) -> dict[str, socket.socket]:
        found = {}
        (self.state / "run" / owner).mkdir(parents=True)
        for caller in topology.channels(owner):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            local_sockets.bind(sock, channel_path(self.state, owner, caller))
            sock.listen(64)
            self._loop.keep.add(sock.fileno())
            found[caller] = sock
        return found

    def start_all(self) -> None:
        self.is_off = False
        for name in START_ORDER:
            self.start(name)

    def lose_power(self) -> None:
        """Everything at once; of the log what was not synced may be gone."""
        self.is_off = True
        self._boot += 1
        for name in list(self.processes):
            self._end(name)
        self._network.switch_off(self.institution.host)
        self._drain()
        self.platter.lose_power(self._chance)
        self._lose_derived()

    def _drain(self) -> None:
        """Who waited on a channel when the power went is no more: nobody shall answer it."""
        for channels in self._channels.values():
            for sock in channels.values():
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        sock.accept()[0].close()

    def _lose_derived(self) -> None:
        """Index and tiles are never synced on an append's way: they are found as anything between new and gone."""
        log = self.state / "log"
        match self._chance.choice(("as it was", "as it was", "gone", "cut", "damaged")):
            case "gone":
                for file in log.glob("index.sqlite*"):
                    file.unlink()
            case "cut":
                for file in log.glob("index.sqlite-wal"):
                    with file.open("r+b") as opened:
                        opened.truncate(self._chance.randrange(file.stat().st_size + 1))
            case "damaged":
                self._damage(log / "index.sqlite")
        if self._chance.random() < 0.3:
            shutil.rmtree(log / "tiles" / "tile", ignore_errors=True)

    def end(self) -> None:
        """For good, and without a warning: only what was synced is there afterwards."""
        self.is_off = True
        self._boot += 1
        for name in list(self.processes):
            self._end(name)
        self.token.mood = "ready"
        self.platter.keep_synced()

    def _damage(self, file: Path) -> None:
        """One page of a database is something else."""
        if file.exists() and (pages := file.stat().st_size // PAGE_BYTES):
            with file.open("r+b") as opened:
                opened.seek(self._chance.randrange(pages) * PAGE_BYTES)
                opened.write(b"\xff" * PAGE_BYTES)

    def power_back(self) -> None:
        self._network.switch_on(self.institution.host)
        self._policy, self._held = RestartPolicy(), set()
        self.start_all()

    # -- its processes

    def start(self, name: str) -> None:
        if self.is_off or name in self.processes or name in self._held:
            return
        process = self.processes[name] = SimProcess(self.institution.host, name)
        self._since_s[name] = self._loop.now
        self._loop.start(process, self._run(name, process))

    def kill(self, name: str) -> None:
        """SIGKILL."""
        if name in self.processes:
            self._end(name)
            self._ended(name, -KILLED)

    def release(self) -> None:
        """A person has looked, and starts what is held."""
        for name in sorted(self._held):
            self._held.discard(name)
            for effect in self._policy.handle(Released(name)):
                if isinstance(effect, RestartAfter):
                    self.start(name)

    def _end(self, name: str) -> None:
        process = self.processes.pop(name)
        self.graves.append(process)
        if name == "recorder":
            self._take_from_the_dead()
        if name == "relay":
            self.relay = None
        self._loop.kill(process)

    def _take_from_the_dead(self) -> None:
        """SQLite would believe that the dead recorder's connections still hold its files: the living get them as files of their own."""
        log = self.state / "log"
        for file in [*log.glob("*.sqlite"), *log.glob("*.sqlite-wal")]:
            content = file.read_bytes()
            file.unlink()
            file.write_bytes(content)
        for file in log.glob("*.sqlite-shm"):
            file.unlink()

    def _ended(self, name: str, code: int) -> None:
        ran_s = self._loop.now - self._since_s[name]
        for effect in self._policy.handle(ProcessEnded(name, code, ran_s, self._loop.now)):
            if isinstance(effect, RestartAfter):
                self._loop.call_later(effect.seconds, self._restart, name, self._boot, context=OUTSIDE)
            elif isinstance(effect, Hold):
                self._note(self.institution.host, f"{name} is held: {effect.reason}")
                self._held.add(name)

    def _restart(self, name: str, boot: int) -> None:
        if boot == self._boot:
            self.start(name)

    def exit(self, process: SimProcess, error: BaseException) -> None:
        """The process ends itself, here and now (`os._exit`)."""
        if not process.dead:
            kind = getattr(error, "kind", type(error).__name__)
            self._note(process, f"exits: {kind}")
            self._end(process.name)
            self._loop.call_soon(self._ended, process.name, EXIT_CORRUPT, context=OUTSIDE)

    async def _run(self, name: str, process: SimProcess) -> None:
        log = self._log.getChild(f"{self.institution.host}.{name}")
        parts: dict[str, Callable[[SimProcess, logging.Logger], Coroutine[Any, Any, None]]] = {
            "supervisor": self._supervisor,
            "signer": self._signer,
            "trust_agent": self._trust_agent,
            "recorder": self._recorder,
            "relay": self._relay,
        }
        try:
            await parts[name](process, log)
        except BaseException as error:
            found = _first(error)
            expected = isinstance(found, CorruptStateError | asyncio.CancelledError) or getattr(found, "kind", "") in ("log.full",)
            if not expected:
                self.bugs.append(f"{process} ended by {found!r}")
            code = EXIT_CORRUPT if isinstance(found, CorruptStateError) else 1
            self._note(process, f"ends: {getattr(found, 'kind', type(found).__name__)}")
            asyncio.get_running_loop().call_soon(self._gone, process, code, context=OUTSIDE)

    def _gone(self, process: SimProcess, code: int) -> None:
        if not process.dead:
            self._end(process.name)
            self._ended(process.name, code)

    def _worker(self, name: str, work: Callable[[Any], None]) -> VirtualWorker:
        def takes_s() -> float:
            typical = self.sync_s if name == "log-writer" else self.token.takes_s
            return typical * self._chance.uniform(0.5, 1.5)

        return VirtualWorker(self._loop, work, takes_s)

    def _settings(self) -> BoxSettings:
        member = self.institution.member
        return BoxSettings(instance=INSTANCE, member_class=member.member_class, member_code=member.member_code, server_code="SS1")

    async def _supervisor(self, process: SimProcess, log: logging.Logger) -> None:
        supervisor = Supervisor(self.state, self._settings(), SupervisorSettings(), self.clock, log)
        await supervisor.serve(self._channels["supervisor"])

    async def _signer(self, process: SimProcess, log: logging.Logger) -> None:
        server = str(self.institution.server)
        store = CertificateStore(self.state / "keys" / "certificates")
        settings = SignerSettings(token="software")  # noqa: S106  a kind of token, no secret
        signer = Signer(self.state, server, settings, self.token, store, self.clock, log, self._worker)
        async with asyncio.TaskGroup() as group:
            group.create_task(signer.serve(self._channels["signer"]))
            group.create_task(announce_forever(self.state, "signer", self.clock, signer.describe))

    async def _trust_agent(self, process: SimProcess, log: logging.Logger) -> None:
        agent = TrustAgent(self.state, self._settings(), TrustAgentSettings(configuration_fetch_interval_s=10), self.clock, log)
        agent.load()
        async with asyncio.TaskGroup() as group:
            for part in agent.parts(self._channels["trust_agent"]):
                group.create_task(part)

    async def _recorder(self, process: SimProcess, log: logging.Logger) -> None:
        disk: SimDisk = self.platter.mount(process)
        _, coroutines = recorder_process.parts(
            self.state,
            RECORDER,
            self.clock,
            log,
            self._channels["recorder"],
            lambda error: self.exit(process, error),
            disk=disk,
            start_worker=self._worker,
        )
        async with asyncio.TaskGroup() as group:
            for part in coroutines:
                group.create_task(part)

    async def _relay(self, process: SimProcess, log: logging.Logger) -> None:
        async with asyncio.TaskGroup() as group:
            network = Network(SimContexts, SimDialer, SimListener, CalmMachine)
            relay = Relay(self.state, self._settings(), RelaySettings(), self.clock, log, group, network)
            relay.start(self._ports)  # type: ignore[arg-type]  # places of the simulated network
            group.create_task(announce_forever(self.state, "relay", self.clock, relay.describe))
            self.relay = relay

    def close(self) -> None:
        for channels in self._channels.values():
            for sock in channels.values():
                sock.close()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
