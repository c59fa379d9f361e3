"""ASiC-E containers in X-Road's layout: written byte for byte the same every time, read with limits.

Pure: bytes in, bytes out. Sheet 4.9. A container is hostile until proven otherwise: nothing is written to disk, names are only compared,
sizes and ratios are bounded before anything is inflated, and an archive that two unzip programs could read differently (doubled names,
overlapping or hidden entries) is refused, because a second verifier must see what we saw.
"""

from __future__ import annotations

import hashlib
import io
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import IO, BinaryIO

from appliance.clock import from_us
from appliance.errors import UnverifiedError
from appliance.seal import hash_chain, xades
from appliance.seal.chain_check import ALGORITHMS, Digest

MIMETYPE = "application/vnd.etsi.asic-e+zip"
MESSAGE, SIGNATURES, TIMESTAMP = "message.xml", "META-INF/signatures.xml", "META-INF/timestamp.tst"
CONTAINER_BYTES_MAX = 1280 * 1024 * 1024
"""The largest body (1 GiB) with its message and evidence."""
ENTRIES_MAX = 1200
"""X-Road writes at most nine entries besides the attachments."""
ENTRY_BYTES_MAX = 1024 * 1024 * 1024
SMALL_ENTRY_BYTES_MAX = 32 * 1024 * 1024
"""Everything but attachments is held in memory: message.xml may be a SOAP envelope of some megabytes."""
SMALL_ENTRIES_BYTES_MAX = 64 * 1024 * 1024
"""All of them together: each is inflated, also where nothing reads it, since a container with a damaged entry is not whole."""
RATIO_MAX = 200
RATIO_FROM_BYTES = 4 * 1024 * 1024
"""Below this size a high ratio harms nobody; above it we store instead of deflating (deflate itself ends at 1,032:1)."""
_CHUNK = 64 * 1024
_NAME = re.compile(r"[^\x00-\x1f\x7f\\:*?\"<>|]{1,255}")
_ATTACHMENT = re.compile(r"attachment[1-9][0-9]{0,3}")
_SIGNATURE_ENTRY = re.compile(r"meta-inf/.*signatures.*\.xml")
_FILE_TYPE, _REGULAR, _DIRECTORY = 0o170000, 0o100000, 0o040000
_ENCRYPTED, _DESCRIPTOR, _UNREADABLE, _UTF8_NAME = 0x01, 0x08, 0x60, 0x800
"""Bits of an entry's flags; unreadable: patched data, strong encryption."""
_ZIP64_FIELD = 1
_LOCAL = struct.Struct("<4sHHHIIIIHH")
"""Mark, version, flags, method, time and date, check sum, packed size, size, lengths of name and extra field."""
_LISTED_BYTES, _LENGTHS_AT = 46, 28
"""An entry in the directory without its variable parts, and where the lengths of name, extra field and comment stand in it."""
_END = struct.Struct("<4sHHHHIIH")
"""Mark, four counts of disks and entries, size and place of the directory, length of the comment."""
_ZIP_YEAR_MIN, _ZIP_YEAR_MAX = 1980, 2107


