"""When the messages waiting on one seal key become one signature.

Pure: no clock, no socket, no token. A relay feeds in events and carries out the effects. A token signs 5 to 40 times a second: whatever
waits when it becomes free shares one signature. There is no waiting window: it only adds delay.

Bounded: at most `waiting_max` messages wait (the next one is refused at once), a batch has at most `messages_max`, and a message whose
deadline passes before its signature was begun is refused. Once it is at the token it ends with the token's answer: the relay's call to the
signer has a deadline of its own and comes back as TokenFailed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from appliance.seal.hash_chain import Batch, Part
from appliance.seal.xades import SIGNED_CHAIN, SIGNED_MESSAGE

TOO_MANY = "seal.queue_full"
"""`waiting_max` messages wait already: the box is overloaded, try again later."""
TOO_LATE = "seal.deadline_passed"
"""The token did not become free in time."""
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """`messages_max`: a chain grows by one step with each doubling; X-Road has no limit. `waiting_max`: what the relay holds in memory."""

    messages_max: int = 256
    waiting_max: int = 2048


@dataclass(frozen=True, slots=True)
class Queued:
    """A message wants a seal. `parts`: (`/message.xml`, SHA-512), then the attachments in order. Times: monotonic seconds."""

    message: int
    parts: Sequence[Part]
    at_s: float
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Signed:
    """The signer answered: the signature's fragment (`xades.complete` finishes it) and the signing certificate, DER."""

    fragment: bytes
    certificate: bytes
    at_s: float


@dataclass(frozen=True, slots=True)
class TokenFailed:
    """The signer could not sign: its kind is every waiting message's answer (`token.absent`, `token.locked` ...)."""

    kind: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Woke:
    """The moment asked for by WakeAt, or later."""

    at_s: float


@dataclass(frozen=True, slots=True)
class SignRoot:
    """Ask the signer: `signed` and `content` go into its SealRequest (the message's digest, or the chain result document)."""

    signed: str
    content: bytes
    messages: int


@dataclass(frozen=True, slots=True)
class Release:
    """This message is sealed. `chain_result` and `chain` are both there or both None (one part, alone)."""

    message: int
    fragment: bytes
    certificate: bytes
    chain_result: bytes | None
    chain: bytes | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """This message gets no seal."""

    message: int
    kind: str


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Woke then; a later one replaces an earlier one."""

    at_s: float


Event = Queued | Signed | TokenFailed | Woke
Effect = SignRoot | Release | Refuse | WakeAt


class SealBatcher:
    """Collects messages for one key. Invariants: at most one batch is at the token; every queued message ends exactly once."""

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self._limits = limits or BatchLimits()
        self._waiting: deque[Queued] = deque()
        self._at_token: list[Queued] = []
        self._batch: Batch | None = None
        self._earliest_s = _NEVER
        """The first deadline among those that wait: kept, not searched for each message."""
        self._wake_at_s = _NEVER

    @property
    def waiting(self) -> int:
        """Messages that wait for the token to become free."""
        return len(self._waiting)

    def handle(self, event: Event) -> list[Effect]:
        """The decision. RuntimeError for an answer of the signer that nobody asked for."""
        match event:
            case Queued():
                if len(self._waiting) >= self._limits.waiting_max:
                    return [Refuse(event.message, TOO_MANY)]
                self._waiting.append(event)
                self._earliest_s = min(self._earliest_s, event.deadline_s)
                return self._next(event.at_s)
            case Signed():
                return [*self._released(event), *self._next(event.at_s)]
            case TokenFailed():
                refused = [Refuse(message.message, event.kind) for message in self._taken()]
                return [*refused, *self._next(event.at_s)]
            case Woke():
                self._wake_at_s = _NEVER
                return self._next(event.at_s)
            case _:
                assert_never(event)

    def _next(self, now_s: float) -> list[Effect]:
        """Refuses what is too late, starts a batch if the token is free, and asks to be woken at the next deadline."""
        effects: list[Effect] = []
        if self._earliest_s <= now_s:
            effects += [Refuse(message.message, TOO_LATE) for message in self._waiting if message.deadline_s <= now_s]
            self._waiting = deque(message for message in self._waiting if message.deadline_s > now_s)
            self._earliest_s = min((message.deadline_s for message in self._waiting), default=_NEVER)
        if self._waiting and not self._at_token:
            effects.append(self._start())
        if self._waiting and self._earliest_s != self._wake_at_s:
            effects.append(WakeAt(self._earliest_s))
            self._wake_at_s = self._earliest_s
        return effects

    def _start(self) -> SignRoot:
        size = min(len(self._waiting), self._limits.messages_max)
        self._at_token = [self._waiting.popleft() for _ in range(size)]
        self._earliest_s = min((message.deadline_s for message in self._waiting), default=_NEVER)
        first = self._at_token[0].parts
        if size == 1 and len(first) == 1:
            # X-Road signs a single part directly (sheet 4.2)
            self._batch = None
            return SignRoot(SIGNED_MESSAGE, first[0][1], 1)
        self._batch = Batch([message.parts for message in self._at_token])
        return SignRoot(SIGNED_CHAIN, self._batch.result, size)

    def _released(self, event: Signed) -> list[Release]:
        """Chains are written now, not while the signer waits for the root."""
        batch = self._batch
        released = []
        for index, message in enumerate(self._taken()):
            result, chain = (batch.result, batch.chain(index)) if batch else (None, None)
            released.append(Release(message.message, event.fragment, event.certificate, result, chain))
        return released

    def _taken(self) -> list[Queued]:
        if not self._at_token:
            raise RuntimeError("an answer of the signer without a question")
        taken, self._at_token, self._batch = self._at_token, [], None
        return taken
