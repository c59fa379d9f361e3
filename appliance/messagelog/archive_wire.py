"""What archivist and console say to the recorder about archives and terms.

Pure. Operations of the archivist: `archive_groups`, `list_archivable`, `read_archivable`, `archive_unreadable`, `confirm_archive`; of the
console: `list_terms`, `change_term`, `erase_due`.
"""

from __future__ import annotations

import msgspec

from appliance.messagelog.wire import RecordSummary


class ListArchivable(msgspec.Struct, array_like=True):
    """`list_archivable`: what the next archive of a group holds: at most `limit` messages, or as many bytes as one archive may have."""

    group: str
    """Empty: all; a member or subsystem identifier."""
    limit: int
    bytes_max: int


class MissingRecord(msgspec.Struct, array_like=True):
    """What an archive must say that it lacks. `body`: its body alone."""

    sequence: int
    at_us: int
    body: bool


class Archivable(msgspec.Struct, array_like=True):
    """Stamped messages in order, and the last record that an archive of them covers (unconfirmed messages are covered, but in none)."""

    records: list[RecordSummary]
    last: int
    digest: str = ""
    """Of the group's newest archive that was confirmed, as the log says: the next one follows it. Empty: there is none."""
    file: str = ""
    missing: list[MissingRecord] = []
    """Of what this archive covers, as the audit log says."""


class ReadArchivable(msgspec.Struct, array_like=True):
    """`read_archivable`: one record whole, as `read_record` gives it; without a body that cannot be read, where the audit log says so.

    `archive_unreadable`: of this one no container can be made. True: the audit log says now what is missing, and archives go on.
    """

    sequence: int


class ConfirmArchive(msgspec.Struct, array_like=True):
    """`confirm_archive`: a file that every target has. Asking again changes nothing."""

    group: str
    file: str
    sha256: str
    """Of the file as it was handed over, hex."""
    digest: str
    """The chain's end in its linking information, hex."""
    records: list[int]
    last: int
    targets: list[str]


class SubsystemTerm(msgspec.Struct, array_like=True):
    """One line of `list_terms`. Empty `subsystem`: all others."""

    subsystem: str
    days: int
    bodies: bool
    is_own: bool
    """Set for this subsystem, not taken from the default."""
    kept: int
    """Messages whose content is here."""
    oldest_us: int | None
    archived_through: int


class ChangeTerm(msgspec.Struct, array_like=True):
    """`change_term`: `days` None: as all others again."""

    subsystem: str
    days: int | None
    bodies: bool = True


class Erased(msgspec.Struct, array_like=True):
    """What `erase_due` did: contents, body files and keys that are gone; bytes that are free again."""

    contents: int
    bodies: int
    keys: int
    bytes: int


class MadeArchive(msgspec.Struct):
    """One archive: its manifest in the outbox (`records`: their numbers), and a line of `list_archives` (`records`: how many)."""

    group: str
    file: str
    sha256: str
    digest: str
    before: str
    records: list[int]
    last: int
    bytes: int
    at_us: int
    targets: list[str] = []
