"""What the technician configured: clients, services, rights, accounts, and whether the box is enrolled.

Some hundred rows in TinyDB over `durable_storage`. A change is validated as a whole before it is audited, and audited before it is written
(the supervisor's order): `plan_*` checks and returns what would be written, `commit` writes it.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tinydb import TinyDB, where

from appliance import durable
from appliance.access import validation
from appliance.access.durable_storage import DurableStorage
from appliance.access.rights import WSDL, Client, ClientUnknownError, Right, Service, UnknownServiceError
from appliance.access.roles import ACCOUNTS_MAX, Account
from appliance.errors import RefusedError

CONFIGURATION_BYTES_MAX = 3 << 20
"""All rows as they travel to the relay in one frame of at most 4 MiB."""
DESCRIPTIONS = "descriptions"
DESCRIPTION_MODE = 0o644
"""Readable for the relay, which answers getOpenAPI with it; a description is public in the network."""


class InUseError(RefusedError):
    """The client still offers services."""

    kind = "local.in_use"


class LocalFullError(RefusedError):
    """More than the box is made for."""

    kind = "local.full"


@dataclass(frozen=True, slots=True)
class Change:
    """One checked change. `event` and `facts` go to the audit log; `write` is carried out inside one generation."""

    event: str
    facts: dict[str, str]
    write: Callable[[TinyDB], None]
    document: bytes = b""
    suffix: str = "json"


class LocalConfigurationStore:
    """The tables of one box below `<state>/box/`. Only the supervisor opens it. Raises LocalCorruptError, SyncFailedError."""

    def __init__(self, directory: Path, instance: str) -> None:
        durable.make_directory(directory, 0o755)
        self._directory, self._instance = directory, instance
        self.storage = DurableStorage(directory / "local.json")
        self._tables = TinyDB(storage=_given(self.storage))
        self._load()

    def _load(self) -> None:
        self.clients = tuple(_client(row) for row in self._tables.table("clients").all())
        self.services = tuple(_service(row) for row in self._tables.table("services").all())
        self.rights = tuple(_right(row) for row in self._tables.table("rights").all())
        self.accounts = tuple(Account(row["user"], tuple(row["roles"])) for row in self._tables.table("accounts").all())
        self.enrolled = any(row["enrolled"] for row in self._tables.table("box").all())

    @property
    def generation(self) -> int:
        return self.storage.generation

    @property
    def fell_back(self) -> bool:
        """The newest generation was unreadable at start: the one before it is in force."""
        return self.storage.fell_back

    def plan_client(self, client: Client, remove: bool) -> Change:
        """Puts or removes one client. Raises validation errors, ClientUnknownError, InUseError."""
        name = client.subsystem
        if remove:
            if all(known.subsystem != name for known in self.clients):
                raise ClientUnknownError(f"{name} is not a client of this box")
            offered = [service.id for service in self.services if service.id.startswith(f"{name}/")]
            if offered:
                raise InUseError(f"{name} still offers {', '.join(offered[:5])}")
            return Change("client.removed", {"client": name}, lambda tables: _drop(tables, "clients", "subsystem", name))
        validation.check_client(client, self._instance)
        row = {"subsystem": name, "mode": client.mode, "certificates": _texts(client.certificates), "notices": client.notices}
        facts = {"client": name, "mode": client.mode, "certificates": " ".join(_fingerprint(one) for one in client.certificates)}
        facts |= {"notices": validation.without_secrets(client.notices)} if client.notices else {}
        return Change("client.put", facts, lambda tables: _put(tables, "clients", "subsystem", row))

    def plan_service(self, service: Service, remove: bool, document: bytes = b"") -> Change:
        """Puts or removes one service; with it go its rights. Raises validation errors, ClientUnknownError, UnknownServiceError."""
        if remove:
            gone = [known for known in self.services if known.id == service.id and service.version in ("", known.version)]
            if not gone:
                raise UnknownServiceError(f"{service.id} {service.version} is not a service of this box")
            facts = {"service": service.id, "version": service.version, "rights": str(self._rights_lost(gone))}
            return Change("service.removed", facts, lambda tables: _drop_services(tables, gone))
        row, service = self._service_row(service, document)
        facts = {"service": service.id, "url": validation.without_secrets(service.url), "kind": service.kind}
        facts |= {"timeout_s": str(service.timeout_s), "enabled": str(service.enabled), "document": service.document}
        return Change("service.put", facts, lambda tables: _put_service(tables, row), document)

    def plan_description(self, services: list[Service], gone: list[Service], document: bytes) -> Change:
        """Puts all services of one WSDL and removes those that it does not offer any more, in one generation. Raises as plan_service."""
        if not services or any(service.kind != WSDL for service in (*services, *gone)):
            raise validation.InvalidValueError("a description of SOAP services names at least one, and nothing else")
        rows = [self._service_row(service, document) for service in services]
        named = {(service.id, service.version) for service in gone}
        gone = [known for known in self.services if (known.id, known.version) in named]
        if len(gone) != len(named):
            raise UnknownServiceError("a service to remove is not a service of this box")
        facts = {"description": validation.without_secrets(services[0].description), "document": rows[0][1].document}
        facts |= {"services": str(len(services)), "removed": str(len(gone)), "rights": str(self._rights_lost(gone))}

        def write(tables: TinyDB) -> None:
            for row, _ in rows:
                _put_service(tables, row)
            _drop_services(tables, gone)

        return Change("description.put", facts, write, document, "wsdl")

    def _service_row(self, service: Service, document: bytes) -> tuple[dict[str, Any], Service]:
        service = validation.checked_service(service, self._instance, document, self._known(service.id, service.version))
        if all(client.subsystem != validation.provider_of(service.id) for client in self.clients):
            raise ClientUnknownError(f"{validation.provider_of(service.id)} is not a client of this box: add it first")
        if any(known.id == service.id and (known.kind == WSDL) != (service.kind == WSDL) for known in self.services):
            raise validation.InvalidValueError(f"{service.id} is a service of the other protocol: remove it first")
        row = msgspec.structs.asdict(service) | {"certificates": _texts(service.certificates)}
        row["endpoints"] = [list(endpoint) for endpoint in service.endpoints]
        return row, service

    def _rights_lost(self, gone: list[Service]) -> int:
        """Rights go with the last version of their service."""
        kept = {known.id for known in self.services if known not in gone}
        return sum(right.service in {one.id for one in gone} - kept for right in self.rights)

    def plan_right(self, right: Right, remove: bool) -> Change:
        """Grants or withdraws one right. Raises validation errors, UnknownServiceError, RefusedError `local.no_such_right`."""
        validation.check_right(right, self._instance)
        right = msgspec.structs.replace(right, method=right.method.upper())
        row = msgspec.structs.asdict(right)
        if remove:
            if right not in self.rights:
                raise RefusedError("there is no such right", kind="local.no_such_right")
            return Change("right.withdrawn", row, lambda tables: _drop_right(tables, row))
        if self._known(right.service) is None:
            raise UnknownServiceError(f"{right.service} is not a service of this box")
        return Change("right.granted", row, lambda tables: _put_right(tables, row))

    def plan_account(self, account: Account, remove: bool) -> Change:
        """Puts or removes one account. Raises RefusedError `local.invalid` or `local.no_such_account`, LocalFullError."""
        if remove:
            if all(known.user != account.user for known in self.accounts):
                raise RefusedError(f"there is no account {account.user}", kind="local.no_such_account")
            return Change("account.removed", {"account": account.user}, lambda tables: _drop(tables, "accounts", "user", account.user))
        validation.check_account(account)
        if len(self.accounts) >= ACCOUNTS_MAX and all(known.user != account.user for known in self.accounts):
            raise LocalFullError(f"{len(self.accounts)} accounts")
        row = {"user": account.user, "roles": list(account.roles)}
        facts = {"account": account.user, "roles": " ".join(account.roles)}
        return Change("account.put", facts, lambda tables: _put(tables, "accounts", "user", row))

    def plan_enrolment(self, enrolled: bool) -> Change:
        row = {"name": "box", "enrolled": enrolled}
        return Change("box.enrolled" if enrolled else "box.withdrawn", {}, lambda tables: _put(tables, "box", "name", row))

    def commit(self, change: Change) -> None:
        """Writes a planned change as one generation; an unchanged content makes none. Raises LocalFullError, SyncFailedError."""
        if change.document:
            directory = self._directory / DESCRIPTIONS
            durable.make_directory(directory, 0o755)
            name = hashlib.sha256(change.document).hexdigest()
            durable.write_file(directory / f"{name}.{change.suffix}", change.document, DESCRIPTION_MODE)
        before = {service.document for service in self.services}
        with self.storage.change():
            change.write(self._tables)
            self._check_size()
        self._load()
        self._forget_documents(before)

    def _check_size(self) -> None:
        content = self.storage.read() or {}
        if len(msgspec.json.encode(content)) > CONFIGURATION_BYTES_MAX:
            raise LocalFullError(f"the local configuration would be over {CONFIGURATION_BYTES_MAX} bytes")

    def _forget_documents(self, before: set[str]) -> None:
        """Documents that neither this generation nor the one before it names."""
        used = before | {service.document for service in self.services}
        for file in (self._directory / DESCRIPTIONS).glob("*.*"):
            if file.stem not in used:
                file.unlink(missing_ok=True)

    def _known(self, service_id: str, version: str | None = None) -> Service | None:
        """Any version of the service, or the given one."""
        return next((one for one in self.services if one.id == service_id and version in (None, one.version)), None)


def _given(storage: DurableStorage) -> Callable[[], DurableStorage]:
    return lambda: storage


def _put(tables: TinyDB, table: str, key: str, row: dict[str, Any]) -> None:
    tables.table(table).upsert(row, where(key) == row[key])


def _drop(tables: TinyDB, table: str, key: str, value: str) -> None:
    tables.table(table).remove(where(key) == value)


def _put_service(tables: TinyDB, row: dict[str, Any]) -> None:
    tables.table("services").upsert(row, _same_service(row["id"], row["version"]))


def _drop_services(tables: TinyDB, gone: list[Service]) -> None:
    """With the last version of a service go its rights."""
    services = tables.table("services")
    for one in gone:
        services.remove(_same_service(one.id, one.version))
        if not services.contains(where("id") == one.id):
            _drop(tables, "rights", "service", one.id)


def _same_service(service_id: str, version: str) -> Any:
    if version:
        return (where("id") == service_id) & (where("version") == version)
    return (where("id") == service_id) & (~where("version").exists() | (where("version") == ""))


def _same_right(row: dict[str, str]) -> Any:
    return (
        where("service").test(row["service"].__eq__)
        & where("client").test(row["client"].__eq__)
        & ((where("method") == row["method"]) & (where("path") == row["path"]))
    )


def _put_right(tables: TinyDB, row: dict[str, str]) -> None:
    tables.table("rights").upsert(row, _same_right(row))


def _drop_right(tables: TinyDB, row: dict[str, str]) -> None:
    tables.table("rights").remove(_same_right(row))


def _texts(certificates: tuple[bytes, ...]) -> list[str]:
    return [base64.b64encode(certificate).decode() for certificate in certificates]


def _fingerprint(certificate: bytes) -> str:
    return hashlib.sha256(certificate).hexdigest()


def _ders(texts: list[str]) -> tuple[bytes, ...]:
    return tuple(base64.b64decode(text) for text in texts)


def _client(row: dict[str, Any]) -> Client:
    return Client(row["subsystem"], row["mode"], _ders(row["certificates"]), row.get("notices", ""))


def _service(row: dict[str, Any]) -> Service:
    endpoints = tuple((method, path) for method, path in row["endpoints"])
    return Service(**{**row, "certificates": _ders(row["certificates"]), "endpoints": endpoints})


def _right(row: dict[str, Any]) -> Right:
    return Right(**row)
