"""`xacbe attestation`: the box's TPM says which one it is, answers CEIQROO's challenge and signs what it measured. Other tokens do not.

A challenge and its answer are one JSON document each, carried as the enrolment's are: `ceiqroo enrolment challenge` writes the first,
`ceiqroo enrolment approve --answer` reads the second. Bytes are base64. Rule IV.3.II.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from appliance import durable, settings
from appliance.commands.verbs import add_verb, done, print_json, printable, read_file
from appliance.errors import UNREADABLE, RefusedError
from appliance.hsm import wire as hsm
from appliance.hsm.token import MechanismMissingError
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.settings import BoxSettings
from appliance.texts import text
from appliance.topology import CONSOLE

HELP = "attestation.help"
ATTEST_S_MAX = 65.0
"""A slow chip derives an RSA endorsement key within the signer's own limit of 60 s."""


class ChallengeFileError(RefusedError):
    """Not CEIQROO's challenge to this box."""

    kind = "command.challenge_file"


class Challenge(msgspec.Struct):
    """What `ceiqroo enrolment challenge` writes."""

    server: str
    request_sha256: bytes
    blob: bytes
    secret: bytes
    nonce: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    add_verb(verbs, "show", "attestation.show")
    answer = add_verb(verbs, "answer", "attestation.answer")
    answer.add_argument("file", type=Path, help=text("attestation.challenge_file"))
    answer.add_argument("--out", type=Path, required=True, help=text("attestation.out"))
    quote = add_verb(verbs, "quote", "attestation.quote")
    quote.add_argument("--nonce", required=True, metavar="HEX", type=_nonce, help=text("attestation.nonce"))
    quote.add_argument("--out", type=Path, required=True, help=text("attestation.out"))


def run(arguments: argparse.Namespace) -> int:
    signer = BlockingClient(channel_path(arguments.state, "signer", CONSOLE), ATTEST_S_MAX)
    match arguments.verb:
        case "show":
            return _show(arguments, signer.call("tpm_identity", None, hsm.TpmIdentity))
        case "answer":
            return _answer(arguments, signer)
    made = _quoted(signer, arguments.nonce)
    return _written(arguments, {"server": server_of(arguments.state), "nonce": arguments.nonce, **made})


def tpm_claim(signer: BlockingClient, requests: dict[str, tuple[str, bytes]]) -> dict[str, Any] | None:
    """The part of an enrolment or renewal request that binds its keys to the TPM; None where the token is none.

    `requests`: by label, the key's name in the token and its PKCS#10 in DER; the attestation key's word is given for the digest of that.
    """
    try:
        identity: hsm.TpmIdentity = signer.call("tpm_identity", None, hsm.TpmIdentity)
    except RefusedError as error:
        if error.kind != MechanismMissingError.kind:
            raise
        return None
    keys = {label: _certified(signer, held, der) for label, (held, der) in requests.items()}
    return {name: getattr(identity, name) for name in hsm.TpmIdentity.__struct_fields__} | {"keys": keys}


def _certified(signer: BlockingClient, held: str, request: bytes) -> dict[str, bytes]:
    said: hsm.CertifyReply = signer.call("certify_key", hsm.CertifyRequest(held, hashlib.sha256(request).digest()), hsm.CertifyReply)
    return {name: getattr(said, name) for name in hsm.CertifyReply.__struct_fields__}


def server_of(state: Path) -> str:
    box = settings.load(state, BoxSettings)
    return f"{box.instance}/{box.member_class}/{box.member_code}/{box.server_code}"


def _show(arguments: argparse.Namespace, identity: hsm.TpmIdentity) -> int:
    certificate = x509.load_der_x509_certificate(identity.endorsement_certificate) if identity.endorsement_certificate else None
    facts = {
        "endorsement_sha256": hashlib.sha256(identity.endorsement_public).hexdigest(),
        "attestation_sha256": hashlib.sha256(identity.attestation_public).hexdigest(),
        "certificate_sha256": hashlib.sha256(identity.endorsement_certificate).hexdigest() if certificate else "",
        "manufacturer": certificate.issuer.rfc4514_string() if certificate else "",
    }
    if arguments.json:
        print_json(facts)
        return 0
    print(text("attestation.keys", endorsement=facts["endorsement_sha256"], attestation=facts["attestation_sha256"]))
    print(text("attestation.certificate" if certificate else "attestation.no_certificate", issuer=printable(facts["manufacturer"])))
    return 0


def _answer(arguments: argparse.Namespace, signer: BlockingClient) -> int:
    try:
        challenge = msgspec.json.decode(read_file(arguments.file), type=Challenge)
    except UNREADABLE as error:
        raise ChallengeFileError(f"{arguments.file}: {error}") from None
    if challenge.server != server_of(arguments.state):
        raise ChallengeFileError(f"{arguments.file}: {printable(challenge.server)}")
    credential = signer.call("activate_credential", hsm.CredentialChallenge(challenge.blob, challenge.secret), bytes)
    quoted = _quoted(signer, challenge.nonce)
    return _written(
        arguments, {"server": challenge.server, "request_sha256": challenge.request_sha256, "credential": credential, "quote": quoted}
    )


def _quoted(signer: BlockingClient, nonce: bytes) -> dict[str, Any]:
    made: hsm.QuoteReply = signer.call("quote", hsm.QuoteRequest(nonce), hsm.QuoteReply)
    return {"attested": made.attested, "signature": made.signature, "values": made.values}


def _written(arguments: argparse.Namespace, document: dict[str, Any]) -> int:
    durable.write_file(arguments.out.absolute(), msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n", 0o644)
    return done(arguments, "attestation.written", file=str(arguments.out))


def _nonce(spelled: str) -> bytes:
    try:
        return bytes.fromhex(spelled)
    except ValueError:
        raise argparse.ArgumentTypeError(text("attestation.nonce")) from None
