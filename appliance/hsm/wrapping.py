"""Data keys under the token's wrapping key: what the recorder keeps beside an encrypted body, useless without the token.

Pure. The token makes a fresh key-encryption key of each blob's salt (HMAC-SHA-256, the secret never leaves it); AES-256-GCM under that key
seals the data key together with its context, so that a blob moved to another body does not open. A blob: version, salt, ciphertext.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.errors import UnverifiedError
from appliance.hsm.token import MechanismMissingError

DATA_BYTES_MAX = 64
"""Keys, not bodies: a 256-bit key, or one with a MAC key beside it."""
CONTEXT_BYTES_MAX = 256
SALT_BYTES = 32
_VERSION = b"\x01"
_PURPOSE = b"xacbe data key 1\0"
_NONCE = bytes(12)
"""Of one use: every blob has a key of its own."""


class WrappedKeyError(UnverifiedError):
    """Not a blob of this token and this context, or not whole."""

    kind = "key.wrapped_malformed"


def check(data: bytes, context: bytes) -> None:
    """Raises MechanismMissingError for more than a data key."""
    if not 1 <= len(data) <= DATA_BYTES_MAX or len(context) > CONTEXT_BYTES_MAX:
        raise MechanismMissingError(f"a data key has 1 to {DATA_BYTES_MAX} bytes, its context at most {CONTEXT_BYTES_MAX}")


def mac_input(salt: bytes) -> bytes:
    """What the token's secret key is asked for."""
    return _PURPOSE + salt


def wrap(key: bytes, salt: bytes, data: bytes, context: bytes) -> bytes:
    """`key`: the token's HMAC of `mac_input(salt)`; `salt` is fresh."""
    return _VERSION + salt + AESGCM(key).encrypt(_NONCE, data, context)


def salt_of(blob: bytes) -> bytes:
    """Raises WrappedKeyError."""
    if blob[:1] != _VERSION or not 1 + SALT_BYTES + 16 < len(blob) <= 1 + SALT_BYTES + 16 + DATA_BYTES_MAX:
        raise WrappedKeyError("not a wrapped data key")
    return blob[1 : 1 + SALT_BYTES]


def unwrap(key: bytes, blob: bytes, context: bytes) -> bytes:
    """Raises WrappedKeyError."""
    try:
        return AESGCM(key).decrypt(_NONCE, blob[1 + SALT_BYTES :], context)
    except InvalidTag:
        raise WrappedKeyError("the data key is of another token or another context, or was changed") from None