class ContainerError(UnverifiedError):
    """Not a container that we read. Its kinds: `container.malformed`, `.limit`, `.no_mimetype`, `.no_message`, `.no_signature`."""

    kind = "container.malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What goes into a container: bytes as they were logged.

    `attachments` in order: /attachment1 first. Either `stamp_token` alone (single form: it is embedded into the signature document) or with
    both `stamp_chain_result` and `stamp_chain` (batch form: META-INF/timestamp.tst, the signature document stays as it is).
    """

    message: bytes
    signature: bytes
    chain_result: bytes | None = None
    chain: bytes | None = None
    stamp_token: bytes | None = None
    stamp_chain_result: bytes | None = None
    stamp_chain: bytes | None = None
    attachments: Sequence[bytes] = ()


def write_container(contents: Contents, at_us: int) -> bytes:
    """The container as bytes; the same contents and time give the same bytes (entry times to two seconds, UTC)."""
    output = io.BytesIO()
    moment = from_us(at_us)
    moment -= timedelta(seconds=moment.second % 2)
    if not _ZIP_YEAR_MIN <= moment.year <= _ZIP_YEAR_MAX:
        raise RuntimeError("a ZIP cannot hold this year")
    with zipfile.ZipFile(output, "w") as archive:
        archive.comment = f"mimetype={MIMETYPE}".encode()
        for name, data in _entries(contents):
            info = zipfile.ZipInfo(name, moment.timetuple()[:6])
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.compress_type = zipfile.ZIP_STORED if _deflates_too_well(data) else zipfile.ZIP_DEFLATED
            archive.writestr(info, data, compresslevel=6)
    return output.getvalue()


def stream_container(output: BinaryIO, contents: Contents, at_us: int, attachments: Sequence[Iterable[bytes]]) -> None:
    """The same container into a stream that need not seek, its attachments in pieces and not deflated; `contents` has none."""
    moment = from_us(at_us - at_us % 2_000_000).timetuple()[:6]
    named = replace(contents, attachments=[b""] * len(attachments))
    with zipfile.ZipFile(output, "w") as archive:
        archive.comment = f"mimetype={MIMETYPE}".encode()
        for name, data in _entries(named):
            info = zipfile.ZipInfo(name, moment)
            info.create_system, info.external_attr = 3, 0o644 << 16
            with archive.open(info, "w") as entry:
                for piece in attachments[int(name[len("attachment") :]) - 1] if _ATTACHMENT.fullmatch(name) else (data,):
                    entry.write(piece)


def _entries(contents: Contents) -> Iterator[tuple[str, bytes]]:
    batch_stamp = contents.stamp_chain_result is not None
    signature = contents.signature
    if contents.stamp_token is not None and not batch_stamp:
        signature = xades.embed_stamp(signature, contents.stamp_token)
    attachments = [(f"attachment{at}", data) for at, data in enumerate(contents.attachments, 1)]
    optional = [
        (hash_chain.CHAIN_RESULT[1:], contents.chain_result),
        (hash_chain.CHAIN[1:], contents.chain),
        (hash_chain.STAMP_CHAIN_RESULT[1:], contents.stamp_chain_result),
        (hash_chain.STAMP_CHAIN[1:], contents.stamp_chain),
    ]
    present = [(name, data) for name, data in optional if data is not None]
    yield "mimetype", MIMETYPE.encode()
    yield MESSAGE, contents.message
    yield SIGNATURES, signature
    yield from present
    yield "META-INF/manifest.xml", _manifest([MESSAGE, *(name for name, _ in present)], [name for name, _ in attachments])
    if contents.stamp_chain_result is not None and contents.stamp_token is not None:
        yield "META-INF/ASiCManifest.xml", _asic_manifest(contents.stamp_chain_result)
        yield TIMESTAMP, contents.stamp_token
    yield from attachments


def _manifest(texts: Sequence[str], attachments: Sequence[str]) -> bytes:
    """OpenDocument manifest 1.2 (sheet 4.9)."""
    files = [("/", MIMETYPE), *((name, "text/xml") for name in texts), *((name, "application/octet-stream") for name in attachments)]
    entries = "".join(f'<manifest:file-entry manifest:full-path="{name}" manifest:media-type="{kind}"/>' for name, kind in files)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><manifest:manifest'
        f' xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0" manifest:version="1.2">{entries}</manifest:manifest>'
    ).encode()


def _asic_manifest(stamp_chain_result: bytes) -> bytes:
    """The namespace without a leading 0 in 2918 is X-Road's."""
    digest = xades.base64_text(hash_chain.sha512(stamp_chain_result))
    return (
        '<?xml version="1.0" encoding="utf-8"?><asic:ASiCManifest xmlns:asic="http://uri.etsi.org/2918/v1.2.1#"'
        ' xmlns:ds="http://www.w3.org/2000/09/xmldsig#">'
        f'<asic:SigReference URI="{TIMESTAMP}" MimeType="vnd.etsi.timestamp-token"/>'
        f'<asic:DataObjectReference URI="{hash_chain.STAMP_CHAIN_RESULT[1:]}" MimeType="text/xml">'
        f'<ds:DigestMethod Algorithm="{hash_chain.SHA512}"/><ds:DigestValue>{digest}</ds:DigestValue>'
        "</asic:DataObjectReference></asic:ASiCManifest>"
    ).encode()


