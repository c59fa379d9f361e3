"""`xacbe key`: the keys in the token and their certificates. A key is made inside the token and never leaves it."""

from __future__ import annotations

import argparse
import base64
import hashlib
import sys
import textwrap
from pathlib import Path
from typing import Any

from cryptography import x509

from appliance import durable, settings
from appliance.clock import iso, to_us
from appliance.commands import renewal
from appliance.commands.verbs import add_verb, certificates, done, print_json, print_table
from appliance.errors import RefusedError
from appliance.hsm import keyring
from appliance.hsm.token import ALGORITHMS
from appliance.hsm.wire import CertificateImport, CertificateRequest, KeyRecord, KeyRequest
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "key.help"
MAKE_S_MAX = 65.0
"""A slow chip makes an RSA key within the signer's own limit of 60 s."""
RENEW_S_MAX = 300.0
"""A new certificate is in every peer's configuration within two or three minutes."""
ATTRIBUTES = {
    "C": "2.5.4.6",
    "ST": "2.5.4.8",
    "L": "2.5.4.7",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "CN": "2.5.4.3",
    "serialNumber": "2.5.4.5",
    "businessCategory": "2.5.4.15",
    "organizationIdentifier": "2.5.4.97",
}


class SubjectUnreadableError(RefusedError):
    """The subject is not a list of `NAME=value`."""

    kind = "command.subject_unreadable"


class NotConfirmedError(RefusedError):
    """A key is deleted for good: the command wants `--yes`."""

    kind = "command.not_confirmed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_verb(verbs, "list", "key.list")
    generate = _with_label(verbs, "generate", "key.generate")
    generate.add_argument("--algorithm", default=ALGORITHMS[0], choices=ALGORITHMS, help=text("key.algorithm"))
    csr = _with_label(verbs, "csr", "key.csr")
    csr.add_argument("--subject", default="", metavar="C=MX,O=...,CN=...", help=text("key.subject"))
    csr.add_argument("--name", action="append", default=[], metavar="DNS:...|IP:...", help=text("key.name"))
    csr.add_argument("--out", type=Path, help=text("key.out"))
    csr.add_argument("--der", action="store_true", help=text("key.der"))
    _with_label(verbs, "import-cert", "key.import_cert").add_argument("file", type=Path, help=text("key.file"))
    renew = add_verb(verbs, "renew", "key.renew")
    renew.add_argument("labels", metavar="LABEL", nargs="+", help=text("key.label"))
    step = renew.add_mutually_exclusive_group(required=True)
    step.add_argument("--out", type=Path, help=text("key.renew_out"))
    step.add_argument("--install", type=Path, metavar="FILE", help=text("key.renew_install"))
    renew.add_argument("--wait", type=float, default=RENEW_S_MAX, metavar="SECONDS", help=text("key.renew_wait"))
    _with_label(verbs, "switch", "key.switch")
    _with_label(verbs, "delete", "key.delete").add_argument("--yes", action="store_true", help=text("key.yes"))


def _with_label(verbs: Any, name: str, help_key: str) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, help_key)
    parser.add_argument("label", metavar="LABEL", help=text("key.label"))
    return parser


def run(arguments: argparse.Namespace) -> int:
    signer = BlockingClient(channel_path(arguments.state, "signer", CONSOLE), MAKE_S_MAX)
    match arguments.verb:
        case "list":
            return _list(arguments, signer.call("list_keys", None, list[KeyRecord]))
        case "generate":
            made = signer.call("generate_key", KeyRequest(arguments.label, arguments.algorithm), KeyRecord)
            return done(arguments, "key.generated", label=made.label, algorithm=made.algorithm, fingerprint=_sha256(made.public_key))
        case "csr":
            return _csr(arguments, signer)
        case "import-cert":
            (certificate,) = certificates([arguments.file])
            signer.call("import_certificate", CertificateImport(arguments.label, certificate), KeyRecord)
            return done(arguments, "key.imported", label=arguments.label, fingerprint=_sha256(certificate))
        case "renew":
            return _renew(arguments, signer)
        case "switch":
            signer.call("switch_key", KeyRequest(arguments.label), KeyRecord)
            return done(arguments, "key.switched", label=arguments.label)
    if not arguments.yes:
        raise NotConfirmedError(text("key.not_confirmed", label=arguments.label))
    signer.call("delete_key", KeyRequest(arguments.label))
    return done(arguments, "key.deleted", label=arguments.label)


