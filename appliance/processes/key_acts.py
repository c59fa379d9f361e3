"""Acts of persons on keys: each recorded in the audit log before it happens. A part of the signer process."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import msgspec

from appliance.clock import Clock
from appliance.hsm import keyring, pkcs10, service, token
from appliance.hsm.audit_trail import AuditTrail
from appliance.hsm.key_book import KeyBook
from appliance.hsm.token import Token
from appliance.hsm.wire import CertificateImport, CertificateRequest, KeyRecord, KeyRequest, KeyVersion
from appliance.model import certificates
from appliance.net.local_server import Handler

Result = TypeVar("Result")


class AtToken(Protocol):
    """Runs a call on the token's thread."""

    def __call__(self, call: Callable[[], Result], /) -> Awaitable[Result]: ...


class KeyActs:
    """Making, renewing, certifying, switching, deleting. The token is reached through `at_token` alone."""

    def __init__(
        self, held: Token, book: KeyBook, clock: Clock, audit: AuditTrail, at_token: AtToken, require_ready: Callable[[], None]
    ) -> None:
        self._token, self._book, self._clock, self._audit = held, book, clock, audit
        self._at_token, self._require_ready = at_token, require_ready

    def handlers(self) -> dict[str, Handler]:
        return {
            "generate_key": self._generate_key,
            "request_certificate": self._request_certificate,
            "import_certificate": self._import_certificate,
            "delete_key": self._delete_key,
            "renew_key": self._renew_key,
            "switch_key": self._switch_key,
        }

    async def _generate_key(self, caller: str, payload: bytes) -> KeyRecord:
        request = msgspec.msgpack.decode(payload, type=KeyRequest)
        if keyring.role_of(request.label) != request.label:
            raise keyring.LabelError(f"{request.label}: a key with a version is made by a renewal")
        algorithm = token.HMAC_SHA256 if keyring.use_of(request.label) == keyring.WRAP else request.algorithm
        if algorithm == token.HMAC_SHA256 and keyring.use_of(request.label) != keyring.WRAP:
            raise token.MechanismMissingError(f"{request.label} is a pair of keys")
        return await self._generate(caller, request.label, algorithm)

    async def _renew_key(self, caller: str, payload: bytes) -> KeyVersion:
        """A new key beside the one in force, or the one that an earlier renewal left; nothing uses it yet."""
        request = msgspec.msgpack.decode(payload, type=KeyRequest)
        role = keyring.role_of(request.label)
        if keyring.use_of(role) == keyring.WRAP:
            raise keyring.LabelError("the wrapping key has no certificate to renew: what it wrapped would be lost")
        self._require_ready()
        coming = self._book.coming(role, self._clock.now_us())
        label = coming.label if coming else self._book.next_label(role)
        record = self._record(role) if coming else await self._generate(caller, label, request.algorithm)
        return next(version for version in record.versions if version.label == label)

    async def _generate(self, caller: str, label: str, algorithm: str) -> KeyRecord:
        token.check_algorithm(algorithm)
        keyring.check_algorithm(label, algorithm)
        self._require_ready()
        facts = {"by": caller, "label": label, "algorithm": algorithm}
        await self._audit.require("key.generation_asked", facts)
        made = await self._at_token(lambda: self._token.generate(label, algorithm))
        self._book.add(made)
        fingerprint = hashlib.sha256(made.public_key).hexdigest()
        self._audit.later("key.generated", {**facts, "public_key_sha256": fingerprint})
        return self._record(label)

    def _record(self, label: str) -> KeyRecord:
        return self._book.record(keyring.role_of(label), self._clock.now_us())

    async def _request_certificate(self, caller: str, payload: bytes) -> bytes:
        request = msgspec.msgpack.decode(payload, type=CertificateRequest)
        keyring.use_of(request.label)
        self._require_ready()
        key = self._book.key(request.label)
        if not key.public_key:
            raise token.MechanismMissingError(f"{key.label} has no public key")

        def sign(hash_name: str, to_be_signed: bytes) -> bytes:
            digest = hashlib.new(hash_name, to_be_signed).digest()
            made = self._token.sign_digest(key.label, digest, hash_name)
            service.check_signature(key.public_key, made, digest, hash_name)
            return made

        made = await self._at_token(lambda: pkcs10.request(key.label, key.algorithm, key.public_key, request.subject, request.names, sign))
        self._book.uses[key.label] += 1
        self._audit.later("key.certificate_requested", {"by": caller, "label": key.label})
        return made

    async def _import_certificate(self, caller: str, payload: bytes) -> KeyRecord:
        """The certificate finds its key among those of the label; one of a key that is not in force changes nothing until the switch."""
        request = msgspec.msgpack.decode(payload, type=CertificateImport)
        keyring.use_of(request.label)
        self._require_ready()
        key = self._book.of_public_key(request.label, service.public_key_of(request.certificate))
        service.check_certificate(request.certificate, key.label, key.public_key)
        certificate = certificates.read(request.certificate)
        fingerprint = hashlib.sha256(request.certificate).hexdigest()
        facts = {"by": caller, "label": key.label, "certificate_sha256": fingerprint}
        await self._audit.require("key.certificate_import_asked", facts)
        self._book.certificates.add(key.label, certificate)
        self._audit.later("key.certificate_imported", facts)
        return self._record(key.label)

    async def _switch_key(self, caller: str, payload: bytes) -> KeyRecord:
        request = msgspec.msgpack.decode(payload, type=KeyRequest)
        now_us = self._clock.now_us()
        self._book.check_switch(request.label, now_us)
        facts = {"by": caller, "label": request.label}
        await self._audit.require("key.switch_asked", facts)
        self._book.switch(request.label)
        self._audit.later("key.switched", facts)
        return self._record(request.label)

    async def _delete_key(self, caller: str, payload: bytes) -> None:
        request = msgspec.msgpack.decode(payload, type=KeyRequest)
        keyring.use_of(request.label)
        self._require_ready()
        facts = {"by": caller, "label": request.label}
        await self._audit.require("key.deletion_asked", facts)
        await self._at_token(lambda: self._token.delete(request.label))
        self._book.remove(request.label)
        self._audit.later("key.deleted", facts)