def _deflates_too_well(data: bytes) -> bool:
    """Stored from half the readers' limit on, so that their bomb check never meets what we wrote."""
    return len(data) >= RATIO_FROM_BYTES and len(zlib.compress(data, 1)) * (RATIO_MAX // 2) <= len(data)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was read. Attachments stay deflated: `digest` streams them."""

    message: bytes
    signature: bytes
    chain_result: bytes | None
    chain: bytes | None
    stamp_chain_result: bytes | None
    stamp_chain: bytes | None
    stamp_token: bytes | None
    attachments: dict[str, int]
    """Name with leading slash, as references write it (`/attachment1`) -> bytes."""
    _archive: zipfile.ZipFile = field(repr=False)
    _names: dict[str, str] = field(repr=False)

    def digest(self, name: str, algorithm: str) -> Digest:
        """Of an attachment, under one of the algorithms that chains may use. Raises ContainerError."""
        state = hashlib.new(ALGORITHMS[algorithm])
        for chunk in self.read_attachment(name):
            state.update(chunk)
        return Digest(state.digest(), algorithm)

    def read_attachment(self, name: str) -> Iterator[bytes]:
        """The attachment in pieces of at most 64 KiB. Raises ContainerError."""
        yield from _inflate(self._archive, self._archive.getinfo(self._names[name]))


def read_container(data: bytes) -> Container:
    """Reads a container. Raises ContainerError."""
    if len(data) > CONTAINER_BYTES_MAX:
        raise ContainerError(f"a container of {len(data)} bytes, at most {CONTAINER_BYTES_MAX}", kind="container.limit")
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, ValueError, OverflowError, EOFError) as error:
        raise ContainerError(f"not a ZIP archive: {error}") from None
    entries = archive.infolist()
    if len(entries) > ENTRIES_MAX:
        raise ContainerError(f"{len(entries)} entries, at most {ENTRIES_MAX}", kind="container.limit")
    for entry in entries:
        _check_entry(entry)
    if sum(entry.file_size for entry in entries if not _is_attachment(entry)) > SMALL_ENTRIES_BYTES_MAX:
        raise ContainerError(f"more than {SMALL_ENTRIES_BYTES_MAX} bytes besides attachments", kind="container.limit")
    _check_end(data, archive, entries)
    _check_layout(archive, entries)
    names = _names_by_lower_case(entries)
    _require(names, "mimetype", "container.no_mimetype")
    if _small(archive, names["mimetype"]).strip() != MIMETYPE.encode():
        raise ContainerError("the mimetype entry names another type", kind="container.no_mimetype")
    _require(names, MESSAGE, "container.no_message")
    signatures = [name for name in names if _SIGNATURE_ENTRY.fullmatch(name)]
    if len(signatures) != 1:
        raise ContainerError(f"{len(signatures)} signature documents, exactly one is needed", kind="container.no_signature")
    attachments = {name: entry for name, entry in names.items() if _is_attachment(entry)}
    contents = {name: _small(archive, entry) for name, entry in names.items() if name not in attachments}
    return Container(
        message=contents[MESSAGE],
        signature=contents[signatures[0]],
        chain_result=contents.get(hash_chain.CHAIN_RESULT[1:]),
        chain=contents.get(hash_chain.CHAIN[1:]),
        stamp_chain_result=contents.get(hash_chain.STAMP_CHAIN_RESULT[1:]),
        stamp_chain=contents.get(hash_chain.STAMP_CHAIN[1:]),
        stamp_token=contents.get(TIMESTAMP.lower()),
        attachments={"/" + name: entry.file_size for name, entry in attachments.items()},
        _archive=archive,
        _names={"/" + name: entry.filename for name, entry in attachments.items()},
    )


