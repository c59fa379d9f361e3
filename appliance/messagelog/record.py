"""The records of the message log: their bytes, the hash that links them, and what each type carries.

Pure. A segment is a head and then records:

    segment  `magic(8) format(2) spare(6) salt(16)`      all big endian
    record   `mark(4) length(4) content(4) type(1) flags(1) sequence(8) at(8) previous(32)` [digest(32)] payload content `crc(4)`

What is linked begins at `type` and ends with the payload. `previous` is the record before as a leaf of an RFC 6962 tree: the SHA-256 of a
zero byte and what is linked of it, so every field of every earlier record is under it, and the links are the tree's leaves.
The content (messages, bodies, signature documents) is under the link by its SHA-256, which stands before the payload where there is one
(HAS_CONTENT). Retention cuts contents off (`without_content`): the record keeps its link, its place in the tree and its proofs.
`mark` is drawn from the segment's salt and seeds the crc: a message whose body spells out a record cannot pass for one after a torn write.
Records written by one sync form a group; the first of a group is flagged, because it proves that the group before it had been synced.
Payloads are MessagePack arrays: a newer version appends fields, and a type that this version does not know is carried along unread.
"""

from __future__ import annotations

import hashlib
import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from typing import Any

import msgspec

from appliance.errors import CorruptStateError

MAGIC = b"XACBELOG"
FORMAT = 2
SEGMENT_HEAD = Struct("!8sH6x16s")
SALT_BYTES = 16
HEAD = Struct("!IIIBBQQ32s")
LINKED_AT = 12
"""Where the linked part of a record begins: mark and lengths change when a content is cut off."""
_FRAME, _LINKED_HEAD = Struct("!III"), Struct("!BBQQ32s")
DIGEST_BYTES = 32
CRC_BYTES = 4
NO_LINK = bytes(32)
"""What the very first record names as the one before."""
PAYLOAD_BYTES_MAX = 8 << 20
"""Twice the largest local frame, for payload and content each: a longer length is damage, not a record."""

BOOT, CLOSE, SIGNATURE, MESSAGE, STAMP, AUDIT, OUTAGE, UNCONFIRMED, CHECKPOINT = 1, 2, 3, 4, 5, 6, 7, 8, 9
NOTICE = 16
FIRST_OF_GROUP, HAS_CONTENT = 1, 2
LEAF = b"\0"
"""What RFC 6962 hashes before a leaf."""

Buffer = bytes | mmap.mmap


class BrokenLinkError(CorruptStateError):
    """The log contradicts itself outside a torn tail: somebody or something changed it."""

    kind = "record.broken_link"

    def __init__(self, segment: int, offset: int, sequence: int, why: str) -> None:
        super().__init__(f"record {sequence} (segment {segment:020d}, byte {offset}): {why}")
        self.segment, self.offset, self.sequence, self.why = segment, offset, sequence, why


class BootEntry(msgspec.Struct, array_like=True):
    """The recorder started: what it cut off from the end (bytes of a torn, never acknowledged write)."""

    repaired_bytes: int


class CloseEntry(msgspec.Struct, array_like=True):
    """The recorder stopped in order."""


class SignatureEntry(msgspec.Struct, array_like=True):
    """A signature as received or made, kept once for all messages of its batch, byte for byte in its content (SignatureContent)."""

    digest: bytes
    """SHA-512 of the signature document: the leaf of batch time stamps (sheet 4.8)."""
    ocsp_produced_at_us: int
    ocsp_this_update_us: int
    epoch: int
    """Whose key the content is encrypted under."""


class MessageEntry(msgspec.Struct, array_like=True):
    """One sealed message; what it says is its content (MessageContent). `signature` is the sequence of its SIGNATURE record."""

    side: str
    direction: str
    received: bool
    stamp_first: bool
    query_tag: bytes
    """Keyed digest of the message id: found by it, never read from it (`messagelog.sealing`)."""
    represented_tag: bytes | None
    names: bytes
    """`sealing.Names`, encrypted under the names key of `key`'s epoch."""
    client: str
    service: str
    signature: int
    key: int
    """Number of the group key that the content is encrypted under."""
    message_bytes: int
    body_file: bool
    """The body lies, encrypted, in `bodies/<sequence>.body`."""
    body_bytes: int
    body_digest: bytes | None
    ocsp_produced_at_us: int
    ends_us: int
    """Last moment at which a stamp may still be given (eight-hour rule, with our margin)."""
    replay_key: bytes | None
    """Of a received message; see `messagelog.replay`."""
    signed_at_us: int = 0
    """The signed SigningTime of a received message."""
    attachment_bytes: list[int] = []
    """How the body is cut into SOAP attachments; empty: it is one part."""
    begins_us: int = 0
    """First moment at which a stamp fits: eight hours before the later of the OCSP response's times."""
    file_digest: bytes | None = None
    """SHA-256 of the body's file as it lies, encrypted: whoever audits a log needs no key. None where there is no file."""


class SignatureContent(msgspec.Struct, array_like=True):
    """META-INF/signatures.xml and the chain result that it signs, verbatim."""

    signature: bytes
    chain_result: bytes | None


