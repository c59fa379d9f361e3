"""Archives of the message log in X-Road's layout: names, the chain between containers and between files, and its check.

Pure. Sheet 4.9 and 7.6: a ZIP (stored) of ASiC-E containers, last of it `linkinginfo`:

    line 1   `<last digest of the archive before, or -> <its file name, or -> SHA-512`
    line i   `<digest i> <container's file name>`

A line `<digest i> missing-<record>.json` (ours alone) is a note on what this archive should have and could not be read.

digest i = hex(SHA-512(digest i-1 as text, hex(SHA-512(container)) as text)); digest 0 is the archive's before, or empty. Each group has a
chain of its own. What is encrypted goes around the ZIP: `.zip.age` (X-Road: `.zip.gpg`); the next archive names the file as it was handed
over.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, BinaryIO, cast
from urllib.parse import quote

from appliance.clock import from_us
from appliance.errors import UnverifiedError

LINKING_INFO, ALGORITHM, NOTHING = "linkinginfo", "SHA-512", "-"
ALGORITHMS = {"SHA-512": "sha512", "SHA-384": "sha384", "SHA-256": "sha256"}
"""What older X-Road servers chained with is checked as well; we write SHA-512."""
ARCHIVE_BYTES_MAX = 32 << 20
"""X-Road's archive-max-filesize: the archive ends with the container that reaches it."""
ENTRIES_MAX = 100_000
LINKING_BYTES_MAX = 64 << 20
QUERY_CHARACTERS_MAX, GROUP_CHARACTERS_MAX, DIGEST_CHARACTERS = 226, 200, 16
ENCRYPTED = ".age"
_UNFIT = re.compile(r"[\\<>/:|*?\x00-\x1f\x7f-\x9f]")
_BASE32 = "0123456789abcdefghijklmnopqrstuv"
_HEX = re.compile(r"[0-9a-f]{64,128}")
_CHUNK = 1 << 16


class ArchiveBrokenError(UnverifiedError):
    """Not an archive, or its containers are not the ones that were linked."""

    kind = "archive.broken"


@dataclass(frozen=True, slots=True)
class Link:
    """The end of a chain: the last digest (hex) and the file that it is in. Both empty: nothing was archived yet."""

    digest: str = ""
    file: str = ""


def container_name(query_id: str, direction: str, sequence: int) -> str:
    """`<id, percent-encoded and cut>-<request|response>-<record number in base 32>.asice` (sheet 4.9)."""
    return f"{quote(query_id, safe='')[:QUERY_CHARACTERS_MAX]}-{direction}-{base32(sequence)}.asice"


def missing_name(sequence: int) -> str:
    """Of the note that stands for a message, or a body, that could not be read. Not in X-Road's layout; linked like a container."""
    return f"missing-{base32(sequence)}.json"


def base32(number: int) -> str:
    """Java's Long.toString(n, 32)."""
    digits = ""
    while True:
        number, rest = divmod(number, 32)
        digits = _BASE32[rest] + digits
        if not number:
            return digits


def archive_name(group: str, first_us: int, last_us: int, digest: str) -> str:
    """`mlog-[<group>-]<first>-<last>-<16 hex>.zip`; times of the first and last record, UTC."""
    fit = _UNFIT.sub("_", group)[:GROUP_CHARACTERS_MAX]
    first, last = (from_us(at_us).strftime("%Y%m%d%H%M%S") for at_us in (first_us, last_us))
    return f"mlog-{fit + '-' if fit else ''}{first}-{last}-{digest[:DIGEST_CHARACTERS]}.zip"


def next_digest(before: str, container: bytes, algorithm: str = "sha512") -> str:
    """`container`: its digest under the same algorithm."""
    return hashlib.new(algorithm, (before + container.hex()).encode()).hexdigest()


@dataclass(slots=True)
class Linking:
    """The linking information of one archive while it grows."""

    before: Link
    lines: list[str] = field(default_factory=list)
    digest: str = ""

    def __post_init__(self) -> None:
        self.digest = self.before.digest
        self.lines.append(f"{self.before.digest or NOTHING} {self.before.file or NOTHING} {ALGORITHM}")

    def add(self, name: str, container_sha512: bytes) -> None:
        self.digest = next_digest(self.digest, container_sha512)
        self.lines.append(f"{self.digest} {name}")

    def document(self) -> bytes:
        return "".join(line + "\n" for line in self.lines).encode()


