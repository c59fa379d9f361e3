"""What a box's log says after the power went once more: only synced bytes, read record by record.

The keys are opened by the product's own code (nobody else can read a sealed log); everything else here reads the bytes by itself.
"""

from __future__ import annotations

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.hsm import wrapping
from appliance.messagelog import record
from appliance.messagelog.data_keys import DataKeys
from appliance.messagelog.inspection import Findings, Trust, inspect
from appliance.messagelog.record import CheckpointEntry, MessageEntry, OutageEntry, Record, SignatureEntry, StampEntry, UnconfirmedEntry
from appliance.messagelog.sealing import epoch_of, open_message
from appliance.messagelog.segments import body_path
from appliance.messagelog.stream import BodyCipher
from appliance.trust.global_configuration import ApprovedTsa
from tests.simulation.box import Box, SimToken
from tests.simulation.disk import SEGMENTS
from tests.simulation.town import Town


@dataclass(frozen=True, slots=True)
class Logged:
    """One message of a log, opened."""

    sequence: int
    side: str
    direction: str
    received: bool
    query_id: str
    message: bytes
    body: bytes
    signature: bytes
    chain_result: bytes | None
    chain: bytes | None
    ends_us: int


@dataclass
class ReadLog:
    """`stamps`: message -> the stamps that cover it."""

    findings: Findings
    messages: list[Logged] = field(default_factory=list)
    stamps: dict[int, list[StampEntry]] = field(default_factory=dict)
    signatures: dict[int, bytes] = field(default_factory=dict)
    """SHA-512 of each signature document, by the sequence of its record."""
    provisional: set[int] = field(default_factory=set)
    unconfirmed: set[int] = field(default_factory=set)
    unreadable: list[str] = field(default_factory=list)

    def find(self, query_id: str, side: str, direction: str) -> Logged | None:
        found = [one for one in self.messages if (one.query_id, one.side, one.direction) == (query_id, side, direction)]
        return found[-1] if found else None


class _Unwraps:
    """The signer, for whoever reads the log afterwards."""

    def __init__(self, token: SimToken) -> None:
        self._token = token

    async def call(self, operation: str, request: Any, answer: type[bytes], timeout_s: float) -> bytes:
        key = self._token.mac("wrap", wrapping.mac_input(wrapping.salt_of(request.data)))
        return wrapping.unwrap(key, request.data, request.context)


async def read_log(box: Box, town: Town, root: Path) -> ReadLog:
    """The box is off; its platter is as the last power cut left it."""
    box.platter.copy_to(root)
    for part in ("keys", "tiles"):
        if (box.state / "log" / part).is_dir():
            shutil.copytree(box.state / "log" / part, root / part, dirs_exist_ok=True)
    findings = inspect(root, Trust((town.issuing, town.root), (ApprovedTsa("CEIQROO", "", town.tsa),)))
    read = ReadLog(findings)
    keys = DataKeys(root, _Unwraps(box.token), box.clock, ThreadPoolExecutor(1), logging.getLogger("simulation.read"))
    records = {one.sequence: one for one in _records(root)}
    for one in records.values():
        entry = record.decode_entry(one.kind, one.payload)
        match entry:
            case MessageEntry():
                await _message(read, keys, root, records, one, entry)
            case SignatureEntry() | CheckpointEntry():
                read.signatures[one.sequence] = entry.digest
            case StampEntry():
                for message in entry.messages:
                    read.stamps.setdefault(message, []).append(entry)
            case OutageEntry():
                read.provisional |= {message for message, _ in entry.provisional}
            case UnconfirmedEntry():
                read.unconfirmed |= set(entry.messages)
    return read


def _records(root: Path) -> list[Record]:
    found: list[Record] = []
    for file in sorted((root / SEGMENTS).glob("*.log")) if (root / SEGMENTS).is_dir() else ():
        data = file.read_bytes()
        mark = record.mark_of(data)
        if mark is not None:
            found += record.records(data, mark, record.SEGMENT_HEAD.size)
    return found


async def _message(read: ReadLog, keys: DataKeys, root: Path, records: dict[int, Record], one: Record, entry: MessageEntry) -> None:
    try:
        query_id = (await keys.epoch(epoch_of(entry.key))).open_names(entry.names).query_id
        stored = records[entry.signature]
        signed = record.decode_entry(stored.kind, stored.payload)
        assert isinstance(signed, SignatureEntry)
        said = open_message(await keys.group_key(entry.key), one.content, signed.digest)
        document = (await keys.epoch(signed.epoch)).open_signature(stored.content, signed.digest)
        body = said.body or b""
        if entry.body_file and said.body_key is not None:
            body = BodyCipher(said.body_key).open((root / body_path(one.sequence)).read_bytes(), 0, size=entry.body_bytes)
    except Exception as error:  # whatever it is: this record cannot be read
        read.unreadable.append(f"record {one.sequence}: {error!r}")
        return
    read.messages.append(
        Logged(
            one.sequence,
            entry.side,
            entry.direction,
            entry.received,
            query_id,
            said.message,
            body,
            document.signature,
            document.chain_result,
            said.chain,
            entry.ends_us,
        )
    )
