"""When the messages waiting on one seal key become one signature.

Pure: no clock, no socket, no token. A relay feeds in events and carries out the effects. A token signs 5 to 40 times a second: whatever
waits when it becomes free shares one signature. There is no fixed waiting window: it only adds delay.

A large crowd is divided: of more than `whole_max` waiting messages a batch takes SHARE of those that the key had to do with lately. Whoever
is signed together comes back together: without this all messages of a loaded box end up in one batch, which each process on the way works
off while the token has nothing to do, and then signs for the one that comes back first while all others wait. For the same reason a token
that finds much fewer than it lately signed for waits a fifth of a signature: the others come in these very moments, and would else wait for
a whole one.

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
SHARE = 0.4
"""Of the messages that wait and those of the last two batches together. A message passes two tokens, one after the other, and waits for
each while it signs for others: three groups keep both busy, so a third is what a batch has at best; the rest is for uneven arrivals."""
FEW_SHARE = 0.3
"""Of the same: nine tenths of a third."""
CROWD_MIN = 128
"""Of the same. Some dozens mix by themselves; waiting for them cost more than it gained: at 64 under way 176 a second instead of 190."""
GATHER_SHARE = 0.2
"""Of the time that the last signature took: how long the token waits, from the first of the few on."""
GATHER_S_MIN, GATHER_S_MAX = 0.004, 0.1
"""What is shorter is no use: a token that signs in less than 20 ms does not wait. One that takes seconds, or had handshakes to sign,
waits no longer."""
_NEVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """`messages_max`: a chain grows by one step with each doubling; X-Road has no limit. `waiting_max`: what the relay holds in memory.
    `whole_max`: so many are signed at once whatever else is under way; a relay works them off in less than a signature lasts."""

    messages_max: int = 256
    waiting_max: int = 2048
    whole_max: int = 64


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
    """This message is sealed. `chain_result` and `chain` are both there or both None (one part, alone).

    The chain is written when it is asked for: the token's next batch need not wait until all of them are.
    """

    message: int
    fragment: bytes
    certificate: bytes
    batch: Batch | None
    place: int = 0

    @property
    def chain_result(self) -> bytes | None:
        return None if self.batch is None else self.batch.result

    def chain(self) -> bytes | None:
        return None if self.batch is None else self.batch.chain(self.place)


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
"""In the order in which they are to be carried out: the token first, then those whose signature came."""


class SealBatcher:
    """Collects messages for one key. Invariants: at most one batch is at the token; every queued message ends exactly once."""

    def __init__(self, limits: BatchLimits | None = None) -> None:
        self._limits = limits or BatchLimits()
        self._waiting: deque[Queued] = deque()
        self._at_token: list[Queued] = []
        self._batch: Batch | None = None
        self._lately: tuple[int, int] = (0, 0)
        """Messages of the last two batches."""
        self._began_s = self._free_s = self._signature_s = 0.0
        """When the last signature was asked for, when it came, and how long it took; 0 where there was none."""
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
                batch, signed = self._taken()
                self._free_s, self._signature_s = event.at_s, event.at_s - self._began_s
                released = [Release(one.message, event.fragment, event.certificate, batch, at) for at, one in enumerate(signed)]
                return [*self._next(event.at_s), *released]
            case TokenFailed():
                _, failed = self._taken()
                self._free_s, self._signature_s = event.at_s, 0.0
                return [*self._next(event.at_s), *(Refuse(one.message, event.kind) for one in failed)]
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
        wake_at_s = self._earliest_s
        if self._waiting and not self._at_token:
            gathers_until_s = self._gathers_until_s()
            if now_s < gathers_until_s:
                wake_at_s = min(wake_at_s, gathers_until_s)
            else:
                effects.append(self._start(now_s))
                wake_at_s = self._earliest_s
        if self._waiting and wake_at_s != self._wake_at_s:
            effects.append(WakeAt(wake_at_s))
            self._wake_at_s = wake_at_s
        return effects

    def _gathers_until_s(self) -> float:
        """Until when the free token waits for more; a moment that has passed where it does not."""
        gather_s, first_s = min(GATHER_SHARE * self._signature_s, GATHER_S_MAX), self._waiting[0].at_s
        crowd = len(self._waiting) + sum(self._lately)
        few = crowd >= CROWD_MIN and len(self._waiting) < FEW_SHARE * crowd
        if not few or gather_s < GATHER_S_MIN or first_s - self._free_s > self._signature_s:  # the crowd, if any, is long gone
            return -_NEVER
        return max(first_s, self._free_s) + gather_s

    def _start(self, now_s: float) -> SignRoot:
        size, self._began_s = self._size(), now_s
        self._lately = self._lately[1], size
        self._at_token = [self._waiting.popleft() for _ in range(size)]
        self._earliest_s = min((message.deadline_s for message in self._waiting), default=_NEVER)
        first = self._at_token[0].parts
        if size == 1 and len(first) == 1:
            # X-Road signs a single part directly (sheet 4.2)
            self._batch = None
            return SignRoot(SIGNED_MESSAGE, first[0][1], 1)
        self._batch = Batch([message.parts for message in self._at_token])
        return SignRoot(SIGNED_CHAIN, self._batch.result, size)

    def _size(self) -> int:
        waiting = len(self._waiting)
        divided = max(self._limits.whole_max, int(SHARE * (waiting + sum(self._lately))))
        return min(waiting, divided, self._limits.messages_max)

    def _taken(self) -> tuple[Batch | None, list[Queued]]:
        if not self._at_token:
            raise RuntimeError("an answer of the signer without a question")
        taken = self._batch, self._at_token
        self._at_token, self._batch = [], None
        return taken
