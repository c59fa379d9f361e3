"""Checkpoints of the log: how many records, under which root, at which moment, with which count of the TPM; signed by the box.

Pure. The form is C2SP tlog-checkpoint, a C2SP signed note: origin, size and root, then two extension lines of ours (`at <microseconds>`,
`counter <count>`), an empty line and a signature line. Signatures are ECDSA over SHA-256 in DER, type 0x02 of the specification: its
key id is the beginning of the SHA-256 of the public key. An RSA key, which the specification does not number, has type 0xff and our name.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from appliance.errors import UnverifiedError
from appliance.messagelog.merkle import HASH_BYTES, SIZE_MAX

NOTE_BYTES_MAX = 64 << 10
SIGNATURES_MAX = 16
"""As many as the specification obliges a verifier to take."""
PREFIX = "xacbe.log/"
"""Before the server's id in an origin: no other log of anybody's is called so."""
_SIGNATURE_LINE = re.compile(r"\u2014 ([^ +\n]+) ([A-Za-z0-9+/]+={0,2})")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_RSA_TYPE = b"\xffxacbe rsa-sha256"


class CheckpointInvalidError(UnverifiedError):
    """Not a checkpoint, or not signed by the key that the log is known by."""

    kind = "log.checkpoint_invalid"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`counter`: what the TPM's counter said; None where the token has none."""

    origin: str
    size: int
    root: bytes
    at_us: int
    counter: int | None = None

    @property
    def text(self) -> bytes:
        """What is signed."""
        counted = "" if self.counter is None else f"counter {self.counter}\n"
        root = base64.b64encode(self.root).decode()
        return f"{self.origin}\n{self.size}\n{root}\nat {self.at_us}\n{counted}".encode()

    @property
    def server(self) -> str:
        return unquote(self.origin.removeprefix(PREFIX))


@dataclass(frozen=True, slots=True)
class SignedNote:
    """`signatures`: (key name, key id, signature) as they stand."""

    text: bytes
    signatures: tuple[tuple[str, bytes, bytes], ...]


def origin_of(server: str) -> str:
    """The origin of a box's log: its server id, with what a note's name may not contain written as in a URL."""
    return PREFIX + quote(server, safe="/:")


def note_of(checkpoint: Checkpoint, key: bytes, signature: bytes) -> bytes:
    """The signed note. `key`: the certificate's public key, SubjectPublicKeyInfo in DER (`key_of`)."""
    signed = base64.b64encode(_key_id(checkpoint.origin, key) + signature).decode()
    return checkpoint.text + f"\n\u2014 {checkpoint.origin} {signed}\n".encode()


def key_of(certificate: bytes) -> bytes:
    """Raises CheckpointInvalidError."""
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        return loaded.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm):
        raise CheckpointInvalidError("the log key's certificate cannot be read") from None


def _key_id(origin: str, key: bytes) -> bytes:
    if _is_rsa(key):
        return hashlib.sha256(origin.encode() + b"\n" + _RSA_TYPE + key).digest()[:4]
    return hashlib.sha256(key).digest()[:4]


def _is_rsa(key: bytes) -> bool:
    return isinstance(_load(key), rsa.RSAPublicKey)


def _load(key: bytes) -> object:
    try:
        return load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        raise CheckpointInvalidError("the log key cannot be read") from None


def read_note(note: bytes) -> SignedNote:
    """Takes a signed note apart. Raises CheckpointInvalidError."""
    if len(note) > NOTE_BYTES_MAX:
        raise CheckpointInvalidError(f"a note of {len(note)} bytes")
    try:
        written = note.decode()
    except UnicodeDecodeError:
        raise CheckpointInvalidError("the note is no UTF-8") from None
    text, blank, signed = written.rpartition("\n\n")
    if not blank or not signed.endswith("\n") or any(ord(letter) < 0x20 and letter != "\n" for letter in written):
        raise CheckpointInvalidError("no signed note")
    lines = signed[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise CheckpointInvalidError(f"{len(lines)} signatures")
    return SignedNote(f"{text}\n".encode(), tuple(_signature(line) for line in lines))


def _signature(line: str) -> tuple[str, bytes, bytes]:
    found = _SIGNATURE_LINE.fullmatch(line)
    try:
        data = base64.b64decode(found[2], validate=True) if found else b""
    except binascii.Error:
        data = b""
    if found is None or len(data) < 5:
        raise CheckpointInvalidError("a signature line that is none")
    return found[1], data[:4], data[4:]


def read_checkpoint(note: bytes) -> Checkpoint:
    """What a note says, without asking who signed it. Raises CheckpointInvalidError.

    Strict: only what `Checkpoint.text` writes, so that no two readings of one note exist.
    """
    text = read_note(note).text
    lines = text.decode().split("\n")[:-1]
    counted = len(lines) == 5 and lines[4].startswith("counter ")
    if len(lines) != 4 + counted or not lines[3].startswith("at "):
        raise CheckpointInvalidError("not the lines of a checkpoint")
    numbers = [lines[1], lines[3][3:], *([lines[4][8:]] if counted else [])]
    if not all(_NUMBER.fullmatch(number) and int(number) <= SIZE_MAX for number in numbers):
        raise CheckpointInvalidError("a number that is none")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError:  # letters beyond ASCII are no binascii.Error
        raise CheckpointInvalidError("a root that is none") from None
    found = Checkpoint(lines[0], int(lines[1]), root, int(numbers[1]), int(numbers[2]) if counted else None)
    if len(root) != HASH_BYTES or not found.origin.startswith(PREFIX) or found.text != text:
        raise CheckpointInvalidError("not a checkpoint as our boxes write them")
    return found


def check(note: bytes, keys: Iterable[bytes]) -> Checkpoint:
    """The checkpoint, signed by one of the keys (SubjectPublicKeyInfo, DER). Raises CheckpointInvalidError.

    (1) it is a checkpoint; (2) a signature line carries its origin and the id of one of the keys; (3) that signature verifies: one that
    does not spoils the note, whatever else signed it (signed-note).
    """
    found, signed = read_checkpoint(note), read_note(note)
    by_id = {_key_id(found.origin, key): key for key in keys}
    known = [(by_id[key_id], signature) for name, key_id, signature in signed.signatures if name == found.origin and key_id in by_id]
    if not known:
        raise CheckpointInvalidError("not signed by a key of this box's log")
    for key, signature in known:
        _verify(key, signature, signed.text)
    return found


def _verify(der: bytes, signature: bytes, text: bytes) -> None:
    key = _load(der)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, text, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise CheckpointInvalidError("the log key is neither ECDSA nor RSA")
    except InvalidSignature:
        raise CheckpointInvalidError("the signature is not by the key of this box's log") from None
