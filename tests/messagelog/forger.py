"""An attacker with root on the box: rewrites a log at will, with every checksum, number and link made to fit again."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

from appliance.messagelog import record
from appliance.messagelog.record import Position, Record

Change = Callable[[list[Record]], list[Record]]


def segments(root: Path) -> list[Path]:
    return sorted((root / "segments").glob("*.log"))


def records_of(root: Path) -> list[Record]:
    found = []
    for file in segments(root):
        data = file.read_bytes()
        found += list(record.records(data, record.mark_of(data) or 0))
    return found


def relink(root: Path, change: Change) -> None:
    """Writes the changed records as one segment that is whole in itself; what is derived (index) goes."""
    changed = change(records_of(root))
    files = sorted((root / "segments").glob("*.log"))
    head = files[0].read_bytes()[: record.SEGMENT_HEAD.size]
    mark, position = record.mark_of(head) or 0, Position()
    data = bytearray(head)
    for each in changed:
        data += record.encode(position, mark, each.kind, each.flags & ~record.HAS_CONTENT, each.at_us, each.payload, each.content)
    for file in files:
        file.unlink()
    files[0].write_bytes(data)
    (root / "index.sqlite").unlink(missing_ok=True)


def rewritten(sequence: int, payload: bytes) -> Change:
    """One record says something else."""

    def change(found: list[Record]) -> list[Record]:
        found[sequence - 1].payload = payload
        return found

    return change


def swapped(first: int, second: int) -> Change:
    def change(found: list[Record]) -> list[Record]:
        found[first - 1], found[second - 1] = found[second - 1], found[first - 1]
        return found

    return change


def without(sequence: int) -> Change:
    return lambda found: found[: sequence - 1] + found[sequence:]


def cut_after(sequence: int) -> Change:
    return lambda found: found[:sequence]


def change_byte(root: Path, sequence: int, at: int, by: int, *, mend_crc: bool = False) -> None:
    """One byte of a record, `at` counted from its beginning; `mend_crc`: the checksum is made to fit."""
    for file in sorted((root / "segments").glob("*.log")):
        data = bytearray(file.read_bytes())
        mark = record.mark_of(bytes(data)) or 0
        for each in record.records(bytes(data), mark):
            if each.sequence == sequence:
                data[each.offset + at] ^= by
                if mend_crc:
                    end = each.offset + each.size - record.CRC_BYTES
                    data[end : end + record.CRC_BYTES] = zlib.crc32(data[each.offset : end], mark).to_bytes(4, "big")
                file.write_bytes(data)
                return
    raise AssertionError(f"no record {sequence}")
