"""Which records wait for a time stamp, what one request covers, and what happens while every authority is silent.

Pure: events in, effects out. Rules IV.3.V-VI, T39. One request is with the authorities at any time; everything that waits shares the next.
Two messages under one signature share a leaf. A received message is answered with its stamp; only while the authorities are silent, as a
trust agent that answers tells, and only within the grace that CEIQROO signed, it is answered as provisional, with a deadline that is on
disk before the answer is given. A trust agent that is away or hangs is our own fault and starts no grace.
The grace ends early where the oldest unstamped record can no longer be stamped in time: from then on the outage has broken the rule once.
A record that misses its deadline is unconfirmed, for ever: a later stamp would not heal what was withdrawn. A stamp counts for a record
only where it lies within eight hours of the record's OCSP response, by the two signed times: an authority whose clock is wrong confirms
nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from appliance.errors import UnavailableError
from appliance.trust.autonomy import CREATION_MARGIN_US
from appliance.trust.wire import StampReply

PATIENCE_S = 5.0
"""How long a received message waits for its stamp. T39 allows 10 s; a request and its answer each wait once when an authority falls silent,
and information systems seldom wait longer than that. A trust agent that is killed is back within 3 s."""
RETRY_S_MIN, RETRY_S_MAX = 1.0, 30.0
"""From the end of a failed request to the next: the shorter while somebody waits; with nobody waiting it grows to the longer."""
COMPANY_S = 0.5
"""How long messages of our own, for whose stamp nobody waits, may wait for company. The next received message takes them along: half as
many stamps, and half the work of the authority. The eight hours begin earlier anyway, with the OCSP response; X-Road lets a minute pass."""
SILENT, AWAY = "tsa.unreachable", "process.away"
"""Why a request failed: the trust agent says that no authority answers, or it does not answer itself."""
NOT_FITTING = "seal.evidence_gap"
"""A stamp came whose time lies too far from every record that it is for."""
SILENCE_HOLDS_S = 60.0
"""For how long the word of a trust agent holds that every authority is silent: above RETRY_S_MAX and the longest request together, so that
its restart during an outage (3 s) costs nobody, and short, so that one that hangs grants nothing."""
LEAVES_MAX = 10_000
"""Signatures under one stamp, as X-Road's limit (sheet 7.3)."""
WAITING_MAX = 250_000
"""Unstamped records that are held in memory, some 50 MB; beyond it new ones are refused."""
PROVISIONAL_MAX = 4096
"""Messages in one OUTAGE record."""


class StampsOverdueError(UnavailableError):
    """The authorities have been silent for so many records that no more can be promised a stamp."""

    kind = "log.stamps_overdue"


class NotStampedError(UnavailableError):
    """No authority answered, and there is no grace to wait for one: the record stays, as not processed (T39)."""

    kind = SILENT


class TrustAgentAwayError(UnavailableError):
    """Our own trust agent did not answer: the record stays, as not processed. The grace is for silent authorities (IV.3.VI)."""

    kind = AWAY


@dataclass(frozen=True, slots=True)
class Now:
    """One moment: wall time for evidence and deadlines, monotonic time for waits."""

    us: int
    s: float


@dataclass(slots=True)
class Waiting:
    """A durable record without a stamp. `signature`: sequence of its SIGNATURE record. `ends_us`: last moment for a stamp,
    CREATION_MARGIN_US before the rule's own end; `begins_us`: an earlier stamp would not fit. `own`: sealed here, and acknowledged without
    its stamp."""

    sequence: int
    signature: int
    digest: bytes
    ends_us: int
    at_us: int
    begins_us: int = 0
    own: bool = False

    def fit(self, reply: StampReply) -> int:
        """0: the stamp confirms this record; -1, 1: it is too early, too late (IV.3.V; its stated accuracy counts against it)."""
        accuracy_us = abs(reply.accuracy_us)
        if reply.gen_time_us + accuracy_us > self.ends_us + CREATION_MARGIN_US:
            return 1
        return -1 if reply.gen_time_us - accuracy_us < self.begins_us else 0


@dataclass(frozen=True, slots=True)
class Logged:
    """A message is durable. `answered`: somebody waits for its stamp."""

    waiting: Waiting
    answered: bool


@dataclass(frozen=True, slots=True)
class Stamped:
    """`chain_result`: what was stamped, in the batch form."""

    reply: StampReply
    chain_result: bytes | None = None