def _list(arguments: argparse.Namespace, keys: list[KeyRecord]) -> int:
    shown = [_shown(key) for key in keys]
    if arguments.json:
        print_json(shown)
        return 0
    heads = [text(f"key.head.{name}") for name in ("label", "algorithm", "uses", "until", "certificates")]
    rows = [[one["label"], one["algorithm"], str(one["uses"]), _until(one["certificates"]), str(len(one["certificates"]))] for one in shown]
    print_table(heads, rows, "key.none")
    return 0


def _shown(key: KeyRecord) -> dict[str, Any]:
    found = [x509.load_der_x509_certificate(der) for der in key.certificates]
    return {
        "label": key.label,
        "use": key.use,
        "algorithm": key.algorithm,
        "uses": key.uses,
        "public_key_sha256": _sha256(key.public_key),
        "versions": [{"label": version.label, "state": version.state, "uses": version.uses} for version in key.versions],
        "certificates": [
            {
                "sha256": _sha256(der),
                "subject": certificate.subject.rfc4514_string(),
                "issuer": certificate.issuer.rfc4514_string(),
                "serial": f"{certificate.serial_number:x}",
                "not_before": iso(to_us(certificate.not_valid_before_utc)),
                "not_after": iso(to_us(certificate.not_valid_after_utc)),
            }
            for der, certificate in zip(key.certificates, found, strict=True)
        ],
    }


def _until(found: list[dict[str, str]]) -> str:
    """Of the one in force."""
    return found[0]["not_after"][:10] if found else text("key.no_certificate")


def _csr(arguments: argparse.Namespace, signer: BlockingClient) -> int:
    subject = _subject(arguments.subject) if arguments.subject else _own_subject(arguments.state, arguments.label)
    made = signer.call("request_certificate", CertificateRequest(arguments.label, subject, arguments.name), bytes)
    written = made if arguments.der else _pem(made)
    if arguments.out is None:
        sys.stdout.buffer.write(written)
        return 0
    durable.write_file(arguments.out, written, 0o644)
    return done(arguments, "key.csr_written", label=arguments.label, file=str(arguments.out))


def _renew(arguments: argparse.Namespace, signer: BlockingClient) -> int:
    """Two calls with CEIQROO's bench between them: `--out` asks, `--install` takes the answer and switches."""
    labels = list(dict.fromkeys(arguments.labels))
    if arguments.out is not None:
        subjects = {label: _own_subject(arguments.state, label) for label in labels}
        made = renewal.request(arguments.state, signer, labels, subjects, arguments.out.absolute())
        return done(arguments, "key.renewal_written", labels=", ".join(made), file=str(arguments.out))
    switched = renewal.install(arguments.state, signer, labels, arguments.install, arguments.wait)
    return done(arguments, "key.renewed", labels=", ".join(switched))


def _own_subject(state: Path, label: str) -> list[tuple[str, str]]:
    """X-Road's Basic profile (sheet 5.5): a member's seal key, or a key of this box."""
    box = settings.load(state, settings.BoxSettings)
    _, _, member = keyring.role_of(label).partition("seal/")
    member_class, _, member_code = member.partition("/")
    if member:
        return _subject(f"C=MX,O={member_code},businessCategory={member_class},serialNumber={member_code},CN={member_code}")
    return _subject(f"C=MX,O={box.member_code},serialNumber={box.member_code},CN={box.server_code}")


def _subject(spelled: str) -> list[tuple[str, str]]:
    """`NAME=value` pairs in their order; a comma inside a value is written `\\,`. Raises SubjectUnreadableError."""
    found = []
    for pair in spelled.replace("\\,", "\0").split(","):
        name, given, value = (part.strip().replace("\0", ",") for part in pair.partition("="))
        oid = ATTRIBUTES.get(name, name if name.replace(".", "").isdigit() else None)
        if not given or oid is None or not value:
            raise SubjectUnreadableError(text("key.subject_unreadable", pair=pair, names=", ".join(ATTRIBUTES)))
        found.append((oid, value))
    return found


def _pem(der: bytes) -> bytes:
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join(["-----BEGIN CERTIFICATE REQUEST-----", *lines, "-----END CERTIFICATE REQUEST-----", ""]).encode()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
