"""Archives that fail for a day are an incident: told once, also to a reporter that was away, and told again when it begins anew."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from appliance import topology
from appliance.health.wire import Incident
from appliance.net.local_client import LocalClient
from appliance.net.local_server import Handler
from appliance.net.local_sockets import channel_path
from appliance.processes import archivist as process
from appliance.processes.archivist import FAILING, Archivist
from appliance.settings import ArchivistSettings
from tests.courier.test_courier_process import serving
from tests.messagelog.drafts import StillClock
from tests.messagelog.test_archive import IDENTITY
from tests.supervision.box import make_box

ALARM_S = 24 * 3600


@asynccontextmanager
async def there(state: Path, owner: str, handlers: dict[str, Handler]) -> AsyncIterator[None]:
    """A neighbour for a while; afterwards nothing of it is left."""
    try:
        async with serving(state, owner, handlers):
            yield
    finally:
        for caller in topology.channels(owner):
            channel_path(state, owner, caller).unlink()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.case("T30")
def test_archives_that_fail_for_a_day_become_one_incident_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "RETRY_S", 0.01)
    state, clock = make_box(tmp_path / "box"), StillClock()
    for name in ("place", "box/archive"):
        (tmp_path / name).mkdir()
    settings = ArchivistSettings(
        directory=str(tmp_path / "place"), directory_place="MX", recipients=str(IDENTITY.to_public()), interval_s=60, alarm_s=ALARM_S
    )
    told: list[Incident] = []
    tries = 0

    async def incident(caller: str, payload: bytes) -> None:
        told.append(msgspec.msgpack.decode(payload, type=Incident))

    async def nothing(caller: str, payload: bytes) -> list[str]:
        return []

    async def play() -> None:
        nonlocal tries
        archivist = Archivist(state, settings, [], logging.getLogger("archivist"), clock)
        real = archivist.archiving.run_once

        async def counted() -> list[process.MadeArchive]:
            nonlocal tries
            tries += 1
            return await real()

        monkeypatch.setattr(archivist.archiving, "run_once", counted)

        async def some_tries() -> None:
            seen = tries
            await until(lambda: tries > seen + 2)

        async with asyncio.TaskGroup() as group:
            running = group.create_task(archivist.run())
            async with there(state, "reporter", {"incident": incident}):
                await some_tries()  # nobody answers for the recorder
                assert archivist.failing == "process.away"
                clock.pass_s(ALARM_S - 1)
                await some_tries()
                assert told == []
            clock.pass_s(1)
            await some_tries()  # due, but the reporter is away
            assert told == []
            async with there(state, "reporter", {"incident": incident}):
                await until(lambda: len(told) == 1)
                await some_tries()
                assert [(one.kind, one.facts["kind"]) for one in told] == [(FAILING, "process.away")]
                assert int(told[0].facts["for_s"]) >= ALARM_S
                async with there(state, "recorder", {"archive_groups": nothing}):
                    await archivist.run_archive("console", b"")
                    assert archivist.failing == ""
                archivist._cargo.all_arrived.set()  # wakes it before its interval
                await until(lambda: archivist.failing == "process.away")
                clock.pass_s(ALARM_S)
                await until(lambda: len(told) == 2)
            running.cancel()
        for client in (archivist._reporter, archivist.archiving._recorder):
            assert isinstance(client, LocalClient)
            client.close()
        await asyncio.sleep(0.01)

    asyncio.run(play())