class Hashed(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, output: IO[bytes], algorithm: str) -> None:
        self._output, self._state, self.bytes = output, hashlib.new(algorithm), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._output.write(data)
        self._state.update(data)
        self.bytes += len(data)
        return len(data)

    def digest(self) -> bytes:
        return self._state.digest()


class ArchiveWriter:
    """Writes one archive to a stream that need not seek. Containers in order, then `close`."""

    def __init__(self, output: BinaryIO, before: Link) -> None:
        self.linking = Linking(before)
        self._zip = zipfile.ZipFile(output, "w", zipfile.ZIP_STORED)
        self.bytes = 0

    def add(self, name: str, at_us: int, write: Callable[[BinaryIO], None]) -> None:
        """One container, which `write` writes."""
        with self._zip.open(_info(name, at_us), "w", force_zip64=True) as entry:
            hashed = Hashed(entry, "sha512")
            write(cast(BinaryIO, hashed))
        self.bytes += hashed.bytes
        self.linking.add(name, hashed.digest())

    def abandon(self) -> None:
        """Instead of `close`: nothing more is written, also not when this is collected."""
        self._zip.fp = None

    def close(self, at_us: int) -> Link:
        """The chain's new end, still without the file's name."""
        with self._zip.open(_info(LINKING_INFO, at_us), "w") as entry:
            entry.write(self.linking.document())
        self._zip.close()
        return Link(self.linking.digest)


def _info(name: str, at_us: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, from_us(at_us).timetuple()[:6])
    info.create_system, info.external_attr, info.compress_type = 3, 0o644 << 16, zipfile.ZIP_STORED
    return info


@dataclass(frozen=True, slots=True)
class CheckedArchive:
    """What an archive says of itself, once every digest was made again. `before` is what its first line names."""

    before: Link
    digest: str
    containers: list[str]


_NO_ARCHIVE: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, RuntimeError, ValueError, OverflowError, EOFError, KeyError, OSError,
)  # fmt: skip
"""All that zipfile raises for bytes that are none of ours: for an encrypted entry it is a bare RuntimeError."""


def check_archive(file: BinaryIO, before: str | None) -> CheckedArchive:
    """Makes the chain again, from the digest that must precede it (None: whatever the archive names). Raises ArchiveBrokenError."""
    try:
        with zipfile.ZipFile(file) as archive:
            return _check(archive, before)
    except _NO_ARCHIVE as error:
        raise ArchiveBrokenError(f"not an archive: {error}") from None


def _check(archive: zipfile.ZipFile, before: str | None) -> CheckedArchive:
    names = [entry.filename for entry in archive.infolist()]
    if len(names) != len(set(names)) or len(names) > ENTRIES_MAX:
        raise ArchiveBrokenError("doubled or too many entries")
    if archive.getinfo(LINKING_INFO).file_size > LINKING_BYTES_MAX:
        raise ArchiveBrokenError("an oversized linking information")
    head, *lines = archive.read(LINKING_INFO).decode("ascii", "replace").splitlines()
    words = head.split(" ")
    if len(words) != 3 or words[2] not in ALGORITHMS:
        raise ArchiveBrokenError("the linking information's first line is not one of ours")
    named = "" if words[0] == NOTHING else words[0]
    if before is not None and named != before:
        raise ArchiveBrokenError(f"it follows {named or NOTHING}, not {before or NOTHING}")
    if named and not _HEX.fullmatch(named):
        raise ArchiveBrokenError("the digest before is none")
    listed = [line.partition(" ")[2] for line in lines]
    if sorted(listed) != sorted(name for name in names if name != LINKING_INFO):
        raise ArchiveBrokenError("other containers than the linking information lists")
    digest, algorithm = named, ALGORITHMS[words[2]]
    for line in lines:
        written, _, name = line.partition(" ")
        digest = next_digest(digest, _digest(archive, name, algorithm), algorithm)
        if digest != written:
            raise ArchiveBrokenError(f"{name} is not the container that was archived")
    return CheckedArchive(Link(named, "" if words[1] == NOTHING else words[1]), digest, listed)


def _digest(archive: zipfile.ZipFile, name: str, algorithm: str) -> bytes:
    state = hashlib.new(algorithm)
    with archive.open(name) as entry:
        while piece := entry.read(_CHUNK):
            state.update(piece)
    return state.digest()