def _is_attachment(entry: zipfile.ZipInfo) -> bool:
    return _ATTACHMENT.fullmatch(entry.filename.lower()) is not None


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """(T07) name, kind, size and ratio of one entry, before anything is inflated."""
    name = entry.filename
    parts = name.removesuffix("/").split("/")
    if not _NAME.fullmatch(name) or entry.orig_filename != name or name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ContainerError(f"an entry named {name[:80]!r}")
    unix_type = entry.external_attr >> 16 & _FILE_TYPE
    if unix_type not in (0, _DIRECTORY if entry.is_dir() else _REGULAR):
        raise ContainerError(f"{name!r} is neither a file nor a directory")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ContainerError(f"{name!r} is encrypted, or packed in a way that we do not read")
    if entry.flag_bits & _UNREADABLE or (entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size):
        raise ContainerError(f"{name!r} is packed in a way that we do not read, or has two sizes")
    limit = ENTRY_BYTES_MAX if _is_attachment(entry) else SMALL_ENTRY_BYTES_MAX
    if entry.file_size > limit or (entry.file_size > RATIO_FROM_BYTES and entry.file_size > RATIO_MAX * entry.compress_size):
        raise ContainerError(f"{name!r} inflates to {entry.file_size} bytes", kind="container.limit")
    if entry.is_dir() and entry.file_size:
        raise ContainerError(f"{name!r} is a directory with content")