@dataclass(frozen=True, slots=True)
class StampFailed:
    kind: str


@dataclass(frozen=True, slots=True)
class StampWritten:
    """The STAMP record is durable."""

    messages: tuple[int, ...]
    gen_time_us: int
    accuracy_us: int


@dataclass(frozen=True, slots=True)
class OutageWritten:
    """The OUTAGE record with these (message, deadline) is durable."""

    provisional: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time passed: comes a few times a second, and after each group of new records."""


@dataclass(frozen=True, slots=True)
class GraceKnown:
    """What CEIQROO signed; 0 where there is no valid configuration."""

    grace_us: int


Event = Logged | Stamped | StampFailed | StampWritten | OutageWritten | Ticked | GraceKnown


@dataclass(frozen=True, slots=True)
class RequestStamp:
    """Leaves in order: (sequence of the SIGNATURE record, SHA-512 of the signature document)."""

    leaves: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class WriteStamp:
    reply: StampReply
    chain_result: bytes | None
    leaves: tuple[tuple[int, bytes], ...]
    messages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteOutage:
    started_us: int
    ended_us: int | None
    provisional: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class WriteUnconfirmed:
    """`delivered`: those that went to an information system as provisional; `own`: those that we sent. Both were acknowledged, and are
    withdrawn with a notice; the rest was refused, and nobody acted on it."""

    messages: tuple[int, ...]
    delivered: tuple[int, ...]
    own: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerStamped:
    sequence: int
    gen_time_us: int
    accuracy_us: int


@dataclass(frozen=True, slots=True)
class AnswerProvisional:
    sequence: int
    until_us: int


@dataclass(frozen=True, slots=True)
class Refuse:
    """`kind`: SILENT or AWAY."""

    sequence: int
    kind: str = SILENT


Effect = RequestStamp | WriteStamp | WriteOutage | WriteUnconfirmed | AnswerStamped | AnswerProvisional | Refuse


class StampQueue:
    """Everything that waits for a stamp.

    Invariants: at most one request is out; every answered message gets exactly one answer; a sequence is stamped or unconfirmed, not both.
    """

    def __init__(
        self,
        waiting: Sequence[Waiting] = (),
        *,
        outage_since_us: int | None = None,
        provisional: dict[int, int] | None = None,
        exhausted: bool = False,
        now_s: float = 0.0,
    ) -> None:
        """`waiting`, `outage_since_us`, `provisional` (message -> deadline), `exhausted` (a record missed its stamp in this outage): as the
        log tells them after a restart."""
        self._waiting = {each.sequence: each for each in waiting}
        self._provisional = dict(provisional or {})
        self._deadlines = [(self._deadline(each), each.sequence) for each in waiting]
        heapq.heapify(self._deadlines)
        self._ends = [(each.ends_us, each.sequence) for each in waiting if each.own or each.sequence in self._provisional]
        heapq.heapify(self._ends)
        self._exhausted = exhausted
        self._unanswered: dict[int, float] = {}
        self._requested: tuple[Waiting, ...] = ()
        self._leaves: tuple[tuple[int, bytes], ...] = ()
        self._outage_since_us = outage_since_us
        self._established = False
        """The silence has outlasted our patience, and was confirmed since this process started: nobody need wait for it any more."""
        self._failures = 0
        self._failed_s = now_s
        self._silent_until_s = now_s
        self._alone_since_s: float | None = now_s - COMPANY_S if waiting else None
        """Since when messages wait that no request has covered, and nobody waits for them."""
        self._grace_us = 0
        self.failing = ""
        """Why the last request failed; empty since the last stamp."""

    # -- what the health report shows

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def outage_since_us(self) -> int | None:
        return self._outage_since_us

    @property
    def oldest_at_us(self) -> int | None:
        """When the record was logged that waits longest."""
        first = next(iter(self._waiting.values()), None)
        return None if first is None else first.at_us

    def grace_ends_us(self, now_us: int) -> int:
        """Until when a received message would be delivered without a stamp, if the authorities are silent or fell silent now."""
        if self._exhausted:
            return now_us
        since = now_us if self._outage_since_us is None else self._outage_since_us
        oldest = self._oldest_end_us()
        return since + self._grace_us if oldest is None else min(since + self._grace_us, oldest)

    def _oldest_end_us(self) -> int | None:
        """The first moment at which an unstamped record can no longer be stamped; of those that were acknowledged: what was refused breaks
        no rule, and no peer may end everybody's grace with an old OCSP response."""
        while self._ends and self._ends[0][1] not in self._waiting:
            heapq.heappop(self._ends)
        return self._ends[0][0] if self._ends else None

    def check_room(self) -> None:
        """Raises StampsOverdueError before a record is logged that could not be held."""
        if len(self._waiting) >= WAITING_MAX:
            raise StampsOverdueError(f"{len(self._waiting)} records wait for a stamp")

    # -- events

    def handle(self, event: Event, now: Now) -> list[Effect]:
        match event:
            case Logged():
                return self._logged(event, now)
            case Stamped():
                return self._stamped(event, now)
            case StampFailed():
                return self._failed(event, now)
            case StampWritten():
                return [
                    AnswerStamped(sequence, event.gen_time_us, event.accuracy_us)
                    for sequence in event.messages
                    if self._unanswered.pop(sequence, None) is not None
                ]
            case OutageWritten():
                return [
                    AnswerProvisional(sequence, until)
                    for sequence, until in event.provisional
                    if self._unanswered.pop(sequence, None) is not None
                ]
            case Ticked():
                return [*self._impatient(now), *self._missed(now), *self._request(now)]
            case GraceKnown():
                self._grace_us = event.grace_us
                return []
            case _:
                assert_never(event)

    def _logged(self, event: Logged, now: Now) -> list[Effect]:
        waiting = event.waiting
        self._waiting[waiting.sequence] = waiting
        heapq.heappush(self._deadlines, (waiting.ends_us, waiting.sequence))
        if waiting.own:
            heapq.heappush(self._ends, (waiting.ends_us, waiting.sequence))
        if not event.answered:
            if self._alone_since_s is None:
                self._alone_since_s = now.s
            return []
        self._unanswered[waiting.sequence] = now.s + PATIENCE_S
        return self._provisionally([waiting.sequence], now) if self._established else []

    def _due_s(self) -> float:
        if not self._failures:
            return self._failed_s
        if self._unanswered:
            return self._failed_s + RETRY_S_MIN
        return self._failed_s + min(RETRY_S_MIN * 2.0 ** min(self._failures - 1, 10), RETRY_S_MAX)

    def _request(self, now: Now) -> list[Effect]:
        if self._requested or not self._waiting or now.s < self._due_s() or not self._is_worth_a_stamp(now):
            return []
        self._alone_since_s = None
        leaves: dict[bytes, int] = {}
        chosen = []
        for waiting in self._waiting.values():
            if waiting.digest not in leaves:
                if len(leaves) >= LEAVES_MAX:
                    break
                leaves[waiting.digest] = waiting.signature
            chosen.append(waiting)
        self._requested = tuple(chosen)
        self._leaves = tuple((sequence, digest) for digest, sequence in leaves.items())
        return [RequestStamp(self._leaves)]

    def _is_worth_a_stamp(self, now: Now) -> bool:
        """Somebody waits, or a request failed, or what nobody waits for has had its time."""
        if self._failures or any(sequence in self._waiting for sequence in self._unanswered):  # the others' stamps are being written
            return True
        return self._alone_since_s is not None and now.s >= self._alone_since_s + COMPANY_S

    def _stamped(self, event: Stamped, now: Now) -> list[Effect]:
        requested, leaves = self._requested, self._leaves
        self._requested, self._leaves, self._failures, self._failed_s = (), (), 0, now.s
        self.failing, self._silent_until_s = "", now.s
        effects: list[Effect] = []
        if self._outage_since_us is not None:
            effects.append(WriteOutage(self._outage_since_us, now.us, ()))
            self._outage_since_us, self._established, self._exhausted = None, False, False
        covered, late, early = [], [], 0
        for waiting in requested:
            if waiting.sequence not in self._waiting:
                continue  # it missed its deadline while the request was out
            fit = waiting.fit(event.reply)
            if fit == 0:
                del self._waiting[waiting.sequence]
                self._provisional.pop(waiting.sequence, None)
                covered.append(waiting.sequence)
            elif fit > 0:
                late.append(waiting.sequence)
            else:
                early += 1
        if covered:
            effects.append(WriteStamp(event.reply, event.chain_result, leaves, tuple(covered)))
        elif early:  # an authority whose time fits nothing: asked again with the pauses of a failure
            self._failures, self.failing = 1, NOT_FITTING
        effects += self._unconfirmed(late)
        return [*effects, *self._request(now)]

    def _failed(self, event: StampFailed, now: Now) -> list[Effect]:
        self._requested, self._leaves = (), ()
        self._failures, self._failed_s, self.failing = self._failures + 1, now.s, event.kind
        if event.kind != SILENT:
            return []
        self._silent_until_s = now.s + SILENCE_HOLDS_S
        effects = self._begin_outage(now)
        if self._outage_since_us is not None and now.us - self._outage_since_us >= PATIENCE_S * 1_000_000:
            self._established = True
            effects += self._provisionally([each for each in self._unanswered if each in self._waiting], now)
        return effects

    def _begin_outage(self, now: Now) -> list[Effect]:
        if self._outage_since_us is not None:
            return []
        self._outage_since_us = now.us
        return [WriteOutage(now.us, None, ())]

    def _impatient(self, now: Now) -> list[Effect]:
        """Those whose patience is over: provisional within the grace where the authorities are silent, else refused."""
        over = []
        for sequence, until_s in self._unanswered.items():  # in order of arrival, hence of patience
            if until_s > now.s:
                break
            if sequence in self._waiting:  # else its stamp is being written
                over.append(sequence)
        if not over:
            return []
        self._established = now.s < self._silent_until_s
        effects = self._provisionally(over, now)
        for sequence in over:
            if sequence not in self._provisional:
                del self._unanswered[sequence]
                effects.append(self._refusal(sequence))
        return effects

    def _refusal(self, sequence: int) -> Refuse:
        return Refuse(sequence, AWAY if self.failing == AWAY else SILENT)

    def _provisionally(self, sequences: Sequence[int], now: Now) -> list[Effect]:
        since = self._outage_since_us
        if since is None or now.s >= self._silent_until_s or self._exhausted:
            return []
        granted = []
        grace_ends_us = self.grace_ends_us(now.us)  # never later than the oldest record's end, hence this one's
        for sequence in sequences:
            until = min(grace_ends_us, self._waiting[sequence].ends_us)
            if until > now.us and sequence not in self._provisional:
                self._provisional[sequence] = until
                heapq.heappush(self._ends, (self._waiting[sequence].ends_us, sequence))
                heapq.heappush(self._deadlines, (until, sequence))
                granted.append((sequence, until))
        return [WriteOutage(since, None, tuple(granted[at : at + PROVISIONAL_MAX])) for at in range(0, len(granted), PROVISIONAL_MAX)]

    def _deadline(self, waiting: Waiting) -> int:
        return min(waiting.ends_us, self._provisional.get(waiting.sequence, waiting.ends_us))

    def _missed(self, now: Now) -> list[Effect]:
        """Records whose last moment has passed. What is with the authorities just now is left until that request ends."""
        missed, later = [], []
        seen: set[int] = set()
        at_authority = {waiting.sequence for waiting in self._requested} if self._deadlines and self._deadlines[0][0] <= now.us else set()
        while self._deadlines and self._deadlines[0][0] <= now.us:
            until, sequence = heapq.heappop(self._deadlines)
            waiting = self._waiting.get(sequence)
            if waiting is None or self._deadline(waiting) > now.us or sequence in seen:
                continue
            seen.add(sequence)
            if sequence in at_authority:
                later.append((until, sequence))
                continue
            missed.append(sequence)
            if waiting.ends_us <= now.us and self._outage_since_us is not None and (waiting.own or sequence in self._provisional):
                self._exhausted = True
        for entry in later:
            heapq.heappush(self._deadlines, entry)
        return self._unconfirmed(missed)

    def _unconfirmed(self, missed: Sequence[int]) -> list[Effect]:
        """These can no longer be confirmed: nobody waits for them any more, and what was acknowledged is withdrawn."""
        if not missed:
            return []
        gone = [self._waiting.pop(sequence) for sequence in missed]
        delivered = [sequence for sequence in missed if self._provisional.pop(sequence, None) is not None]
        refused: list[Effect] = [self._refusal(sequence) for sequence in missed if self._unanswered.pop(sequence, None) is not None]
        own = tuple(waiting.sequence for waiting in gone if waiting.own)
        return [*refused, WriteUnconfirmed(tuple(missed), tuple(delivered), own)]
