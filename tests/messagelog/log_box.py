"""A real recorder over a directory, with sealed messages of a real authority and a trust agent that gives real tokens."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import pwd
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.access.roles import AUDITOR, Account
from appliance.errors import UnavailableError
from appliance.messagelog.disk import Disk
from appliance.messagelog.recorder import Recorder
from appliance.messagelog.stamping import WriteUnconfirmed
from appliance.messagelog.stream import BodyCipher
from appliance.messagelog.wire import Append, Appended, BodyFile, ListRecords, ReadRecord, RecordContent, RecordSummary, Seal
from appliance.net.local_client import NeighbourAwayError
from appliance.net.local_server import Reply, called_by
from appliance.settings import RecorderSettings
from appliance.trust.signed_time import SignedMoment, SignedTime, monotonic_us
from appliance.trust.timestamps import build_request, check_imprint, token_of_response
from appliance.trust.wire import StampReply, StampRequest
from provisioning.authority import tsa
from tests.messagelog.drafts import StillClock, WalkingClock
from tests.messagelog.log_key import LogKey
from tests.seal.workshop import NOON_US, Workshop, parts_of

OWN_USER = pwd.getpwuid(os.getuid()).pw_name
SETTINGS = RecorderSettings(segment_bytes_max=1 << 20, reserve_bytes=1 << 20)
SUBSYSTEMS = ("QROO-TEST/GOV/1001/solomon", "QROO-TEST/GOV/2002/geoportal")
HEAD = (
    "POST\r\n/r1/QROO-TEST/GOV/2002/geoportal/incidents\r\nContent-Type:application/json\r\n"
    "X-Road-Client:QROO-TEST/GOV/1001/solomon\r\nx-road-request-id:11111111-2222-3333-4444-555555555555\r\nx-road-id:{id}\r\n"
)


class Authority:
    """The trust agent as the recorder sees it: real RFC 3161 tokens, or silence."""

    def __init__(self, workshop: Workshop, clock: StillClock) -> None:
        self.workshop, self.clock = workshop, clock
        self.silent = self.away = False
        self.imprints: list[bytes] = []
        self.delay_s = 0.0

    async def call(self, operation: str, request: Any, answer: type[StampReply], timeout_s: float) -> StampReply:
        assert operation == "stamp"
        assert isinstance(request, StampRequest)
        await asyncio.sleep(self.delay_s)
        if self.away:
            raise NeighbourAwayError("trust_agent: the process went away")
        if self.silent:
            raise UnavailableError("no authority answers", kind="tsa.unreachable")
        self.imprints.append(request.imprint)
        workshop = self.workshop
        given = tsa.answer(
            build_request(request.imprint), tsa.StampingKey(workshop.tsa, workshop.tsa_key), self.clock.now_us(), len(self.imprints)
        )
        token = token_of_response(given, request.imprint, workshop.shared.tsas)
        facts = check_imprint(token, request.imprint, workshop.shared.tsas)
        return StampReply(token, facts.gen_time_us, facts.accuracy_us, facts.authority)


class LogBox:
    """Opens and closes recorders over one directory."""

    def __init__(self, root: Path, settings: RecorderSettings = SETTINGS) -> None:
        self.root, self.settings = root, settings
        root.mkdir(exist_ok=True)
        self.workshop = Workshop()
        self.clock = WalkingClock(NOON_US)
        self.authority = Authority(self.workshop, self.clock)
        self.signer = LogKey(self.clock)
        self.rolled_back: list[dict[str, str]] = []
        self.damage: list[tuple[str, dict[str, str]]] = []
        self.accounts = [Account(OWN_USER, (AUDITOR,))]
        self.unconfirmed: list[WriteUnconfirmed] = []
        self.stopped: list[BaseException] = []
        self.disk: Disk | None = None
        self.hears_time = True
        """Whether the trust agent has just heard a signed time when a recorder starts."""

    async def _accounts(self) -> list[Account]:
        return self.accounts

    @contextlib.asynccontextmanager
    async def opened(self, *, with_keys: bool = True) -> AsyncIterator[Recorder]:
        """`with_keys`: each subsystem's key is there, as after the first message of a day."""
        recorder = Recorder(
            self.root,
            self.settings,
            self.clock,
            self.authority,
            self.signer,
            logging.getLogger("recorder"),
            self.stopped.append,
            self.unconfirmed.append,
            self.rolled_back.append,
            self._accounts,
            on_damage=lambda kind, facts: self.damage.append((kind, facts)),
            disk=self.disk,
        )
        if self.hears_time:
            now_us = self.clock.now_us()
            recorder.stamper.signed = SignedTime(SignedMoment(now_us, monotonic_us(self.clock)), now_us)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(recorder.run())
            try:
                for subsystem in SUBSYSTEMS if with_keys and not self.signer.token.away else ():
                    recorder.keys.sealed((await recorder.keys.sealing_with(subsystem))[1])
                yield recorder
            finally:
                task.cancel()
        await recorder.close()

    def appends(
        self,
        ids: Sequence[str],
        *,
        received: bool = True,
        body: bytes | None = None,
        direction: str = "request",
        confirmed_us: int | None = None,
    ) -> list[Append]:
        """Messages under one signature; `confirmed_us`: when the OCSP response inside was made, if that is not now."""
        heads = [HEAD.format(id=each).encode() for each in ids]
        attachments = [] if body is None else [body]
        leaves = [parts_of(head, attachments) for head in heads]
        confirmation = None if confirmed_us is None else self.workshop.confirmation(confirmed_us)
        seals = self.workshop.sealed(leaves, self.clock.now_us(), confirmation)
        return [
            Append(
                side="provider" if received else "client",
                direction=direction,
                received=received,
                query_id=each,
                request_id="11111111-2222-3333-4444-555555555555",
                client="QROO-TEST/GOV/1001/solomon",
                service="QROO-TEST/GOV/2002/geoportal/incidents",
                represented_party=None,
                message=head,
                body=body,
                body_file=None,
                body_bytes=len(body or b""),
                body_digest=leaf[1][1] if body is not None else None,
                seal=Seal(seal.signature, seal.chain_result, seal.chain, self.clock.now_us(), self.clock.now_us()),
                stamp_first=received,
                replay_key=hashlib.sha512(seal.signature + head).digest() if received else None,
                signed_at_us=self.clock.now_us(),
            )
            for each, head, seal, leaf in zip(ids, heads, seals, leaves, strict=True)
        ]


