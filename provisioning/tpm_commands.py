"""`ceiqroo tpm`: which manufacturers are believed, which TPM each box was enrolled with, and whether a quote is that box's."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance import durable
from appliance.clock import iso
from appliance.errors import UNREADABLE, RefusedError
from provisioning import tpm_enrolment
from provisioning.attestation import AttestationError
from provisioning.centre import Centre
from provisioning.tpm_enrolment import QuoteClaim
from provisioning.tpm_registry import TpmRegistry

tpm_app = typer.Typer(help="TPM de las cajas.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Directorio de la instancia.", metavar="DIR")]
Server = Annotated[str, typer.Argument(help="INSTANCIA/CLASE/CÓDIGO/SERVIDOR")]


class ManufacturerError(RefusedError):
    """A file that holds no certificate of an authority."""

    kind = "attestation.manufacturer"


class QuoteFile(msgspec.Struct):
    """What `xacbe attestation quote` writes; the server in it is not believed."""

    attested: bytes
    signature: bytes
    values: dict[int, bytes]


@tpm_app.command("trust")
def trust(
    directory: Directory,
    files: Annotated[list[Path], typer.Argument(help="Autoridades de un fabricante, PEM o DER.", exists=True, dir_okay=False)],
) -> None:
    """Cree en adelante los certificados de TPM que cuelgan de estas autoridades; la raíz debe estar entre ellas."""
    place = Centre.open(directory).manufacturers_directory
    durable.make_directory(place)
    for file in files:
        for authority in _authorities(file):
            der = authority.public_bytes(Encoding.DER)
            name = hashlib.sha256(der).hexdigest()
            durable.write_file(place / f"{name}.der", der, 0o644)
            typer.echo(f"{name}  {authority.subject.rfc4514_string()}")


@tpm_app.command("list")
def show(directory: Directory, as_json: Annotated[bool, typer.Option("--json", help="En JSON.")] = False) -> None:
    """Muestra con qué TPM se dio de alta cada caja."""
    with Centre.open(directory).registry() as registry:
        rows = [
            {
                "server": server,
                "endorsement_sha256": hashlib.sha256(tpm.endorsement_public).hexdigest(),
                "attestation_sha256": hashlib.sha256(tpm.attestation_public).hexdigest(),
                "proven": iso(tpm.proven_us),
                "pcrs": {number: value.hex() for number, value in sorted(tpm.values.items())},
            }
            for server, tpm in TpmRegistry(registry).all()
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['server']:40}  {row['endorsement_sha256']}  {row['proven']}")


@tpm_app.command("check")
def check(
    directory: Directory,
    server: Server,
    quote: Annotated[Path, typer.Argument(help="Lo que escribió xacbe attestation quote.", exists=True, dir_okay=False)],
    nonce: Annotated[str, typer.Option(help="El número que se le dio, hexadecimal.")],
) -> None:
    """Comprueba que la firma es de esa caja y de ahora, y dice qué cambió desde su alta. Termina con 1 si algo cambió."""
    with Centre.open(directory).registry() as registry:
        known = TpmRegistry(registry).of(server)
    if known is None:
        raise tpm_enrolment.TpmRefusedError(f"{server} was enrolled without a TPM", kind="attestation.no_tpm")
    try:
        said = msgspec.json.decode(quote.read_bytes(), type=QuoteFile)
    except UNREADABLE as error:
        raise AttestationError(f"not a quote: {error}") from None
    changed = tpm_enrolment.check_posture(known, hexadecimal(nonce), QuoteClaim(said.attested, said.signature, said.values))
    for number, value in sorted(changed.items()):
        typer.echo(f"PCR {number}: {value.hex()}")
    typer.echo(f"{server}: {f'{len(changed)} PCR cambiaron' if changed else 'como en su alta'}")
    raise typer.Exit(1 if changed else 0)


@tpm_app.command("forget")
def forget(directory: Directory, server: Server) -> None:
    """Olvida el TPM de una caja dada de baja, para que pueda servir a otra."""
    with Centre.open(directory).registry() as registry:
        tpms = TpmRegistry(registry)
        if tpms.of(server) is None:
            raise tpm_enrolment.TpmRefusedError(f"{server} was enrolled without a TPM", kind="attestation.no_tpm")
        tpms.forget(server)
    typer.echo(f"{server}: olvidado")


def hexadecimal(spelled: str) -> bytes:
    try:
        return bytes.fromhex(spelled)
    except ValueError:
        raise typer.BadParameter("no es hexadecimal") from None


def _authorities(file: Path) -> list[x509.Certificate]:
    data = file.read_bytes()
    try:
        found = x509.load_pem_x509_certificates(data) if b"-----BEGIN" in data else [x509.load_der_x509_certificate(data)]
        if not all(one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca for one in found):
            raise ManufacturerError(f"{file}: not a certificate of an authority")
    except (ValueError, x509.ExtensionNotFound) as error:
        raise ManufacturerError(f"{file}: {error}") from None
    return found
