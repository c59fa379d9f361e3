"""`xacbe enrolment request|install`: the box's keys are made and asked for, then certified and trusted.

`request` makes every missing key in the token and writes one file of certificate requests for CEIQROO's bench, with the TPM's word for each
where there is one (`xacbe attestation` answers the challenge that follows); `install` takes the answer:
certificates into the signer, the anchor to the trust agent, issuers and the broker's CA to the supervisor. Rule IV.3.II-IV.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from appliance import durable, settings
from appliance.commands.attestation import server_of, tpm_claim
from appliance.hsm import keyring
from appliance.hsm import wire as hsm
from appliance.model.identifiers import ClientId, IdentifierError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.settings import BoxSettings, RelaySettings
from appliance.supervision.wire import ChangeEnrolment
from appliance.texts import text
from appliance.topology import CONSOLE
from appliance.trust.wire import AnchorInstall

HELP = "enrolment.help"
WAIT_S_MAX = 60.0
"""A slow token makes a key in seconds; the whole set stays below this."""
_COMMON_NAME, _SERIAL_NUMBER, _COUNTRY = "2.5.4.3", "2.5.4.5", "2.5.4.6"
_ORGANISATION, _BUSINESS_CATEGORY = "2.5.4.10", "2.5.4.15"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    request = verbs.add_parser("request", help=text("enrolment.request"))
    request.add_argument("--out", type=Path, required=True, help=text("enrolment.out"))
    request.add_argument("--algorithm", default="EC-P256", choices=("EC-P256", "EC-P384", "RSA-2048", "RSA-3072"))
    request.add_argument("--member", action="append", default=[], metavar="CLASS/CODE", help=text("enrolment.member"))
    install = verbs.add_parser("install", help=text("enrolment.install"))
    install.add_argument("file", type=Path, help=text("enrolment.file"))


def run(arguments: argparse.Namespace) -> int:
    return _request(arguments) if arguments.verb == "request" else _install(arguments)


def _request(arguments: argparse.Namespace) -> int:
    box = settings.load(arguments.state, BoxSettings)
    address = settings.load(arguments.state, RelaySettings).client_https.rpartition(":")[0]
    signer = BlockingClient(channel_path(arguments.state, "signer", CONSOLE), WAIT_S_MAX)
    present = {key.label for key in signer.call("list_keys", None, list[hsm.KeyRecord])}
    requests: dict[str, tuple[str, bytes]] = {}
    for label, subject, names in _wanted(box, address, arguments.member):
        if label not in present:
            # TLS keys stay on P-256: `net.token_key` hands OpenSSL EC keys only, and tokens sign them fastest
            signer.call("generate_key", hsm.KeyRequest(label, arguments.algorithm if label.startswith("seal/") else "EC-P256"))
        made = signer.call("request_certificate", hsm.CertificateRequest(label, subject, names), bytes)
        requests[label] = label, made
        print(text("enrolment.key_ready", label=label), file=sys.stderr)
    _make_wrapping_key(signer, present)
    document: dict[str, Any] = {"server": server_of(arguments.state), "requests": {label: made for label, (_, made) in requests.items()}}
    claim = tpm_claim(signer, requests)
    if claim is not None:
        document["tpm"] = claim
        print(text("enrolment.tpm"), file=sys.stderr)
    durable.write_file(arguments.out.absolute(), msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n", 0o644)
    return 0


def _make_wrapping_key(signer: BlockingClient, present: set[str]) -> None:
    """The key above the data keys of bodies: secret, without certificate. A token that cannot make one is of no use: the log would not
    write."""
    if keyring.WRAP not in present:
        signer.call("generate_key", hsm.KeyRequest(keyring.WRAP))
    print(text("enrolment.key_ready", label=keyring.WRAP), file=sys.stderr)


def _wanted(box: BoxSettings, address: str, guests: list[str]) -> list[tuple[str, list[tuple[str, str]], list[str]]]:
    """Label, subject and names of each key of the box: a seal key for its owner and for each member that it serves besides, and the
    box's own keys. Raises IdentifierError for a guest that is not CLASS/CODE."""
    members = [(box.member_class, box.member_code)]
    for guest in guests:
        member = ClientId.parse(f"{box.instance}/{guest}")
        if member.subsystem is not None:
            raise IdentifierError(f"{guest}: a member is CLASS/CODE")
        members.append((member.member_class, member.member_code))
    own = [(_COUNTRY, "MX"), (_ORGANISATION, box.member_code), (_SERIAL_NUMBER, box.member_code), (_COMMON_NAME, box.server_code)]
    node = [(_COMMON_NAME, f"{box.member_class}:{box.member_code}:{box.server_code}")]
    names = [f"IP:{address}"] if address != "0.0.0.0" else []  # noqa: S104 # nosec B104  compared, not bound
    return [
        *((f"seal/{member_class}/{code}", _seal_subject(member_class, code), []) for member_class, code in dict.fromkeys(members)),
        ("tls-peer", own, names),
        ("tls-internal", own, names),
        ("tls-report", node, []),
        ("log", own, []),
    ]


def _seal_subject(member_class: str, code: str) -> list[tuple[str, str]]:
    """X-Road's Basic profile (sheet 5.5)."""
    return [(_COUNTRY, "MX"), (_ORGANISATION, code), (_BUSINESS_CATEGORY, member_class), (_SERIAL_NUMBER, code), (_COMMON_NAME, code)]


def _install(arguments: argparse.Namespace) -> int:
    answer: dict[str, Any] = json.loads(arguments.file.read_text())
    signer = BlockingClient(channel_path(arguments.state, "signer", CONSOLE), WAIT_S_MAX)
    for label, certificate in answer["certificates"].items():
        signer.call("import_certificate", hsm.CertificateImport(label, base64.b64decode(certificate)))
    anchor = AnchorInstall(base64.b64decode(answer["anchor"]))
    BlockingClient(channel_path(arguments.state, "trust_agent", CONSOLE), WAIT_S_MAX).call("install_anchor", anchor)
    issuers = [base64.b64decode(one) for one in answer["issuers"]]
    supervisor = BlockingClient(channel_path(arguments.state, "supervisor", CONSOLE), WAIT_S_MAX)
    supervisor.call("change_enrolment", ChangeEnrolment(True, issuers))
    print(text("enrolment.installed", count=len(answer["certificates"])), file=sys.stderr)
    return 0
