"""The keys of the box as the signer knows them: which lie in the token, which certificates they have, which one of a label is in force.

A renewal makes a new key beside the old one (`tls-peer/2`). It comes into force when a person switches, never by its certificate's arrival:
peers must know a TLS certificate, and a seal needs an OCSP response, before either is used. The old key stays until it is deleted, so that
a handshake that shows its certificate is still signed. Where the chosen key has no certificate that is valid now, one that has steps in.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from appliance import durable
from appliance.errors import UNREADABLE, CorruptStateError, RefusedError
from appliance.hsm import keyring, service
from appliance.hsm.certificates import CertificateStore
from appliance.hsm.token import KeyMissingError, TokenKey
from appliance.hsm.wire import COMING, FORMER, IN_FORCE, KeyRecord, KeyVersion
from appliance.model import certificates


class NotReadyToSwitchError(RefusedError):
    """The key has no certificate that is valid now: it cannot come into force."""

    kind = "key.not_ready"


class KeyBook:
    """Keys by their label in the token, and the choice among the keys of one label (`keys/in_force`, one file for all)."""

    def __init__(self, directory: Path, store: CertificateStore) -> None:
        self.certificates = store
        self.uses: Counter[str] = Counter()
        self._file = directory / "in_force"
        self._keys: dict[str, TokenKey] = {}
        self._chosen: dict[str, str] = _read(self._file)

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, found: Sequence[TokenKey]) -> None:
        """What the token holds now; keys of somebody else on the same token are left alone."""
        self._keys = {key.label: key for key in found if _is_ours(key.label)}

    def add(self, key: TokenKey) -> None:
        self._keys[key.label] = key

    def remove(self, label: str) -> None:
        """The key is gone from the token: its certificates go with it, and the choice."""
        self._keys.pop(label, None)
        self.certificates.remove(label)
        role = keyring.role_of(label)
        if self._chosen.get(role) == label:
            del self._chosen[role]
            self._write()

    def forget(self) -> None:
        """The token was erased: no key, so no certificate of one."""
        for label in {*self._keys, *self.certificates.labels()}:
            self.remove(label)

    def key(self, label: str) -> TokenKey:
        """By its label in the token. Raises KeyMissingError."""
        if label not in self._keys:
            raise KeyMissingError(label)
        return self._keys[label]

    def in_force(self, role: str, now_us: int) -> TokenKey:
        """The key that signs for a label now. Raises KeyMissingError."""
        label = self._label_in_force(role, now_us, self._keys)
        if label is None:
            raise KeyMissingError(role)
        return self._keys[label]

    def of_certificate(self, role: str, certificate_sha256: bytes, now_us: int) -> TokenKey:
        """The key of a certificate of this label, in force or not; without one the key in force. Raises KeyMissingError."""
        if not certificate_sha256:
            return self.in_force(role, now_us)
        for label, key in self._keys.items():
            if keyring.role_of(label) == role and certificate_sha256 in map(_sha256, self.certificates.of(label, now_us)):
                return key
        raise KeyMissingError(f"{role}: no key of certificate {certificate_sha256.hex()[:16]}")

    def of_public_key(self, label: str, public_key: bytes) -> TokenKey:
        """Where a label names a role: the one of its keys that has this public key. Else, and where none has, the key itself."""
        same = (key for name, key in self._keys.items() if keyring.role_of(name) == label and key.public_key == public_key)
        return next(same, None) or self.key(label)

    def next_label(self, role: str) -> str:
        """What a renewed key will be called. Raises KeyMissingError where there is nothing to renew."""
        versions = [keyring.version_of(label) for label in self._labels(role, [*self._keys, *self.certificates.labels()])]
        if not versions:
            raise KeyMissingError(role)
        return keyring.versioned(role, max(versions) + 1)

    def coming(self, role: str, now_us: int) -> TokenKey | None:
        """A renewed key that is not in force yet: a second renewal goes on with it."""
        in_force = self._label_in_force(role, now_us, self._keys)
        newer = [label for label in self._labels(role, self._keys) if in_force and _order(label) > _order(in_force)]
        return self._keys[max(newer, key=_order)] if newer else None

    def check_switch(self, label: str, now_us: int) -> None:
        """Raises KeyMissingError, NotReadyToSwitchError."""
        self.key(label)
        if not self._is_valid(label, now_us):
            raise NotReadyToSwitchError(f"{label} has no certificate that is valid now")

    def switch(self, label: str) -> None:
        """From now on this key is its label's, durably."""
        self._chosen[keyring.role_of(label)] = label
        self._write()

    def records(self, now_us: int) -> list[KeyRecord]:
        """By label; also while the token is away: then the keys that have certificates."""
        known = {*self._keys, *self.certificates.labels()}
        return [self.record(role, now_us) for role in sorted({keyring.role_of(label) for label in known})]

    def record(self, role: str, now_us: int) -> KeyRecord:
        labels = self._labels(role, {*self._keys, *self.certificates.labels()})
        in_force = self._label_in_force(role, now_us, labels) or labels[0]
        versions = [
            self._version(label, in_force, now_us) for label in sorted(labels, key=lambda label: (label != in_force, -_order(label)))
        ]
        first = versions[0]
        ders = [der for version in versions for der in version.certificates]
        uses = sum(version.uses for version in versions)
        return KeyRecord(role, keyring.use_of(role), first.algorithm, first.public_key, ders, uses, versions)

    def _version(self, label: str, in_force: str, now_us: int) -> KeyVersion:
        found, key = self.certificates.of(label, now_us), self._keys.get(label)
        state = IN_FORCE if label == in_force else COMING if _order(label) > _order(in_force) else FORMER
        algorithm = key.algorithm if key else service.algorithm_of(found[0])
        public_key = key.public_key if key else _public_key(found[0])
        return KeyVersion(label, state, algorithm, public_key, [certificates.der(one) for one in found], self.uses[label])

    def _label_in_force(self, role: str, now_us: int, among: Sequence[str] | dict[str, TokenKey]) -> str | None:
        chosen = self._chosen.get(role, role)
        labels = sorted(self._labels(role, among), key=lambda label: (label != chosen, -_order(label)))
        return next((label for label in labels if self._is_valid(label, now_us)), labels[0] if labels else None)

    def _is_valid(self, label: str, now_us: int) -> bool:
        found = self.certificates.of(label, now_us)
        return bool(found) and certificates.is_valid_at(found[0], now_us)

    def _labels(self, role: str, among: Sequence[str] | set[str] | dict[str, TokenKey]) -> list[str]:
        return [label for label in among if keyring.role_of(label) == role]

    def _write(self) -> None:
        durable.write_file(self._file, msgspec.json.encode(self._chosen, order="sorted"))


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    try:
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except UNREADABLE as error:
        raise CorruptStateError(f"{file}: {error}") from None


def _order(label: str) -> int:
    return keyring.version_of(label)


def _is_ours(label: str) -> bool:
    try:
        keyring.use_of(label)
    except keyring.LabelError:
        return False
    return True


def _sha256(certificate: x509.Certificate) -> bytes:
    return hashlib.sha256(certificates.der(certificate)).digest()


def _public_key(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
