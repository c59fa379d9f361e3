"""The PIN of unattended mode: where it comes from, and the note that keeps a refused one from being tried again.

A token counts wrong PINs down to a lock, and a killed signer starts again with the same credential: without a note on the disk every
restart would burn one more try. The note holds a salted scrypt of the refused PIN: another credential is tried, the same one never.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from appliance import durable

CREDENTIAL = "pin"
_SALT_BYTES = 16


def credential(state: Path, process: str) -> str | None:
    """The PIN that the parent left for this process (`credentials/<process>/pin`, 0400); None where there is none."""
    try:
        return (state / "credentials" / process / CREDENTIAL).read_text().strip() or None
    except FileNotFoundError:
        return None


class RefusedPin:
    """The note `keys/pin_refused`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "pin_refused"

    def is_noted(self, pin: str) -> bool:
        """Whether this very PIN was refused before."""
        try:
            noted = self._file.read_bytes()
        except FileNotFoundError:
            return False
        return hmac.compare_digest(_digest(pin, noted[:_SALT_BYTES]), noted[_SALT_BYTES:])

    def note(self, pin: str) -> None:
        salt = os.urandom(_SALT_BYTES)
        durable.write_file(self._file, salt + _digest(pin, salt))

    def forget(self) -> None:
        """After a login that worked."""
        if self._file.exists():
            self._file.unlink()
            durable.sync_directory(self._file.parent)


def _digest(pin: str, salt: bytes) -> bytes:
    return hashlib.scrypt(pin.encode(), salt=salt, n=2**14, r=8, p=1)
