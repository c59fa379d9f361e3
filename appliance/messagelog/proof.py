"""That a record is in the log, as a file that anybody checks offline: C2SP tlog-proof with the record's linked part beside it.

Pure. The proof's `extra` line carries what is needed to make the leaf again (the record without its content) and the certificate of the log
key; neither is believed for being there: the leaf must lead to the signed root, the certificate must be one that the checker trusts.
A content, where one is shown, is checked against the digest in the linked part; so proofs hold when contents are long deleted.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from appliance.errors import UNREADABLE
from appliance.messagelog import checkpoint, merkle, record
from appliance.messagelog.checkpoint import Checkpoint, CheckpointInvalidError
from appliance.messagelog.merkle import HASH_BYTES, PROOF_HASHES_MAX, ProofInvalidError

HEAD = "c2sp.org/tlog-proof@v1"
PROOF_BYTES_MAX = 16 << 20
_INDEX = re.compile(r"index (0|[1-9][0-9]{0,18})")


class Extra(msgspec.Struct, array_like=True):
    """What tlog-proof leaves to the application. `linked`: as `record` links it, from `type` to the payload's end."""

    linked: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Proof:
    """One record under one checkpoint. `path`: from the leaf's sibling up."""

    sequence: int
    linked: bytes
    path: tuple[bytes, ...]
    note: bytes
    certificate: bytes

    @property
    def text(self) -> bytes:
        """The file."""
        extra = base64.b64encode(msgspec.msgpack.encode(Extra(self.linked, self.certificate))).decode()
        lines = [HEAD, f"extra {extra}", f"index {self.sequence - 1}", *(base64.b64encode(each).decode() for each in self.path)]
        return "\n".join(lines).encode() + b"\n\n" + self.note


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows: this record, as written, is under that checkpoint."""

    checkpoint: Checkpoint
    sequence: int
    kind: int
    at_us: int
    entry: record.Entry | None
    content_digest: bytes | None


def read(data: bytes) -> Proof:
    """Takes a proof's file apart. Raises ProofInvalidError."""
    head, blank, note = data.partition(b"\n\n")
    try:
        first, extra, index, *path = head.decode("ascii").split("\n")
        found = _INDEX.fullmatch(index)
        if not blank or len(data) > PROOF_BYTES_MAX or first != HEAD or not extra.startswith("extra ") or found is None:
            raise ValueError("not the lines of a proof")
        hashes = tuple(base64.b64decode(each, validate=True) for each in path)
        beside = msgspec.msgpack.decode(base64.b64decode(extra[6:], validate=True), type=Extra)
    except (ValueError, RecursionError):
        raise ProofInvalidError("the file is no proof of a log") from None
    if len(hashes) > PROOF_HASHES_MAX or any(len(each) != HASH_BYTES for each in hashes):
        raise ProofInvalidError("the path is malformed")
    return Proof(int(found[1]) + 1, beside.linked, hashes, note, beside.certificate)


def check(data: bytes, keys: Sequence[bytes]) -> Proven:
    """What the file proves, under one of the log keys (SubjectPublicKeyInfo). Raises ProofInvalidError, CheckpointInvalidError.

    (1) the checkpoint is signed by one of the keys; (2) the linked part is the leaf at the index of the tree under its root; (3) it is the
    record that it says: its own number is that place.
    """
    proof = read(data)
    signed = checkpoint.check(proof.note, keys)
    leaf = hashlib.sha256(record.LEAF + proof.linked).digest()
    merkle.check_inclusion(leaf, proof.sequence - 1, signed.size, proof.path, signed.root)
    found = record.read_linked(proof.linked)
    if found is None or found.sequence != proof.sequence:
        raise ProofInvalidError("the record is not the one of this place")
    try:
        entry = record.decode_entry(found.kind, found.payload)
    except UNREADABLE:
        raise ProofInvalidError("the record cannot be read") from None
    return Proven(signed, found.sequence, found.kind, found.at_us, entry, found.content_digest or None)


def trusted_key(certificate: bytes, origin: str, issuers: Sequence[x509.Certificate]) -> bytes:
    """The key of a log's certificate that one of CEIQROO's authorities issued to this very box. Raises CheckpointInvalidError.

    (1) an issuer signed it; (2) its subject is the log of the server that the origin names: CEIQROO certifies no other key so.
    """
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        issued = any(_is_issued_by(loaded, issuer) for issuer in issuers)
        names = [str(each.value) for each in loaded.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    except (ValueError, UnsupportedAlgorithm):
        raise CheckpointInvalidError("the log key's certificate cannot be read") from None
    node = ":".join(Checkpoint(origin, 0, b"", 0).server.split("/")[1:])
    if not issued or names != [f"{node} log"[:64]]:
        raise CheckpointInvalidError("the log key's certificate is not CEIQROO's for this box")
    return checkpoint.key_of(certificate)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True
