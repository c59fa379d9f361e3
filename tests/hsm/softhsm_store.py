"""Reads a SoftHSM2 token's files with its PIN, as SoftHSM2 itself does: so that a test knows the private keys it looks for elsewhere.

The format is SoftHSM2's own (SecureDataManager, RFC4880 key derivation, ObjectFile): big-endian attributes of 8 bytes of type, 8 of kind
and the value; private ones are AES-256-CBC under a key that lies in `token.object`, itself encrypted under the PIN.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

_BOOLEAN, _ULONG, _BYTES = 1, 2, 3
_CLASS, _LABEL, _VALUE, _PRIVATE_KEY, _SECRET_KEY = 0x0, 0x3, 0x11, 3, 4
_ITERATIONS, _SALT_BYTES, _MAGIC = 1500, 8, b"RJR"


def private_values(tokens: Path, pin: str) -> dict[str, bytes]:
    """CKA_VALUE of every private and secret key by label: an EC key's scalar, an HMAC key's bytes."""
    found = {}
    for token in tokens.iterdir():
        key = next(key for value in _attributes(token / "token.object").values() if (key := _unlocked(value, pin)))
        for file in token.glob("*.object"):
            known = _attributes(file)
            if file.name != "token.object" and known.get(_CLASS) in (_PRIVATE_KEY, _SECRET_KEY):
                label, value = known[_LABEL], known[_VALUE]
                assert isinstance(label, bytes)
                assert isinstance(value, bytes)
                found[_plain(key, label).decode()] = _plain(key, value)
    return found


def _unlocked(blob: bytes | int, pin: str) -> bytes | None:
    """The token's key from a PIN blob; None where this is none, or of another PIN."""
    if not isinstance(blob, bytes) or len(blob) != _SALT_BYTES + 16 + 48:
        return None
    salt = blob[:_SALT_BYTES]
    derived = hashlib.sha256(salt + pin.encode()).digest()
    for _ in range(_ITERATIONS + salt[-1] - 1):
        derived = hashlib.sha256(derived).digest()
    try:
        plain = _plain(derived, blob[_SALT_BYTES:])
    except ValueError:  # the padding is wrong: so was the key
        return None
    return plain[len(_MAGIC) :] if plain.startswith(_MAGIC) else None


def _plain(key: bytes, data: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.CBC(data[:16])).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(decryptor.update(data[16:]) + decryptor.finalize()) + unpadder.finalize()


def _attributes(file: Path) -> dict[int, bytes | int]:
    return dict(_each(file.read_bytes()[8:]))  # after the file's generation


def _each(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(data):
        kind, what = int.from_bytes(data[at : at + 8]), int.from_bytes(data[at + 8 : at + 16])
        at += 16
        if what == _BOOLEAN:
            value: bytes | int = data[at]
            at += 1
        elif what == _ULONG:
            value = int.from_bytes(data[at : at + 8])
            at += 8
        else:
            size = int.from_bytes(data[at : at + 8])
            value = data[at + 8 : at + 8 + size] if what == _BYTES else b""
            at += 8 + size
        yield kind, value
