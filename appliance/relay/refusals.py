"""What happens when an exchange fails: counted by kind, told to the right log, and answered as a fault.

Whoever reaches a port can fail as often as it likes: records of strangers are thinned, so that nobody fills the log with refusals. A client
or peer that is known by name is recorded each time.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter

from appliance.clock import Clock
from appliance.errors import PeerProtocolError, RefusedError, UnverifiedError, XacbeError
from appliance.journal import event
from appliance.messagelog.wire import Audit
from appliance.net import faults
from appliance.net.faults import Fault
from appliance.net.local_client import LocalClient
from appliance.relay.incoming import PeerFaultError

AUDIT_S_MAX = 5.0
STRANGERS_A_MINUTE = 10
"""Records of one kind from one address in a minute; what comes on top is counted and told with the next one."""
STRANGERS_MAX = 4096
"""Addresses and kinds remembered; one more makes the minute begin anew for all."""
_MINUTE_S = 60.0


class _Thinner:
    """Lets the first few of each key in a minute through and counts the others."""

    def __init__(self, clock: Clock) -> None:
        self._clock, self._since_s = clock, clock.monotonic_s()
        self._seen: Counter[tuple[str, str]] = Counter()
        self._held: Counter[tuple[str, str]] = Counter()

    def passes(self, key: tuple[str, str]) -> int | None:
        """How many like this were held back before, when this one passes; None when it is held back, too."""
        now_s = self._clock.monotonic_s()
        if now_s - self._since_s >= _MINUTE_S or len(self._seen) >= STRANGERS_MAX:
            self._seen.clear()
            self._since_s = now_s
        self._seen[key] += 1
        if self._seen[key] > STRANGERS_A_MINUTE:
            self._held[key] += len(self._held) < STRANGERS_MAX or key in self._held
            return None
        return self._held.pop(key, 0)


class Refusals:
    """One for each relay. Refusals by policy and evidence that does not hold are audited; the rest is in the system log (taxonomy)."""

    def __init__(self, log: logging.Logger, recorder: LocalClient, counters: Counter[str], spelling: str, clock: Clock) -> None:
        self._log, self._recorder, self._counters, self._spelling = log, recorder, counters, spelling
        self._thinner = _Thinner(clock)

    async def fault(self, error: Exception, where: str, request_id: str, facts: dict[str, str], *, soap: bool = False) -> Fault:
        """Counts and records the error; returns what the asker is told (`soap`: in SOAP's words).

        Afterwards the error holds no frames (and no open bodies).
        """
        try:
            if not isinstance(error, XacbeError):
                self.bug(error, where=where, request_id=request_id)
                return faults.fault_of_bug(where, detail=request_id, spelling=self._spelling)
            self._counters[error.kind] += 1
            if isinstance(error, PeerFaultError):
                event(self._log, logging.INFO, "exchange.fault_passed_on", code=error.fault.code, request_id=request_id, **facts)
                return faults.passed_on(error.fault)
            await self._tell(error, where, request_id, facts)
            return faults.fault_of(error, where, detail=request_id, spelling=self._spelling, soap=soap)
        finally:
            let_go(error)

    async def _tell(self, error: XacbeError, where: str, request_id: str, facts: dict[str, str]) -> None:
        stranger = "client" not in facts or error.kind in ("access.client_unknown", "access.authentication")
        if stranger and (held := self._thinner.passes((error.kind, facts.get("from", "")))) is None:
            return
        if stranger and held:
            facts = {**facts, "held_back": str(held)}
        level = logging.WARNING if isinstance(error, UnverifiedError | PeerProtocolError) else logging.INFO
        event(self._log, level, "exchange.refused", kind=error.kind, reason=str(error)[:500], request_id=request_id, **facts)
        if isinstance(error, RefusedError | UnverifiedError):
            short = {name: value[:200] for name, value in facts.items()}
            await self.audit("exchange.refused", {"kind": error.kind, "where": where, "request_id": request_id, **short})

    def bug(self, error: Exception, **facts: str) -> None:
        """What should never happen: counted, and told whole."""
        self._counters["box.bug"] += 1
        event(self._log, logging.CRITICAL, "box.bug", traceback="".join(traceback.format_exception(error)), **facts)

    async def stranger(self, name: str, kind: str, address: str, reason: str) -> None:
        """An audit record about somebody without a name: thinned."""
        held = self._thinner.passes((name, address))
        if held is not None:
            more = {"held_back": str(held)} if held else {}
            await self.audit(name, {"kind": kind, "from": address, "reason": reason[:200], **more})

    def strangers_event(self, name: str, kind: str, address: str, reason: str) -> bool:
        """A line in the system log, thinned; whether it was written."""
        held = self._thinner.passes((f"{name}.{kind}", address))
        if held is None:
            return False
        event(self._log, logging.INFO, name, kind=kind, address=address, reason=reason[:500], held_back=held)
        return True

    async def audit(self, name: str, facts: dict[str, str]) -> None:
        """An audit record; while the recorder is away the system log keeps the fact, and nothing is exchanged anyway."""
        try:
            await self._recorder.call("audit", Audit(name, facts), timeout_s=AUDIT_S_MAX)
        except XacbeError as error:
            event(self._log, logging.WARNING, "audit.not_written", because=error.kind, wanted=name, **facts)


def let_go(error: BaseException | None) -> None:
    """Cuts the error from the frames it went through: they hold bodies, and an error in a local name would keep them in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__
