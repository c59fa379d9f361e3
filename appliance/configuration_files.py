"""The global configuration as files: X-Road's local layout, which X-Road's own tools read as well (sheet 6.4).

Only the trust agent writes. Its own truth is `parts/` (contents by digest) and `directory/` (the signed directories in force); the layout
below `configuration/` is derived from it and written again when they differ. A directory is written after its parts: it is the commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from appliance import durable
from appliance.clock import from_us, to_us
from appliance.trust.directory import DIRECTORY_BYTES_MAX, PRIVATE, SHARED, PartEntry
from appliance.trust.global_configuration import (
    SHARED_BYTES_MAX,
    ConfigurationMalformedError,
    SharedParameters,
    parse_shared_parameters,
)
from appliance.trust.optional_parts import FILES, OptionalParts, parse_optional_parts
from appliance.trust.trusted_configuration import ConfigurationAbsentError, ConfigurationInForce

INSTANCE_FILE, METADATA = "instance-identifier", ".metadata"
SHARED_FILE, PRIVATE_FILE = "shared-params.xml", "private-params.xml"
FILE_MODE, DIRECTORY_MODE = 0o644, 0o755
"""Other processes of the box read these files under users of their own; nothing in them is secret within the instance."""
INSTANCES_MAX = 64
OPTIONAL_BYTES_MAX = 64 << 10
"""Each of the three optional parts is a few lines."""

_FIXED = {SHARED: SHARED_FILE, PRIVATE: PRIVATE_FILE, **FILES}
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class LoadedConfiguration:
    """What a configuration directory holds. `expires_us`: per instance, None where the metadata states none (sheet 5.7)."""

    instance: str
    shared: dict[str, SharedParameters]
    """By instance. What an own instance decides for all (freshness, nextUpdate) is in the others' as well."""
    expires_us: dict[str, int | None]
    optional: OptionalParts = OptionalParts()
    """Of the own instance."""


def load_directory(path: Path) -> LoadedConfiguration:
    """Reads a configuration directory; signatures were checked when it was fetched (sheet 6.4). Expiry is the caller's to judge.

    Raises ConfigurationAbsentError when there is none, ConfigurationMalformedError, CertificateMalformedError.
    """
    instance = _read(path / INSTANCE_FILE, 1024).decode("utf-8", "replace").strip()
    shared: dict[str, SharedParameters] = {}
    expires: dict[str, int | None] = {}
    for folder in _folders(path):
        file = folder / SHARED_FILE
        if not file.is_file():
            continue
        metadata = _metadata(folder / (SHARED_FILE + METADATA))
        found = parse_shared_parameters(_read(file, SHARED_BYTES_MAX), _version(metadata))
        if found.instance != unquote(folder.name):
            raise ConfigurationMalformedError(f"{file}: is of another instance")
        shared[found.instance] = found
        expires[found.instance] = _expiry(metadata)
    if instance not in shared:
        raise ConfigurationAbsentError(f"{path}: no shared parameters of {instance!r}")
    optional = parse_optional_parts(_optional_contents(path / quote(instance, safe="")))
    own = shared[instance]
    for name, found in shared.items():
        shared[name] = replace(found, ocsp_freshness_s=own.ocsp_freshness_s, checks_next_update=optional.checks_next_update)
    return LoadedConfiguration(instance, shared, expires, optional)


