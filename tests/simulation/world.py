"""One run: the scenario played on the machines, on virtual time, and everything that was seen on the way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import logging
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.net.local_client import LocalClient
from appliance.net.local_sockets import channel_path
from appliance.supervision.wire import ChangeRights
from provisioning.centre import Parameters
from tests.simulation import scenario as plan
from tests.simulation.box import Box
from tests.simulation.ceiqroo import Ceiqroo
from tests.simulation.network import NetworkLoop, SimNetwork
from tests.simulation.randomness import seeded
from tests.simulation.scenario import PROGRESS_S, Ask, Fault, Scenario
from tests.simulation.systems import System
from tests.simulation.town import CEIQROO, Institution, Town, right, the_town
from tests.simulation.virtual_time import OUTSIDE, SimProcess

TICK_S = 1e-6
HURRY_S = 3.0
"""Between two questions of one information system that has not been served since the world healed."""
CONSOLE_S_MAX = 8.0
FIRST_AGAIN = 5000
"""Numbers of the questions that are asked after everything healed."""


@dataclass(frozen=True, slots=True)
class Change:
    """A right that was given or taken: known to the supervisor between these moments."""

    asked_s: float
    done_s: float | None
    key: tuple[str, str, str]
    served: bool


@dataclass
class World:
    """Everything of one run; `checks` judges it afterwards."""

    scenario: Scenario
    town: Town
    root: Path
    loop: NetworkLoop
    chance: random.Random
    trace: list[str] | None
    digest: Any = field(default_factory=hashlib.sha256)
    changes: list[Change] = field(default_factory=list)
    suspensions: list[tuple[float, float, str]] = field(default_factory=list)
    progress: dict[tuple[str, str], float] = field(default_factory=dict)
    """(asker, provider) -> seconds from the moment when all was healed to the first answer."""
    leaps_s: float = 0.0
    told: list[str] = field(default_factory=list)
    """Bugs that the product noticed by itself (`box.bug`)."""

    def __post_init__(self) -> None:
        self.network = SimNetwork(self.loop, self.chance, self.note)
        self.loop.network = self.network
        self.start_s = self.loop.now
        log = self._journal()
        chosen = [one for one in self.town.institutions if one.code in self.scenario.boxes]
        parts = (self.town,)
        self.boxes = {one.code: Box(self.root, *parts, one, self.loop, self.network, self.chance, self.note, log) for one in chosen}
        self.systems = {one.code: System(one, self.loop, self.network, self.note) for one in chosen}
        clock = next(iter(self.boxes.values())).clock
        self.ceiqroo = Ceiqroo(self.town, clock.true_us, Parameters(stamp_grace_s=self.scenario.grace_s))

    # -- what is told

    def note(self, subject: object, what: str) -> None:
        line = f"{self.loop.now - self.start_s:12.6f} {subject}: {what}"
        self.digest.update(line.encode() + b"\n")
        if self.trace is not None:
            self.trace.append(line)

    def _journal(self) -> logging.Logger:
        log = logging.getLogger(f"simulation.{self.scenario.seed}")
        log.propagate = False
        log.setLevel(logging.CRITICAL if self.trace is None else logging.INFO)
        log.handlers = [_Journal(self)]
        return log

    @property
    def bugs(self) -> list[str]:
        """What the product's own nets caught: an end that no fault explains, an exception in a handler."""
        found = [bug for box in self.boxes.values() for bug in box.bugs]
        return found + self.loop.failures + self.told

    # -- the run

    async def play(self) -> None:
        self.ceiqroo.open(self.network, self.loop)
        for system in self.systems.values():
            system.open()
        for box in self.boxes.values():
            box.start_all()
        await self._give_rights()
        async with asyncio.TaskGroup() as group:
            for ask in self.scenario.asks:
                self._later(group, ask.at_s, self._ask(ask))
            for fault in self.scenario.faults:
                self._later(group, fault.at_s, self._break(fault))
            await self._until(self.scenario.heal_s)
        await self._heal()
        self.note("world", "healed")
        await self._go_on()
        await asyncio.sleep(1.0)  # stamps of what came last

    def _later(self, group: asyncio.TaskGroup, at_s: float, act: Any) -> None:
        async def wait() -> None:
            await self._until(at_s)
            await act

        group.create_task(wait())

    async def _until(self, at_s: float) -> None:
        """By the scenario's time: hours that were leapt over do not count."""
        while (left := at_s - (self.loop.now - self.start_s - self.leaps_s)) > TICK_S:
            await asyncio.sleep(left)

    async def _give_rights(self) -> None:
        async with asyncio.TaskGroup() as group:
            for asker, provider, service in sorted(self.scenario.rights):
                group.create_task(self._right((asker, provider, service), served=True))
        await self._until(self.scenario.warm_s)

    async def _ask(self, ask: Ask) -> None:
        system = self.systems[ask.asker]
        done: asyncio.Future[None] = self.loop.create_future()

        async def main() -> None:
            await system.ask(ask, self.boxes[ask.provider].institution)
            self.loop.call_soon(lambda: done.set_result(None), context=OUTSIDE)

        self.loop.start(system.process, main())
        await done

    async def _go_on(self) -> None:
        """After the last fault: everybody who has a right asks until it is served, or I5 is broken."""
        number = iter(range(FIRST_AGAIN, 9000))
        healed_s = self.loop.now

        async def again(asker: str, provider: str) -> None:
            while self.loop.now - healed_s < PROGRESS_S:
                ask = Ask(next(number), 0.0, asker, provider, "open", 700)
                task, pause = asyncio.ensure_future(self._ask(ask)), asyncio.ensure_future(asyncio.sleep(HURRY_S))
                await asyncio.wait([task, pause], return_when=asyncio.FIRST_COMPLETED)
                if any(one.is_answer and one.ended_s >= healed_s for one in self.systems[asker].outcomes if one.ask.provider == provider):
                    self.progress[asker, provider] = self.loop.now - healed_s
                    pause.cancel()
                    return
                await pause

        async with asyncio.TaskGroup() as group:
            for asker, provider, service in sorted(self.scenario.rights):
                if service == "open":
                    group.create_task(again(asker, provider))

    # -- faults

    async def _break(self, fault: Fault) -> None:
        self.note("fault", f"{fault.kind} {fault.target} {fault.amount:g} until {fault.until_s:.3f}")
        async with contextlib.AsyncExitStack() as healing:
            await getattr(self, f"_fault_{fault.kind}")(fault, healing)
            await self._until(fault.until_s)
        self.note("fault", f"{fault.kind} {fault.target} is over")

    async def _heal(self) -> None:
        """What faults left behind and only a person mends."""
        for box in self.boxes.values():
            box.release()

    async def _fault_kill(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        code, process = fault.target.split()
        self.boxes[code].kill(process)

    async def _fault_power(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        box = self.boxes[fault.target]
        if not box.is_off:
            box.lose_power()
            healing.callback(box.power_back)

    async def _fault_sync_fails(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        platter = self.boxes[fault.target].platter
        platter.fail_syncs = int(fault.amount)
        healing.callback(setattr, platter, "fail_syncs", 0)

    async def _fault_disk_full(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        platter = self.boxes[fault.target].platter
        used = sum(len(inode.seen) for each in platter.directories.values() for inode in each.seen.values())
        self._set(healing, platter, "capacity", used + int(fault.amount))

    async def _fault_disk_slow(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.boxes[fault.target], "sync_s", fault.amount)

    def _link(self, fault: Fault) -> tuple[str, str]:
        one, other = fault.target.split()
        return self.boxes[one].institution.host, self.boxes[other].institution.host

    async def _fault_hold(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self.network.hold(*self._link(fault))
        healing.callback(self.network.free, *self._link(fault))

    async def _fault_cut(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        link = self.network.link(*self._link(fault))
        link.refused += 1
        self.network.cut(*self._link(fault))

        def mended() -> None:
            link.refused -= 1

        healing.callback(mended)

    async def _fault_slow(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.network.link(*self._link(fault)), "delay_s", (0.01, fault.amount))

    async def _fault_tamper(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        """Somebody in between, or the holder of a box, changes messages: one byte of every other large enough piece."""

        def changed(data: bytes) -> bytes | None:
            if len(data) < 2000 or self.chance.random() < 0.5:  # greetings stay: nobody forges a certificate
                return None
            begin = data.find(b"\r\n\r\n") + 4
            at = self.chance.randrange(begin, len(data))
            self.note("tamper", f"byte {at} of {len(data)}")
            return data[:at] + bytes((data[at] ^ self.chance.choice((1, 2, 32)),)) + data[at + 1 :]

        self._set(healing, self.network.link(*self._link(fault)), "tamper", changed)

    async def _fault_clock(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.boxes[fault.target].clock, "step_us", int(fault.amount * 1_000_000))

    async def _fault_leap(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        """Hours in which nothing runs but time: everything that waits finds its moment long past."""
        self.leaps_s += fault.amount
        self.loop.now += fault.amount

    async def _fault_token_slow(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.boxes[fault.target].token, "takes_s", fault.amount)

    async def _fault_token_gone(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.boxes[fault.target].token, "mood", "gone")

    async def _fault_token_wrong(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.boxes[fault.target].token, "mood", "wrong")

    async def _fault_ocsp(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.ceiqroo.moods, "ocsp", fault.target)

    async def _fault_tsa(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.ceiqroo.moods, "tsa", fault.target)

    async def _fault_configuration(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.ceiqroo.moods, "configuration", fault.target)

    async def _fault_ocsp_old(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.ceiqroo.moods, "ocsp_age_us", int(fault.amount * 1_000_000))

    async def _fault_tsa_clock(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        self._set(healing, self.ceiqroo.moods, "tsa_ahead_us", int(fault.amount * 1_000_000))

    async def _fault_system(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        system = self.systems[fault.target]
        if fault.amount:
            self._set(healing, system, "waits_s", fault.amount)
        else:
            self._set(healing, system, "breaks", True)

    async def _fault_right_gone(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        asker, provider, service = fault.target.split()
        key = (asker, provider, service)
        if await self._right(key, served=False):
            healing.push_async_callback(self._right_back, key)

    async def _fault_suspended(self, fault: Fault, healing: contextlib.AsyncExitStack) -> None:
        """CEIQROO publishes a configuration without this member; boxes fetch it within a minute, and none uses the old one for ever."""
        registry, code = self.ceiqroo.registry, fault.target
        registry.absent |= {code}
        began_s = self.loop.now

        def back() -> None:
            registry.absent -= {code}
            self.suspensions.append((began_s, self.loop.now, code))

        healing.callback(back)

    def _set(self, healing: contextlib.AsyncExitStack, thing: Any, name: str, value: Any) -> None:
        """Back to what is usual, not to what was: faults of one kind overlap."""
        usual = _USUAL[name]
        setattr(thing, name, value)
        healing.callback(setattr, thing, name, usual)

    # -- acts of persons

    async def _right_back(self, key: tuple[str, str, str]) -> None:
        for _ in range(20):
            if await self._right(key, served=True):
                return
            await asyncio.sleep(2.0)

    async def _right(self, key: tuple[str, str, str], *, served: bool) -> bool:
        """The provider's technician changes a right; whether the supervisor took it."""
        asker, provider, service = key
        box = self.boxes[provider]
        institution = {one.code: one for one in self.town.institutions}[asker]
        request = ChangeRights(right(institution, box.institution, service), not served)
        asked_s = self.loop.now
        outcome: asyncio.Future[bool] = self.loop.create_future()

        async def console() -> None:
            client = LocalClient(channel_path(box.state, "supervisor", "console"))
            try:
                await client.call("change_rights", request, None, CONSOLE_S_MAX)
                good = True
            except Exception as error:  # away, or the recorder is: a person tries again
                self.note(box.institution.host, f"the technician is refused: {getattr(error, 'kind', error)}")
                good = getattr(error, "kind", "") == "local.no_such_right"
            client.close()
            self.loop.call_soon(outcome.set_result, good, context=OUTSIDE)

        person = SimProcess(box.institution.host, "console")
        self.loop.start(person, console())
        done = await outcome
        self.changes.append(Change(asked_s, self.loop.now if done else None, key, served))
        return done


_USUAL: dict[str, Any] = {
    "capacity": 1 << 40,
    "sync_s": 0.002,
    "delay_s": (0.0002, 0.004),
    "tamper": None,
    "step_us": 0,
    "takes_s": 0.001,
    "mood": "ready",
    "ocsp": "up",
    "tsa": "up",
    "configuration": "up",
    "ocsp_age_us": 0,
    "tsa_ahead_us": 0,
    "waits_s": 0.01,
    "breaks": False,
}


class _Journal(logging.Handler):
    """The system logs of all processes, in the trace."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() == "box.bug":
            self._world.told.append(getattr(record, "facts", {}).get("traceback", "")[-600:])
        facts = " ".join(f"{name}={value}" for name, value in getattr(record, "facts", {}).items())
        line = f"{self._world.loop.now - self._world.start_s:12.6f}   {record.name.split('.', 2)[-1]} {record.getMessage()} {facts}"
        if self._world.trace is not None:
            self._world.trace.append(line[:400])


Judge = Callable[[World], list[str]]
Bug = Callable[[World], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Report:
    """What came of one seed."""

    seed: int
    broken: list[str]
    digest: str
    virtual_s: float
    answers: int
    asked: int
    trace: list[str]

    @property
    def full_digest(self) -> str:
        """Of everything in the trace, the journals too."""
        return hashlib.sha256("\n".join(self.trace).encode()).hexdigest()


def run(seed: int, judge: Judge, *, traced: bool = False, bug: Bug = contextlib.nullcontext) -> Report:
    """Plays one seed and judges it. `bug`: a planted one, for this run (`planted`)."""
    memory = Path("/dev/shm")  # noqa: S108  a file system in memory: nothing here needs a real disk
    base = memory if memory.is_dir() else None
    with quiet(), tempfile.TemporaryDirectory(prefix="xacbe-simulation-", dir=base) as directory:
        town = the_town(_town_directory(base))
        gc.disable()  # what a dead process left open is closed between the runs: within the next, its number may be somebody else's by then
        try:
            with seeded(str(seed)):
                return _played(plan.scenario(seed), town, Path(directory), judge, traced, bug)
        finally:
            gc.enable()
            gc.collect()


def _played(scenario: Scenario, town: Town, root: Path, judge: Judge, traced: bool, bug: Bug) -> Report:
    chance = random.Random(f"world {scenario.seed}")  # noqa: S311  a simulation's dice
    loop = NetworkLoop(lambda: chance.choice((0.0, 0.0001, 0.003)))
    asyncio.set_event_loop(loop)
    world = World(scenario, town, root, loop, chance, [] if traced else None)
    broken: list[str] = []
    try:
        with bug(world):
            loop.run_until_complete(world.play())
        broken = judge(world)
    except Exception as error:  # the run itself failed: as bad as any invariant
        broken = [f"the run ended: {error!r}"]
        if traced:
            raise
    finally:
        _curtain(world)
    outcomes = [one for system in world.systems.values() for one in system.outcomes]
    answers = sum(one.is_answer for one in outcomes)
    return Report(scenario.seed, broken, world.digest.hexdigest(), loop.now - world.start_s, answers, len(outcomes), world.trace or [])


def _curtain(world: World) -> None:
    loop = world.loop
    processes = [*(p for box in world.boxes.values() for p in (*box.graves, *box.processes.values()))]
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.drop(processes)
    for box in world.boxes.values():
        box.close()
    asyncio.set_event_loop(None)
    loop.close()
    logging.getLogger(f"simulation.{world.scenario.seed}").handlers = []  # loggers are kept for ever, and the whole world with this one's


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Killed processes leave open sockets and half-run coroutines behind: here that is the point."""
    if _quiet:
        yield
        return
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    _quiet.append(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
            gc.collect()
    finally:
        _quiet.clear()
        sys.unraisablehook = hook


_quiet: list[bool] = []
_directories: list[Path] = []


def _town_directory(base: Path | None) -> Path:
    if not _directories:
        import atexit

        made = Path(tempfile.mkdtemp(prefix="xacbe-town-", dir=base))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        _directories.append(made)
    return _directories[0]


__all__ = ["CEIQROO", "Change", "Institution", "Report", "World", "run"]
