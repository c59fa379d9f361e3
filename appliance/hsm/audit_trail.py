"""The signer's records in the audit log: acts of persons before they take effect, everything else as soon as the recorder can.

What cannot wait (`require`) fails when the recorder is away: no administrative act without its record. What already happened (`later`)
waits in a bounded queue; a record that finds it full is dropped, counted, and the count goes with the next one. Where the recorder dies
before it answers, the record is sent again and may stand in the log twice: rather that than not at all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from pathlib import Path

from appliance.errors import UnavailableError, XacbeError
from appliance.messagelog.wire import Audit
from appliance.net.local_client import LocalClient
from appliance.net.local_sockets import channel_path

WAITING_MAX = 256
"""Records while the recorder restarts: refusals of a caller gone wild fill it, and are counted."""
REQUIRE_S_MAX = 5.0
RETRY_S = 1.0


class AuditUnavailableError(UnavailableError):
    """The recorder did not make the audit record durable: the act did not happen."""

    kind = "audit.unavailable"


class AuditTrail:
    """One process's way to the recorder's `audit`."""

    def __init__(self, state: Path, process: str) -> None:
        self._client = LocalClient(channel_path(state, "recorder", process))
        self._waiting: deque[Audit] = deque()
        self._news = asyncio.Event()
        self._under_way: asyncio.Future[object] | None = None
        """The call with the first of `_waiting`: it outlives `send_forever`, so that a stop does not send its record once more."""
        self.dropped = 0

    async def require(self, event: str, facts: dict[str, str]) -> None:
        """Returns when the record is durable. Raises AuditUnavailableError."""
        try:
            await self._client.call("audit", Audit(event, facts), timeout_s=REQUIRE_S_MAX)
        except XacbeError as error:
            raise AuditUnavailableError(f"{event}: {error}") from None

    def later(self, event: str, facts: dict[str, str]) -> None:
        """Queues a record of something that happened."""
        if len(self._waiting) >= WAITING_MAX:
            self.dropped += 1
            return
        dropped = {"records_lost_before": str(self.dropped)} if self.dropped else {}
        self._waiting.append(Audit(event, facts | dropped))
        self._news.set()

    async def send_forever(self) -> None:
        """Hands over what waits, in order, for as long as the process lives."""
        while True:
            await self._news.wait()
            await self._send()
            if self._waiting:
                await asyncio.sleep(RETRY_S)

    async def close(self) -> None:
        """What still waits, if the recorder takes it at once."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await self._send()
        if self._under_way is not None:
            self._under_way.cancel()
        self._client.close()

    async def _send(self) -> None:
        while self._waiting:
            if self._under_way is None:
                self._under_way = asyncio.ensure_future(self._client.call("audit", self._waiting[0], timeout_s=REQUIRE_S_MAX))
            try:
                await asyncio.shield(self._under_way)
            except XacbeError:
                self._under_way = None
                return
            self._under_way = None
            self._waiting.popleft()
        self._news.clear()
