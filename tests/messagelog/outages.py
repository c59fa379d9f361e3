"""Outages of hours and days, played on a virtual clock through the real recorder over a real disk (T20-T23, T38-T40).

What is virtual is time and what happens outside: the time-stamping authority falls silent, tells a wrong time or answers; the OCSP
responder falls silent; the wall clock is stepped; the recorder is stopped and started. Everything else is real: queue, writer, segments,
index, seals, tokens. A box seals only as long as `trust.autonomy` allows, and does nothing while its clock is off signed time.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.commands.log import container_of
from appliance.errors import XacbeError
from appliance.messagelog.entries import begins_us, ends_us
from appliance.messagelog.index import _STATES
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.stamping import PATIENCE_S, Ticked, Waiting
from appliance.messagelog.wire import Append, Appended, ListRecords, Seal
from appliance.seal.verify import verify_container
from appliance.trust import autonomy, signed_time
from appliance.trust.autonomy import check_evidence_gap
from appliance.trust.signed_time import SignedMoment, SignedTime, judged
from appliance.trust.wire import StampReply
from provisioning.authority.tsa import ACCURACY_MS
from tests.messagelog.drafts import StillClock
from tests.messagelog.log_box import Authority, LogBox, append, listed, read
from tests.seal.workshop import NOON_US, known

S = 1_000_000
H = 3600 * S
GRACE_US = 4 * H
FRESHNESS_S = 8 * 3600
STEP_S = 1200
TURNS_MAX = 400


class WallClock(StillClock):
    """True time with a step: `us` is the truth, the machine shows something else."""

    step_us = 0

    def now_us(self) -> int:
        return self.us + self.step_us


class TrueTime(StillClock):
    """What the authority's clock shows: the truth, or something else by `error_us`."""

    def __init__(self, clock: StillClock) -> None:
        self._clock, self.error_us = clock, 0

    def now_us(self) -> int:
        return self._clock.us + self.error_us


@dataclass
class Acknowledged:
    """A message that the recorder answered for, with the OCSP times inside its seal."""

    produced_us: int
    appended: Appended


@dataclass
class World:
    """One box and its trust services."""

    root: Path
    chance: random.Random
    acknowledged: dict[int, Acknowledged] = field(default_factory=dict)
    refused: int = 0
    made: int = 0
    stopped_steps: int = 0

    def __post_init__(self) -> None:
        self.box = LogBox(self.root)
        self.clock = WallClock(NOON_US)
        self.box.clock = self.clock
        self.time = TrueTime(self.clock)
        self.authority = Authority(self.box.workshop, self.time)
        self.box.authority = self.authority
        self.produced_us = NOON_US
        self.responder_silent = False
        self.signed = SignedTime()
        self.hear()

    def hear(self) -> None:
        """A live OCSP response: new evidence, and what time it is."""
        if not self.responder_silent:
            self.produced_us = self.clock.us - self.clock.us % S
            self.signed = SignedTime(SignedMoment(self.clock.us, signed_time.monotonic_us(self.clock)), self.clock.us)

    def may_seal(self) -> bool:
        off = self.signed.offset_us(self.clock.now_us(), signed_time.monotonic_us(self.clock))
        ends_us = autonomy.sealing_ends_at_us(self.produced_us, self.produced_us, None, FRESHNESS_S)
        return judged(off) != "stop" and self.clock.now_us() < ends_us

    def messages(self, count: int, *, received: bool) -> list[Append]:
        """Sealed with the evidence at hand; a peer's may be older than ours."""
        ids = [f"Q-{self.made + number}" for number in range(count)]
        self.made += count
        produced_us = self.produced_us
        if received:
            produced_us = min(produced_us, self.clock.us - self.chance.choice((0, 1200, 7 * 3600)) * S)
        found = self.box.appends(ids, received=received, confirmed_us=produced_us)
        return [
            msgspec.structs.replace(
                one,
                seal=msgspec.structs.replace(one.seal, ocsp_produced_at_us=produced_us, ocsp_this_update_us=produced_us),
                signed_at_us=self.clock.now_us(),
            )
            for one in found
        ]


