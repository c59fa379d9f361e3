"""What only a TPM does: identity and credential for a person's enrolment, quotes for the reporter too, a count for the recorder's log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from appliance.clock import Clock
from appliance.hsm import keyring
from appliance.hsm.audit_trail import AuditTrail
from appliance.hsm.token import MechanismMissingError, Token, TokenBusyError
from appliance.hsm.wire import CertifyReply, CertifyRequest, CredentialChallenge, QuoteReply, QuoteRequest, TpmIdentity
from appliance.net.local_server import Handler
from appliance.processes.key_acts import AtToken

Result = TypeVar("Result")
BLOB_BYTES_MAX = 1024


class Attesting:
    """Handlers over the token of this box. Raises MechanismMissingError where that is not a TPM."""

    def __init__(self, held: Token, clock: Clock, audit: AuditTrail, at_token: AtToken) -> None:
        self._token, self._clock, self._audit, self._at_token = held, clock, audit, at_token
        self._allowance: Any = None

    def handlers(self) -> dict[str, Handler]:
        return {
            "tpm_identity": self._identity,
            "activate_credential": self._activate,
            "quote": self._quote,
            "certify_key": self._certify,
            "advance_counter": self._advance_counter,
            "read_counter": self._read_counter,
        }

    async def _identity(self, caller: str, payload: bytes) -> TpmIdentity:
        from appliance.hsm import attestation  # the TPM's library: only where a TPM is asked for

        found = await self._lent(attestation.identify)
        return TpmIdentity(found.endorsement_public, found.endorsement_certificate, found.attestation_public)

    async def _activate(self, caller: str, payload: bytes) -> bytes:
        from appliance.hsm import attestation

        request = msgspec.msgpack.decode(payload, type=CredentialChallenge)
        if max(len(request.blob), len(request.secret)) > BLOB_BYTES_MAX:
            raise MechanismMissingError(f"a credential is at most {BLOB_BYTES_MAX} bytes")
        await self._audit.require("token.credential_activation_asked", {"by": caller})
        return await self._lent(lambda context: attestation.activate(context, request.blob, request.secret))

    async def _quote(self, caller: str, payload: bytes) -> QuoteReply:
        from appliance.hsm import attestation

        request = msgspec.msgpack.decode(payload, type=QuoteRequest)
        made = await self._lent(lambda context: attestation.quote(context, request.nonce, request.pcrs or attestation.PCRS))
        self._audit.later("token.quoted", {"by": caller, "nonce": request.nonce.hex()})
        return QuoteReply(made.attested, made.signature, made.values)

    async def _certify(self, caller: str, payload: bytes) -> CertifyReply:
        lend = self._lending("attest_key", "only a TPM attests")
        from appliance.hsm import attestation

        request = msgspec.msgpack.decode(payload, type=CertifyRequest)
        keyring.use_of(request.label)
        said = await self._at_token(
            lambda: lend(request.label, lambda context, key, public: attestation.certify(context, key, public, request.qualifying))
        )
        self._audit.later("key.attested", {"by": caller, "label": request.label})
        return CertifyReply(said.public, said.attested, said.signature)

    async def _advance_counter(self, caller: str, payload: bytes) -> int:
        lend = self._lending("lend", "only a TPM counts")
        from appliance.hsm import nv_counter

        self._allowance = self._allowance or nv_counter.Allowance(self._clock.monotonic_s())
        wait_s = self._allowance.take(self._clock.monotonic_s())
        if wait_s is not None:
            raise TokenBusyError(f"too often for the chip's memory: again in {wait_s:.0f} s", retry_after_s=wait_s)
        return await self._at_token(lambda: lend(nv_counter.advance))

    async def _read_counter(self, caller: str, payload: bytes) -> int:
        lend = self._lending("lend", "only a TPM counts")
        from appliance.hsm import nv_counter

        return await self._at_token(lambda: lend(nv_counter.read))

    async def _lent(self, act: Callable[[Any], Result]) -> Result:
        lend = self._lending("attest", "only a TPM attests")
        made: Result = await self._at_token(lambda: lend(act))
        return made

    def _lending(self, name: str, otherwise: str) -> Callable[..., Any]:
        """How the TPM's maker lends its connection: of that maker alone, and not part of the interface."""
        lend: Callable[..., Any] | None = getattr(self._token, name, None)
        if lend is None:
            raise MechanismMissingError(otherwise)
        return lend
