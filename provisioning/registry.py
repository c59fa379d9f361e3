"""Who belongs to the instance: members, subsystems, security servers, certificates, approved trust services.

I/O: one SQLite file in WAL mode, every change one transaction that also raises the revision, so that whoever publishes sees that something
changed. Later this becomes a schema of SQLAlchemy's; callers see only the records below. Rules II.2.I, II.2.XIV.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId, ServerId
from provisioning.authority.ocsp_responder import REASONS, CertificateStatus
from provisioning.authority.profiles import NAME_CHARACTERS_MAX
from provisioning.records import ApprovedAuthority, ApprovedStamping, Group, IssuedCertificate, Member, Server, Snapshot, Subsystem

GROUP_CODE_CHARACTERS_MAX = 64
BUSY_MS_MAX = 5000
"""How long a writer waits for another one: a transaction here takes a few milliseconds."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS member_classes (code TEXT PRIMARY KEY, description TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS members (
  class TEXT NOT NULL REFERENCES member_classes(code), code TEXT NOT NULL, name TEXT NOT NULL, suspended_us INTEGER,
  PRIMARY KEY (class, code)) STRICT;
CREATE TABLE IF NOT EXISTS subsystems (
  class TEXT NOT NULL, code TEXT NOT NULL, subsystem TEXT NOT NULL, name TEXT NOT NULL,
  PRIMARY KEY (class, code, subsystem), FOREIGN KEY (class, code) REFERENCES members(class, code)) STRICT;
CREATE TABLE IF NOT EXISTS servers (
  class TEXT NOT NULL, code TEXT NOT NULL, server TEXT NOT NULL, address TEXT NOT NULL, maintenance TEXT, registered_us INTEGER NOT NULL,
  PRIMARY KEY (class, code, server), FOREIGN KEY (class, code) REFERENCES members(class, code)) STRICT;
CREATE TABLE IF NOT EXISTS server_clients (
  owner_class TEXT NOT NULL, owner_code TEXT NOT NULL, server TEXT NOT NULL,
  class TEXT NOT NULL, code TEXT NOT NULL, subsystem TEXT NOT NULL,
  PRIMARY KEY (owner_class, owner_code, server, class, code, subsystem),
  FOREIGN KEY (owner_class, owner_code, server) REFERENCES servers(class, code, server),
  FOREIGN KEY (class, code, subsystem) REFERENCES subsystems(class, code, subsystem)) STRICT;
CREATE TABLE IF NOT EXISTS certificates (
  serial TEXT PRIMARY KEY, profile TEXT NOT NULL, holder TEXT NOT NULL, key_sha256 BLOB NOT NULL, der BLOB NOT NULL,
  issued_us INTEGER NOT NULL, not_after_us INTEGER NOT NULL, revoked_us INTEGER, reason TEXT) STRICT;
CREATE INDEX IF NOT EXISTS certificates_by_key ON certificates(key_sha256);
CREATE INDEX IF NOT EXISTS certificates_by_holder ON certificates(holder, profile);
CREATE TABLE IF NOT EXISTS approved_authorities (
  certificate BLOB PRIMARY KEY, top BLOB REFERENCES approved_authorities(certificate), name TEXT NOT NULL, profile TEXT NOT NULL,
  ocsp_url TEXT NOT NULL, ocsp_certificate BLOB) STRICT;
