"""A content that is gone although no record of retention says so is found by `xacbe log audit`, and named."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.messagelog import cutting, inspection, record
from appliance.messagelog.disk import OsDisk
from appliance.messagelog.inspection import Trust, inspect
from appliance.messagelog.record import Record
from tests.messagelog import forger
from tests.messagelog.log_box import LogBox, append
from tests.messagelog.test_retention import DAY_S, confirm, next_archive

pytestmark = pytest.mark.rule("IV.5.IV")


def a_log(root: Path, *, erased: bool) -> LogBox:
    box = LogBox(root)

    async def play() -> None:
        async with box.opened() as recorder:
            for number in range(3):
                await append(recorder, box.appends([f"Q-{number}"], body=b"said")[0])
            if erased:
                box.clock.pass_s(31 * DAY_S)
                await confirm(recorder, await next_archive(recorder))
                assert (await recorder.custodian.erase_due("console", b"")).contents == 3
            await append(recorder, box.appends(["Q-last"], body=b"kept")[0])

    asyncio.run(play())
    return box


def cut(root: Path, keeps: dict[int, bool]) -> None:
    """As somebody with root would: the first segment anew, with the same links."""
    disk = OsDisk(root)
    first = min(int(name[:-4]) for name in disk.names("segments") if name.endswith(".log"))
    data = disk.view(f"segments/{first:020d}.log")
    mark = record.mark_of(data)
    assert mark is not None
    last = max(each.sequence for each in record.records(data, mark))

    def kept(found: Record) -> bool:
        return keeps.get(found.sequence, True)

    cutting.put_in_place(disk, cutting.write_anew(disk, first, last, mark, kept))


def test_what_retention_erased_is_intact(tmp_path: Path) -> None:
    box = a_log(tmp_path / "log", erased=True)

    found = inspect(box.root, Trust((), box.workshop.shared.tsas))

    assert found.bad is None
    assert found.contents_cut >= 3


def test_a_content_that_somebody_cut_out_is_found_and_named(tmp_path: Path) -> None:
    box = a_log(tmp_path / "log", erased=False)
    messages = [each for each in forger.records_of(box.root) if each.kind == record.MESSAGE]
    cut(box.root, {messages[1].sequence: False})

    found = inspect(box.root, Trust((), box.workshop.shared.tsas))

    assert found.bad is not None
    assert (found.bad.step, found.bad.sequence) == (inspection.RETENTION, messages[1].sequence)


def test_a_signature_that_somebody_cut_out_under_a_kept_message_is_found(tmp_path: Path) -> None:
    box = a_log(tmp_path / "log", erased=False)
    signature = next(each for each in forger.records_of(box.root) if each.kind == record.SIGNATURE)
    cut(box.root, {signature.sequence: False})

    found = inspect(box.root, Trust((), box.workshop.shared.tsas))

    assert found.bad is not None
    assert found.bad.step == inspection.RETENTION
