"""The logs of two boxes are compared: a message that was taken out of one is named, exactly that one (T29)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from appliance.commands import main as xacbe
from appliance.messagelog import record
from appliance.messagelog.reconciliation import Gaps, compare
from appliance.messagelog.record import MessageEntry, Record
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.wire import Append
from tests.messagelog import forger
from tests.messagelog.log_box import LogBox, append, append_all, played
from tests.messagelog.test_retention import DAY_S, confirm, erase, next_archive

pytestmark = pytest.mark.case("T29")
EXCHANGES, BATCH = 3, 3


def received(sent: Append) -> Append:
    """As the other box logs it."""
    side = "provider" if sent.direction == "request" else "client"
    return msgspec.structs.replace(sent, side=side, received=True, stamp_first=True, replay_key=sent.query_id.encode() * 8)


@pytest.fixture
def boxes(tmp_path: Path) -> tuple[LogBox, LogBox]:
    """Client and provider after some exchanges; the last requests are under one signature, and one more never arrived."""
    client, provider = LogBox(tmp_path / "client"), LogBox(tmp_path / "provider")
    requests = [client.appends([f"Q-{n}"], received=False, body=b"asked %d" % n)[0] for n in range(EXCHANGES)]
    requests += client.appends([f"B-{n}" for n in range(BATCH)], received=False)
    answers = [provider.appends([one.query_id], received=False, direction="response", body=b"said")[0] for one in requests]
    for one in answers:
        one.side = "provider"
    lost = client.appends(["Q-lost"], received=False)[0]

    async def asks(recorder: Recorder) -> None:
        await append_all(recorder, [*requests, lost])
        await append_all(recorder, [received(one) for one in answers])

    async def serves(recorder: Recorder) -> None:
        await append_all(recorder, [received(one) for one in requests])
        for one in answers:
            await append(recorder, one)

    played(client, asks)
    played(provider, serves)
    return client, provider


def messages(box: LogBox, direction: str) -> list[int]:
    found = []
    for one in forger.records_of(box.root):
        entry = record.decode_entry(one.kind, one.payload) if one.kind == record.MESSAGE else None
        if isinstance(entry, MessageEntry) and entry.direction == direction:
            found.append(one.sequence)
    return found


def without(sequence: int) -> Callable[[list[Record]], list[Record]]:
    """Somebody with root puts something else in its place and makes every link fit again."""

    def change(found: list[Record]) -> list[Record]:
        one = found[sequence - 1]
        one.kind, one.payload, one.content = record.AUDIT, record.encode_entry(record.AuditEntry("key.used", "signer", {})), b""
        return found

    return change


def counts(gaps: Gaps) -> tuple[int, int, int]:
    return gaps.compared, gaps.missing_count, gaps.unreceived_count


def test_two_logs_that_fit_lack_nothing_but_what_never_arrived(boxes: tuple[LogBox, LogBox]) -> None:
    client, provider = boxes
    there, here = compare(client.root, provider.root)

    total = 2 * (EXCHANGES + BATCH)
    assert counts(there) == (total + 1, 0, 1)
    assert counts(here) == (total, 0, 0)
    assert there.unreceived[0].direction == "request"


@pytest.mark.parametrize("number", [0, EXCHANGES + 1])
def test_a_request_that_the_provider_took_out_is_named_because_its_answer_came(boxes: tuple[LogBox, LogBox], number: int) -> None:
    """Or, of equally long ones under one signature, one of them."""
    client, provider = boxes
    asked = messages(client, "request")
    expected = {asked[number]} if number < EXCHANGES else set(asked[EXCHANGES : EXCHANGES + BATCH])
    forger.relink(provider.root, without(messages(provider, "request")[number]))

    there, here = compare(client.root, provider.root)

    assert {one.sequence for one in there.missing} <= expected
    assert (there.missing_count, there.unreceived_count, here.missing_count) == (1, 1, 0)


def test_an_answer_that_the_provider_took_out_is_named_and_one_that_the_client_took_out_may_not_have_arrived(
    boxes: tuple[LogBox, LogBox],
) -> None:
    client, provider = boxes
    forger.relink(provider.root, without(messages(provider, "response")[1]))
    there, _ = compare(client.root, provider.root)
    assert [one.sequence for one in there.missing] == [messages(client, "response")[1]]

    forger.relink(client.root, without(messages(client, "response")[0]))
    _, here = compare(client.root, provider.root)
    assert (here.missing_count, [one.sequence for one in here.unreceived]) == (0, [messages(provider, "response")[0]])


def test_a_request_that_the_client_took_out_is_named_from_the_providers_log(boxes: tuple[LogBox, LogBox]) -> None:
    client, provider = boxes
    forger.relink(client.root, without(messages(client, "request")[2]))

    there, here = compare(provider.root, client.root)

    assert [one.sequence for one in there.missing] == [messages(provider, "request")[2]]
    assert here.missing_count == 0


def test_what_retention_erased_is_still_there_to_be_compared(boxes: tuple[LogBox, LogBox]) -> None:
    client, provider = boxes

    async def act(recorder: Recorder) -> None:
        await asyncio.sleep(0.1)
        await confirm(recorder, await next_archive(recorder))
        provider.clock.pass_s(31 * DAY_S)
        assert await erase(recorder) > 0

    played(provider, act)
    there, here = compare(client.root, provider.root)

    assert (there.missing_count, there.unreceived_count, counts(here)[1:]) == (0, 1, (0, 0))


def test_the_command_says_it_by_its_exit_code(boxes: tuple[LogBox, LogBox], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client, provider = boxes
    line = ["log", "compare", str(provider.root), "--log", str(client.root), "--language", "en"]
    assert xacbe(line) == 0
    assert "not arrived" in capsys.readouterr().out
    forger.relink(provider.root, without(messages(provider, "request")[0]))
    assert xacbe([*line, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [one["sequence"] for one in found["other_lacks"]["missing"]] == [messages(client, "request")[0]]
    assert xacbe(line) == 1
    assert "TAKEN OUT" in capsys.readouterr().out
    forger.change_byte(provider.root, 2, 70, 1)
    assert xacbe(line) == 2


@pytest.mark.parametrize("verb", ["audit", "compare"])
def test_a_log_that_cannot_be_read_was_not_changed_for_all_one_knows(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["log", verb, "--log", str(tmp_path / "nothing")]
    assert xacbe([*line, str(tmp_path)] if verb == "compare" else line) == 2
    assert "command.unreadable" in capsys.readouterr().err
    (tmp_path / "segments").mkdir()
    empty = ["log", verb, "--log", str(tmp_path)]
    assert xacbe([*empty, str(tmp_path)] if verb == "compare" else empty) == 2
