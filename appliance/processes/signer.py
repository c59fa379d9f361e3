"""The signer: the one process that reaches the token. No network; asked over local sockets, known by channel, typed requests only.

One event loop and one token thread. While the token is away or locked every signature is refused by name and everything else answers. A
token that vanished is looked for every half second and comes back without a person, as long as its PIN was never refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop

from appliance.clock import Clock, SystemClock
from appliance.errors import RefusedError, XacbeError
from appliance.hsm import keyring, pin, service, token, wrapping
from appliance.hsm.audit_trail import AuditTrail
from appliance.hsm.certificates import CertificateStore
from appliance.hsm.key_book import KeyBook
from appliance.hsm.makers import open_token
from appliance.hsm.memory import protect_memory
from appliance.hsm.service import ACT, HANDSHAKE, SEAL
from appliance.hsm.token import Token, TokenAbsentError, TokenFacts, TokenKey
from appliance.hsm.token_thread import TokenThread
from appliance.hsm.wire import (
    CheckpointReply,
    CheckpointRequest,
    HandshakeRequest,
    KeyRecord,
    PinRequest,
    SealReply,
    SealRequest,
    TokenInit,
    TokenListed,
    TokenStatus,
    WrapRequest,
)
from appliance.journal import event, start_journal
from appliance.messagelog.checkpoint import note_of
from appliance.model import certificates
from appliance.net.local_server import Handler, LocalServer
from appliance.net.local_sockets import inherited_sockets
from appliance.processes.announcing import announce_forever
from appliance.processes.attesting import Attesting
from appliance.processes.key_acts import KeyActs
from appliance.processes.running import run, settle, until_stopped
from appliance.settings import BoxSettings, SignerSettings, load
from appliance.worker_thread import StartWorker, WorkerThread

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
USES_INTERVAL_S = 60.0
"""Uses of a key are audited as one count a minute: a record for each would double the log's syncs."""
REFUSALS_TOLD_MAX = 10
"""Refusals of one caller, operation and kind that have a record of their own in such a minute; the rest is one count. A captured process
asks thousands of times a second, and the audit log is on the disk that the messages need."""

Result = TypeVar("Result")


class PinUnattendedError(RefusedError):
    """The PIN comes from a credential: changing it here would lock the box out at its next start."""

    kind = "token.pin_unattended"


class PinNotNeededError(RefusedError):
    """The token is ready: a PIN could only cost a try, and a wrong one would end what works."""

    kind = "token.pin_not_needed"


class TokenHoldsKeysError(RefusedError):
    """Initialising would destroy keys, and nobody said that it may."""

    kind = "token.holds_keys"