async def step(world: World, recorder: Recorder, count: int) -> None:
    """Twenty minutes: traffic both ways, everybody waits as long as they wait, and what is due happens."""
    recorder.stamper.signed = world.signed
    recorder.stamper.grace(GRACE_US)
    if not world.may_seal():
        world.stopped_steps += 1
    else:
        wanted = [*world.messages(count // 2, received=True), *world.messages(count - count // 2, received=False)]
        tasks = [asyncio.ensure_future(append(recorder, one)) for one in wanted]
        await _turns(world, recorder, tasks)
        for one, task in zip(wanted, tasks, strict=True):
            if isinstance(error := task.exception(), XacbeError):
                world.refused += 1
                continue
            assert error is None
            appended = task.result()
            world.acknowledged[appended.sequence] = Acknowledged(one.seal.ocsp_produced_at_us, appended)
    world.clock.pass_s(STEP_S)
    world.hear()
    recorder.stamper.signed = world.signed
    recorder.stamper.handle(Ticked())
    await _settled(recorder)


async def _turns(world: World, recorder: Recorder, tasks: list[asyncio.Future[Appended]]) -> None:
    """Seconds pass until nobody waits any more."""
    for turn in range(TURNS_MAX):
        await asyncio.sleep(0.001)
        if all(task.done() for task in tasks):
            return
        if turn % 5 == 4:
            world.clock.pass_s(PATIENCE_S / 4)
            recorder.stamper.handle(Ticked())
    raise AssertionError("somebody waits for ever")


async def _settled(recorder: Recorder) -> None:
    """What was asked for is answered and written."""
    for _ in range(3):
        await asyncio.sleep(0.001)
    await listed(recorder, ListRecords(limit=1))


async def heal(world: World, recorder: Recorder) -> None:
    """Everything answers again: whatever can be stamped is, whatever cannot is withdrawn."""
    world.authority.silent = world.responder_silent = False
    world.time.error_us = world.clock.step_us = 0
    for _ in range(TURNS_MAX):
        world.hear()
        recorder.stamper.signed = world.signed
        world.clock.pass_s(30)
        recorder.stamper.handle(Ticked())
        await _settled(recorder)
        if not recorder.stamper.stamps.waiting:
            await _settled(recorder)
            return
    raise AssertionError(f"{recorder.stamper.stamps.waiting} records still wait for a stamp")


async def unexplained(world: World, recorder: Recorder, *, verified_max: int) -> list[str]:
    """Every acknowledged message that has neither a valid stamp nor a notice; some containers are verified whole."""
    found: list[str] = []
    states = await _states(recorder)
    query = "SELECT message FROM notice WHERE system_us IS NULL AND peer_us IS NULL"  # due to both: nobody delivers here
    noticed = {row[0] for row in await recorder._follower.ask(lambda index: index._connection.execute(query).fetchall())}
    for sequence, one in world.acknowledged.items():
        state, stamped_at_us = states[sequence]
        if state == "unconfirmed":
            found += [] if sequence in noticed else [f"{sequence} is unconfirmed, and nobody is told"]
            continue
        if state != "stamped" or stamped_at_us is None:
            found.append(f"{sequence} is {state}")
            continue
        try:
            check_evidence_gap(one.produced_us, one.produced_us, stamped_at_us, ACCURACY_MS * 1000)
        except XacbeError as error:
            found.append(f"{sequence}: {error}")
    stamped = [sequence for sequence in world.acknowledged if states[sequence][0] == "stamped"]
    for sequence in world.chance.sample(stamped, min(verified_max, len(stamped))):
        report = verify_container(await _container(recorder, sequence), known(world.box.workshop), None)
        found += [] if report.verdict == "valid" else [f"{sequence}: {report.reason}"]
    return found


async def _states(recorder: Recorder) -> dict[int, tuple[str, int | None]]:
    """Every message: its state, and when it was stamped."""
    query = "SELECT sequence, state, stamped_at_us FROM message"
    rows = await recorder._follower.ask(lambda index: index._connection.execute(query).fetchall())
    return {sequence: (_STATES[state], stamped_at_us) for sequence, state, stamped_at_us in rows}


async def _container(recorder: Recorder, sequence: int) -> bytes:
    content, body = await read(recorder, sequence)
    return container_of(content, body if content.body_in_descriptor else content.body)


def fit(produced_us: int, this_update_us: int, stamped_us: int, accuracy_us: int) -> int:
    """As the recorder makes a waiting record of a seal, and the queue judges a stamp for it."""
    seal = Seal(b"", None, None, produced_us, this_update_us)
    waiting = Waiting(1, 1, b"", ends_us(seal), 0, begins_us(seal))
    return waiting.fit(StampReply(b"", stamped_us, accuracy_us, ""))
