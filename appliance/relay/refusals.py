"""What happens when an exchange fails: counted by kind, told to the right log, and answered as a fault."""

from __future__ import annotations

import logging
from collections import Counter

from appliance.errors import PeerProtocolError, RefusedError, UnverifiedError, XacbeError
from appliance.journal import event
from appliance.messagelog.wire import Audit
from appliance.net import faults
from appliance.net.faults import Fault
from appliance.net.local_sockets import LocalClient
from appliance.relay.incoming import PeerFaultError

AUDIT_S_MAX = 5.0


class Refusals:
    """One for each relay. Refusals by policy and evidence that does not hold are audited; the rest is in the system log (house
    taxonomy)."""

    def __init__(self, log: logging.Logger, recorder: LocalClient, counters: Counter[str], spelling: str) -> None:
        self._log, self._recorder, self._counters, self._spelling = log, recorder, counters, spelling

    async def fault(self, error: XacbeError, where: str, request_id: str, facts: dict[str, str]) -> Fault:
        """Counts and records the error; returns what the asker is told."""
        self._counters[error.kind] += 1
        if isinstance(error, PeerFaultError):
            event(self._log, logging.INFO, "exchange.fault_passed_on", code=error.fault.code, request_id=request_id, **facts)
            return faults.passed_on(error.fault)
        level = logging.WARNING if isinstance(error, UnverifiedError | PeerProtocolError) else logging.INFO
        event(self._log, level, "exchange.refused", kind=error.kind, reason=str(error), request_id=request_id, **facts)
        if isinstance(error, RefusedError | UnverifiedError):
            await self.audit("exchange.refused", {"kind": error.kind, "where": where, "request_id": request_id, **facts})
        return faults.fault_of(error, where, detail=request_id, spelling=self._spelling)

    async def audit(self, name: str, facts: dict[str, str]) -> None:
        """An audit record; while the recorder is away the system log keeps the fact, and nothing is exchanged anyway."""
        try:
            await self._recorder.call("audit", Audit(name, facts), timeout_s=AUDIT_S_MAX)
        except XacbeError as error:
            event(self._log, logging.WARNING, "audit.not_written", kind=error.kind, wanted=name, **facts)
