"""Carries out what `stamping.StampQueue` decides: asks the trust agent, writes STAMP, OUTAGE and UNCONFIRMED records, answers who waits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Protocol, assert_never

from appliance.clock import Clock
from appliance.errors import XacbeError
from appliance.journal import event
from appliance.messagelog import audit
from appliance.messagelog.group_commit import GroupCommit
from appliance.messagelog.groups import Draft, Written
from appliance.messagelog.record import AuditEntry, OutageEntry, StampEntry, UnconfirmedEntry
from appliance.messagelog.stamping import (
    AWAY,
    AnswerProvisional,
    AnswerStamped,
    Effect,
    Event,
    GraceKnown,
    Logged,
    NotStampedError,
    Now,
    OutageWritten,
    Refuse,
    RequestStamp,
    Stamped,
    StampFailed,
    StampQueue,
    StampWritten,
    Ticked,
    TrustAgentAwayError,
    Waiting,
    WriteOutage,
    WriteStamp,
    WriteUnconfirmed,
)
from appliance.messagelog.wire import Appended
from appliance.seal import xades
from appliance.seal.hash_chain import SIGNATURES, STAMP_CHAIN, Batch
from appliance.trust.signed_time import NOTHING_SIGNED, monotonic_us
from appliance.trust.wire import StampReply, StampRequest

TICK_S = 0.25
STAMP_CALL_S_MAX = 4.0
"""The trust agent gives the authorities up within 3.5 s and says so; what answers later than this hangs, which is known before any patience
(PATIENCE_S) is over."""
WRITE_RETRY_S = 1.0
"""The disk was full to the last byte: the stamp is kept and offered again; who waits is cut off by its own deadline."""
LEAVES_INLINE_MAX = 256
"""A tree over more leaves is built in a thread: some 4 us a leaf would hold the loop."""

SignatureDocument = Callable[[int, bytes], Awaitable[bytes]]
"""`await document(sequence, digest)`: the signature document, from memory or from the log."""


class TrustAgent(Protocol):
    """The way to the trust agent: `local_client.LocalClient`."""

    async def call(self, operation: str, request: object, answer: type[StampReply], timeout_s: float) -> StampReply: ...


def imprint_of(leaves: tuple[tuple[int, bytes], ...]) -> tuple[bytes, bytes]:
    """(imprint, HashChainResult) of the batch form over whole signature documents (sheet 4.8)."""
    result = Batch([[(SIGNATURES, digest)] for _, digest in leaves], STAMP_CHAIN).result
    return hashlib.sha512(result).digest(), result


class Stamper:
    """The shell around one queue. Everything but `run` happens in the loop, in one piece."""

    def __init__(
        self,
        stamps: StampQueue,
        commit: GroupCommit,
        trust: TrustAgent,
        document: SignatureDocument,
        clock: Clock,
        log: logging.Logger,
        on_unconfirmed: Callable[[WriteUnconfirmed], None],
    ) -> None:
        """`on_unconfirmed`: called when an UNCONFIRMED record is durable."""
        self.stamps = stamps
        self._commit, self._trust, self._document, self._clock, self._log = commit, trust, document, clock, log
        self._on_unconfirmed = on_unconfirmed
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, tuple[int, asyncio.Future[Appended]]] = {}
        self._request: RequestStamp | None = None
        self._requested = asyncio.Event()
        self._turn_asked = False
        self.last_stamp_us: int | None = None
        self.signed = NOTHING_SIGNED
        self.requests = self.failures = 0

    def now(self) -> Now:
        """By signed time where there is one: a step of the clock moves no deadline (T38, T40)."""
        return Now(self.signed.present_us(self._clock.now_us(), monotonic_us(self._clock)), self._clock.monotonic_s())

    def reached_us(self) -> int:
        """A moment that has certainly come (`signed_time.reached_us`)."""
        return self.signed.reached_us(self._clock.now_us(), monotonic_us(self._clock), self.last_stamp_us or 0)

    # -- events

    def logged(self, written: Written, waiting: Waiting, answer: asyncio.Future[Appended] | None) -> None:
        """A message is durable; `answer` is set with its stamp, its provisional deadline, or NotStampedError."""
        if answer is not None:
            self._waiting[waiting.sequence] = (written.at_us, answer)
        self.handle(Logged(waiting, answer is not None))
        if not self._turn_asked:  # after the whole group, so that all of it shares one stamp
            self._turn_asked = True
            self._loop.call_soon(self._turn)

    def grace(self, grace_us: int) -> None:
        self.handle(GraceKnown(grace_us))

    def _turn(self) -> None:
        self._turn_asked = False
        self.handle(Ticked())

    def handle(self, happened: Event) -> None:
        for effect in self.stamps.handle(happened, self.now()):
            self._carry_out(effect)

    # -- effects

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case RequestStamp():
                self._request = effect
                self._requested.set()
            case WriteStamp():
                self._write_stamp(effect)
            case WriteOutage():
                self._write_outage(effect)
            case WriteUnconfirmed():
                self._write_unconfirmed(effect)
            case AnswerStamped():
                self._answer(effect.sequence, effect.gen_time_us, None, effect.accuracy_us)
            case AnswerProvisional():
                self._answer(effect.sequence, None, effect.until_us, 0)
            case Refuse():
                _, answer = self._waiting.pop(effect.sequence)
                if not answer.done():
                    answer.set_exception(_refusal(effect.kind))
            case _:
                assert_never(effect)

    def _answer(self, sequence: int, stamped_at_us: int | None, until_us: int | None, accuracy_us: int) -> None:
        at_us, answer = self._waiting.pop(sequence)
        if not answer.done():
            answer.set_result(Appended(sequence, at_us, stamped_at_us, until_us, accuracy_us))

    def _write_stamp(self, effect: WriteStamp) -> None:
        reply = effect.reply
        signatures = [sequence for sequence, _ in effect.leaves]
        entry = StampEntry(
            reply.token, reply.gen_time_us, reply.accuracy_us, reply.authority, signatures, list(effect.messages), effect.chain_result
        )
        self.last_stamp_us = reply.gen_time_us
        self._write(Draft(entry, essential=True), StampWritten(effect.messages, reply.gen_time_us, reply.accuracy_us))

    def _write_outage(self, effect: WriteOutage) -> None:
        entry = OutageEntry(effect.started_us, effect.ended_us, list(effect.provisional))
        if not effect.provisional:
            name = "stamping.outage_began" if effect.ended_us is None else "stamping.outage_ended"
            event(self._log, logging.WARNING, name, waiting=self.stamps.waiting, since_us=effect.started_us)
        self._write(Draft(entry, essential=True), OutageWritten(effect.provisional))

    def _write_unconfirmed(self, effect: WriteUnconfirmed) -> None:
        facts = {
            "records": str(len(effect.messages)),
            "delivered": str(len(effect.delivered)),
            "own": str(len(effect.own)),
            "first": str(min(effect.messages)),
            "last": str(max(effect.messages)),
        }
        event(self._log, logging.ERROR, "seal.unconfirmed", **facts)
        withdrawn = sorted((*effect.delivered, *effect.own))
        self._write(Draft(UnconfirmedEntry(list(effect.messages), self.now().us, withdrawn), essential=True), None)
        self._write(Draft(AuditEntry(audit.UNCONFIRMED, "recorder", facts), essential=True), effect)

    def _write(self, draft: Draft, then: StampWritten | OutageWritten | WriteUnconfirmed | None) -> None:
        """Makes a record durable, however long the disk is full, and then goes on."""

        def done(result: Written | XacbeError) -> None:
            if isinstance(result, XacbeError):
                event(self._log, logging.ERROR, "log.record_delayed", kind=result.kind)
                self._loop.call_later(WRITE_RETRY_S, self._write, draft, then)
            elif isinstance(then, WriteUnconfirmed):
                self._on_unconfirmed(then)
            elif then is not None:
                self.handle(then)

        try:
            self._commit.submit(draft, done)
        except XacbeError:
            return  # the process ends in order: what is not written now is decided again after the start

    # -- tasks

    async def tick(self) -> None:
        """For ever: patience, deadlines, the next attempt."""
        while True:
            await asyncio.sleep(TICK_S)
            self.handle(Ticked())

    async def run(self) -> None:
        """For ever: one request after the other."""
        while True:
            await self._requested.wait()
            self._requested.clear()
            request, self._request = self._request, None
            if request is not None:
                self.handle(await self._stamped(request))

    async def _stamped(self, request: RequestStamp) -> Stamped | StampFailed:
        self.requests += 1
        try:
            imprint, result = await self._imprint(request)
            reply = await self._trust.call("stamp", StampRequest(imprint), StampReply, STAMP_CALL_S_MAX)
        except XacbeError as error:
            self.failures += 1
            event(self._log, logging.INFO, "stamping.failed", kind=error.kind, leaves=len(request.leaves))
            return StampFailed(error.kind)
        return Stamped(reply, result)

    async def _imprint(self, request: RequestStamp) -> tuple[bytes, bytes | None]:
        leaves = request.leaves
        if len(leaves) == 1:
            sequence, digest = leaves[0]
            with suppress(XacbeError):  # what we cannot take apart, or read, is stamped as a batch of one: it must not hold others up
                return hashlib.sha512(xades.signature_value(await self._document(sequence, digest))).digest(), None
        if len(leaves) <= LEAVES_INLINE_MAX:
            return imprint_of(leaves)
        return await self._loop.run_in_executor(None, imprint_of, leaves)


def _refusal(kind: str) -> NotStampedError | TrustAgentAwayError:
    if kind == AWAY:
        return TrustAgentAwayError("the trust agent does not answer; the message was logged and not processed")
    return NotStampedError("no time-stamping authority answers; the message was logged and not processed")
