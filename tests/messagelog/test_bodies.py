"""Large bodies that never become a record: given up at once, so that they keep nobody else's out."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.errors import RefusedError, XacbeError
from appliance.messagelog.bodies import OPEN_MAX, UNCLAIMED_S_MAX, UnknownBodyError
from appliance.messagelog.recorder import AppendMalformedError, Recorder
from appliance.messagelog.replay import MessageReplayedError, ReplayGuard, ReplayGuardFullError
from appliance.messagelog.store import WriteFailedError
from appliance.messagelog.wire import Append, BodyFile, DropBody, OpenBody
from tests.messagelog.log_box import LogBox, append, read, written

BODY = b"x" * 100_000


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


async def uploaded(recorder: Recorder) -> int:
    reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
    assert isinstance(reply.value, BodyFile)
    with os.fdopen(reply.descriptor, "wb") as file:
        file.write(written(reply.value, BODY))
    return reply.value.body


async def dropped(recorder: Recorder, number: int) -> None:
    await recorder.drop_body("relay", msgspec.msgpack.encode(DropBody(number)))


def with_body(box: LogBox, number: int) -> Append:
    request = box.appends(["Q-1"], body=BODY)[0]
    request.body, request.body_file = None, number
    return request


@pytest.mark.case("T46")
def test_uploads_that_are_given_up_keep_no_later_one_out(box: LogBox) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            for _ in range(OPEN_MAX + 16):
                reply = await recorder.open_body("relay", msgspec.msgpack.encode(OpenBody(None)))
                os.close(reply.descriptor)
                assert isinstance(reply.value, BodyFile)
                await dropped(recorder, reply.value.body)
            assert len(recorder._bodies) == 0

    asyncio.run(play())


def test_giving_up_a_body_twice_or_after_its_append_or_one_that_never_was_changes_nothing(box: LogBox) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            given_up, kept, other = await uploaded(recorder), await uploaded(recorder), await uploaded(recorder)
            for _ in range(2):
                await dropped(recorder, given_up)
            with pytest.raises(UnknownBodyError):
                await append(recorder, with_body(box, given_up))
            appended = await append(recorder, with_body(box, kept))
            await dropped(recorder, kept)
            await dropped(recorder, 9999)
            assert (await read(recorder, appended.sequence))[1] == BODY
            await append(recorder, with_body(box, other))

    asyncio.run(play())


def _malformed(recorder: Recorder, request: Append) -> None:
    request.side = "neither"


def _keyless(recorder: Recorder, request: Append) -> None:
    request.replay_key = None


def _with_a_full_guard(recorder: Recorder, request: Append) -> None:
    recorder._guard = ReplayGuard(keys_max=0)


def _without_room(recorder: Recorder, request: Append) -> None:
    def check_room() -> None:
        raise RefusedError("as many as can be held")

    recorder.stamper.stamps.check_room = check_room  # type: ignore[method-assign]  # a quarter of a million records would take a minute


@pytest.mark.parametrize(
    ("harm", "error"),
    [
        (_malformed, AppendMalformedError),
        (_keyless, AppendMalformedError),
        (_with_a_full_guard, ReplayGuardFullError),
        (_without_room, RefusedError),
    ],
)
def test_the_body_of_a_refused_message_is_given_up(box: LogBox, harm: Callable[[Recorder, Append], None], error: type[XacbeError]) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            request = with_body(box, await uploaded(recorder))
            harm(recorder, request)
            with pytest.raises(error):
                await append(recorder, request)
            assert len(recorder._bodies) == 0
            assert os.listdir(box.root / "bodies") == []

    asyncio.run(play())


@pytest.mark.case("T13")
def test_the_body_of_a_replayed_message_is_given_up_and_the_first_ones_is_kept(box: LogBox) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            request = with_body(box, await uploaded(recorder))
            appended = await append(recorder, request)
            request.body_file = await uploaded(recorder)
            with pytest.raises(MessageReplayedError):
                await append(recorder, request)
            assert len(recorder._bodies) == 0
            assert os.listdir(box.root / "bodies") == [f"{appended.sequence:020d}.body"]

    asyncio.run(play())


def test_a_forgotten_body_is_given_up_by_time_alone(box: LogBox) -> None:
    async def play() -> None:
        async with box.opened() as recorder:
            await uploaded(recorder)
            box.clock.pass_s(UNCLAIMED_S_MAX + 1)
            async with asyncio.timeout(5):
                while len(recorder._bodies):
                    await asyncio.sleep(0.05)

    asyncio.run(play())


def test_a_large_body_that_is_read_back_holds_up_no_message_of_a_subsystem_without_a_key(
    box: LogBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As at the turn of the day, when every subsystem needs a new one."""
    reading, go_on = threading.Event(), threading.Event()

    async def play() -> None:
        async with box.opened(with_keys=False) as recorder:
            digest_of = recorder._disk.sha256

            def slow(handle: int) -> bytes:
                reading.set()
                go_on.wait(60)
                return digest_of(handle)

            monkeypatch.setattr(recorder._disk, "sha256", slow)
            large = asyncio.ensure_future(append(recorder, with_body(box, await uploaded(recorder))))
            try:
                assert await asyncio.to_thread(reading.wait, 30)
                [small] = box.appends(["Q-2"], received=False)
                assert (await asyncio.wait_for(append(recorder, small), 30)).sequence > 0
                assert not large.done()
            finally:
                go_on.set()
            await large

    asyncio.run(play())


@pytest.mark.case("T35")
def test_a_body_that_cannot_be_read_back_after_its_sync_ends_the_process_and_acknowledges_nothing(
    box: LogBox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    async def play() -> None:
        async with box.opened() as recorder:
            request = with_body(box, await uploaded(recorder))
            monkeypatch.setattr(recorder._disk, "sha256", broken)
            with pytest.raises(WriteFailedError):
                await append(recorder, request)
            assert [type(error) for error in box.stopped] == [WriteFailedError]

    asyncio.run(play())
