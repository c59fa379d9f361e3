"""A signer that only wraps: the real construction over a secret in memory, and away on demand."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os

from appliance.errors import UnavailableError
from appliance.hsm import wrapping
from appliance.hsm.wire import WrapRequest


class WrappingToken:
    """Invariant: what it wrapped opens only here, and only with the same context. `calls` counts what reached it."""

    def __init__(self) -> None:
        self._secret = os.urandom(32)
        self.away = False
        self.calls = 0
        self.delay_s = 0.0

    async def call(self, operation: str, request: object, answer: type[bytes], timeout_s: float) -> bytes:
        assert isinstance(request, WrapRequest)
        await asyncio.sleep(self.delay_s)
        if self.away:
            raise UnavailableError("no token", kind="token.absent")
        self.calls += 1
        wrapping.check(request.data, request.context) if operation == "wrap" else None
        if operation == "wrap":
            salt = os.urandom(wrapping.SALT_BYTES)
            return wrapping.wrap(self._mac(salt), salt, request.data, request.context)
        assert operation == "unwrap"
        return wrapping.unwrap(self._mac(wrapping.salt_of(request.data)), request.data, request.context)

    def _mac(self, salt: bytes) -> bytes:
        return hmac.digest(self._secret, wrapping.mac_input(salt), hashlib.sha256)
