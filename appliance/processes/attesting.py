"""What the signer says of its TPM: identity and credential for a person's enrolment, quotes for the reporter too. Not of other tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from appliance.hsm.audit_trail import AuditTrail
from appliance.hsm.token import MechanismMissingError, Token
from appliance.hsm.wire import CredentialChallenge, QuoteReply, QuoteRequest, TpmIdentity
from appliance.net.local_sockets import Handler
from appliance.processes.key_acts import AtToken

Result = TypeVar("Result")
BLOB_BYTES_MAX = 1024


class Attesting:
    """Handlers over the token of this box. Raises MechanismMissingError where that is not a TPM."""

    def __init__(self, held: Token, audit: AuditTrail, at_token: AtToken) -> None:
        self._token, self._audit, self._at_token = held, audit, at_token

    def handlers(self) -> dict[str, Handler]:
        return {"tpm_identity": self._identity, "activate_credential": self._activate, "quote": self._quote}

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
        return QuoteReply(made.attested, made.signature, made.values)

    async def _lent(self, act: Callable[[Any], Result]) -> Result:
        lend = getattr(self._token, "attest", None)  # of the TPM's maker alone, and not part of the interface
        if lend is None:
            raise MechanismMissingError("only a TPM attests")
        return await self._at_token(lambda: lend(act))
