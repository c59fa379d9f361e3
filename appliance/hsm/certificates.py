"""The certificates of the keys: DER files beside them, `<label>.<n>.der`, the highest number imported last.

In force is the newest one that is valid now; older ones stay, so that seals made under them can still be explained.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from cryptography import x509

from appliance import durable
from appliance.errors import CorruptStateError, UnavailableError
from appliance.model import certificates

PER_KEY_MAX = 64
"""Certificates of one key: a yearly renewal for longer than any key lives."""


class CertificateMissingError(UnavailableError):
    """The key has no certificate yet."""

    kind = "key.no_certificate"


class CertificateStore:
    """All certificates of the box's keys, in memory and in `directory`. Raises CorruptStateError for a file that is none."""

    def __init__(self, directory: Path) -> None:
        durable.make_directory(directory)
        self._directory = directory
        self._found: dict[str, dict[int, x509.Certificate]] = {}
        for file in sorted(directory.glob("*.der")):
            label, _, number = file.stem.rpartition(".")
            try:
                self._found.setdefault(unquote(label), {})[int(number)] = certificates.read(file.read_bytes())
            except (ValueError, certificates.CertificateMalformedError) as error:
                raise CorruptStateError(f"{file}: {error}") from None

    def labels(self) -> list[str]:
        return list(self._found)

    def of(self, label: str, now_us: int) -> list[x509.Certificate]:
        """Every certificate of the key, the one in force first; empty where there is none."""
        newest_first = [certificate for _, certificate in sorted(self._found.get(label, {}).items(), reverse=True)]
        return sorted(newest_first, key=lambda certificate: not certificates.is_valid_at(certificate, now_us))

    def in_force(self, label: str, now_us: int) -> x509.Certificate:
        """Raises CertificateMissingError."""
        found = self.of(label, now_us)
        if not found:
            raise CertificateMissingError(f"{label} has no certificate")
        return found[0]

    def add(self, label: str, certificate: x509.Certificate) -> None:
        """Keeps one more, durably; one that is there already is in force again where it is valid."""
        mine = self._found.setdefault(label, {})
        before = [number for number, one in mine.items() if one == certificate]
        number = max(mine, default=0) + 1
        durable.write_file(self._file(label, number), certificates.der(certificate))
        mine[number] = certificate
        oldest = sorted(mine)[: max(0, len(mine) - PER_KEY_MAX)]
        for superfluous in {*before, *oldest}:
            self._drop(label, superfluous)

    def remove(self, label: str) -> None:
        """Drops every certificate of the key."""
        for number in [*self._found.get(label, {})]:
            self._drop(label, number)
        self._found.pop(label, None)

    def _drop(self, label: str, number: int) -> None:
        self._file(label, number).unlink(missing_ok=True)
        durable.sync_directory(self._directory)
        del self._found[label][number]

    def _file(self, label: str, number: int) -> Path:
        return self._directory / f"{quote(label, safe='')}.{number}.der"