def verification_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a verifier elsewhere needs of a configuration directory, file by file: the shared parameters of every instance, and of their
    metadata the version alone (sheet 2.8). Raises ConfigurationAbsentError, ConfigurationMalformedError.
    """
    yield INSTANCE_FILE, _read(path / INSTANCE_FILE, 1024)
    for folder in _folders(path):
        if (folder / SHARED_FILE).is_file():
            version = _version(_metadata(folder / (SHARED_FILE + METADATA)))
            yield f"{folder.name}/{SHARED_FILE}", _read(folder / SHARED_FILE, SHARED_BYTES_MAX)
            yield f"{folder.name}/{SHARED_FILE}{METADATA}", b'{"configurationVersion":"%d"}' % version


def write_layout(path: Path, own: str, configurations: Iterable[ConfigurationInForce]) -> None:
    """Makes the layout say what is in force. Each file is whole at any moment; a part before its metadata, so that a reader in between
    sees new content with the older expiry. Raises OSError, SyncFailedError."""
    durable.make_directory(path, DIRECTORY_MODE)
    path.chmod(DIRECTORY_MODE)
    kept = set()
    for configuration in configurations:
        folder = path / quote(configuration.instance, safe="")
        kept.add(folder.name)
        durable.make_directory(folder, DIRECTORY_MODE)
        folder.chmod(DIRECTORY_MODE)
        files = set()
        for entry, content in configuration.parts:
            name = _file_name(entry)
            files |= {name, name + METADATA}
            _write(folder / name, content)
            _write(folder / (name + METADATA), _metadata_of(entry, configuration, name))
        _remove_others(folder, files)
    _write(path / INSTANCE_FILE, own.encode())
    for folder in path.iterdir():
        if folder.is_dir() and folder.name not in kept:
            _remove_others(folder, set())
            folder.rmdir()


class AcceptedStore:
    """The trust agent's own memory of what is in force, below `trust/`: it survives restarts, so that old directories stay old."""

    def __init__(self, root: Path) -> None:
        self._parts, self._directories = root / "parts", root / "directory"
        for folder in (self._parts, self._directories):
            durable.make_directory(folder)

    def save(self, configuration: ConfigurationInForce) -> None:
        """Parts first, then the directory that refers to them; what nothing refers to any more goes last."""
        for entry, content in configuration.parts:
            file = self._parts / entry.digest.hex()
            if not file.exists():
                durable.write_file(file, content)
        durable.write_file(self._directories / quote(configuration.instance, safe=""), configuration.directory.raw)

    def forget_unused(self, configurations: Iterable[ConfigurationInForce]) -> None:
        in_use = {entry.digest.hex() for configuration in configurations for entry, _ in configuration.parts}
        _remove_others(self._parts, in_use)

    def saved(self, instance: str) -> tuple[bytes, dict[bytes, bytes]] | None:
        """The directory last accepted for an instance, and all contents by digest; None where there is none."""
        file = self._directories / quote(instance, safe="")
        if not file.exists():
            return None
        contents = {
            bytes.fromhex(part.name): _read(part, SHARED_BYTES_MAX)
            for part in self._parts.iterdir()
            if re.fullmatch(r"(?:[0-9a-f]{2}){32,64}", part.name)
        }
        return _read(file, DIRECTORY_BYTES_MAX), contents


def _optional_contents(folder: Path) -> dict[str, bytes]:
    return {part: _read(folder / name, OPTIONAL_BYTES_MAX) for part, name in FILES.items() if (folder / name).is_file()}


def _file_name(entry: PartEntry) -> str:
    """By identifier where it is fixed, else the last segment of the location: never a path of its own."""
    fixed = _FIXED.get(entry.identifier)
    name = fixed or entry.location.rsplit("/", 1)[-1]
    if not _FILE_NAME.fullmatch(name) or name.endswith(METADATA) or (fixed is None and name in _FIXED.values()):
        raise ConfigurationMalformedError(f"{entry.identifier}: an unusable file name")
    return name


def _metadata_of(entry: PartEntry, configuration: ConfigurationInForce, name: str) -> bytes:
    expires = from_us(configuration.expires_us).isoformat(timespec="seconds").replace("+00:00", "Z")
    return json.dumps(
        {
            "contentIdentifier": entry.identifier,
            "instanceIdentifier": configuration.instance,
            "expirationDate": expires,
            "contentFileName": name,
            "contentLocation": entry.location,
            "configurationVersion": str(configuration.version),
        }
    ).encode()


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path, 64 << 10))
    except (ValueError, RecursionError):
        raise ConfigurationMalformedError(f"{path}: not JSON") from None
    if not isinstance(found, dict):
        raise ConfigurationMalformedError(f"{path}: not an object")
    return found


def _version(metadata: dict[str, Any]) -> int:
    version = str(metadata.get("configurationVersion", "2"))
    if version not in ("2", "3", "4", "5", "6"):
        raise ConfigurationMalformedError("an unknown configuration version")
    return int(version)


def _expiry(metadata: dict[str, Any]) -> int | None:
    text = metadata.get("expirationDate")
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(str(text))
        return to_us(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise ConfigurationMalformedError("an expiry that is not a moment") from None


def _folders(path: Path) -> list[Path]:
    """As where a file cannot be read: whoever follows the configuration asks again, and goes on with the last one."""
    try:
        return sorted(path.iterdir())[: INSTANCES_MAX + 1]
    except OSError as error:
        raise ConfigurationAbsentError(f"{path}: {error.strerror}") from None


def _read(path: Path, bytes_max: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except OSError as error:
        raise ConfigurationAbsentError(f"{path}: {error.strerror}") from None
    if len(data) > bytes_max:
        raise ConfigurationMalformedError(f"{path}: more than {bytes_max} bytes")
    return data


def _write(path: Path, content: bytes) -> None:
    """Writes only what differs: unchanged parts cost a read, not a flash write each minute."""
    if not path.is_file() or path.read_bytes() != content:
        durable.write_file(path, content, FILE_MODE)


def _remove_others(folder: Path, kept: set[str]) -> None:
    for file in folder.iterdir():
        if file.name not in kept and file.is_file():
            file.unlink()
