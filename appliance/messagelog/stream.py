"""Large bodies at rest: AES-256-GCM in chunks, each bound to its place and the last one marked as such.

Pure. The STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015) with a fresh key for each body: a chunk that was changed, moved,
repeated or left out does not open, nor does a file that was cut after a whole chunk. Any chunk can be opened alone, and nothing is given
out that was not authenticated. A file is nothing but its chunks: 64 KiB of body, then 16 bytes of tag.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.errors import UnverifiedError

CHUNK_BYTES = 64 << 10
TAG_BYTES = 16
SEALED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
KEY_BYTES = 32


class BodySealBrokenError(UnverifiedError):
    """A body's file is not what was written under this key: changed, cut, or of another body."""

    kind = "record.body_seal_broken"


def sealed_bytes(size: int) -> int:
    """Bytes of the file of a body of `size` bytes, at least one."""
    return size + chunks_of(size) * TAG_BYTES


def chunks_of(size: int) -> int:
    return -(-size // CHUNK_BYTES)


def _nonce(chunk: int, *, last: bool) -> bytes:
    return chunk.to_bytes(11, "big") + bytes([last])


class BodyCipher:
    """The chunks of one body. Invariant of callers: a key seals one body, its chunks in order, each once."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, data: bytes | memoryview, first_chunk: int, *, last: bool) -> bytes:
        """Whole chunks from `first_chunk` on; only the last of a body may be short, and it is never empty."""
        view = memoryview(data)
        if not last and len(view) % CHUNK_BYTES:
            raise RuntimeError("only the last chunk may be short")
        pieces = []
        for at in range(0, len(view), CHUNK_BYTES):
            ends = last and at + CHUNK_BYTES >= len(view)
            pieces.append(self._cipher.encrypt(_nonce(first_chunk + at // CHUNK_BYTES, last=ends), view[at : at + CHUNK_BYTES], None))
        return b"".join(pieces)

    def open(self, data: bytes, first_chunk: int, *, size: int) -> bytes:
        """What the whole chunks in `data` hold, of a body of `size` bytes. Raises BodySealBrokenError."""
        view, last = memoryview(data), chunks_of(size) - 1
        pieces = []
        try:
            for at in range(0, len(view), SEALED_CHUNK_BYTES):
                chunk = first_chunk + at // SEALED_CHUNK_BYTES
                pieces.append(self._cipher.decrypt(_nonce(chunk, last=chunk == last), view[at : at + SEALED_CHUNK_BYTES], None))
        except (InvalidTag, ValueError):
            raise BodySealBrokenError("a chunk of the body does not open") from None
        return b"".join(pieces)
