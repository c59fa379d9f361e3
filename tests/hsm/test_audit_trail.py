"""The signer's way to the audit log: nothing twice by a stop, nothing lost while the recorder restarts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from appliance.hsm.audit_trail import AuditTrail
from appliance.messagelog.wire import Audit
from appliance.net import frames
from appliance.net.frames import FrameReader
from appliance.net.local_sockets import channel_path
from tests.hsm.parts import on_loop


class Recorder:
    """Notes what it is told, and answers once it `may_answer`."""

    def __init__(self) -> None:
        self.noted: list[str] = []
        self.asked, self.may_answer, self.left = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        cut = FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                for frame in cut.feed(data):
                    self.noted.append(msgspec.msgpack.decode(frame.payload, type=Audit).event)
                    self.asked.set()
                    await self.may_answer.wait()
                    writer.write(frames.encode(frames.ANSWER, frame.call, "", msgspec.msgpack.encode(None)))
        writer.close()
        self.left.set()


@asynccontextmanager
async def recorder(state: Path) -> AsyncIterator[Recorder]:
    path = channel_path(state, "recorder", "signer")
    path.parent.mkdir(parents=True)
    made = Recorder()
    server = await asyncio.start_unix_server(made.serve, path)
    yield made
    server.close()
    made.may_answer.set()
    await made.left.wait()
    await asyncio.sleep(0)


async def stopped(trail: AuditTrail, sending: asyncio.Future[None]) -> None:
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await sending
    await trail.close()


@on_loop
async def test_a_record_on_its_way_when_the_process_stops_is_not_sent_again(tmp_path: Path) -> None:
    async with recorder(tmp_path) as told:
        trail = AuditTrail(tmp_path, "signer")
        sending = asyncio.ensure_future(trail.send_forever())
        trail.later("key.used", {})
        trail.later("token.state_changed", {})
        await told.asked.wait()
        asyncio.get_running_loop().call_later(0.05, told.may_answer.set)

        await stopped(trail, sending)

        assert told.noted == ["key.used", "token.state_changed"]


@on_loop
async def test_a_recorder_that_does_not_answer_holds_no_process_back_from_stopping(tmp_path: Path) -> None:
    async with recorder(tmp_path) as told:
        trail = AuditTrail(tmp_path, "signer")
        sending = asyncio.ensure_future(trail.send_forever())
        trail.later("key.used", {})
        await told.asked.wait()

        await asyncio.wait_for(stopped(trail, sending), 2)

        assert told.noted == ["key.used"]
