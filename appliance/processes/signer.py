"""The signer: the one process that reaches the token. No network; asked over local sockets, known by channel, typed requests only.

One event loop and one token thread. While the token is away or locked every signature is refused by name and everything else answers
(`token_watch`).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
from collections import Counter
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
from appliance.hsm.service import HANDSHAKE, SEAL
from appliance.hsm.token import Token, TokenKey
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
from appliance.processes.token_watch import TokenWatch
from appliance.settings import BoxSettings, SignerSettings, load
from appliance.worker_thread import StartWorker, WorkerThread

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
        self._counters: Counter[str] = Counter()
        self._watch = TokenWatch(state, settings, held, self._book, self._thread, self._audit, self._counters, clock, log)
        self._acts = KeyActs(held, self._book, clock, self._audit, self._watch.act, self._watch.require_ready)
        self._attesting = Attesting(held, clock, self._audit, self._watch.act)
        self._uses_audited: Counter[str] = Counter()
        self._refusals: Counter[tuple[tuple[str, str], ...]] = Counter()
        """Since uses were told last, by caller, operation and kind: all three come from short lists."""

    async def serve(self, listeners: dict[str, socket.socket]) -> None:
        """Until cancelled. Requests wait in the backlog until the token was looked for once: a restart costs none of them."""
        try:
            await self._watch.log_in_unattended()
            await self._watch.look()
            server = LocalServer("signer", self._handlers())
            async with asyncio.TaskGroup() as group:
                group.create_task(server.serve(listeners))
                group.create_task(self._watch.look_forever())
                group.create_task(self._audit_uses_forever())
                group.create_task(self._audit.send_forever())
        finally:
            self._thread.stop()
            self._tell_uses()
            await self._audit.close()

    def describe(self) -> tuple[list[str], dict[str, int], dict[str, str]]:
        """For the supervisor: what is waited for, counters, facts."""
        facts = self._watch.facts
        waits_for = [] if facts.state == token.READY else ["token"]
        counters = {"signatures": self._book.uses.total(), "audit.dropped": self._audit.dropped, **self._counters}
        return waits_for, counters, {"token": facts.state, "token_serial": facts.serial, "keys": str(len(self._book))}

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
        self._watch.require_ready()
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
        self._watch.require_ready()
        key = self._book.of_certificate(request.label, request.certificate_sha256, self._clock.now_us())
        return await self._signature(key, request.digest, hash_name, HANDSHAKE)

    async def _sign_checkpoint(self, caller: str, payload: bytes) -> CheckpointReply:
        request, now_us = msgspec.msgpack.decode(payload, type=CheckpointRequest), self._clock.now_us()
        checkpoint = service.checkpoint_of(self._server, request, now_us)
        self._watch.require_ready()
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
        self._watch.require_ready()
        label = self._book.key(keyring.WRAP).label
        made = await self._watch.at_token(SEAL, lambda: self._token.mac(label, wrapping.mac_input(salt)), self._settings.sign_s_max)
        self._book.uses[label] += 1
        return made

    async def _signature(self, key: TokenKey, digest: bytes, hash_name: str, urgency: int) -> bytes:
        """Signs and verifies on the token thread; nothing unverified comes back."""

        def sign() -> bytes:
            made = self._token.sign_digest(key.label, digest, hash_name)
            service.check_signature(key.public_key, made, digest, hash_name)
            return made

        signature = await self._watch.at_token(urgency, sign, self._settings.sign_s_max)
        self._book.uses[key.label] += 1
        self._watch.signed()
        return signature

    # What is shown

    async def _list_keys(self, caller: str, payload: bytes) -> list[KeyRecord]:
        return self._book.records(self._clock.now_us())

    async def _token_status(self, caller: str, payload: bytes) -> TokenStatus:
        facts, state = self._watch.facts, self._watch.seeming_state
        return TokenStatus(facts.maker, facts.label, facts.serial, state, facts.tries_left, self._book.uses.total(), self._thread.waiting)

    async def _list_tokens(self, caller: str, payload: bytes) -> list[TokenListed]:
        found = await self._watch.act(self._token.seen)
        return [TokenListed(one.maker, one.label, one.serial, one.model, one.state, one.chosen) for one in found]

    # Acts of persons: recorded before they happen

    async def _unlock(self, caller: str, payload: bytes) -> None:
        request = msgspec.msgpack.decode(payload, type=PinRequest)
        if self._watch.facts.state == token.READY:
            raise PinNotNeededError("the token is ready: no PIN was offered")
        await self._audit.require("token.login_asked", {"by": caller})
        try:
            await self._watch.log_in(request.pin, caller)
        finally:
            await self._watch.look()  # whoever asks next sees what the PIN did

    async def _change_pin(self, caller: str, payload: bytes) -> None:
        request = msgspec.msgpack.decode(payload, type=PinRequest)
        if self._settings.pin_mode == "unattended":
            raise PinUnattendedError("the PIN comes from a credential: change both on the bench")
        await self._audit.require("token.pin_change_asked", {"by": caller})
        await self._watch.act(lambda: self._token.change_pin(request.pin, request.new_pin))
        self._audit.later("token.pin_changed", {"by": caller})

    async def _init_token(self, caller: str, payload: bytes) -> None:
        """A token whose keys cannot be seen, because it is locked, may hold some."""
        request = msgspec.msgpack.decode(payload, type=TokenInit)
        given = self._pin_for_init(request.pin)
        chosen = [one for one in await self._watch.act(self._token.seen) if one.chosen]
        erases = bool(chosen) and chosen[0].maker == "pkcs11"
        if erases and not request.destroy_keys and (chosen[0].state != token.READY or [*await self._watch.act(self._token.keys)]):
            raise TokenHoldsKeysError("the token holds keys, or may: initialising destroys them")
        await self._audit.require("token.initialisation_asked", {"by": caller})
        try:
            await self._watch.act(lambda: self._token.initialise(request.so_pin, given))
            if self._settings.token == "pkcs11":  # noqa: S105  a kind of token, no secret
                self._book.forget()
            self._watch.forget_refusal()
            self._audit.later("token.initialised", {"by": caller})
        finally:
            await self._watch.look_anew()

    def _pin_for_init(self, typed: str) -> str:
        if self._settings.pin_mode != "unattended" or self._settings.token != "pkcs11":  # noqa: S105  a kind of token, no secret
            return typed
        found = pin.credential(self._state, "signer")
        if typed or found is None:
            raise PinUnattendedError("the PIN comes from the credential alone: leave it there first, and type none")
        return found

    # Who used what

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
