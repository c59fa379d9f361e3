"""`xacbe log list` over a log of more than one answer of the recorder."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from appliance import topology
from appliance.commands import READER_GONE
from appliance.commands import main as xacbe
from appliance.errors import UnavailableError
from appliance.messagelog.group_commit import GROUP_RECORDS_MAX
from appliance.messagelog.groups import Written
from appliance.messagelog.index import Index
from appliance.messagelog.record import MESSAGE, MessageEntry, Position
from appliance.messagelog.sealing import tag
from appliance.messagelog.wire import ListRecords, RecordSummary
from appliance.net.local_server import Handler, LocalServer
from tests.messagelog.drafts import EPOCH, NOW_US, TAGS, message
from tests.supervision.box import bind_channels, make_box

MOMENTS_US = (
    [NOW_US + 1000 * number for number in range(700)]
    + [NOW_US + 10**6] * GROUP_RECORDS_MAX
    + [NOW_US + 2 * 10**6 + number for number in range(900)]
)
"""One record after the other, then a group as the log writes it under load: one moment for all of them."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index(tmp_path / "index.sqlite")
    entries = []
    for number, at_us in enumerate(MOMENTS_US):
        entry = message(f"Q-{number}").entry
        assert isinstance(entry, MessageEntry)
        entries.append(Written(MESSAGE, 10 + number, at_us, entry))
    index.apply(entries, Position(10 + len(entries), b"\0" * 32))
    yield index
    index.close()


@pytest.mark.parametrize("limit", [1, 999, 1000, 1001, 2000, 2600, 1_000_000])
def test_as_many_records_are_listed_as_were_asked_for(tmp_path: Path, index: Index, limit: int, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(_listed(tmp_path, index, capsys, "--json", "--limit", str(limit)))

    newest_first = [10 + number for number in reversed(range(len(MOMENTS_US)))]
    assert [record["sequence"] for record in found] == newest_first[:limit]


def test_a_heading_stands_above_the_columns(tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    heading, line = _listed(tmp_path, index, capsys, "--limit", "1").splitlines()

    assert heading.split()[:3] == ["REGISTRO", "MOMENTO", "SELLO"]
    assert heading.index("CONSULTA") == line.index("Q-2623")
    assert heading.index("CLIENTE ->") == line.index("QROO-TEST/GOB/1/client")


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    """The way of every long answer: `xacbe log show ID | head -3`."""
    program = f"sleep 0.1; '{sys.executable}' -c 'import sys; from appliance.commands import main; sys.exit(main())'"

    done = subprocess.run(["/bin/sh", "-c", f"({program} --help; echo $? >&2) | true"], capture_output=True, text=True, check=False)

    assert done.stderr == f"{READER_GONE}\n"


def _listed(tmp_path: Path, index: Index, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The command against a recorder that has this index and nothing else."""
    state = make_box(tmp_path / "box")

    async def answer(caller: str, payload: bytes) -> list[RecordSummary]:
        wanted = msgspec.msgpack.decode(payload, type=ListRecords)
        rows = index.search(wanted, tag(TAGS, b"query", wanted.query_id) if wanted.query_id else None)
        return [msgspec.structs.replace(row.summary, query_id=EPOCH.open_names(row.names).query_id) for row in rows]

    async def none(caller: str, payload: bytes) -> None:
        raise UnavailableError("not here")

    async def play() -> int:
        handlers: dict[str, Handler] = {**dict.fromkeys(topology.BY_NAME["recorder"].callers, none), "list_records": answer}
        listeners = bind_channels(state, "recorder")
        async with asyncio.TaskGroup() as group:
            server = group.create_task(LocalServer("recorder", handlers).serve(listeners))
            code = await asyncio.to_thread(xacbe, ["log", "list", "--reason", "a test", "--state", str(state), *words])
            server.cancel()
        for listener in listeners.values():
            listener.close()
        return code

    assert asyncio.run(play()) == 0
    return capsys.readouterr().out
