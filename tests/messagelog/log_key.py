"""The signer as the recorder sees it: a real key of a log, real checkpoints, a counter that only goes up, or a token that is away."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.errors import UnavailableError
from appliance.hsm import service
from appliance.hsm.token import MechanismMissingError
from appliance.hsm.wire import CheckpointReply, CheckpointRequest
from appliance.messagelog.checkpoint import key_of, note_of
from tests.fakes.wrapping_token import WrappingToken
from tests.messagelog.drafts import StillClock

SERVER = "QROO-TEST/GOV/1001/SS1"


def certificate_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "log")])
    moment = datetime.datetime(2025, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(7)
    builder = builder.not_valid_before(moment).not_valid_after(moment + datetime.timedelta(days=3650))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


class LogKey:
    """Counts only where `counter` is set, like a TPM."""

    def __init__(self, clock: StillClock, server: str = SERVER) -> None:
        self.clock, self.server = clock, server
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = certificate_of(self.key)
        self.counter: int | None = None
        self.token = WrappingToken()
        """Wraps data keys; away by itself."""
        self.away = False
        self.signed: list[CheckpointRequest] = []

    @property
    def public_key(self) -> bytes:
        return key_of(self.certificate)

    async def call(self, operation: str, request: Any = None, answer: Any = None, timeout_s: float = 1.0) -> Any:
        if operation in ("wrap", "unwrap"):
            return await self.token.call(operation, request, answer, timeout_s)
        if self.away:
            raise UnavailableError("no token", kind="token.absent")
        match operation:
            case "sign_checkpoint":
                return self.sign(request)
            case "read_counter" | "advance_counter":
                if self.counter is None:
                    raise MechanismMissingError("only a TPM counts")
                self.counter += operation == "advance_counter"
                return self.counter
            case _:
                raise AssertionError(operation)

    def sign(self, request: CheckpointRequest) -> CheckpointReply:
        checkpoint = service.checkpoint_of(self.server, request, self.clock.now_us())
        self.signed.append(request)
        digest = hashlib.sha256(checkpoint.text).digest()
        signature = self.key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        return CheckpointReply(note_of(checkpoint, self.public_key, signature), self.certificate)