CREATE TABLE IF NOT EXISTS published (part TEXT PRIMARY KEY, sha256 BLOB NOT NULL, since_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS approved_stamping (name TEXT PRIMARY KEY, url TEXT NOT NULL, certificate BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tpms (
  server TEXT PRIMARY KEY, endorsement_sha256 BLOB NOT NULL UNIQUE, endorsement_public BLOB NOT NULL, attestation_public BLOB NOT NULL,
  pcrs BLOB NOT NULL, proven_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS tpm_challenges (
  server TEXT PRIMARY KEY, request_sha256 BLOB NOT NULL, credential BLOB NOT NULL, nonce BLOB NOT NULL, made_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS federated (instance TEXT PRIMARY KEY, anchor BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS groups (code TEXT PRIMARY KEY, description TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS group_members (
  code TEXT NOT NULL REFERENCES groups(code), member TEXT NOT NULL, PRIMARY KEY (code, member)) STRICT;
"""


class UnknownEntryError(RefusedError):
    """The registry does not hold what was named."""

    kind = "registry.unknown"


class Registry:
    """One connection to one instance's registry. Use from the thread that opened it; close it, or use `with`."""

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, isolation_level=None, timeout=BUSY_MS_MAX / 1000)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._database.close()

    def create(self, instance: str) -> None:
        """Makes the tables and names the instance; does nothing where that was done."""
        self._database.executescript(_SCHEMA)
        with self.changing():
            self._database.execute("INSERT OR IGNORE INTO facts VALUES ('instance', ?), ('revision', '0')", (instance,))

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: all of it with the next revision, or nothing. Nested uses join the outer one."""
        if self._database.in_transaction:
            yield
            return
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("UPDATE facts SET value = CAST(value AS INTEGER) + 1 WHERE name = 'revision'")
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """For the rooms beside (`tpm_registry`)."""
        return self._database.execute(query, values).fetchall()

    def change(self, query: str, *values: object) -> None:
        with self.changing():
            self._database.execute(query, values)

    @property
    def instance(self) -> str:
        return str(self._one("SELECT value FROM facts WHERE name = 'instance'")[0])

    def revision(self) -> int:
        """Grows with every change, whoever made it."""
        return int(self._one("SELECT value FROM facts WHERE name = 'revision'")[0])

    # --- members ---

    def add_member_class(self, code: str, description: str) -> None:
        with self.changing():
            self._database.execute("INSERT INTO member_classes VALUES (?, ?)", (code, description))

    def add_member(self, member: ClientId, name: str) -> None:
        """Raises RefusedError when the name does not fit into a certificate, or the member is registered."""
        if not 1 <= len(name) <= NAME_CHARACTERS_MAX:
            raise RefusedError(f"a member's name has 1 to {NAME_CHARACTERS_MAX} characters", kind="registry.name")
        self._own(member)
        with self.changing(), _refusing(f"{member} is registered, or its class is not"):
            self._database.execute("INSERT INTO members VALUES (?, ?, ?, NULL)", (member.member_class, member.member_code, name))

    def add_subsystem(self, subsystem: ClientId, name: str) -> None:
        """Raises RefusedError when it is registered, or its member is not."""
        self._own(subsystem)
        values = (subsystem.member_class, subsystem.member_code, subsystem.subsystem, name)
        with self.changing(), _refusing(f"{subsystem} is registered, or its member is not"):
            self._database.execute("INSERT INTO subsystems VALUES (?, ?, ?, ?)", values)

    def member(self, member: ClientId) -> Member:
        """Raises UnknownEntryError."""
        self._own(member)
        query = "SELECT name, suspended_us FROM members WHERE class = ? AND code = ?"
        name, suspended_us = self._one(query, (member.member_class, member.member_code), f"{member} is not a member")
        return Member(member.member, name, suspended_us)

    def subsystems(self, member: ClientId) -> tuple[ClientId, ...]:
        query = "SELECT subsystem FROM subsystems WHERE class = ? AND code = ? ORDER BY subsystem"
        rows = self._database.execute(query, (member.member_class, member.member_code))
        return tuple(ClientId(self.instance, member.member_class, member.member_code, code) for (code,) in rows)

    def set_suspended(self, member: ClientId, suspended_us: int | None) -> None:
        """Suspends a member from that moment, or (None) restores it: published with the next directory (II.2.XIV)."""
        self.member(member)
        with self.changing():
            query = "UPDATE members SET suspended_us = ? WHERE class = ? AND code = ?"
            self._database.execute(query, (suspended_us, member.member_class, member.member_code))

    # --- security servers ---

    def register_server(self, server: ServerId, address: str, clients: tuple[ClientId, ...], now_us: int) -> None:
        """Registers a box, or gives a registered one this address and adds these clients. Raises RefusedError."""
        owner = (server.owner.member_class, server.owner.member_code, server.code)
        self.member(server.owner)
        with self.changing(), _refusing("a client that is not a registered subsystem"):
            self._database.execute(
                "INSERT INTO servers VALUES (?, ?, ?, ?, NULL, ?)"
                " ON CONFLICT (class, code, server) DO UPDATE SET address = excluded.address",
                (*owner, address, now_us),
            )
            for client in clients:
                values = (*owner, client.member_class, client.member_code, client.subsystem)
                self._database.execute("INSERT OR IGNORE INTO server_clients VALUES (?, ?, ?, ?, ?, ?)", values)

    def set_maintenance(self, server: ServerId, message: str | None) -> None:
        """Announces a maintenance window with its message, or (None) ends it (sheet 6.8)."""
        owner = (server.owner.member_class, server.owner.member_code, server.code)
        with self.changing():
            query = "UPDATE servers SET maintenance = ? WHERE class = ? AND code = ? AND server = ?"
            if self._database.execute(query, (message, *owner)).rowcount != 1:
                raise UnknownEntryError(f"{server} is not registered")

    # --- certificates ---

    def add_certificate(self, certificate: IssuedCertificate) -> None:
        """Keeps what was issued; a serial is never used twice."""
        with self.changing():
            values = (
                f"{certificate.serial:x}",
                certificate.profile,
                certificate.holder,
                certificate.key_sha256,
                certificate.der,
                certificate.issued_us,
                certificate.not_after_us,
            )
            self._database.execute("INSERT INTO certificates VALUES (?, ?, ?, ?, ?, ?, ?, NULL, NULL)", values)

    def certificates(self) -> tuple[IssuedCertificate, ...]:
        """All that were issued, oldest first."""
        rows = self._database.execute("SELECT * FROM certificates ORDER BY issued_us, serial")
        return tuple(_certificate(row) for row in rows)

    def certificates_of_key(self, key_sha256: bytes) -> tuple[IssuedCertificate, ...]:
        """All certificates of one public key: a key serves one holder for one purpose."""
        rows = self._database.execute("SELECT * FROM certificates WHERE key_sha256 = ?", (key_sha256,))
        return tuple(_certificate(row) for row in rows)

    def status(self, serial: int) -> CertificateStatus | None:
        """What OCSP says of a serial; None: never issued."""
        row = self._database.execute("SELECT revoked_us, reason FROM certificates WHERE serial = ?", (f"{serial:x}",)).fetchone()
        return None if row is None else CertificateStatus(row[0], row[1] or "unspecified")

    def revoke(self, serial: int, now_us: int, reason: str = "unspecified") -> None:
        """For good, and once: a second call leaves the first moment. Raises UnknownEntryError, RefusedError for an unknown reason."""
        if reason not in REASONS:
            raise RefusedError(f"reason must be one of {', '.join(REASONS)}", kind="registry.reason")
        if self.status(serial) is None:
            raise UnknownEntryError(f"no certificate has the serial {serial:x}")
        with self.changing():
            query = "UPDATE certificates SET revoked_us = ?, reason = ? WHERE serial = ? AND revoked_us IS NULL"
            self._database.execute(query, (now_us, reason, f"{serial:x}"))

    # --- approved trust services ---

    def approve_authority(self, authority: ApprovedAuthority) -> None:
        values = (
            authority.certificate,
            authority.top,
            authority.name,
            authority.profile,
            authority.ocsp_url,
            authority.ocsp_certificate,
        )
        with self.changing():
            self._database.execute(
                "INSERT INTO approved_authorities VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (certificate) DO UPDATE SET"
                " name = excluded.name, profile = excluded.profile,"
                " ocsp_url = excluded.ocsp_url, ocsp_certificate = excluded.ocsp_certificate",
                values,
            )

    def approve_stamping(self, service: ApprovedStamping) -> None:
        with self.changing():
            values = (service.name, service.url, service.certificate)
            self._database.execute("INSERT OR REPLACE INTO approved_stamping VALUES (?, ?, ?)", values)

    # --- agreements between members, and with other instances ---

    def federate(self, instance: str, anchor: bytes) -> None:
        """Boxes are told where the other instance's configuration is and by which key it is known (II.2.X). Raises RefusedError."""
        if instance == self.instance:
            raise RefusedError("an instance does not federate with itself", kind="federation.own_instance")
        with self.changing():
            self._database.execute("INSERT OR REPLACE INTO federated VALUES (?, ?)", (instance, anchor))

    def unfederate(self, instance: str) -> None:
        """Its members are strangers with the next directory. Raises UnknownEntryError."""
        with self.changing():
            if self._database.execute("DELETE FROM federated WHERE instance = ?", (instance,)).rowcount != 1:
                raise UnknownEntryError(f"no federation with {instance}")

    def federated(self) -> tuple[tuple[str, bytes], ...]:
        """Instances with their anchors."""
        return tuple(self._database.execute("SELECT instance, anchor FROM federated ORDER BY instance"))

    def set_group(self, code: str, description: str, members: tuple[ClientId, ...]) -> None:
        """A global group with exactly these members; they may belong to federated instances. None: the group ends. Raises RefusedError."""
        if not 1 <= len(code) <= GROUP_CODE_CHARACTERS_MAX:
            raise RefusedError(f"a group's code has 1 to {GROUP_CODE_CHARACTERS_MAX} characters", kind="registry.name")
        with self.changing():
            self._database.execute("DELETE FROM group_members WHERE code = ?", (code,))
            self._database.execute("DELETE FROM groups WHERE code = ?", (code,))
            if members:
                self._database.execute("INSERT INTO groups VALUES (?, ?)", (code, description))
                self._database.executemany("INSERT OR IGNORE INTO group_members VALUES (?, ?)", [(code, str(one)) for one in members])

    def set_monitoring_client(self, client: ClientId | None) -> None:
        """The one client that may ask every box for monitoring data; None: nobody (sheet 6.6)."""
        with self.changing():
            self._database.execute("INSERT OR REPLACE INTO facts VALUES ('monitoring', ?)", ("" if client is None else str(client),))

    # --- what is published ---

    def snapshot(self, now_us: int) -> Snapshot:
        """Everything that the global configuration says at a moment, read in one transaction and in a fixed order.

        Left out: suspended members with their boxes and registrations; authentication certificates that are revoked or have expired.
        """
        self._database.execute("BEGIN")
        try:
            return self._snapshot(now_us)
        finally:
            self._database.execute("COMMIT")

    def current_since(self, part: str, sha256: bytes, now_us: int) -> int:
        """Since when a published part has this content. New content gets this moment, but always a later one than the content before it,
        whatever the clock did: boxes order directories by it. Content that returns (a suspension lifted) is new again."""
        query = "SELECT sha256, since_us FROM published WHERE part = ?"
        known: tuple[bytes, int] | None = self._database.execute(query, (part,)).fetchone()
        if known is not None and known[0] == sha256:
            return known[1]
        self._database.execute("BEGIN IMMEDIATE")
        try:
            known = self._database.execute(query, (part,)).fetchone()
            since_us = now_us if known is None else known[1] if known[0] == sha256 else max(now_us, known[1] + 1)
            self._database.execute("INSERT OR REPLACE INTO published VALUES (?, ?, ?)", (part, sha256, since_us))
        finally:
            self._database.execute("COMMIT")
        return since_us

    def _snapshot(self, now_us: int) -> Snapshot:
        instance = self.instance
        read = self._database.execute
        members = tuple(
            Member(ClientId(instance, row[0], row[1]), row[2], None)
            for row in read("SELECT class, code, name FROM members WHERE suspended_us IS NULL ORDER BY class, code")
        )
        active = {member.id for member in members}
        subsystems = tuple(
            Subsystem(client, row[3])
            for row in read("SELECT class, code, subsystem, name FROM subsystems ORDER BY class, code, subsystem")
            if (client := ClientId(instance, row[0], row[1], row[2])).member in active
        )
        clients = tuple(
            (tuple(row[:3]), ClientId(instance, row[3], row[4], row[5])) for row in read("SELECT * FROM server_clients ORDER BY 4, 5, 6")
        )
        servers = tuple(
            Server(
                id=server,
                address=row[3],
                maintenance=row[4],
                authentication_certificates=self._authentication_certificates(server, now_us),
                clients=tuple(client for key, client in clients if key == tuple(row[:3]) and client.member in active),
            )
            for row in read("SELECT class, code, server, address, maintenance FROM servers ORDER BY class, code, server").fetchall()
            if (server := ServerId(ClientId(instance, row[0], row[1]), row[2])).owner in active
        )
        authorities = read(
            "SELECT certificate, top, name, profile, ocsp_url, ocsp_certificate FROM approved_authorities ORDER BY name, rowid"
        )
        return Snapshot(
            instance=instance,
            member_classes=tuple((row[0], row[1]) for row in read("SELECT code, description FROM member_classes ORDER BY code")),
            members=members,
            subsystems=subsystems,
            servers=servers,
            authorities=tuple(ApprovedAuthority(*row) for row in authorities),
            stamping=tuple(ApprovedStamping(*row) for row in read("SELECT name, url, certificate FROM approved_stamping ORDER BY name")),
            suspended=tuple(
                ClientId(instance, *row)
                for row in read("SELECT class, code FROM members WHERE suspended_us IS NOT NULL ORDER BY class, code").fetchall()
            ),
            groups=self._groups(active),
            federated=self.federated(),
            monitoring_client=self._monitoring_client(),
        )

    def _groups(self, active: set[ClientId]) -> tuple[Group, ...]:
        """Left out, as everywhere: suspended members of our own instance."""
        found: dict[str, Group] = {}
        query = "SELECT code, description, member FROM groups JOIN group_members USING (code) ORDER BY code, member"
        for code, description, text in self._database.execute(query):
            member = ClientId.parse(text)
            if member.instance != self.instance or member.member in active:
                before = found.get(code, Group(code, description, ()))
                found[code] = Group(code, description, (*before.members, member))
        return tuple(found.values())

    def _monitoring_client(self) -> ClientId | None:
        row = self._database.execute("SELECT value FROM facts WHERE name = 'monitoring'").fetchone()
        return ClientId.parse(row[0]) if row is not None and row[0] else None

    def _authentication_certificates(self, server: ServerId, now_us: int) -> tuple[bytes, ...]:
        query = (
            "SELECT der FROM certificates WHERE holder = ? AND profile = 'tls-peer' AND revoked_us IS NULL AND not_after_us > ?"
            " ORDER BY issued_us, serial"
        )
        return tuple(row[0] for row in self._database.execute(query, (str(server), now_us)))

    def _own(self, member: ClientId) -> None:
        if member.instance != self.instance:
            raise RefusedError(f"{member} belongs to another instance than {self.instance}", kind="registry.other_instance")

    def _one(self, query: str, values: tuple[object, ...] = (), absent: str = "not found") -> tuple[str, int | None]:
        row: tuple[str, int | None] | None = self._database.execute(query, values).fetchone()
        if row is None:
            raise UnknownEntryError(absent)
        return row


def _certificate(row: tuple[str, str, str, bytes, bytes, int, int, int | None, str | None]) -> IssuedCertificate:
    return IssuedCertificate(int(row[0], 16), *row[1:])


@contextmanager
def _refusing(message: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError:
        raise RefusedError(message, kind="registry.conflict") from None
