"""What the log keeps of a message, encrypted: its content, and the names in it that may be of persons.

Pure. Keys, from the token down:

    the token's wrapping key
      epoch        two keys, wrapped by the token once a start and once a day: one wraps group keys, one seals names
        group key  of one subsystem of ours in one epoch: seals message heads, small bodies, and the keys of large ones
          body key of one large body (`stream`)
      tag key      for look-ups: a keyed digest of a message id or a party stands in the index, never the text

Deleting a group key erases the content of that subsystem's messages of that epoch; their names stay readable, so that who exchanged with
whom can still be told, and every digest stays, so that every proof holds. AES-256-GCM, nonces counted: no key outlives the process that
drew it, so that no number comes twice.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.errors import CorruptStateError
from appliance.messagelog import record
from appliance.messagelog.record import MessageContent, SignatureContent

KEY_BYTES = 32
EPOCH_BYTES = 2 * KEY_BYTES
"""As much as the token wraps at once (`hsm.wrapping`)."""
QUERY, PARTY = b"query", b"party"
"""What look-up tags are of."""
TAG_BYTES = 16
"""Among four million ids a false hit comes with 10^-26."""
GROUPS_MAX = 1 << 16
"""Group keys of one epoch: more than a box has subsystems."""
_NONCE_BYTES = 12
_encode = msgspec.msgpack.Encoder().encode


class SealBrokenError(CorruptStateError):
    """Something of the log does not open under the key that it names: it was changed."""

    kind = "record.seal_broken"


class Names(msgspec.Struct, array_like=True):
    """Of one message: what may name persons, or was chosen by them."""

    query_id: str
    request_id: str
    represented_party: str | None
    end_user: str | None = None
    """As the information system says (X-Road-UserId)."""


_names_decoder = msgspec.msgpack.Decoder(Names)


class WrappedGroup(msgspec.Struct, array_like=True):
    """A group key at rest."""

    group: str
    wrapped: bytes


@dataclass(slots=True)
class GroupKey:
    """`number` is unique for the life of the log: its epoch and its place in it."""

    number: int
    group: str
    cipher: AESGCM = field(repr=False)


def epoch_of(key: int) -> int:
    """The epoch of a group key's number."""
    return key // GROUPS_MAX


def tag(key: bytes, kind: bytes, text: str) -> bytes:
    """What stands in the index for `text`. `kind` keeps an id and a party of the same spelling apart."""
    return hashlib.blake2b(text.encode(), key=key, digest_size=TAG_BYTES, person=kind).digest()


class Epoch:
    """The keys of one start, or of one day of it. `counter` gives nonces where this process writes; opened ones only read."""

    def __init__(self, number: int, keys: bytes) -> None:
        self.number = number
        self._wrapping, self._names = AESGCM(keys[:KEY_BYTES]), AESGCM(keys[KEY_BYTES:])
        self._counter: Iterator[int] = itertools.count(1)
        self.groups: dict[str, GroupKey] = {}
        self.made = 0
        """Numbers of group keys that were given out."""
        self.kept = False
        """Whether its own file is durable."""

    def _next(self) -> bytes:
        return next(self._counter).to_bytes(_NONCE_BYTES, "big")

    def wrapped(self, number: int, group: str, key: bytes) -> bytes:
        """A new group key as it is kept; each number is wrapped once."""
        nonce = number.to_bytes(_NONCE_BYTES, "big")
        return _encode(WrappedGroup(group, self._wrapping.encrypt(nonce, key, group.encode())))

    def unwrapped(self, number: int, kept: bytes) -> GroupKey:
        """Raises SealBrokenError."""
        try:
            found = msgspec.msgpack.decode(kept, type=WrappedGroup)
            key = self._wrapping.decrypt(number.to_bytes(_NONCE_BYTES, "big"), found.wrapped, found.group.encode())
        except (InvalidTag, ValueError, RecursionError):
            raise SealBrokenError(f"the data key {number} does not open") from None
        return GroupKey(number, found.group, AESGCM(key))

    def seal_names(self, names: Names) -> bytes:
        nonce = self._next()
        return nonce + self._names.encrypt(nonce, _encode(names), None)

    def open_names(self, sealed: bytes) -> Names:
        """Raises SealBrokenError."""
        try:
            return _names_decoder.decode(self._names.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None))
        except (InvalidTag, ValueError, RecursionError):
            raise SealBrokenError("the names of a record do not open") from None

    def seal_message(self, key: GroupKey, content: MessageContent, digest: bytes) -> bytes:
        """`digest`: of the signature document that the message belongs to; it opens with no other."""
        nonce = self._next()
        return nonce + key.cipher.encrypt(nonce, _encode(content), digest)

    def seal_signature(self, content: SignatureContent, digest: bytes) -> bytes:
        """Its messages may be of several subsystems: it is under the epoch's key. It holds digests of what was said, no word of it."""
        nonce = self._next()
        return nonce + self._names.encrypt(nonce, _encode(content), digest)

    def open_signature(self, sealed: bytes, digest: bytes) -> SignatureContent:
        """Raises SealBrokenError."""
        try:
            return record.decode_signature(self._names.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], digest))
        except (InvalidTag, ValueError, RecursionError):
            raise SealBrokenError("a signature of the log does not open") from None


def open_message(key: GroupKey, sealed: bytes, digest: bytes) -> MessageContent:
    """Raises SealBrokenError."""
    try:
        return record.decode_message(key.cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], digest))
    except (InvalidTag, ValueError, RecursionError):
        raise SealBrokenError("the content of a record does not open") from None
