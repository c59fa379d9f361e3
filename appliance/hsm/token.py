"""What a token is: one key store behind one small interface, and what can go wrong with it.

Pure. Makers: `hsm.pkcs11` (USB HSM), `hsm.tpm2` (TPM 2.0), `hsm.software` (bench). Private keys are made inside and never leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.errors import RefusedError, UnavailableError

EC_P256, EC_P384, RSA_2048, RSA_3072 = "EC-P256", "EC-P384", "RSA-2048", "RSA-3072"
ALGORITHMS = (EC_P256, EC_P384, RSA_2048, RSA_3072)
HMAC_SHA256 = "HMAC-SHA256"
"""A secret key: what it makes of a salt wraps data keys (`hsm.wrapping`). No maker needs parameters for it, so it passes every module."""
SECRET_BYTES = 32

DIGEST_BYTES = {"sha256": 32, "sha384": 48, "sha512": 64}
"""Hashes that may stand under a signature, by the name that `sign_digest` takes."""

CURVE_BYTES = {EC_P256: 32, EC_P384: 48}
"""ECDSA uses the leftmost bits of a digest, as many as the curve's order has (FIPS 186-5, 6.4.1): tokens are handed no more."""

DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}
"""What PKCS#1 v1.5 puts before a digest (RFC 8017, 9.2, note 1): for tokens that pad and no more."""

READY, LOCKED, ABSENT, PIN_REJECTED, PIN_LOCKED = "ready", "locked", "absent", "pin_rejected", "pin_locked"
UNINITIALISED = "uninitialised"


class TokenAbsentError(UnavailableError):
    """The token does not answer: unplugged, its module or server away, replaced by another."""

    kind = "token.absent"


class TokenLockedError(UnavailableError):
    """The token waits for a person's PIN."""

    kind = "token.locked"


class TokenBusyError(UnavailableError):
    """Too much waits for the token already, or the deadline passed before its turn came."""

    kind = "token.busy"


class WrongSignatureError(UnavailableError):
    """The token gave a signature that its own public key does not verify; it never leaves the signer."""

    kind = "token.wrong_signature"


class KeyMissingError(UnavailableError):
    """The token that is there has no such key: never made, or this is another token, or the TPM lost its seed."""

    kind = "token.key_missing"


class KeyExistsError(RefusedError):
    """A key with this label is there already; keys are never overwritten."""

    kind = "token.key_exists"


class MechanismMissingError(RefusedError):
    """The token cannot do this algorithm."""

    kind = "token.mechanism_missing"


class PinRejectedError(RefusedError):
    """The PIN was wrong. Never tried again without a person: the token counts down to a lock.

    `tries_left` is None where the token does not tell.
    """

    kind = "token.pin_rejected"

    def __init__(self, tries_left: int | None) -> None:
        super().__init__(f"PIN rejected, {'an unknown number of' if tries_left is None else tries_left} tries left")
        self.tries_left = tries_left


class PinLockedError(RefusedError):
    """Too many wrong PINs: only the token's own procedure (SO PIN, dictionary-attack reset) opens it again."""

    kind = "token.pin_locked"


class SeveralTokensError(RefusedError):
    """More than one token could be meant: none is touched."""

    kind = "token.several"


@dataclass(frozen=True, slots=True)
class TokenKey:
    """One key of a token. `public_key` is a SubjectPublicKeyInfo, DER; empty for a secret key."""

    label: str
    algorithm: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class TokenFacts:
    """What a token says of itself. `state` is one of READY ... PIN_LOCKED; `tries_left` None where it does not tell."""

    maker: str
    label: str
    serial: str
    state: str
    tries_left: int | None = None
    reason: str = ""
    """Of ABSENT, for whoever has to find the token: nothing by that name, or two."""


@dataclass(frozen=True, slots=True)
class TokenSeen:
    """A token that could be reached; `chosen`: it is the one that the settings name. `state` as of TokenFacts, or UNINITIALISED."""

    maker: str
    label: str
    serial: str
    model: str
    state: str
    chosen: bool


class Token(Protocol):
    """One key store. Calls may block for seconds; only the signer's one token thread makes them.

    Every call may raise TokenAbsentError, TokenLockedError, PinRejectedError or PinLockedError. A token that vanished comes back through
    `check`, without a new PIN as long as none was refused.
    """

    def login(self, pin: str) -> None:
        """Offers the PIN once. Raises PinRejectedError, PinLockedError, TokenAbsentError; does nothing where there is no PIN."""
        ...

    def change_pin(self, pin: str, new_pin: str) -> None:
        """Raises PinRejectedError; MechanismMissingError where the token has no PIN."""
        ...

    def initialise(self, so_pin: str, pin: str) -> None:
        """Erases the token, all keys with it, and sets its PINs; where there is nothing to initialise, asks whether it is there.

        Raises PinRejectedError (SO PIN, or a PIN that the token does not take), SeveralTokensError.
        """
        ...

    def seen(self) -> Sequence[TokenSeen]:
        """Every token that this maker reaches now, also those that the settings do not name."""
        ...

    def check(self) -> TokenFacts:
        """Asks the token whether it is there, reconnecting where it vanished; never offers a PIN that was refused."""
        ...

    def keys(self) -> Sequence[TokenKey]: ...

    def generate(self, label: str, algorithm: str) -> TokenKey:
        """Makes a pair, or a secret key, inside the token. Raises KeyExistsError, MechanismMissingError."""
        ...

    def sign_digest(self, label: str, digest: bytes, hash_name: str) -> bytes:
        """Signs a finished digest (`hash_name` of DIGEST_BYTES): DER ECDSA, or PKCS#1 v1.5. Raises KeyMissingError."""
        ...

    def mac(self, label: str, data: bytes) -> bytes:
        """HMAC-SHA-256 with a secret key of the token. Raises KeyMissingError."""
        ...

    def delete(self, label: str) -> None:
        """Destroys the key for good. Raises KeyMissingError."""
        ...

    def close(self) -> None: ...


def check_algorithm(algorithm: str) -> None:
    """Raises MechanismMissingError for a name that is not in ALGORITHMS, nor HMAC_SHA256."""
    if algorithm not in (*ALGORITHMS, HMAC_SHA256):
        raise MechanismMissingError(f"{algorithm}: not one of {', '.join(ALGORITHMS)}")


def check_digest(digest: bytes, hash_name: str) -> None:
    """Raises MechanismMissingError where the digest is not one of that hash."""
    if DIGEST_BYTES.get(hash_name) != len(digest):
        raise MechanismMissingError(f"{len(digest)} bytes are no {hash_name} digest")


def truncated(digest: bytes, algorithm: str) -> bytes:
    """The leftmost bytes of the digest that ECDSA on this curve uses."""
    return digest[: CURVE_BYTES[algorithm]]
