"""What a log must be after the power went: it opens, every record fits, and whatever was acknowledged is there and can be read."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from appliance.errors import XacbeError
from appliance.messagelog import record
from appliance.messagelog.custody import CUT
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.inspection import Trust, inspect
from appliance.messagelog.record import AuditEntry, MessageEntry, Record, SignatureEntry
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.sealing import epoch_of, open_message
from appliance.messagelog.segments import body_path
from appliance.messagelog.stream import BodyCipher
from tests.crash.load import crash_box
from tests.crash.marks import AUDIT, ERASED, LARGE, MESSAGE, Acknowledged, body_of, query_id
from tests.messagelog.log_box import LogBox


class Judge:
    """Opens one log after the other; authority and token are made once."""

    def __init__(self, life: int) -> None:
        """`life`: one after the guest's last, so that wall time does not go back."""
        self._life = life
        self._box: LogBox | None = None

    def broken(self, root: Path, acknowledged: Sequence[Acknowledged]) -> list[str]:
        """What was promised and not kept; empty: everything was. `root`: the log's directory, changed by the repair."""
        if not root.is_dir():
            return ["the log is gone"] if acknowledged else []
        if self._box is None:
            self._box = crash_box(root, self._life)
        self._box.root = root
        return asyncio.run(self._look(self._box, acknowledged))

    async def _look(self, box: LogBox, acknowledged: Sequence[Acknowledged]) -> list[str]:
        try:
            recorder = recorder_of(box)
        except XacbeError as error:
            return [f"does not open: {error.kind}: {error}"]
        try:
            found = {each.sequence: each for _, each in recorder.store.records_from(1)}
            lost = await _missing(recorder, box.root, found, acknowledged)
            lost += await _unreadable(recorder, acknowledged, found)
        except XacbeError as error:
            lost = [f"does not read: {error.kind}: {error}"]
        finally:
            await recorder.close()
        audit = inspect(box.root, Trust())
        if audit.bad is not None:
            lost.append(f"does not verify: {audit.bad}")
        return lost


def recorder_of(box: LogBox) -> Recorder:
    """As at any start: check, repair, index, an erasure that was cut off. Its tasks do not run: nothing is stamped."""
    return Recorder(
        box.root,
        box.settings,
        box.clock,
        box.authority,
        box.signer,
        logging.getLogger("recorder"),
        box.stopped.append,
        box.unconfirmed.append,
        box.rolled_back.append,
        box._accounts,
    )


async def _missing(recorder: Recorder, root: Path, found: dict[int, Record], acknowledged: Sequence[Acknowledged]) -> list[str]:
    lost = []
    audits, cuts = _audits(found)
    erasable = max((each.sequence for each in acknowledged if each.kind == ERASED), default=0)
    keys = recorder.keys
    by_name = {}
    if any(each.sequence == 0 and each.kind in (MESSAGE, LARGE) for each in acknowledged):  # a planted bug: nobody knew the record yet
        by_name = await _by_name(keys, found)
    for each in acknowledged:
        if each.kind == ERASED:
            continue
        if each.kind == AUDIT:
            if str(each.number) not in audits:
                lost.append(f"audit {each.number} is lost")
            continue
        one = found.get(each.sequence) or by_name.get(query_id(each.number))
        if one is None:
            lost.append(f"{query_id(each.number)}, record {each.sequence}, is lost")
            continue
        why = await _message(keys, root, found, one, each, is_cut=each.sequence <= min(erasable, cuts))
        if why:
            lost.append(f"{query_id(each.number)}, record {each.sequence}: {why}")
    return lost


async def _by_name(keys: DataKeys, found: dict[int, Record]) -> dict[str, Record]:
    named = {}
    for each in found.values():
        entry = record.decode_entry(each.kind, each.payload)
        if isinstance(entry, MessageEntry):
            named[(await keys.epoch(epoch_of(entry.key))).open_names(entry.names).query_id] = each
    return named


def _audits(found: dict[int, Record]) -> tuple[set[str], int]:
    """(numbers of the load's audit records, last record that a retention's audit record covers)."""
    numbers, cuts = set(), 0
    for each in found.values():
        if each.kind == record.AUDIT:
            entry = record.decode_entry(each.kind, each.payload)
            assert isinstance(entry, AuditEntry)
            if entry.event == CUT:
                cuts = max(cuts, int(entry.facts["last"]))
            elif "number" in entry.facts:
                numbers.add(entry.facts["number"])
    return numbers, cuts


async def _message(keys: DataKeys, root: Path, found: dict[int, Record], one: Record, told: Acknowledged, *, is_cut: bool) -> str:
    """Why this record does not hold what was acknowledged; empty: it does. `is_cut`: its content may be gone, its names not."""
    entry = record.decode_entry(one.kind, one.payload)
    if not isinstance(entry, MessageEntry):
        return "another kind of record"
    epoch = await keys.epoch(epoch_of(entry.key))
    if epoch.open_names(entry.names).query_id != query_id(told.number):
        return "another message"
    if one.is_content_cut:
        return "" if is_cut else "its content is cut, and nothing says so"
    signature = found.get(entry.signature)
    if signature is None:
        return "its signature is lost"
    signed = record.decode_entry(signature.kind, signature.payload)
    assert isinstance(signed, SignatureEntry)
    said = open_message(await keys.group_key(entry.key), one.content, signed.digest)
    if query_id(told.number).encode() not in said.message:
        return "another content"
    body = said.body or b""
    if entry.body_file and said.body_key is not None:
        body = BodyCipher(said.body_key).open((root / body_path(one.sequence)).read_bytes(), 0, size=entry.body_bytes)
    if hashlib.sha512(body).digest() != entry.body_digest:
        return "its body is another"
    if told.kind == LARGE and body != body_of(told.number, LARGE):
        return "its body is another"
    (await keys.epoch(signed.epoch)).open_signature(signature.content, signed.digest)
    return ""


async def _unreadable(recorder: Recorder, acknowledged: Sequence[Acknowledged], found: dict[int, Record]) -> list[str]:
    """Some through the index, as a reader would: it has to know where they lie now."""
    messages = [each for each in acknowledged if each.sequence in found and each.kind not in (AUDIT, ERASED)]
    whole = [each for each in messages if not found[each.sequence].is_content_cut]
    lost = []
    for each in whole[:: max(1, len(whole) // 5)][:6] + whole[-2:]:
        content, descriptor = await recorder.reading.content(each.sequence)
        if descriptor is not None:
            os.close(descriptor)
        if query_id(each.number).encode() not in content.message:
            lost.append(f"{query_id(each.number)} is another by the index")
    return lost
