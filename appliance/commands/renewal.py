"""The two halves of `xacbe key renew`: new keys and one request file for CEIQROO; its answer imported, waited for, switched to.

A key is switched to only when its new certificate can be used everywhere: a seal needs an OCSP response for it, and a peer believes a TLS
certificate whose hash is in its global configuration. Until then the old one goes on; stopped half-way, the command is given again.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance import durable, settings
from appliance.commands.attestation import tpm_claim
from appliance.commands.verbs import read_file
from appliance.errors import RefusedError, UnavailableError
from appliance.hsm import keyring
from appliance.hsm.wire import CertificateImport, CertificateRequest, KeyRecord, KeyRequest, KeyVersion
from appliance.model.identifiers import ClientId, ServerId
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.settings import BoxSettings, TrustAgentSettings
from appliance.texts import text
from appliance.topology import CONSOLE
from appliance.trust.wire import TrustStatus

LOOK_S = 0.5
PEERS_MARGIN_S = 5.0
"""Peers fetch the configuration as often as we do; this much later than that the slowest one has it."""


class RenewalFileError(RefusedError):
    """Not CEIQROO's answer to this renewal."""

    kind = "command.renewal_file"


class NotYetUsableError(UnavailableError):
    """The new certificate is in the token's book but cannot be used everywhere yet; the old one stays in force."""

    kind = "key.not_yet_usable"


class Answer(msgspec.Struct):
    """What `ceiqroo enrolment renew` wrote: certificates in base64 DER by label."""

    certificates: dict[str, str]


def request(state: Path, signer: BlockingClient, labels: Sequence[str], subjects: dict[str, list[tuple[str, str]]], out: Path) -> list[str]:
    """Makes a new key for each label (or goes on with one made before) and writes the request; returns the keys' names in the token."""
    present = {key.label: key for key in signer.call("list_keys", None, list[KeyRecord])}
    made: dict[str, KeyVersion] = {}
    requests: dict[str, tuple[str, bytes]] = {}
    for label in labels:
        algorithm = present[label].algorithm if label in present else "EC-P256"
        made[label] = signer.call("renew_key", KeyRequest(label, algorithm), KeyVersion)
        der = signer.call("request_certificate", CertificateRequest(made[label].label, subjects[label], []), bytes)
        requests[label] = made[label].label, der
    document: dict[str, Any] = {"server": str(_server(state)), "requests": {label: der for label, (_, der) in requests.items()}}
    claim = tpm_claim(signer, requests)
    if claim is not None:
        document["tpm"] = claim
    durable.write_file(out, msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n", 0o644)
    return [version.label for version in made.values()]


def install(state: Path, signer: BlockingClient, labels: Sequence[str], file: Path, wait_s_max: float) -> dict[str, str]:
    """Imports, waits until each certificate can be used, switches. Returns SHA-256 by label. Raises NotYetUsableError, RenewalFileError."""
    certificates = _certificates(file, labels)
    for label, der in certificates.items():
        signer.call("import_certificate", CertificateImport(label, der), KeyRecord)
    deadline = time.monotonic() + wait_s_max
    readiness = _Readiness(state)
    waiting = dict(certificates)
    while waiting:
        usable = [label for label, der in waiting.items() if readiness.usable(label, der)]
        for label in usable:
            signer.call("switch_key", KeyRequest(_of_certificate(signer, label, waiting.pop(label))), KeyRecord)
        if waiting and time.monotonic() > deadline:
            raise NotYetUsableError(text("key.not_yet_usable", labels=", ".join(waiting)))
        if waiting:
            time.sleep(LOOK_S)
    return {label: hashlib.sha256(der).hexdigest() for label, der in certificates.items()}


class _Readiness:
    """Whether a certificate can be used everywhere, as far as this box can know. The trust agent knows since when, not this command: given
    again after a short `--wait`, it goes on where the last one was."""

    def __init__(self, state: Path) -> None:
        self._trust = BlockingClient(channel_path(state, "trust_agent", CONSOLE), 10.0)
        self._peers_s = settings.load(state, TrustAgentSettings).configuration_fetch_interval_s + PEERS_MARGIN_S

    def usable(self, label: str, der: bytes) -> bool:
        """Keys towards this box's own systems, the broker and the log need nothing of others."""
        use = keyring.use_of(label)
        if use != keyring.SEAL and label != keyring.TLS_PEER:
            return True
        digest = hashlib.sha256(der).digest()
        try:
            status: TrustStatus = self._trust.call("trust_status", None, TrustStatus)
        except UnavailableError:
            return False
        if all(one.certificate_sha256 != digest for one in status.evidence):
            return False
        return use == keyring.SEAL or any(one.certificate_sha256 == digest and one.for_s > self._peers_s for one in status.registered)


def _certificates(file: Path, labels: Sequence[str]) -> dict[str, bytes]:
    try:
        answer = msgspec.json.decode(read_file(file), type=Answer)
        return {label: base64.b64decode(answer.certificates[label], validate=True) for label in labels}
    except (KeyError, ValueError, RecursionError) as error:
        raise RenewalFileError(f"{file}: {error}") from None


def _of_certificate(signer: BlockingClient, label: str, der: bytes) -> str:
    """The key's name in the token."""
    records: list[KeyRecord] = signer.call("list_keys", None, list[KeyRecord])
    versions = (version for record in records if record.label == label for version in record.versions)
    return next(version.label for version in versions if der in version.certificates)


def _server(state: Path) -> ServerId:
    box = settings.load(state, BoxSettings)
    return ServerId(ClientId(box.instance, box.member_class, box.member_code), box.server_code)
