"""What the signer decides: whose turn it is at the token, what a seal request may contain, whether a signature may leave.

Pure. A token signs 5 to 40 times a second and does one thing at a time. TLS handshakes go first: a peer waits for each, while seals share
one signature. Every job has a deadline and is refused, not forgotten, when it cannot be met; what waits is bounded.
"""

from __future__ import annotations

import hashlib
import re
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import assert_never

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.errors import RefusedError
from appliance.hsm import keyring
from appliance.hsm.token import DIGEST_BYTES, MechanismMissingError, WrongSignatureError
from appliance.hsm.wire import CHAIN, MESSAGE, CheckpointRequest, SealRequest
from appliance.messagelog.checkpoint import Checkpoint, origin_of
from appliance.messagelog.merkle import HASH_BYTES
from appliance.model import certificates
from appliance.seal import hash_chain, xades

HANDSHAKE, SEAL, ACT = 0, 1, 2
"""Turns at the token, the first first. ACT: making a key, looking whether the token is there."""

PASSED_OVER_MAX = 16
"""Jobs of higher urgency that may go before a waiting one: a flood of handshakes slows seals down to a sixteenth, it does not end them."""

SIGNING_TIME_OFF_US_MAX = 300 * 1_000_000
"""SigningTime against our own clock: a captured relay cannot date seals back. Above the deadline of a job and the clock's own tolerance."""

_HASHES: dict[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
_HASH_OF_LENGTH = {length: name for name, length in DIGEST_BYTES.items()}
_HEAD, _TAIL = re.split(rb"(?<=<DigestValue>)[^<]+", hash_chain.Batch([[(hash_chain.MESSAGE, bytes(64))]]).result)
_DIGEST_TEXT = re.compile(rb"[A-Za-z0-9+/]{86}==")


class SealContentError(RefusedError):
    """Not something that a seal is made of: the signer signs hash chain results and message digests, nothing blindly."""

    kind = "seal.content_malformed"


class SigningTimeError(RefusedError):
    """The asked SigningTime is not now."""

    kind = "seal.signing_time"


class CheckpointError(RefusedError):
    """Not a checkpoint of a log."""

    kind = "log.checkpoint_malformed"


class CertificateUnfitError(RefusedError):
    """A certificate that is not for this key, or not for this use."""

    kind = "key.certificate_unfit"


@dataclass(frozen=True, slots=True)
class Asked:
    """A job came. `urgency`: HANDSHAKE, SEAL or ACT; `deadline_s`: monotonic."""

    job: int
    urgency: int
    deadline_s: float


@dataclass(frozen=True, slots=True)
class Freed:
    """The token finished what it did."""


@dataclass(frozen=True, slots=True)
class GivenUp:
    """Nobody waits for this job any more. One that is at the token already stays there."""

    job: int


@dataclass(frozen=True, slots=True)
class UseToken:
    job: int


@dataclass(frozen=True, slots=True)
class Refuse:
    job: int


Event = Asked | Freed | GivenUp
Effect = UseToken | Refuse


class TokenQueue:
    """Whose turn it is. Invariants: at most one job is at the token; every job is used, refused or given up exactly once.

    The bound is of each urgency by itself: seals that wait do not keep handshakes out.
    """

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._waiting: tuple[deque[Asked], ...] = (deque(), deque(), deque())
        self._at_token = False
        self._passed_over = [0, 0, 0]

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._waiting)

    def handle(self, event: Event, now_s: float) -> list[Effect]:
        match event:
            case Asked():
                if len(self._waiting[event.urgency]) >= self._waiting_max:
                    return [Refuse(event.job)]
                self._waiting[event.urgency].append(event)
            case Freed():
                self._at_token = False
            case GivenUp():
                for lane in self._waiting:
                    kept = [asked for asked in lane if asked.job != event.job]
                    lane.clear()
                    lane.extend(kept)
            case _:
                assert_never(event)
        return self._next(now_s)

    def _next(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        while not self._at_token and len(self):
            asked = self._turn().popleft()
            if asked.deadline_s <= now_s:
                effects.append(Refuse(asked.job))
                continue
            self._at_token = True
            for urgency, lane in enumerate(self._waiting):
                self._passed_over[urgency] = self._passed_over[urgency] + 1 if lane and urgency != asked.urgency else 0
            effects.append(UseToken(asked.job))
        return effects

    def _turn(self) -> deque[Asked]:
        """The lane that was passed over too often, else the most urgent one; one of them has somebody waiting."""
        lanes = [(lane, passed) for lane, passed in zip(self._waiting, self._passed_over, strict=True) if lane]
        return next((lane for lane, passed in lanes if passed >= PASSED_OVER_MAX), lanes[0][0])


def prepare_seal(request: SealRequest, certificate: bytes, algorithm: str, now_us: int) -> xades.Prepared:
    """What the token signs for a seal, built here from a typed request. Raises SealContentError, SigningTimeError."""
    if abs(request.signing_time_us - now_us) > SIGNING_TIME_OFF_US_MAX:
        raise SigningTimeError(f"SigningTime is {(request.signing_time_us - now_us) // 1_000_000} s off")
    if request.signed == MESSAGE and len(request.content) == 64:
        digest = request.content
    elif request.signed == CHAIN and _is_chain_result(request.content):
        digest = hashlib.sha512(request.content).digest()
    else:
        raise SealContentError("neither a hash chain result nor the SHA-512 of a message")
    method = "rsa-sha512" if algorithm.startswith("RSA") else "ecdsa-sha512"
    return xades.prepare(certificate, request.signed, digest, request.signing_time_us, method)


def _is_chain_result(content: bytes) -> bool:
    """Exactly the document that our batches write, with any digest."""
    inside = content[len(_HEAD) : len(content) - len(_TAIL)]
    return content == _HEAD + inside + _TAIL and _DIGEST_TEXT.fullmatch(inside) is not None


def checkpoint_of(server: str, request: CheckpointRequest, now_us: int) -> Checkpoint:
    """What is signed for the log: text of our own making that is no seal and no handshake. Raises CheckpointError, SigningTimeError."""
    if abs(request.at_us - now_us) > SIGNING_TIME_OFF_US_MAX:
        raise SigningTimeError(f"the checkpoint's time is {(request.at_us - now_us) // 1_000_000} s off")
    if request.records < 0 or len(request.root) != HASH_BYTES or (request.counter or 0) < 0:
        raise CheckpointError(f"a checkpoint says a count of records and a root of {HASH_BYTES} bytes")
    return Checkpoint(origin_of(server), request.records, request.root, request.at_us, request.counter)


def handshake_hash(digest: bytes) -> str:
    """The hash that a TLS digest of this length was made with. Raises MechanismMissingError for other lengths (SHA-1 among them)."""
    name = _HASH_OF_LENGTH.get(len(digest))
    if name is None:
        raise MechanismMissingError(f"a handshake digest of {len(digest)} bytes")
    return name


def check_signature(public_key: bytes, signature: bytes, digest: bytes, hash_name: str) -> None:
    """Before a signature leaves: a token that errs, or was replaced, is noticed here. Raises WrongSignatureError."""
    key, prehashed = _public_key(public_key), Prehashed(_HASHES[hash_name])
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, digest, ec.ECDSA(prehashed))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), prehashed)
        else:
            raise MechanismMissingError(type(key).__name__)
    except InvalidSignature:
        raise WrongSignatureError("the token's signature does not verify under its own public key") from None