class Signer:
    """One token, its keys and who may use them. Made inside a running loop."""

    def __init__(
        self,
        state: Path,
        server: str,
        settings: SignerSettings,
        held: Token,
        store: CertificateStore,
        clock: Clock,
        log: logging.Logger,
        start_worker: StartWorker = WorkerThread,
    ) -> None:
        self._state, self._server, self._settings, self._token = state, server, settings, held
        self._book = KeyBook(state / "keys", store)
        self._clock, self._log = clock, log
        self._thread = TokenThread(settings.queue_max, clock, start_worker)
        self._audit = AuditTrail(state, "signer")
        self._acts = KeyActs(held, self._book, clock, self._audit, self._act, self._require_ready)
        self._attesting = Attesting(held, clock, self._audit, self._act)
        self._refused_pin = pin.RefusedPin(state / "keys")
        self._facts = TokenFacts(settings.token, settings.token_label, settings.token_serial, token.ABSENT)
        self._pin_noted = False
        self._uses_audited: Counter[str] = Counter()
        self._counters: Counter[str] = Counter()
        self._refusals: Counter[tuple[tuple[str, str], ...]] = Counter()
        """Since uses were told last, by caller, operation and kind: all three come from short lists."""
        self._look_now = asyncio.Event()
        self._signed_at_s = float("-inf")

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Until cancelled. Requests wait in the backlog until the token was looked for once: a restart costs none of them."""
        try:
            await self._log_in_unattended()
            await self._look()
            server = LocalServer("signer", self._handlers())
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(listeners))
                group.create_task(self._look_forever())
                group.create_task(self._audit_uses_forever())
                group.create_task(self._audit.send_forever())
        finally:
            self._thread.stop()
            self._tell_uses()
            await self._audit.close()

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """For the supervisor: what is waited for, counters, facts."""
        waits_for = [] if self._facts.state == token.READY else ["token"]
        counters = {"signatures": self._book.uses.total(), "audit.dropped": self._audit.dropped, **self._counters}
        return waits_for, counters, {"token": self._facts.state, "token_serial": self._facts.serial, "keys": str(len(self._book))}

    def _handlers(self) -> dict[str, Handler]:
        handlers: dict[str, Handler] = {
            "sign_seal": self._sign_seal,
            "sign_handshake": self._sign_handshake,
            "list_keys": self._list_keys,
            "token_status": self._token_status,
            "sign_checkpoint": self._sign_checkpoint,
            "wrap": self._wrap,
            "unwrap": self._unwrap,
            "list_tokens": self._list_tokens,
            "init_token": self._init_token,
            **self._acts.handlers(),
            **self._attesting.handlers(),
            "unlock": self._unlock,
            "change_pin": self._change_pin,
        }
        return {name: self._counted(name, handler) for name, handler in handlers.items()}

    def _counted(self, operation: str, handler: Handler) -> Handler:
        """Counts every error by kind; a refusal is audited: a caller that asks for what it may not have is worth a look."""

        async def answer(caller: str, payload: bytes) -> object:
            try:
                return await handler(caller, payload)
            except XacbeError as error:
                self._counters[error.kind] += 1
                if isinstance(error, RefusedError):
                    self._tell_refusal({"by": caller, "operation": operation, "kind": error.kind}, str(error)[:200])
                raise

        return answer

    def _tell_refusal(self, what: dict[str, str], reason: str) -> None:
        of_this = tuple(what.items())
        self._refusals[of_this] += 1
        if self._refusals[of_this] <= REFUSALS_TOLD_MAX:
            self._audit.later("key.use_refused", what | {"reason": reason})

    # Signatures

    async def _sign_seal(self, caller: str, payload: bytes) -> SealReply:
        request = msgspec.msgpack.decode(payload, type=SealRequest)
        label = keyring.seal_label(request.member)
        keyring.check_seal(caller, label)
        self._require_ready()
        now_us = self._clock.now_us()
        key = self._book.in_force(label, now_us)
        certificate = certificates.der(self._book.certificates.in_force(key.label, now_us))
        prepared = service.prepare_seal(request, certificate, key.algorithm, now_us)
        digest = hashlib.sha512(prepared.to_sign).digest()
        signature = await self._signature(key, digest, "sha512", SEAL)
        return SealReply(prepared.finish(signature), certificate)

    async def _sign_handshake(self, caller: str, payload: bytes) -> bytes:
        request = msgspec.msgpack.decode(payload, type=HandshakeRequest)
        keyring.check_handshake(caller, request.label)
        hash_name = service.handshake_hash(request.digest)
        self._require_ready()
        key = self._book.of_certificate(request.label, request.certificate_sha256, self._clock.now_us())
        return await self._signature(key, request.digest, hash_name, HANDSHAKE)

    async def _sign_checkpoint(self, caller: str, payload: bytes) -> CheckpointReply:
        request, now_us = msgspec.msgpack.decode(payload, type=CheckpointRequest), self._clock.now_us()
        checkpoint = service.checkpoint_of(self._server, request, now_us)
        self._require_ready()
        key = self._book.in_force(keyring.LOG, now_us)
        certificate = certificates.der(self._book.certificates.in_force(key.label, now_us))
        signature = await self._signature(key, hashlib.sha256(checkpoint.text).digest(), "sha256", SEAL)
        return CheckpointReply(note_of(checkpoint, key.public_key, signature), certificate)

    # Data keys of the recorder

    async def _wrap(self, caller: str, payload: bytes) -> bytes:
        request = msgspec.msgpack.decode(payload, type=WrapRequest)
        wrapping.check(request.data, request.context)
        salt = os.urandom(wrapping.SALT_BYTES)
        return wrapping.wrap(await self._wrapping_key(salt), salt, request.data, request.context)

    async def _unwrap(self, caller: str, payload: bytes) -> bytes:
        request = msgspec.msgpack.decode(payload, type=WrapRequest)
        salt = wrapping.salt_of(request.data)
        return wrapping.unwrap(await self._wrapping_key(salt), request.data, request.context)

    async def _wrapping_key(self, salt: bytes) -> bytes:
        self._require_ready()
        label = self._book.key(keyring.WRAP).label
        made = await self._at_token(SEAL, lambda: self._token.mac(label, wrapping.mac_input(salt)), self._settings.sign_s_max)
        self._book.uses[label] += 1
        return made

    async def _signature(self, key: TokenKey, digest: bytes, hash_name: str, urgency: int) -> bytes:
        """Signs and verifies on the token thread; nothing unverified comes back."""

        def sign() -> bytes:
            made = self._token.sign_digest(key.label, digest, hash_name)
            service.check_signature(key.public_key, made, digest, hash_name)
            return made

        signature = await self._at_token(urgency, sign, self._settings.sign_s_max)
        self._book.uses[key.label] += 1
        self._signed_at_s = self._clock.monotonic_s()
        return signature

    async def _at_token(self, urgency: int, call: Callable[[], Result], wait_s_max: float) -> Result:
        """Runs on the token thread; a token that turns out to be away is looked for at once."""
        try:
            return await self._thread.run(urgency, call, wait_s_max)
        except TokenAbsentError:
            self._take(replace(self._facts, state=token.ABSENT))
            self._look_now.set()
            raise

    def _require_ready(self) -> None:
        """Raises by the token's state, so that every caller hears what is the matter and no turn is spent."""
        match self._facts.state:
            case token.ABSENT:
                raise TokenAbsentError(self._facts.reason or f"no token {self._facts.label or self._facts.serial}")
            case token.LOCKED:
                raise token.TokenLockedError("the token waits for its PIN")
            case token.PIN_REJECTED:
                raise token.PinRejectedError(self._facts.tries_left)
            case token.PIN_LOCKED:
                raise token.PinLockedError("the token is locked")

    # What is shown

    async def _list_keys(self, caller: str, payload: bytes) -> list[KeyRecord]:
        return self._book.records(self._clock.now_us())

    async def _token_status(self, caller: str, payload: bytes) -> TokenStatus:
        facts = self._facts
        stalled = self._thread.at_token_s() > self._settings.sign_s_max and facts.state == token.READY
        state = token.ABSENT if stalled else facts.state
        return TokenStatus(facts.maker, facts.label, facts.serial, state, facts.tries_left, self._book.uses.total(), self._thread.waiting)

    async def _list_tokens(self, caller: str, payload: bytes) -> list[TokenListed]:
        found = await self._act(self._token.seen)
        return [TokenListed(one.maker, one.label, one.serial, one.model, one.state, one.chosen) for one in found]

    # Acts of persons: recorded before they happen

    async def _unlock(self, caller: str, payload: bytes) -> None:
        request = msgspec.msgpack.decode(payload, type=PinRequest)
        if self._facts.state == token.READY:
            raise PinNotNeededError("the token is ready: no PIN was offered")
        await self._audit.require("token.login_asked", {"by": caller})
        try:
            await self._log_in(request.pin, caller)
        finally:
            await self._look()  # whoever asks next sees what the PIN did

    async def _change_pin(self, caller: str, payload: bytes) -> None:
        request = msgspec.msgpack.decode(payload, type=PinRequest)
        if self._settings.pin_mode == "unattended":
            raise PinUnattendedError("the PIN comes from a credential: change both on the bench")
        await self._audit.require("token.pin_change_asked", {"by": caller})
        await self._act(lambda: self._token.change_pin(request.pin, request.new_pin))
        self._audit.later("token.pin_changed", {"by": caller})

    async def _init_token(self, caller: str, payload: bytes) -> None:
        """A token whose keys cannot be seen, because it is locked, may hold some."""
        request = msgspec.msgpack.decode(payload, type=TokenInit)
        given = self._pin_for_init(request.pin)
        chosen = [one for one in await self._act(self._token.seen) if one.chosen]
        erases = bool(chosen) and chosen[0].maker == "pkcs11"
        if erases and not request.destroy_keys and (chosen[0].state != token.READY or [*await self._act(self._token.keys)]):
            raise TokenHoldsKeysError("the token holds keys, or may: initialising destroys them")
        await self._audit.require("token.initialisation_asked", {"by": caller})
        try:
            await self._act(lambda: self._token.initialise(request.so_pin, given))
            if self._settings.token == "pkcs11":  # noqa: S105  a kind of token, no secret
                self._book.forget()
            self._refused_pin.forget()
            self._pin_noted = False
            self._audit.later("token.initialised", {"by": caller})
        finally:
            self._take(replace(self._facts, state=token.ABSENT))  # whatever it was: its keys are read anew
            await self._look()

    def _pin_for_init(self, typed: str) -> str:
        if self._settings.pin_mode != "unattended" or self._settings.token != "pkcs11":  # noqa: S105  a kind of token, no secret
            return typed
        found = pin.credential(self._state, "signer")
        if typed or found is None:
            raise PinUnattendedError("the PIN comes from the credential alone: leave it there first, and type none")
        return found

    async def _act(self, call: Callable[[], Result]) -> Result:
        return await self._at_token(ACT, call, ACT_S_MAX)

    # The token's coming and going

    async def _log_in_unattended(self) -> None:
        """The one automatic try. A PIN that was refused before is not offered again, also not after a restart."""
        given = pin.credential(self._state, "signer") if self._settings.pin_mode == "unattended" else None
        if given is None:
            return
        if self._refused_pin.is_noted(given):
            self._pin_noted = True
            event(self._log, logging.ERROR, "token.pin_not_offered")
            return
        with contextlib.suppress(XacbeError):  # the state says what happened
            await self._log_in(given, "unattended")

    async def _log_in(self, given: str, by: str) -> None:
        """Raises PinRejectedError, PinLockedError, TokenAbsentError (then it is offered once when the token comes), TokenBusyError."""
        try:
            await self._thread.run(ACT, lambda: self._token.login(given), LOOK_S_MAX)
        except (token.PinRejectedError, token.PinLockedError) as error:
            self._refused_pin.note(given)
            self._audit.later("token.pin_refused", {"by": by, "kind": error.kind})
            raise
        self._pin_noted = False
        self._refused_pin.forget()
        self._audit.later("token.login", {"by": by})

    async def _look_forever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_INTERVAL_S):
                    await self._look_now.wait()
            self._look_now.clear()
            if self._thread.at_token_s() > STUCK_S_MAX:
                raise RuntimeError("the token's library does not return")
            if self._facts.state != token.READY or self._clock.monotonic_s() - self._signed_at_s > SIGNED_LATELY_S:
                await self._look()

    async def _look(self) -> None:
        """Asks the token how it is; when it came, reads its keys."""
        try:
            facts = await self._thread.run(ACT, self._token.check, LOOK_S_MAX)
            if facts.state == token.READY and (self._facts.state, self._facts.serial) != (token.READY, facts.serial):
                found = await self._act(self._token.keys)
                self._book.take(found)
        except token.TokenBusyError:
            return  # it signs, or it hangs: at_token_s tells
        except XacbeError as error:
            facts = replace(self._facts, state=token.ABSENT)
            self._counters[error.kind] += 1
        self._take(facts)

    def _take(self, facts: TokenFacts) -> None:
        if facts.state == token.LOCKED and self._pin_noted:
            facts = replace(facts, state=token.PIN_REJECTED)
        before, self._facts = self._facts.state, facts
        if facts.state == before:
            return
        event(self._log, logging.WARNING, "token.state_changed", before=before, after=facts.state, serial=facts.serial, reason=facts.reason)
        self._audit.later("token.state_changed", {"before": before, "after": facts.state, "serial": facts.serial})
        if facts.state in (token.PIN_REJECTED, token.PIN_LOCKED) and not self._pin_noted:
            self._note_refusal()

    def _note_refusal(self) -> None:
        """A token that came later refused the credential: the note keeps a restart from offering it again."""
        given = pin.credential(self._state, "signer") if self._settings.pin_mode == "unattended" else None
        if given is not None and not self._refused_pin.is_noted(given):
            self._refused_pin.note(given)

    async def _audit_uses_forever(self) -> None:
        while True:
            await asyncio.sleep(USES_INTERVAL_S)
            self._tell_uses()

    def _tell_uses(self) -> None:
        for label, uses in (self._book.uses - self._uses_audited).items():
            self._audit.later("key.used", {"label": label, "uses": str(uses), "uses_since_start": str(self._book.uses[label])})
        self._uses_audited = self._book.uses.copy()
        for what, times in self._refusals.items():
            if times > REFUSALS_TOLD_MAX:
                self._audit.later("key.use_refused", dict(what) | {"more": str(times - REFUSALS_TOLD_MAX)})
        self._refusals.clear()


async def _serve(state: Path, log: logging.Logger, memory: dict[str, str]) -> None:
    clock, box, settings = SystemClock(), load(state, BoxSettings), load(state, SignerSettings)
    held = open_token(settings, box.instance, state / "keys")
    server = f"{box.instance}/{box.member_class}/{box.member_code}/{box.server_code}"
    signer = Signer(state, server, settings, held, CertificateStore(state / "keys" / "certificates"), clock, log)
    listeners = {name.removeprefix("channel."): sock for name, sock in inherited_sockets().items() if name.startswith("channel.")}

    def describe() -> tuple[list[str], dict[str, int], dict[str, str]]:
        waits_for, counters, facts = signer.describe()
        return waits_for, counters, facts | memory

    event(log, logging.INFO, "signer.started", token=settings.token, **memory)
    settle()
    await until_stopped(signer.serve(listeners), announce_forever(state, "signer", clock, describe))


def main(state: Path) -> int:
    """Exit codes as `processes.running.run`; SettingsError is left to the caller."""
    memory = protect_memory()
    log = start_journal("signer")
    return run(log, _serve(state, log, memory), uvloop.run)
