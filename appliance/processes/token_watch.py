"""The token's coming and going: its login, its state, its faults. A part of the signer process.

A token that vanished is looked for every half second and comes back without a person, as long as its PIN was never refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from appliance.clock import Clock
from appliance.errors import XacbeError
from appliance.hsm import pin, token
from appliance.hsm.audit_trail import AuditTrail
from appliance.hsm.key_book import KeyBook
from appliance.hsm.service import ACT
from appliance.hsm.token import Token, TokenAbsentError, TokenFacts
from appliance.hsm.token_thread import TokenThread
from appliance.journal import event
from appliance.settings import SignerSettings

LOOK_INTERVAL_S = 0.5
"""How often the token is asked whether it is there: a pulled one is known within 1 s, one that came back within half of one."""
SIGNED_LATELY_S = 0.25
"""A signature of this age says the same: a token under load is not asked besides."""
LOOK_S_MAX = 2.5
"""Wait for one look, and for the first login at start: then the process serves anyway."""
ACT_S_MAX = 60.0
"""Making an RSA key on a slow chip takes half a minute."""
STUCK_S_MAX = 90.0
"""One call in the token for longer than any act: its library hangs. The process ends and its parent starts it anew."""

Result = TypeVar("Result")


class TokenWatch:
    """What is known of the token, and the way to its thread. Invariant: a PIN that was refused is offered again by a person only."""

    def __init__(
        self,
        state: Path,
        settings: SignerSettings,
        held: Token,
        book: KeyBook,
        thread: TokenThread,
        audit: AuditTrail,
        counters: Counter[str],
        clock: Clock,
        log: logging.Logger,
    ) -> None:
        self._state, self._settings, self._token, self._book = state, settings, held, book
        self._thread, self._audit, self._counters, self._clock, self._log = thread, audit, counters, clock, log
        self._refused_pin = pin.RefusedPin(state / "keys")
        self._pin_noted = False
        self._look_now = asyncio.Event()
        self._signed_at_s = float("-inf")
        self.facts = TokenFacts(settings.token, settings.token_label, settings.token_serial, token.ABSENT)

    @property
    def seeming_state(self) -> str:
        """As others are told: a token that is longer at one signature than any may last is as good as away."""
        stalled = self._thread.at_token_s() > self._settings.sign_s_max and self.facts.state == token.READY
        return token.ABSENT if stalled else self.facts.state

    def require_ready(self) -> None:
        """Raises by the token's state, so that every caller hears what is the matter and no turn is spent."""
        match self.facts.state:
            case token.ABSENT:
                raise TokenAbsentError(self.facts.reason or f"no token {self.facts.label or self.facts.serial}")
            case token.LOCKED:
                raise token.TokenLockedError("the token waits for its PIN")
            case token.PIN_REJECTED:
                raise token.PinRejectedError(self.facts.tries_left)
            case token.PIN_LOCKED:
                raise token.PinLockedError("the token is locked")

    def signed(self) -> None:
        """A signature came just now."""
        self._signed_at_s = self._clock.monotonic_s()

    async def at_token(self, urgency: int, call: Callable[[], Result], wait_s_max: float) -> Result:
        """Runs on the token thread; a token that turns out to be away is looked for at once."""
        try:
            return await self._thread.run(urgency, call, wait_s_max)
        except TokenAbsentError:
            self._take(replace(self.facts, state=token.ABSENT))
            self._look_now.set()
            raise

    async def act(self, call: Callable[[], Result]) -> Result:
        """An act of a person."""
        return await self.at_token(ACT, call, ACT_S_MAX)

    async def log_in_unattended(self) -> None:
        """The one automatic try. A PIN that was refused before is not offered again, also not after a restart."""
        given = self._credential()
        if given is None:
            return
        if self._refused_pin.is_noted(given):
            self._pin_noted = True
            event(self._log, logging.ERROR, "token.pin_not_offered")
            return
        with contextlib.suppress(XacbeError):  # the state says what happened
            await self.log_in(given, "unattended")

    async def log_in(self, given: str, by: str) -> None:
        """Raises PinRejectedError, PinLockedError, TokenAbsentError (then it is offered once when the token comes), TokenBusyError."""
        try:
            await self._thread.run(ACT, lambda: self._token.login(given), LOOK_S_MAX)
        except (token.PinRejectedError, token.PinLockedError) as error:
            self._refused_pin.note(given)
            self._audit.later("token.pin_refused", {"by": by, "kind": error.kind})
            raise
        self.forget_refusal()
        self._audit.later("token.login", {"by": by})

    def forget_refusal(self) -> None:
        """The token took a PIN, or has a new one."""
        self._pin_noted = False
        self._refused_pin.forget()

    async def look_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._look_now.wait()
            self._look_now.clear()
            if self._thread.at_token_s() > STUCK_S_MAX:
                raise RuntimeError("the token's library does not return")
            if self.facts.state != token.READY or self._clock.monotonic_s() - self._signed_at_s > SIGNED_LATELY_S:
                await self.look()

    async def look(self) -> None:
        """Asks the token how it is; when it came, reads its keys."""
        try:
            facts = await self._thread.run(ACT, self._token.check, LOOK_S_MAX)
            if facts.state == token.READY and (self.facts.state, self.facts.serial) != (token.READY, facts.serial):
                found = await self.act(self._token.keys)
                self._book.take(found)
        except token.TokenBusyError:
            return  # it signs, or it hangs: at_token_s tells
        except XacbeError as error:
            facts = replace(self.facts, state=token.ABSENT)
            self._counters[error.kind] += 1
        self._take(facts)

    async def look_anew(self) -> None:
        """After an act that changed the token as a whole: its keys are read again, whatever it was."""
        self._take(replace(self.facts, state=token.ABSENT))
        await self.look()

    def _take(self, facts: TokenFacts) -> None:
        if facts.state == token.LOCKED and self._pin_noted:
            facts = replace(facts, state=token.PIN_REJECTED)
        before, self.facts = self.facts.state, facts
        if facts.state == before:
            return
        event(self._log, logging.WARNING, "token.state_changed", before=before, after=facts.state, serial=facts.serial, reason=facts.reason)
        self._audit.later("token.state_changed", {"before": before, "after": facts.state, "serial": facts.serial})
        if facts.state in (token.PIN_REJECTED, token.PIN_LOCKED) and not self._pin_noted:
            self._note_refusal()

    def _note_refusal(self) -> None:
        """A token that came later refused the credential: the note keeps a restart from offering it again."""
        given = self._credential()
        if given is not None and not self._refused_pin.is_noted(given):
            self._refused_pin.note(given)

    def _credential(self) -> str | None:
        return pin.credential(self._state, "signer") if self._settings.pin_mode == "unattended" else None
