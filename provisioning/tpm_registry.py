"""Which TPM each box was enrolled with, and the challenges that wait for an answer. I/O: tables of the registry."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from provisioning.registry import Registry


@dataclass(frozen=True, slots=True)
class Tpm:
    """Publics are TPM2B_PUBLIC; `values`: SHA-256 PCRs by number, as quoted at the enrolment."""

    endorsement_public: bytes
    attestation_public: bytes
    values: dict[int, bytes]
    proven_us: int


@dataclass(frozen=True, slots=True)
class Pending:
    """A challenge: the credential that the right TPM will tell, and the nonce of its quote."""

    request_sha256: bytes
    credential: bytes
    nonce: bytes
    made_us: int


class TpmRegistry:
    """The TPM's rows of one registry. A server is named as everywhere: INSTANCE/CLASS/CODE/SERVER."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def of(self, server: str) -> Tpm | None:
        rows = self._registry.rows("SELECT endorsement_public, attestation_public, pcrs, proven_us FROM tpms WHERE server = ?", server)
        return next((Tpm(row[0], row[1], msgspec.msgpack.decode(row[2], type=dict[int, bytes]), row[3]) for row in rows), None)

    def all(self) -> list[tuple[str, Tpm]]:
        """By server."""
        servers = [str(row[0]) for row in self._registry.rows("SELECT server FROM tpms ORDER BY server")]
        return [(server, tpm) for server in servers if (tpm := self.of(server)) is not None]

    def holder_of(self, endorsement_public: bytes) -> str | None:
        """The box that was enrolled with this TPM."""
        found = self._registry.rows("SELECT server FROM tpms WHERE endorsement_sha256 = ?", hashlib.sha256(endorsement_public).digest())
        return next((str(row[0]) for row in found), None)

    def remember(self, server: str, tpm: Tpm) -> None:
        name, values = hashlib.sha256(tpm.endorsement_public).digest(), msgspec.msgpack.encode(tpm.values)
        row = server, name, tpm.endorsement_public, tpm.attestation_public, values, tpm.proven_us
        self._registry.change("INSERT OR REPLACE INTO tpms VALUES (?, ?, ?, ?, ?, ?)", *row)

    def forget(self, server: str) -> None:
        self._registry.change("DELETE FROM tpms WHERE server = ?", server)

    def expect(self, server: str, pending: Pending) -> None:
        """The last challenge of a box is the one that counts."""
        row = server, pending.request_sha256, pending.credential, pending.nonce, pending.made_us
        self._registry.change("INSERT OR REPLACE INTO tpm_challenges VALUES (?, ?, ?, ?, ?)", *row)

    def expected(self, server: str) -> Pending | None:
        rows = self._registry.rows("SELECT request_sha256, credential, nonce, made_us FROM tpm_challenges WHERE server = ?", server)
        return next((Pending(*row) for row in rows), None)

    def forget_challenge(self, server: str) -> None:
        self._registry.change("DELETE FROM tpm_challenges WHERE server = ?", server)
