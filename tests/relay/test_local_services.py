"""Signed documents over real HTTP, with everything behind them at hand: what breaks off is seen to be broken off, and turns are bounded."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from appliance import configuration_files
from appliance.access.rights import AuthenticationError
from appliance.errors import UnavailableError, XacbeError
from appliance.messagelog.containers import STREAMED_BYTES_MIN
from appliance.messagelog.stream import BodyCipher
from appliance.messagelog.wire import FindOwn, ReadOwn, RecordContent, RecordSummary, Seal
from appliance.net import http1
from appliance.net.connection import ServerConnection
from appliance.net.http_stream import PeerClosedError
from appliance.relay import local_services
from appliance.relay.gates import Gates
from appliance.relay.local_services import DOWNLOADS_MAX, LocalServices
from appliance.relay.refusals import Refusals
from tests.messagelog.drafts import StillClock
from tests.net.serving import run, serving
from tests.vectors import VECTORS, needs_vectors

ASIC = "/asic?xRoadInstance=T&memberClass=GOV&memberCode=1&subsystemCode=S&queryId=q%2F1"
BODY = os.urandom(1 << 20) * 9
KEY = bytes(range(32))
BROKEN_OFF = 0
assert len(BODY) > STREAMED_BYTES_MIN


class Log:
    """The recorder: one request and one response of nine MiB each."""

    def __init__(self) -> None:
        self.sealed = BodyCipher(KEY).seal(BODY, 0, last=True)
        self.found = [self._summary(1, "request"), self._summary(2, "response")]
        self.asked: list[FindOwn] = []
        self.read: list[ReadOwn] = []
        self.audited: list[Any] = []
        self.held = asyncio.Event()
        self.held.set()
        self.refuses: XacbeError | None = None

    def _summary(self, sequence: int, direction: str) -> RecordSummary:
        return RecordSummary(sequence, 1_700_000_000_000_000, "client", direction, "", "", "T/GOV/1/S", "s", 1, "stamped", 1, None)

    async def call(self, operation: str, request: Any, answer: Any = None, timeout_s: float = 0) -> Any:
        if operation == "audit":
            self.audited.append(request)
            return None
        assert operation == "find_own"
        self.asked.append(request)
        await self.held.wait()
        return [one for one in self.found if request.direction in ("", one.direction)]

    async def call_for_descriptor(self, operation: str, request: ReadOwn, answer: Any, timeout_s: float) -> tuple[RecordContent, int]:
        assert operation == "read_own"
        self.read.append(request)
        if self.refuses is not None:
            raise self.refuses
        descriptor = os.memfd_create("body")
        os.write(descriptor, self.sealed)
        seal = Seal(b"<s/>", None, None, 0, 0)
        content = RecordContent(
            self.found[request.sequence - 1], b"head", None, True, seal, b"token", b"<r/>", b"<c/>", body_key=KEY, body_bytes=len(BODY)
        )
        return content, descriptor


class Box:
    def __init__(self, directory: Path = Path("/nowhere")) -> None:
        self.log, self.counters = Log(), Counter[str]()
        self.checks = 0
        self.admits = 100
        recorder: Any = self.log
        self.gates = Gates(16)
        refusals = Refusals(logging.getLogger("tests"), recorder, self.counters, "7.8", StillClock())
        trust: Any = None
        self.services = LocalServices(directory, trust, recorder, self._check, lambda: trust, refusals, self.gates)

    def _check(self, *_: object) -> None:
        self.checks += 1
        if self.checks > self.admits:
            raise AuthenticationError("T/GOV/1/S must use HTTPS")

    async def serve(self, connection: ServerConnection) -> None:
        while (head := await connection.request()) is not None:
            assert self.services.takes(head)
            if not await self.services.serve(connection, head):
                connection.close()
                return


async def get(box: Box, target: str) -> tuple[int, bytes]:
    """Status and body; BROKEN_OFF where the answer does not come to its end."""
    async with serving(box.serve) as served:
        connection = await served.dial()
        connection.start(b"GET", http1.request_head(b"GET", target.encode(), [(b"Host", b"box")]))
        response = await connection.response(10)
        pieces = []
        try:
            while (piece := await connection.next_chunk()) is not None:
                pieces.append(piece)
        except PeerClosedError:
            return BROKEN_OFF, b"".join(pieces)
        return response.status, b"".join(pieces)


def test_both_documents_are_streamed_whole_and_each_was_asked_of_the_recorder_by_name() -> None:
    async def main() -> None:
        box = Box()
        status, content = await get(box, f"{ASIC}&force")

        assert status == 200
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            assert [name.split("-")[1] for name in archive.namelist()] == ["request", "response"]
            with zipfile.ZipFile(io.BytesIO(archive.read(archive.namelist()[1]))) as inside:
                assert inside.read("attachment1") == BODY
        (asked,) = box.log.asked
        assert (asked.subsystem, asked.query_id, asked.wait_s) == ("T/GOV/1/S", "q/1", local_services.FORCE_S_MAX)
        assert [(one.sequence, one.subsystem, one.query_id) for one in box.log.read] == [(1, "T/GOV/1/S", "q/1"), (2, "T/GOV/1/S", "q/1")]
        assert (box.gates.running, box.gates.arriving) == (0, 0)

    run(main)


@pytest.mark.parametrize("flags", ["", "&requestOnly&unique"])
def test_a_body_that_was_changed_on_the_disk_is_never_given_out_as_whole(flags: str) -> None:
    async def main() -> None:
        box = Box()
        box.log.sealed = box.log.sealed[:-9] + bytes(9)

        status, _ = await get(box, ASIC + flags)

        assert status == BROKEN_OFF
        assert box.counters["record.body_seal_broken"] == 1
        assert box.log.audited[0].facts["client"] == "T/GOV/1/S"
        assert (box.gates.running, box.gates.arriving) == (0, 0)

    run(main)


def test_what_cannot_be_read_at_all_is_told_with_a_status() -> None:
    async def main() -> None:
        box = Box()
        box.log.refuses = UnavailableError("the log's keys wait for the token", kind="log.key_absent")

        assert await get(box, ASIC) == (500, b"the message could not be recorded")

    run(main)


@pytest.mark.rule("II.2.XIV")
@pytest.mark.parametrize("admits", [0, 1])
def test_who_asks_is_checked_before_the_search_and_again_before_the_documents(admits: int) -> None:
    async def main() -> None:
        box = Box()
        box.admits = admits

        assert await get(box, ASIC) == (401, b"T/GOV/1/S must use HTTPS")
        assert len(box.log.asked) == admits
        assert not box.log.read

    run(main)


def test_more_downloads_than_there_is_memory_for_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_services, "TURN_S_MAX", 0.2)

    async def main() -> None:
        box = Box()
        box.log.held.clear()
        first = [asyncio.ensure_future(get(box, ASIC)) for _ in range(DOWNLOADS_MAX)]
        async with asyncio.timeout(5):
            while len(box.log.asked) < DOWNLOADS_MAX:
                await asyncio.sleep(0.01)

        status, _ = await get(box, ASIC)

        assert status == 503
        assert len(box.log.asked) == DOWNLOADS_MAX
        box.log.held.set()
        assert [status for status, _ in await asyncio.gather(*first)] == [200] * DOWNLOADS_MAX
        assert (await get(box, ASIC))[0] == 200

    run(main)


def test_without_a_configuration_there_is_none_to_verify_with(tmp_path: Path) -> None:
    async def main() -> None:
        status, _ = await get(Box(tmp_path), "/verificationconf")
        assert status == 500

    run(main)


@needs_vectors
@pytest.mark.parametrize("name", ["globalconf-DEV-v3", "generated/conf-LAB"])
def test_the_verification_configuration_is_x_roads_file_for_file(name: str, tmp_path: Path) -> None:
    given = {str(path.relative_to(VECTORS / name)): path.read_bytes() for path in (VECTORS / name).rglob("*") if path.is_file()}

    files = dict(configuration_files.verification_files(VECTORS / name))

    wanted = {path: content.strip() for path, content in given.items() if path == "instance-identifier" or "shared-params" in path}
    assert {path: content.strip() for path, content in files.items()} == wanted
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert configuration_files.load_directory(tmp_path).instance == configuration_files.load_directory(VECTORS / name).instance