async def append(recorder: Recorder, request: Append) -> Appended:
    return await recorder.append("relay", msgspec.msgpack.encode(request))


async def append_all(recorder: Recorder, requests: Sequence[Append]) -> list[Appended]:
    return list(await asyncio.gather(*(append(recorder, request) for request in requests)))


async def listed(recorder: Recorder, wanted: ListRecords | None = None) -> list[RecordSummary]:
    """As an auditor with a reason."""
    asked = msgspec.structs.replace(wanted or ListRecords(limit=1000), reason="a court asks")
    with called_by(os.getuid()):
        return await recorder.reading.list_records("console", msgspec.msgpack.encode(asked))


async def read(recorder: Recorder, sequence: int, reason: str = "a court asks") -> tuple[RecordContent, bytes]:
    """The content, and the body that its descriptor holds."""
    with called_by(os.getuid()):
        reply = await recorder.reading.read_record("console", msgspec.msgpack.encode(ReadRecord(sequence, reason)))
    assert isinstance(reply, Reply)
    assert isinstance(reply.value, RecordContent)
    content = reply.value
    with os.fdopen(reply.descriptor, "rb") as file:
        lies = file.read()
    return content, lies if content.body_key is None else BodyCipher(content.body_key).open(lies, 0, size=content.body_bytes)


def written(file: BodyFile, body: bytes) -> bytes:
    """What the relay writes into the body's file."""
    return BodyCipher(file.key).seal(body, 0, last=True)


async def until_stamped(recorder: Recorder) -> None:
    async with asyncio.timeout(10):
        while recorder.stamper.stamps.waiting or recorder.stamper.last_stamp_us is None:
            if isinstance(recorder._clock, StillClock):
                recorder._clock.s += 0.1  # own records wait for company
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)  # the STAMP record itself


def played(box: LogBox, act: Callable[[Recorder], Awaitable[None]]) -> None:
    """What is done with one open recorder."""

    async def play() -> None:
        async with box.opened() as recorder:
            await act(recorder)

    asyncio.run(play())