class MessageContent(msgspec.Struct, array_like=True):
    """What was sealed, verbatim; of a body that lies in a file the key that opens it (`messagelog.stream`)."""

    message: bytes
    body: bytes | None
    chain: bytes | None
    body_key: bytes | None = None


class StampEntry(msgspec.Struct, array_like=True):
    """A time stamp and what it covers. `signatures` are the leaves in order: sequences of SIGNATURE records."""

    token: bytes
    gen_time_us: int
    accuracy_us: int
    authority: str
    signatures: list[int]
    messages: list[int]
    chain_result: bytes | None
    """The stamped document of the batch form; None: the token is over the SignatureValue of the only signature."""


class AuditEntry(msgspec.Struct, array_like=True):
    """An act or a refusal; `caller` is the channel it came by."""

    event: str
    caller: str
    facts: dict[str, str]


class OutageEntry(msgspec.Struct, array_like=True):
    """Every time-stamping authority is silent since `started_us`; `provisional`: (message, deadline) delivered without a stamp.

    `ended_us` None: still silent. Written before the provisional answers are given, so that a restart resets no deadline.
    """

    started_us: int
    ended_us: int | None
    provisional: list[tuple[int, int]]


class UnconfirmedEntry(msgspec.Struct, array_like=True):
    """Messages whose stamp missed its deadline: no seal can confirm them any more."""

    messages: list[int]
    ended_us: int
    withdrawn: list[int] = []
    """Those of them that were acknowledged: each needs a notice to the information systems and members of both sides."""


class NoticeEntry(msgspec.Struct, array_like=True):
    """What became of withdrawal notices about these messages of ours (`messagelog.notices`)."""

    messages: list[int]
    to: str
    """`system`, `peer`: who was told; empty: the peer told us that its own record of them could not be confirmed."""
    word: str
    """`delivered`, or the kind with which a notice was refused for good."""


OURS, THEIRS = "ours", "theirs"
"""Whose record could not be confirmed."""


class CheckpointEntry(msgspec.Struct, array_like=True):
    """A signed checkpoint over the records up to `size`, this one not among them (`messagelog.checkpoint`)."""

    size: int
    note: bytes
    digest: bytes
    """SHA-512 of `note`: its leaf in the batch time stamps, beside the signatures' ones."""
    certificate: bytes | None
    """Of the log key; None: that of the checkpoint before."""
    offset: int | None
    """Where record `size` lay in its segment: start-up follows the log from there on, if it still does."""


Content = SignatureContent | MessageContent
Entry = (
    BootEntry
    | CloseEntry
    | SignatureEntry
    | MessageEntry
    | StampEntry
    | AuditEntry
    | OutageEntry
    | UnconfirmedEntry
    | CheckpointEntry
    | NoticeEntry
)

ENTRIES: dict[int, type[Entry]] = {
    BOOT: BootEntry,
    CLOSE: CloseEntry,
    SIGNATURE: SignatureEntry,
    MESSAGE: MessageEntry,
    STAMP: StampEntry,
    AUDIT: AuditEntry,
    OUTAGE: OutageEntry,
    UNCONFIRMED: UnconfirmedEntry,
    CHECKPOINT: CheckpointEntry,
    NOTICE: NoticeEntry,
}
KINDS: dict[type[Entry], int] = {entry: kind for kind, entry in ENTRIES.items()}

_encode = msgspec.msgpack.Encoder().encode
_message_content, _signature_content = msgspec.msgpack.Decoder(MessageContent), msgspec.msgpack.Decoder(SignatureContent)
_decoders: dict[int, msgspec.msgpack.Decoder[Any]] = {kind: msgspec.msgpack.Decoder(entry) for kind, entry in ENTRIES.items()}


@dataclass(slots=True)
class Record:
    """One record as it lies in a segment. `link` is what the next one names as `previous`; `size` includes head and crc."""

    kind: int
    flags: int
    sequence: int
    at_us: int
    previous: bytes
    payload: bytes
    content: bytes
    """Empty where there is none, or where it was cut off."""
    content_digest: bytes
    link: bytes
    offset: int
    size: int

    @property
    def is_content_cut(self) -> bool:
        return bool(self.content_digest) and not self.content

    @property
    def fits_content(self) -> bool:
        """Whether the content is the one that is under the link."""
        return not self.content or hashlib.sha256(self.content).digest() == self.content_digest


@dataclass(slots=True)
class Position:
    """The end of the chain: the last record's sequence and link. Sequence 0: the log is empty."""

    sequence: int = 0
    link: bytes = NO_LINK


_SUBSYSTEM_PARTS = 4


def group_of(side: str, client: str, service: str) -> str:
    """Our subsystem in this exchange: whose content it is, who archives it, whose terms hold (sheet 7.1)."""
    return client if side == "client" else "/".join(service.split("/")[:_SUBSYSTEM_PARTS])


def segment_head(salt: bytes) -> bytes:
    return SEGMENT_HEAD.pack(MAGIC, FORMAT, salt)


