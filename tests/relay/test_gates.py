"""Who gets in when many want to: callers under pressure take turns, and neither a caller nor a service fills a relay alone."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.relay import turns
from appliance.relay.gates import BusyError, Gates, Passage
from appliance.relay.turns import EVEN, RECENT_S, TIMES, Pressure, Turns

pytestmark = pytest.mark.case("T45")


def play(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 20))  # type: ignore[arg-type]  # a coroutine


class Machine:
    def __init__(self, *, pressed: bool = True) -> None:
        self.pressed, self.now_s = pressed, 100.0
        self.turns = Turns(lambda: self.pressed, lambda: self.now_s)


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def entered(machine: Machine, who: str, count: int) -> list[asyncio.Task[bool]]:
    asked = [asyncio.ensure_future(machine.turns.enter(who)) for _ in range(count)]
    await settled()
    return asked


def in_already(asked: list[asyncio.Task[bool]]) -> int:
    return sum(each.done() for each in asked)


def test_under_pressure_a_heavy_caller_waits_for_its_own_messages_and_others_do_not_wait() -> None:
    async def main() -> None:
        machine = Machine()
        assert await machine.turns.enter("light")
        heavy = await entered(machine, "heavy", 20)
        assert in_already(heavy) == EVEN
        assert await machine.turns.enter("light")
        machine.turns.leave("heavy")
        await settled()
        assert (in_already(heavy), machine.turns.under_way("heavy")) == (EVEN + 1, EVEN)
        for _ in range(EVEN):
            assert await machine.turns.enter("light")
        machine.turns.leave("heavy")
        await settled()
        assert (machine.turns.under_way("light"), machine.turns.under_way("heavy")) == (EVEN + 2, TIMES * (EVEN + 2))

    play(main)


@pytest.mark.parametrize("why", ["no pressure", "alone", "the others have gone"])
def test_nobody_waits_without_a_reason(why: str) -> None:
    async def main() -> None:
        machine = Machine(pressed=why != "no pressure")
        if why != "alone":
            assert await machine.turns.enter("light")
            machine.turns.leave("light")
        if why == "the others have gone":
            machine.now_s += RECENT_S + 1
        assert in_already(await entered(machine, "heavy", 300)) == 300

    play(main)


def test_who_waits_goes_on_when_the_pressure_ends() -> None:
    async def main() -> None:
        machine = Machine()
        assert await machine.turns.enter("light")
        heavy = await entered(machine, "heavy", 20)
        machine.pressed = False
        machine.turns.look_again()
        await settled()
        assert in_already(heavy) == 20

    play(main)


def test_who_waits_too_long_or_behind_too_many_is_told_that_we_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WAIT_S_MAX", 0.05)
    monkeypatch.setattr(turns, "WAITING_MAX", 3)

    async def main() -> None:
        machine = Machine()
        gates = Gates(1024, machine.turns)
        light = await gates.arrive("light")
        passages = [await gates.arrive("heavy") for _ in range(EVEN)]
        waiting = [asyncio.ensure_future(gates.arrive("heavy")) for _ in range(4)]
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, BusyError) for each in ended)
        assert (gates.arriving, machine.turns.under_way("heavy")) == (EVEN + 1, EVEN)
        for passage in (*passages, light):
            passage.leave()
            passage.leave()
        assert (gates.arriving, gates.running, machine.turns.under_way("heavy")) == (0, 0, 0)

    play(main)


def test_those_who_waited_come_in_together_and_still_no_more_than_may_arrive() -> None:
    async def main() -> None:
        machine = Machine()
        gates = Gates(32, machine.turns)
        light = await gates.arrive("light")
        asked = [asyncio.ensure_future(gates.arrive("heavy")) for _ in range(30)]
        await settled()
        assert gates.arriving == 1 + EVEN
        machine.pressed = False
        machine.turns.look_again()
        entered = await asyncio.gather(*asked, return_exceptions=True)
        passages = [each for each in entered if isinstance(each, Passage)]
        assert (len(passages), gates.arriving, machine.turns.under_way("heavy")) == (8, 9, 8)
        for passage in (*passages, light):
            passage.leave()
        assert (gates.arriving, machine.turns.under_way("heavy"), machine.turns.under_way("light")) == (0, 0, 0)

    play(main)


def test_pressure_is_still_looked_at_without_a_descriptor_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(turns, "SAMPLE_S", 0.01)
    monkeypatch.setattr(psutil, "cpu_times", none_left)
    looks = asyncio.Semaphore(0)

    async def main() -> None:
        pressure = Pressure()
        looking = asyncio.ensure_future(pressure.run(looks.release))
        for _ in range(3):
            await looks.acquire()
        monkeypatch.undo()
        await looks.acquire()
        assert not looking.done()
        looking.cancel()

    play(main)


def test_the_machine_is_short_of_processors_when_they_were_busy_between_two_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    busy_share, clock = 0.0, [1000.0, 0.0]

    def times() -> SimpleNamespace:
        clock[0] += 1.0
        clock[1] += busy_share
        return SimpleNamespace(
            user=clock[1], nice=0.0, system=0.0, irq=0.0, softirq=0.0, steal=0.0, idle=clock[0] - clock[1], iowait=0.0, guest=0.0
        )

    monkeypatch.setattr(turns, "SAMPLE_S", 0.01)
    monkeypatch.setattr(psutil, "cpu_times", times)
    monkeypatch.setattr(time, "process_time", lambda: 0.0)
    looks = asyncio.Semaphore(0)

    async def main() -> None:
        nonlocal busy_share
        pressure = Pressure()
        looking = asyncio.ensure_future(pressure.run(looks.release))
        found = []
        for share in (0.5, 0.9, 0.5):
            busy_share = share
            for _ in range(2):
                await looks.acquire()
            found.append(pressure.high)
        looking.cancel()
        assert found == [False, True, False]

    play(main)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "leave", "cancel", "press"])), max_size=60))
def test_every_turn_is_counted_once_whoever_gives_up_and_in_the_order_of_asking(steps: list[tuple[str, str]]) -> None:
    async def main() -> None:
        machine = Machine(pressed=False)
        asked: dict[str, list[asyncio.Task[bool]]] = {"a": [], "b": [], "c": []}
        left = dict.fromkeys("abc", 0)
        for who, step in steps:
            if step == "press":
                machine.pressed = not machine.pressed
                machine.turns.look_again()
            elif step == "ask":
                asked[who] += await entered(machine, who, 3)
            elif step == "cancel" and (waiting := [each for each in asked[who] if not each.done()]):
                waiting[-1].cancel()
                asked[who].remove(waiting[-1])
            elif step == "leave" and left[who] < in_already(asked[who]):
                left[who] += 1
                machine.turns.leave(who)
            await settled()
            for one, tasks in asked.items():
                assert machine.turns.under_way(one) == in_already(tasks) - left[one]
                states = [each.done() for each in tasks]
                assert states == sorted(states, reverse=True)
        for tasks in asked.values():
            for each in tasks:
                each.cancel()
        await settled()

    play(main)


def complete(gates: Gates, passage: Passage, service: str) -> bool:
    passage.service = service
    try:
        passage.complete()
    except BusyError:
        passage.leave()
        return False
    return True


async def filled(gates: Gates, caller: str, service: str) -> list[Passage]:
    """All that this caller gets in for this service."""
    inside: list[Passage] = []
    while complete(gates, passage := await gates.arrive(caller), service):
        inside.append(passage)
    return inside


def test_a_service_that_hangs_has_half_and_the_next_one_half_of_what_is_left() -> None:
    async def main() -> None:
        gates = Gates(1024)
        inside = [await filled(gates, "everybody", f"slow {number}") for number in range(4)]
        assert [len(each) for each in inside] == [512, 256, 128, 15], "the fourth: its caller has eight ninths"
        others = [await gates.arrive(f"caller {number}") for number in range(10)]
        assert all(complete(gates, passage, "quick") for passage in others)
        for passage in (*sum(inside, []), *others):
            passage.leave()
        assert (gates.running, gates.arriving) == (0, 0)

    play(main)


@pytest.mark.parametrize("hanging", [1, 2, 3])
@pytest.mark.parametrize("together", [True, False])
def test_what_one_box_lets_through_behind_services_that_hang_leaves_it_room_at_the_other(hanging: int, together: bool) -> None:
    """Box 2 knows all systems of box 1 as box 1."""

    async def main() -> None:
        ours, theirs = Gates(1024), Gates(1024)
        number = 0
        for services in [range(hanging)] if together else [[each] for each in range(hanging)]:
            full: set[int] = set()
            while len(full) < len(services):
                number += 1
                service = services[number % len(services)]
                if complete(ours, await ours.arrive(f"system {number}"), f"slow {service}"):
                    assert complete(theirs, await theirs.arrive("box 1"), f"slow {service}")
                else:
                    full.add(service)
        quick = [await gates.arrive(caller) for gates, caller in ((ours, "system"), (theirs, "box 1"))]
        assert [complete(gates, passage, "quick") for gates, passage in zip((ours, theirs), quick, strict=True)] == [True, True]

    play(main)


def test_a_gate_for_few_lets_them_all_in_and_no_more() -> None:
    async def main() -> None:
        gates = Gates(4)
        assert [complete(gates, await gates.arrive(f"caller {at}"), f"service {at}") for at in range(5)] == [True] * 4 + [False]

    play(main)


def test_one_caller_alone_holds_a_quarter_of_what_may_arrive() -> None:
    async def main() -> None:
        gates = Gates(16)
        for _ in range(4):
            await gates.arrive("slow")
        with pytest.raises(BusyError):
            await gates.arrive("slow")
        await gates.arrive("other")

    play(main)
