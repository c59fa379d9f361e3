"""What the relay may read for an information system: its own subsystem's messages, by their id, each one audited before it is opened."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from appliance.errors import UnavailableError
from appliance.messagelog.own_reading import DownloadsOffError, TooManyDocumentsError
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.segments import UnknownRecordError
from appliance.messagelog.wire import OWN_MAX, FindOwn, ReadOwn, RecordContent, RecordSummary
from appliance.net.local_server import Reply
from appliance.topology import CONSOLE, may_call
from tests.messagelog.log_box import SETTINGS, SUBSYSTEMS, LogBox, append_all, until_stamped
from tests.messagelog.test_readers import acts, played

ASKER, PROVIDER = SUBSYSTEMS


async def find(recorder: Recorder, subsystem: str, query: str, direction: str = "", wait_s: float = 0.0) -> list[RecordSummary]:
    asked = msgspec.msgpack.encode(FindOwn(subsystem, query, direction, wait_s))
    found: list[RecordSummary] = await recorder.handlers()["find_own"]("relay", asked)  # type: ignore[assignment]  # by operation
    return found


async def read(recorder: Recorder, wanted: ReadOwn) -> RecordContent:
    reply = await recorder.handlers()["read_own"]("relay", msgspec.msgpack.encode(wanted))
    assert isinstance(reply, Reply)
    os.close(reply.descriptor)
    assert isinstance(reply.value, RecordContent)
    return reply.value


@pytest.mark.rule("IV.2.III.B")
@pytest.mark.case("T31")
def test_the_owner_reads_its_message_and_the_audit_log_says_who_whence_and_with_what(tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        (found,) = await find(recorder, PROVIDER, "b")
        assert not found.query_id  # who asks knows it
        before = len(acts(recorder))

        content = await read(recorder, ReadOwn(found.sequence, PROVIDER, "b", "10.1.1.7", b"certificate"))

        assert b"x-road-id:b" in content.message
        (noted,) = acts(recorder)[before:]
        assert (noted.event, noted.caller) == ("log.read", "relay")
        assert noted.facts["by"] == PROVIDER
        assert (noted.facts["act"], noted.facts["from"], noted.facts["record"]) == ("download", "10.1.1.7", str(found.sequence))
        assert noted.facts["certificate"] == hashlib.sha256(b"certificate").hexdigest()
        assert "b" != noted.facts["query"]

    played(LogBox(tmp_path), act)


@pytest.mark.rule("I.4.III")
def test_nobody_elses_message_is_found_or_read(tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        (found,) = await find(recorder, PROVIDER, "a")
        for subsystem in (ASKER, PROVIDER.rsplit("/", 1)[0], PROVIDER[:-1], f"{PROVIDER}/incidents", "", "%"):
            assert await find(recorder, subsystem, "a") == []  # its box logged it as the provider's
            with pytest.raises(UnknownRecordError):
                await read(recorder, ReadOwn(found.sequence, subsystem, "a", "x"))
        with pytest.raises(UnknownRecordError):
            await read(recorder, ReadOwn(found.sequence, PROVIDER, "b", "x"))
        assert await find(recorder, PROVIDER, "a", "response") == []
        assert not [each for each in acts(recorder) if each.event == "log.read"]

    played(LogBox(tmp_path), act)


def test_a_message_of_the_asking_side_belongs_to_the_client(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def play() -> None:
        async with box.opened() as recorder:
            await append_all(recorder, box.appends(["a"], received=False))
            assert len(await find(recorder, ASKER, "a", "request", wait_s=5.0)) == 1
            assert (await find(recorder, ASKER, "a"))[0].stamped_at_us is not None
            assert await find(recorder, PROVIDER, "a") == []

    asyncio.run(play())


def test_waiting_for_stamps_ends(tmp_path: Path) -> None:
    box = LogBox(tmp_path)
    box.authority.silent = True

    async def play() -> None:
        async with box.opened() as recorder:
            await append_all(recorder, box.appends(["a"], received=False))
            began = asyncio.get_running_loop().time()
            (found,) = await find(recorder, ASKER, "a", wait_s=0.3)
            assert found.stamped_at_us is None
            assert 0.2 < asyncio.get_running_loop().time() - began < 3

    asyncio.run(play())


def test_a_box_that_gives_nothing_gives_nothing(tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        with pytest.raises(DownloadsOffError):
            await find(recorder, PROVIDER, "a")
        with pytest.raises(DownloadsOffError):
            await read(recorder, ReadOwn(3, PROVIDER, "a", "x"))

    played(LogBox(tmp_path, replace(SETTINGS, signed_documents=False)), act)


def test_more_messages_of_one_id_than_a_download_takes_are_refused(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def play() -> None:
        async with box.opened() as recorder:
            for _ in range(OWN_MAX // 50 + 1):
                await append_all(recorder, box.appends(["a"] * 50, received=False))
            with pytest.raises(TooManyDocumentsError):
                await find(recorder, ASKER, "a")

    asyncio.run(play())


def test_without_room_for_the_audit_record_nothing_is_opened(tmp_path: Path) -> None:
    box = LogBox(tmp_path)

    async def play() -> None:
        async with box.opened() as recorder:
            await append_all(recorder, box.appends(["a"]))
            await until_stamped(recorder)
            (found,) = await find(recorder, PROVIDER, "a")

            async def refuse(_: object) -> object:
                raise UnavailableError("no room", kind="log.full")

            recorder.own_reading._readers._write = refuse
            with pytest.raises(UnavailableError, match="no room"):
                await read(recorder, ReadOwn(found.sequence, PROVIDER, "a", "x"))

    asyncio.run(play())


def test_only_the_relay_may_ask_and_it_may_ask_nothing_else() -> None:
    for operation in ("find_own", "read_own"):
        assert may_call("relay", "recorder", operation)
        assert not may_call(CONSOLE, "recorder", operation)
    for operation in ("list_records", "read_record", "prove_record", "report_exchanges"):
        assert not may_call("relay", "recorder", operation)
