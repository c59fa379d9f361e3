"""How a process ends: in order, by a bug, by a state that contradicts itself."""

from __future__ import annotations

import asyncio
import logging
import os
import signal

import pytest

from appliance.durable import SyncFailedError
from appliance.processes.running import Fuse, run, until_stopped
from appliance.supervision.policy import EXIT_CORRUPT

LOG = logging.getLogger("test")


def test_sigterm_cancels_every_part_and_leaves_with_0() -> None:
    ended = []

    async def part(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(name)

    async def kill() -> None:
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    assert run(LOG, until_stopped(part("a"), part("b"), kill())) == 0
    assert sorted(ended) == ["a", "b"]


def test_a_failed_sync_inside_an_answer_ends_the_process_though_the_answer_was_given() -> None:
    async def whole() -> None:
        fuse = Fuse()

        async def answer() -> None:
            try:
                with fuse.guard():
                    raise SyncFailedError("fsync of local.json")
            except SyncFailedError:
                pass  # the server told the caller
            await asyncio.sleep(60)

        await until_stopped(fuse.hold(), answer())

    assert run(LOG, whole()) == EXIT_CORRUPT


def test_a_bug_leaves_with_its_traceback() -> None:
    async def whole() -> None:
        raise RuntimeError("answer before request")

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        run(LOG, until_stopped(whole()))