def _check_layout(archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    """Entries follow each other from the first byte to the directory: none overlaps another, none hides beside them.

    A reader that goes by the directory and one that goes by the local headers then see the same entries, as no field says two things.
    """
    file = _file(archive)
    at = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.header_offset != at:
            raise ContainerError("entries overlap, or bytes lie between them")
        file.seek(at)
        head = file.read(_LOCAL.size)
        if len(head) < _LOCAL.size:
            raise ContainerError("an entry has no local header")
        mark, _, flags, method, _, crc, packed, size, name_bytes, extra_bytes = _LOCAL.unpack(head)
        said, sizes = (entry.CRC, entry.compress_size, entry.file_size), (crc, packed, size)
        is_streamed = bool(entry.flag_bits & _DESCRIPTOR) and sizes == (0, 0, 0)
        is_same = (mark, flags, method) == (b"PK\3\4", entry.flag_bits, entry.compress_type) and (is_streamed or sizes == said)
        if not is_same or file.read(name_bytes) != _raw_name(entry):
            raise ContainerError(f"the local header of {entry.filename!r} says something else than the directory")
        at += _LOCAL.size + name_bytes + extra_bytes + entry.compress_size
        if entry.flag_bits & _DESCRIPTOR:
            at += _descriptor_bytes(archive, entry, at)
    if at != archive.start_dir:
        raise ContainerError("entries overlap, or bytes lie between them")


def _check_end(data: bytes, archive: zipfile.ZipFile, entries: Sequence[zipfile.ZipInfo]) -> None:
    """The directory ends where the end record begins, the record's comment at the last byte, and no size stands in a second place (ZIP64,
    which containers are far too small for): each is a spot where two unzip programs can take different archives out of one file."""
    end = len(data) - _END.size - len(archive.comment)
    if end < 0:
        raise ContainerError("an archive without its end")
    mark, disk, first, here, count, size, start, comment_bytes = _END.unpack_from(data, end)
    said = (mark, disk, first, here, count, start, start + size, comment_bytes)
    if said != (b"PK\5\6", 0, 0, len(entries), len(entries), archive.start_dir, end, len(archive.comment)):
        raise ContainerError("bytes behind the end of the archive, or a directory that does not lie where the archive says")
    at = start
    for _ in entries:  # by the lengths that stand there: zipfile takes a last comment that is shorter than it says
        at += _LISTED_BYTES + sum(struct.unpack_from("<HHH", data, at + _LENGTHS_AT)) if at + _LISTED_BYTES <= end else 0
    if at != end:
        raise ContainerError("the directory is cut off")
    if any(_has_wide_sizes(entry.extra) for entry in entries):
        raise ContainerError("ZIP64 has no place in a container")


def _has_wide_sizes(extra: bytes) -> bool:
    at = 0
    while at + 4 <= len(extra):
        kind, size = int.from_bytes(extra[at : at + 2], "little"), int.from_bytes(extra[at + 2 : at + 4], "little")
        if kind == _ZIP64_FIELD:
            return True
        at += 4 + size
    return False


def _raw_name(entry: zipfile.ZipInfo) -> bytes:
    """The name's bytes as they stand in the directory."""
    return entry.orig_filename.encode("utf-8" if entry.flag_bits & _UTF8_NAME else "cp437")


def _file(archive: zipfile.ZipFile) -> IO[bytes]:
    if archive.fp is None:
        raise RuntimeError("the archive was closed")
    return archive.fp


def _descriptor_bytes(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, at: int) -> int:
    """Length of the data descriptor behind an entry that was written as a stream: with or without its mark, 32 or 64 bit sizes."""
    file = _file(archive)
    file.seek(at)
    data = file.read(24)
    for mark in (b"PK\x07\x08", b""):
        for width in (4, 8):
            expected = mark + b"".join(
                value.to_bytes(size, "little") for value, size in ((entry.CRC, 4), (entry.compress_size, width), (entry.file_size, width))
            )
            if data.startswith(expected):
                return len(expected)
    raise ContainerError(f"no data descriptor behind {entry.filename!r}")


def _names_by_lower_case(entries: Sequence[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """X-Road matches names without regard to case, so two that differ only there are the same name twice."""
    names: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        if names.setdefault(entry.filename.lower(), entry) is not entry:
            raise ContainerError(f"two entries named {entry.filename!r}")
    return names


def _require(names: dict[str, zipfile.ZipInfo], name: str, kind: str) -> None:
    if name not in names:
        raise ContainerError(f"no entry {name!r}", kind=kind)


def _small(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    return b"".join(_inflate(archive, entry))


def _inflate(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """The entry in pieces of at most 64 KiB, never more than its declared size, which was checked. Its packed bytes are used up exactly and
    give exactly that size and check sum: nothing hides behind a stream's end."""
    file = _file(archive)
    file.seek(entry.header_offset + _LOCAL.size - 4)
    at = entry.header_offset + _LOCAL.size + sum(struct.unpack("<HH", file.read(4)))
    size, check_sum = 0, 0
    try:
        for piece in _unpacked(file, entry, at):
            size, check_sum = size + len(piece), zlib.crc32(piece, check_sum)
            if size > entry.file_size:
                break
            yield piece
    except zlib.error as error:
        raise ContainerError(f"{entry.filename!r} cannot be read: {error}") from None
    if (size, check_sum) != (entry.file_size, entry.CRC):
        raise ContainerError(f"{entry.filename!r} has another size or check sum than it declares")


def _unpacked(file: IO[bytes], entry: zipfile.ZipInfo, at: int) -> Iterator[bytes]:
    stream = zlib.decompressobj(-zlib.MAX_WBITS) if entry.compress_type == zipfile.ZIP_DEFLATED else None
    left = entry.compress_size
    while left:
        file.seek(at)
        packed = file.read(min(_CHUNK, left))
        at, left = at + len(packed), left - len(packed)
        if not packed:
            return  # cut off: the size tells
        if stream is None:
            yield packed
            continue
        while packed:
            if stream.eof:
                raise ContainerError(f"bytes behind the end of {entry.filename!r}")
            yield stream.decompress(packed, _CHUNK)
            packed = stream.unconsumed_tail or stream.unused_data
    if stream is not None:
        while not stream.eof and (piece := stream.decompress(b"", _CHUNK)):
            yield piece
        if not stream.eof:
            raise ContainerError(f"{entry.filename!r} is cut off")