@lru_cache(maxsize=32)
def _public_key(public_key: bytes) -> PublicKeyTypes:
    """Kept for the keys in use, a few for each member of the box."""
    return load_der_public_key(public_key)


def check_certificate(der: bytes, label: str, public_key: bytes) -> None:
    """Raises CertificateUnfitError unless the certificate is for this key and this use.

    (1) it parses; (2) same public key; (3) seals: nonRepudiation and nothing for TLS, so that no certificate plays both roles (sheet 9.4);
    (4) the peer's TLS key: for authentication and not for seals.
    """
    try:
        certificate = certificates.read(der)
    except certificates.CertificateMalformedError as error:
        raise CertificateUnfitError(str(error)) from None
    seals, authenticates = _roles(certificate)
    if certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public_key:
        raise CertificateUnfitError(f"the certificate has another public key than {label}")
    use = keyring.use_of(label)
    if use == keyring.SEAL and (authenticates or not seals):
        raise CertificateUnfitError("a seal certificate has the key usage nonRepudiation and none of TLS")
    if keyring.role_of(label) == keyring.TLS_PEER and (seals or not authenticates):
        raise CertificateUnfitError("an authentication certificate is for clientAuth or digitalSignature, and not for seals")


def public_key_of(der: bytes) -> bytes:
    """SubjectPublicKeyInfo of a certificate; empty for what is none (`check_certificate` says so)."""
    try:
        return certificates.read(der).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except certificates.CertificateMalformedError:
        return b""


def algorithm_of(certificate: x509.Certificate) -> str:
    """The algorithm of a certificate's key, as `token.ALGORITHMS` calls it; empty for one that no box has."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return f"EC-P{key.key_size}" if isinstance(key, ec.EllipticCurvePublicKey) else ""


def _roles(certificate: x509.Certificate) -> tuple[bool, bool]:
    """Seals, authenticates: as X-Road tells the two apart (sheet 5.2)."""
    seals = authenticates = False
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            seals = value.content_commitment
            authenticates |= value.digital_signature or value.key_encipherment or value.data_encipherment
        elif isinstance(value, x509.ExtendedKeyUsage):
            authenticates |= ExtendedKeyUsageOID.CLIENT_AUTH in value
    return seals, authenticates
