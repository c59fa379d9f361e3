"""Seals through the signer: what waits while the token is busy becomes one batch under one signature (the pure `SealBatcher` decides)."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from appliance.clock import Clock
from appliance.errors import UnavailableError, XacbeError
from appliance.hsm.client import SignerClient
from appliance.journal import event
from appliance.messagelog.wire import Seal
from appliance.model.identifiers import ClientId
from appliance.relay.trust_view import TrustView
from appliance.seal import batcher as core
from appliance.seal import xades
from appliance.trust import autonomy
from appliance.trust.wire import Evidence

SEAL_S_MAX = 30.0
"""From asking to sealed: three signatures of the slowest token (10 s each) fit."""

PIECE = 16
"""Messages of a batch that go on together, some 2 ms of the loop; the next ones follow in its next round. Meanwhile the recorder, and then
the other box, work on what they have, instead of waiting until the whole batch has passed each of them."""


class EvidenceAwayError(UnavailableError):
    """Our signing certificate has no OCSP response that a seal made now could rely on (IV.3.V)."""

    kind = "seal.evidence_away"


@dataclass(frozen=True, slots=True)
class _Completed:
    """The signature document of one batch: the same bytes for every message in it."""

    signature: bytes
    evidence: Evidence


class Sealing:
    """One batcher for each member's key. Invariant: at most one signature of a member is under way."""

    def __init__(self, clock: Clock, log: logging.Logger, signer: SignerClient, trust: TrustView, group: asyncio.TaskGroup) -> None:
        self._clock, self._log, self._signer, self._trust, self._group = clock, log, signer, trust, group
        self._batchers: dict[ClientId, core.SealBatcher] = {}
        self._wakes: dict[ClientId, asyncio.TimerHandle] = {}
        self._waiting: dict[int, asyncio.Future[Seal]] = {}
        self._next = 0
        self.signatures = self.messages = 0

    async def seal(self, member: ClientId, parts: Sequence[tuple[str, bytes]]) -> Seal:
        """Raises token.*, process.away, seal.evidence_away, seal.queue_full, seal.deadline_passed."""
        self._next += 1
        number = self._next
        future: asyncio.Future[Seal] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        now_s = self._clock.monotonic_s()
        try:
            self._carry_out(member, self._batcher(member).handle(core.Queued(number, parts, now_s, now_s + SEAL_S_MAX)))
            return await future
        finally:
            self._waiting.pop(number, None)

    def _batcher(self, member: ClientId) -> core.SealBatcher:
        return self._batchers.setdefault(member, core.SealBatcher())

    def _carry_out(self, member: ClientId, effects: Sequence[core.Effect]) -> deque[core.Release]:
        """What is to be released comes back."""
        released: deque[core.Release] = deque()
        for effect in effects:
            match effect:
                case core.SignRoot():
                    self._group.create_task(self._sign(member, effect))
                case core.Release():
                    released.append(effect)
                case core.Refuse():
                    self._refuse(effect)
                case core.WakeAt():
                    self._wake_at(member, effect.at_s)
                case _:
                    assert_never(effect)
        return released

    async def _sign(self, member: ClientId, root: core.SignRoot) -> None:
        batcher = self._batcher(member)
        try:
            name = f"{member.member_class}/{member.member_code}"
            reply = await self._signer.seal(name, root.signed, root.content, self._clock.now_us())
            evidence = self._fresh_evidence(reply.certificate)
            completed = _Completed(xades.complete(reply.fragment, [evidence.response]), evidence)
        except XacbeError as error:
            event(self._log, logging.WARNING, "seal.failed", kind=error.kind, reason=str(error), messages=root.messages)
            self._carry_out(member, batcher.handle(core.TokenFailed(error.kind, self._clock.monotonic_s())))
            return
        self.signatures += 1
        self.messages += root.messages
        signed = core.Signed(reply.fragment, reply.certificate, self._clock.monotonic_s())
        released = self._carry_out(member, batcher.handle(signed))
        while released:
            await asyncio.sleep(0)  # the request for the next signature leaves first, and what the piece before set going
            self._release(completed, released)

    def _release(self, completed: _Completed, released: deque[core.Release]) -> None:
        """The next piece."""
        evidence = completed.evidence
        for _ in range(min(PIECE, len(released))):
            release = released.popleft()
            future = self._waiting.get(release.message)
            if future is not None and not future.done():
                future.set_result(
                    Seal(completed.signature, release.chain_result, release.chain(), evidence.produced_at_us, evidence.this_update_us)
                )

    def _refuse(self, refuse: core.Refuse) -> None:
        future = self._waiting.get(refuse.message)
        if future is not None and not future.done():
            future.set_exception(UnavailableError("the message could not be sealed", kind=refuse.kind))

    def _wake_at(self, member: ClientId, at_s: float) -> None:
        if (earlier := self._wakes.get(member)) is not None:
            earlier.cancel()
        wait_s = max(0.0, at_s - self._clock.monotonic_s())
        loop = asyncio.get_running_loop()
        self._wakes[member] = loop.call_later(wait_s, lambda: self._woke(member))

    def _woke(self, member: ClientId) -> None:
        self._carry_out(member, self._batcher(member).handle(core.Woke(self._clock.monotonic_s())))

    def _fresh_evidence(self, certificate: bytes) -> Evidence:
        evidence = self._trust.evidence(hashlib.sha256(certificate).digest())
        if evidence is None:
            raise EvidenceAwayError("no OCSP response for the signing certificate")
        shared = self._trust.shared()
        next_update_us = evidence.next_update_us if shared.checks_next_update else None
        ends_us = autonomy.sealing_ends_at_us(evidence.produced_at_us, evidence.this_update_us, next_update_us, shared.ocsp_freshness_s)
        if self._clock.now_us() >= ends_us:
            raise EvidenceAwayError("the OCSP response of the signing certificate is too old to seal with")
        return evidence
