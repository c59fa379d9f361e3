"""Gets time stamps from the approved authorities, with fail-over.

Part of the trust agent process. An authority that has not answered after a moment is not given up, but the next one is asked as well: the
first stamp that holds wins. So a silent authority costs 1.5 s and not its whole time-out (T39: below 3 s).
"""

from __future__ import annotations

import asyncio
import logging
import secrets

from appliance.clock import Clock
from appliance.errors import XacbeError
from appliance.journal import event
from appliance.net import fetch
from appliance.net.fetch import FetchLimits
from appliance.processes.clock_watch import ClockWatch
from appliance.processes.trust_services import ServiceBook, TsaUnreachableError
from appliance.settings import TrustAgentSettings
from appliance.trust import timestamps
from appliance.trust.global_configuration import ApprovedTsa
from appliance.trust.signed_time import monotonic_us
from appliance.trust.wire import StampReply

NEXT_AFTER_S = 1.5
STAMP_S_MAX = 3.5
"""All authorities together: below what the recorder waits for an answer (4 s) and an exchange for its stamp (5 s), so that silent
authorities are told apart from a trust agent that hangs."""
NONCE_BITS = 63


class Stamper:
    """Asks the authorities of the configuration in force."""

    def __init__(self, settings: TrustAgentSettings, clock: Clock, book: ServiceBook, watch: ClockWatch, log: logging.Logger) -> None:
        self._settings, self._clock, self._book, self._watch, self._log = settings, clock, book, watch, log
        self._services = fetch.Kept()

    async def stamp(self, imprint: bytes, tsas: tuple[ApprovedTsa, ...]) -> StampReply:
        """A verified stamp over a SHA-512 imprint, with the authority's certificate inside. Raises TsaUnreachableError."""
        ordered = sorted(tsas, key=lambda tsa: self._book.is_failing(*_service(tsa)))
        try:
            async with asyncio.timeout(STAMP_S_MAX):
                reply = await self._first(imprint, ordered, tsas)
        except TimeoutError:
            reply = None
        if reply is None:
            raise TsaUnreachableError(f"none of {len(tsas)} time-stamping authorities gave a stamp")
        return reply

    async def _first(self, imprint: bytes, ordered: list[ApprovedTsa], tsas: tuple[ApprovedTsa, ...]) -> StampReply | None:
        if len(ordered) == 1:
            return await self._ask(ordered[0], imprint, tsas)
        waiting = list(reversed(ordered))
        running: set[asyncio.Task[StampReply | None]] = set()
        async with asyncio.TaskGroup() as group:
            try:
                while waiting or running:
                    if waiting:
                        running.add(group.create_task(self._ask(waiting.pop(), imprint, tsas)))
                    done, running = await asyncio.wait(
                        running, timeout=NEXT_AFTER_S if waiting else None, return_when=asyncio.FIRST_COMPLETED
                    )
                    for task in done:
                        if (reply := task.result()) is not None:
                            return reply
            finally:
                for task in running:
                    task.cancel()
        return None

    async def _ask(self, tsa: ApprovedTsa, imprint: bytes, tsas: tuple[ApprovedTsa, ...]) -> StampReply | None:
        nonce = secrets.randbits(NONCE_BITS)
        limits = FetchLimits(self._settings.connect_s_max, self._settings.read_s_max, timestamps.TOKEN_BYTES_MAX)
        before_us = monotonic_us(self._clock)
        try:
            request = timestamps.build_request(imprint, nonce)
            response = await self._services.post(tsa.url, "application/timestamp-query", request, limits)
            token, facts = timestamps.stamp_of_response(response, imprint, tsas, nonce=nonce)
        except XacbeError as error:
            self._book.failed(*_service(tsa), error.kind)
            event(self._log, logging.WARNING, "tsa.not_stamped", url=tsa.url, kind=error.kind, reason=str(error))
            return None
        except asyncio.CancelledError:
            self._book.failed(*_service(tsa), "fetch.failed")  # another one was faster by more than a moment, or time ran out
            raise
        self._book.succeeded(*_service(tsa))
        self._watch.compare(facts.gen_time_us, (before_us + monotonic_us(self._clock)) // 2)
        return StampReply(token, facts.gen_time_us, facts.accuracy_us, facts.authority)


def _service(tsa: ApprovedTsa) -> tuple[str, str]:
    return f"tsa {tsa.name}", tsa.url
