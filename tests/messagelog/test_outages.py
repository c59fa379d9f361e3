"""Nothing that was acknowledged ends without a valid stamp and without a notice, whatever falls silent for however long."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.messagelog.stamping import StampQueue, Waiting, WriteUnconfirmed
from tests.depth import DEEP
from tests.messagelog import outages
from tests.messagelog.outages import H, S, World

SEEDS = 20 if DEEP else 3
MESSAGES = 5000 if DEEP else 600
"""Acknowledged ones in each seed: 100,000 at night."""


async def played(root: Path, seed: int, messages: int) -> tuple[World, list[str]]:
    """Outages of 1 to 72 h of the authority, the responder or both, wrong clocks on either side, restarts; then everything heals."""
    chance = random.Random(seed)  # noqa: S311  a test's data
    world = World(root, chance)
    per_step = max(2, messages // 60)
    while len(world.acknowledged) < messages:
        trouble = chance.choice(["none", "authority", "authority", "responder", "both", "authority's clock", "our clock"])
        hours = chance.choice([1, 3, 6, 9, 24, 72])
        world.authority.silent = trouble in ("authority", "both")
        world.responder_silent = trouble in ("responder", "both")
        world.time.error_us = chance.choice([-10, 9, 10]) * H if trouble == "authority's clock" else 0
        world.clock.step_us = chance.choice([-1, 9, -24 * 3650]) * H if trouble == "our clock" else 0
        async with world.box.opened() as recorder:  # a restart: what is known of deadlines is what the disk knows
            async with asyncio.timeout(600):
                for _ in range(min(hours * 3, chance.randint(2, 30))):
                    await outages.step(world, recorder, per_step)
                world.clock.pass_s(max(0, hours * 3600 - 30 * outages.STEP_S))
        world.hear()
    async with world.box.opened() as recorder:
        await outages.heal(world, recorder)
        return world, await outages.unexplained(world, recorder, verified_max=40)


@pytest.mark.rule("IV.3.V", "IV.3.VI")
@pytest.mark.case("T20", "T38", "T39", "T40")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_after_any_outage_each_acknowledged_message_is_stamped_or_withdrawn(tmp_path: Path, seed: int) -> None:
    world, unexplained = asyncio.run(played(tmp_path / "log", seed, MESSAGES))

    assert unexplained == []
    assert len(world.acknowledged) >= MESSAGES
    assert not world.box.stopped


def _any_stamp_fits(waiting: Waiting, reply: object) -> int:
    return 0


_unconfirmed = StampQueue._unconfirmed


def _nobody_is_told(queue: StampQueue, missed: list[int]) -> list[object]:
    effects = _unconfirmed(queue, missed)
    return [WriteUnconfirmed(one.messages, (), ()) if isinstance(one, WriteUnconfirmed) else one for one in effects]


@pytest.mark.parametrize(("part", "name", "bug"), [(Waiting, "fit", _any_stamp_fits), (StampQueue, "_unconfirmed", _nobody_is_told)])
def test_a_planted_bug_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: type, name: str, bug: Callable[..., object]) -> None:
    monkeypatch.setattr(part, name, bug)

    async def scene() -> list[str]:
        world = World(tmp_path / "log", random.Random(1))  # noqa: S311  a test's data
        async with world.box.opened() as recorder:
            world.time.error_us = 10 * H
            await outages.step(world, recorder, 4)
            world.time.error_us, world.authority.silent = 0, True
            for _ in range(27):  # nine hours
                await outages.step(world, recorder, 4)
            await outages.heal(world, recorder)
            return await outages.unexplained(world, recorder, verified_max=0)

    assert asyncio.run(scene())


@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20", "T21")
def test_an_independent_oracle_judges_a_hundred_thousand_random_pairs_alike() -> None:
    """Fit of a stamp to a record, as the queue decides it, against the rule counted in whole nanoseconds on both ends."""
    chance = random.Random(8)  # noqa: S311  a test's data
    eight_hours_ns = 8 * 3600 * 10**9
    for _ in range(100_000):
        produced, updated = (chance.randint(-9 * 3600, 9 * 3600) * S + chance.randint(-2, 2) for _ in range(2))
        near = chance.choice((produced, updated)) + chance.choice((-1, 1)) * 8 * H
        stamped = near + chance.choice((chance.randint(-3, 3), chance.randint(-S, S), chance.randint(-H, H)))
        accuracy = chance.choice((0, 1, S))
        expected = all(
            abs(stamped * 1000 + side * accuracy * 1000 - known * 1000) <= eight_hours_ns
            for known in (produced, updated)
            for side in (-1, 1)
        )

        assert (outages.fit(produced, updated, stamped, accuracy) == 0) is expected
