"""The recorder keeps operational records: beside the log, under a key of the token, never in its way."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.messagelog import monitoring
from appliance.messagelog.monitoring import LIST_MAX, OperationsAwayError
from appliance.messagelog.operations import FILE, SETTLED_S, OperationsRangeError
from appliance.messagelog.operations_wire import AskHealth, ListOperations, QueryOperations
from appliance.messagelog.recorder import Recorder
from tests.messagelog.log_box import LogBox
from tests.messagelog.test_operations import POLICE, operation, records

pack = msgspec.msgpack.encode


@pytest.fixture
def box(tmp_path: Path) -> LogBox:
    return LogBox(tmp_path / "log")


def played(box: LogBox, *acts: Any) -> None:
    """Each act in a recorder of its own, over the same directory."""

    async def play() -> None:
        for act in acts:
            async with box.opened() as recorder, asyncio.timeout(20):
                while not recorder.keys.ready:
                    await asyncio.sleep(0.01)
                await act(recorder)

    asyncio.run(play())


def test_records_outlive_the_recorder_and_only_figures_are_shown_to_persons(box: LogBox, tmp_path: Path) -> None:
    async def take(recorder: Recorder) -> None:
        await recorder.monitoring.take_operations("relay", pack([operation(message_id="canario", succeeded=False, fault_string="canario")]))

    async def ask(recorder: Recorder) -> None:
        now_s = box.clock.now_us() // 1_000_000
        box.clock.pass_s(SETTLED_S + 1)
        (told,) = records(await recorder.monitoring.query_operations("relay", pack(QueryOperations(now_s - 60, now_s, POLICE))))
        assert (told["messageId"], told["faultString"]) == ("canario", "canario")
        (shown,) = await recorder.monitoring.list_operations("console", pack(ListOperations(now_s - 60, now_s)))
        assert (shown.message_id, shown.fault_string, shown.service_code) == (None, None, "incidentes")

    played(box, take, ask)
    assert all(b"canario" not in file.read_bytes() for file in (tmp_path / "log").rglob("*") if file.is_file())


def test_health_is_told_since_the_start(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        await recorder.monitoring.take_operations("relay", pack([operation(), operation(succeeded=False)]))
        (service,) = (await recorder.monitoring.operations_health("relay", pack(AskHealth()))).services
        assert (service.succeeded, service.failed) == (1, 1)

    async def later(recorder: Recorder) -> None:
        assert (await recorder.monitoring.operations_health("relay", pack(AskHealth()))).services == []

    played(box, act, later)


def test_without_a_key_or_room_records_are_dropped_and_counted_and_nobody_is_refused(box: LogBox, monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(recorder: Recorder) -> None:
        monkeypatch.setattr(recorder.keys, "_current", None)
        await recorder.monitoring.take_operations("relay", pack([operation()] * 3))
        with pytest.raises(OperationsAwayError):
            await recorder.monitoring.list_operations("console", pack(ListOperations(0, 1)))
        monkeypatch.undo()
        monkeypatch.setattr(monitoring, "ROOM_BYTES_MIN", 1 << 60)
        await recorder.monitoring.take_operations("relay", pack([operation()]))
        assert (recorder.monitoring.taken, recorder.monitoring.dropped) == (0, 4)

    played(box, act)


def test_a_file_that_goes_bad_while_it_is_open_is_begun_anew(box: LogBox, tmp_path: Path) -> None:
    async def act(recorder: Recorder) -> None:
        await recorder.monitoring.take_operations("relay", pack([operation()]))
        for file in (tmp_path / "log").glob(f"{FILE}*"):
            file.write_bytes(b"x" * file.stat().st_size)
        for _ in range(3):
            await recorder.monitoring.take_operations("relay", pack([operation()]))
        assert recorder.monitoring.dropped >= 1
        assert recorder.monitoring.taken + recorder.monitoring.dropped == 4
        assert recorder.monitoring.taken >= 2

    played(box, act)


def test_a_person_asks_for_what_fits_into_one_answer(box: LogBox) -> None:
    async def act(recorder: Recorder) -> None:
        for wanted in (ListOperations(5, 4), ListOperations(0, 1, limit=0), ListOperations(0, 1, limit=LIST_MAX + 1)):
            with pytest.raises(OperationsRangeError):
                await recorder.monitoring.list_operations("console", pack(wanted))

    played(box, act)