def mark_of(head: Buffer) -> int | None:
    """The mark of a segment's records, or None where the bytes are not a segment's head of a format we know."""
    if len(head) < SEGMENT_HEAD.size:
        return None
    magic, version, salt = SEGMENT_HEAD.unpack_from(head)
    is_ours = magic == MAGIC and version == FORMAT and head[: SEGMENT_HEAD.size] == segment_head(salt)  # the spare bytes too
    return zlib.crc32(salt) if is_ours else None


def encode_entry(entry: Entry | Content) -> bytes:
    return _encode(entry)


def decode_message(content: bytes) -> MessageContent:
    """Raises one of errors.UNREADABLE where it is none."""
    return _message_content.decode(content)


def decode_signature(content: bytes) -> SignatureContent:
    """Raises one of errors.UNREADABLE where it is none."""
    return _signature_content.decode(content)


def decode_entry(kind: int, payload: bytes) -> Entry | None:
    """The payload's struct; None for a type of a newer version. Raises one of errors.UNREADABLE where it is not one."""
    decoder = _decoders.get(kind)
    if decoder is None:
        return None
    entry: Entry = decoder.decode(payload)
    return entry


def encode(position: Position, mark: int, kind: int, flags: int, at_us: int, payload: bytes, content: bytes = b"") -> bytes:
    """The next record's bytes; `position` moves on to it."""
    if max(len(payload), len(content)) > PAYLOAD_BYTES_MAX:
        raise RuntimeError(f"a payload of {len(payload)} and {len(content)} bytes")  # frames and batches are bounded below this
    digest = b""
    if content:
        digest, flags = hashlib.sha256(content).digest(), flags | HAS_CONTENT
    position.sequence += 1
    hashed = _LINKED_HEAD.pack(kind, flags, position.sequence, at_us, position.link) + digest + payload
    position.link = hashlib.sha256(LEAF + hashed).digest()
    return _framed(mark, len(payload), hashed, content)


def linked(record: Record) -> bytes:
    """What the link is the leaf hash of."""
    head = _LINKED_HEAD.pack(record.kind, record.flags, record.sequence, record.at_us, record.previous)
    return head + record.content_digest + record.payload


def read_linked(data: bytes) -> Record | None:
    """The record with this linked part; its content, place and frame are not known. None where it is none."""
    if len(data) < _LINKED_HEAD.size:
        return None
    kind, flags, sequence, at_us, previous = _LINKED_HEAD.unpack_from(data)
    payload_at = _LINKED_HEAD.size + (DIGEST_BYTES if flags & HAS_CONTENT else 0)
    if len(data) < payload_at:
        return None
    link = hashlib.sha256(LEAF + data).digest()
    return Record(kind, flags, sequence, at_us, previous, data[payload_at:], b"", data[_LINKED_HEAD.size : payload_at], link, 0, 0)


def without_content(record: Record, mark: int) -> bytes:
    """The record's bytes after its content was cut off: same link, same place in the tree."""
    return _framed(mark, len(record.payload), linked(record), b"")


def _framed(mark: int, payload_bytes: int, hashed: bytes, content: bytes) -> bytes:
    record = b"".join((_FRAME.pack(mark, payload_bytes, len(content)), hashed, content))
    return record + zlib.crc32(record, mark).to_bytes(CRC_BYTES, "big")


def size_of(head: bytes) -> int:
    """How many bytes the record with this head takes."""
    _, length, content, _, flags, *_ = HEAD.unpack(head)
    return HEAD.size + (DIGEST_BYTES if flags & HAS_CONTENT else 0) + int(length) + int(content) + CRC_BYTES


def read(data: Buffer, offset: int, mark: int) -> Record | None:
    """The record at `offset`, or None where there is no whole record with a good crc."""
    if len(data) - offset < HEAD.size + CRC_BYTES:
        return None
    found, length, content_bytes, kind, flags, sequence, at_us, previous = HEAD.unpack_from(data, offset)
    if found != mark or length > PAYLOAD_BYTES_MAX or content_bytes > PAYLOAD_BYTES_MAX:
        return None
    payload_at = HEAD.size + (DIGEST_BYTES if flags & HAS_CONTENT else 0)
    content_at = payload_at + length
    end = offset + content_at + content_bytes
    if end + CRC_BYTES > len(data) or (content_bytes and not flags & HAS_CONTENT):
        return None
    framed = data[offset:end]
    if zlib.crc32(framed, mark).to_bytes(CRC_BYTES, "big") != data[end : end + CRC_BYTES]:
        return None
    link = hashlib.sha256(LEAF + framed[LINKED_AT:content_at]).digest()
    payload, content, digest = framed[payload_at:content_at], framed[content_at:], framed[HEAD.size : payload_at]
    return Record(kind, flags, sequence, at_us, previous, payload, content, digest, link, offset, end + CRC_BYTES - offset)


def records(data: Buffer, mark: int, offset: int = SEGMENT_HEAD.size) -> Iterator[Record]:
    """The whole records from `offset` on, up to the first that is none."""
    while (record := read(data, offset, mark)) is not None:
        yield record
        offset += record.size
