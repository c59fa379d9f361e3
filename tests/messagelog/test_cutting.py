"""A segment that is written anew on a failing disk: whatever fails, the old or the new one is there whole (T34, T35)."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable

import pytest

from appliance.errors import XacbeError
from appliance.messagelog import cutting, record
from appliance.messagelog.record import MESSAGE, Record
from tests.fakes.disk import Disk
from tests.messagelog.crash_harness import CuttingDisk, PowerCut, Promises, broken_promises, opened, workload


def _segment_with_a_body() -> int:
    disk, promises = Disk(), Promises()
    store = opened(disk)
    workload(store, disk, promises)
    first = store.segment_of(min(promises.bodies))
    assert first in store.closed
    return first


FIRST = _segment_with_a_body()


def prepared(kind: type[Disk] = CuttingDisk) -> tuple[Disk, Promises, int]:
    """A log of several segments, all of it durable, on a disk that counts from here; and the first segment's mark."""
    disk, promises = Disk(), Promises()
    store = opened(disk)
    workload(store, disk, promises)
    mark = store.mark_of(FIRST)
    store.close()
    fresh = kind()
    fresh.directories = disk.crashed(random.Random(0), kept=1).directories  # noqa: S311  not for secrets
    return fresh, promises, mark


def erase(disk: Disk, mark: int) -> None:
    """What the custodian does with one segment: anew without messages' contents, in place, body files gone."""
    segment = disk.view(f"segments/{FIRST:020d}.log")
    last = max(found.sequence for found in record.records(segment, mark))

    def keeps(found: Record) -> bool:
        return found.kind != MESSAGE

    cutting.put_in_place(disk, cutting.write_anew(disk, FIRST, last, mark, keeps))
    cutting.remove_bodies(disk, FIRST, last, set())


def operations() -> int:
    disk, _, mark = prepared()
    erase(disk, mark)
    return disk.operations


def broken(disk: Disk, promises: Promises, mark: int, last: int) -> list[str]:
    """The log opens, every link and payload is there, and the erasure can be ended."""
    kept = Promises(promises.records, {s: body for s, body in promises.bodies.items() if not FIRST <= s <= last})
    copy = Disk()
    copy.directories = disk.crashed(random.Random(0), kept=1).directories  # noqa: S311  not for secrets
    found = broken_promises(copy, kept)
    try:
        erase(disk, mark)
    except (XacbeError, ValueError) as error:
        return [*found, f"cannot be ended: {error}"]
    segment = disk.view(f"segments/{FIRST:020d}.log")
    left = [each.sequence for each in record.records(segment, mark) if each.kind == MESSAGE and each.content]
    return [*found, *(f"{sequence} was not erased" for sequence in left), *broken_promises(disk, kept)]


def states(fails: Callable[[CuttingDisk, int], None], kind: type[CuttingDisk] = CuttingDisk) -> list[str]:
    found = []
    chance = random.Random(7)  # noqa: S311  not for secrets
    last = 0
    for n in range(1, operations() + 2):
        disk, promises, mark = prepared(kind)
        assert isinstance(disk, CuttingDisk)
        last = last or max(each.sequence for each in record.records(disk.view(f"segments/{FIRST:020d}.log"), mark))
        fails(disk, n)
        try:
            erase(disk, mark)
        except (PowerCut, OSError, XacbeError):
            pass
        for after in (disk.crashed(chance, kept=0.0), disk.crashed(chance, kept=0.5), disk.crashed(chance, kept=0.9), disk.restarted()):
            found += [f"{n}: {each}" for each in broken(after, promises, mark, last)]
    return found


def cut_at(disk: CuttingDisk, n: int) -> None:
    disk.cut_at = n


@pytest.mark.case("T34")
def test_a_power_cut_before_any_operation_of_an_erasure_leaves_a_log_that_opens_and_can_be_erased() -> None:
    assert operations() >= 7  # create, write, sync, rename, its sync; a body, its sync
    assert states(cut_at) == []


@pytest.mark.case("T35")
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("but_persist", [False, True])
def test_an_error_at_any_operation_of_an_erasure_leaves_a_log_that_opens_and_can_be_erased(code: int, but_persist: bool) -> None:
    def fails(disk: CuttingDisk, n: int) -> None:
        disk.fail_at, disk.but_persist, disk.code = n, but_persist, code

    assert states(fails) == []


@pytest.mark.case("T46")
def test_a_disk_without_room_for_a_second_segment_keeps_the_first_and_says_so() -> None:
    for room in (0, 1, 500, 2000):
        disk, promises, mark = prepared()
        disk.capacity = disk.capacity - disk.free_bytes() + room
        with pytest.raises(XacbeError) as refused:
            erase(disk, mark)
        assert refused.value.kind == "log.full"
        assert f"{FIRST:020d}.new" not in disk.names("segments")
        disk.capacity = 1 << 40
        assert broken_promises(disk, promises) == []


@pytest.mark.case("T33")
def test_the_harness_finds_a_new_segment_whose_bytes_were_not_synced() -> None:
    class Forgetful(CuttingDisk):
        def sync(self, handle: int) -> None:
            return

    assert states(cut_at, Forgetful) != []
