"""`ceiqroo`: CEIQROO's command. One function per verb; what it does is elsewhere.

Exit codes: 0 done, 1 refused, 2 wrong usage.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from appliance import durable
from appliance.clock import SystemClock, iso
from appliance.errors import XacbeError
from appliance.model.identifiers import ClientId
from appliance.settings import PRODUCTION_INSTANCE
from appliance.texts import refusal, system_refusal
from provisioning import enrolment, publication, serve, tpm_commands, tpm_enrolment
from provisioning.authority import ca
from provisioning.centre import Centre

app = typer.Typer(help="Servicios y registro de CEIQROO.", no_args_is_help=True, add_completion=False)
authority_app = typer.Typer(help="Autoridad certificadora de una instancia.", no_args_is_help=True)
enrolment_app = typer.Typer(help="Alta de servidores de seguridad.", no_args_is_help=True)
certificate_app = typer.Typer(help="Certificados emitidos.", no_args_is_help=True)
member_app = typer.Typer(help="Miembros de la instancia.", no_args_is_help=True)
app.add_typer(authority_app, name="authority")
app.add_typer(enrolment_app, name="enrolment")
app.add_typer(certificate_app, name="certificate")
app.add_typer(member_app, name="member")
app.add_typer(tpm_commands.tpm_app, name="tpm")

BESIDE = {
    "log": ("provisioning.fleet.log_commands", "log_app"),
    "lab": ("provisioning.lab.commands", "lab_app"),
    "fleet": ("provisioning.fleet.commands", "fleet_app"),
}
BESIDE |= {noun: ("provisioning.agreements", f"{noun}_app") for noun in ("federation", "group", "monitoring")}
"""Nouns with a module of their own, imported only when they are called: the services need nothing of the laboratory."""

Directory = Annotated[Path, typer.Argument(help="Directorio de la instancia.", metavar="DIR")]


@authority_app.command("init")
def authority_init(
    directory: Directory,
    instance: Annotated[str, typer.Option(help="Nombre de la instancia, por ejemplo QROO-TEST.")],
    address: Annotated[str, typer.Option(help="Dirección en la que las cajas hallan a CEIQROO.")],
    configuration_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    ocsp_port: Annotated[int, typer.Option(min=1, max=65535)] = 8888,
    tsa_port: Annotated[int, typer.Option(min=1, max=65535)] = 8899,
    broker_host: Annotated[str, typer.Option(help="Dirección del broker MQTT; si falta, la de CEIQROO.")] = "",
    broker_port: Annotated[int, typer.Option(min=1, max=65535)] = 8883,
) -> None:
    """Crea la instancia: claves, certificados, registro con los miembros de Quintana Roo, ancla."""
    centre = ca.initialise(
        directory,
        instance,
        address,
        SystemClock(),
        configuration_port=configuration_port,
        ocsp_port=ocsp_port,
        tsa_port=tsa_port,
        broker_host=broker_host,
        broker_port=broker_port,
    )
    typer.echo(f"{centre.anchor_file}\nSHA-224 {publication.fingerprint(centre.anchor_file.read_bytes())}")


@app.command("anchor")
def anchor(
    directory: Directory,
    external: Annotated[bool, typer.Option("--external", help="La que se da a una instancia federada.")] = False,
    https: Annotated[bool, typer.Option("--https", help="Nombra primero el lugar cifrado.")] = False,
) -> None:
    """Escribe el ancla en la salida, y su huella SHA-224 en la salida de errores."""
    centre = Centre.open(directory)
    content = publication.anchor(centre, external=external, https=https) if external or https else centre.anchor_file.read_bytes()
    typer.echo(publication.fingerprint(content), err=True)
    sys.stdout.buffer.write(content)


@enrolment_app.command("approve")
def enrolment_approve(
    directory: Directory,
    request: Annotated[Path, typer.Argument(help="Solicitud de la caja (JSON).", exists=True, dir_okay=False)],
    address: Annotated[str, typer.Option(help="Dirección en la que las otras cajas hallan a ésta.")],
    out: Annotated[Path, typer.Option(help="Archivo para la aprobación.", dir_okay=False)],
    internal_address: Annotated[str, typer.Option(help="Dirección para sus sistemas de información; si falta, la misma.")] = "",
    subsystem: Annotated[list[str] | None, typer.Option(help="Subsistema que usa la caja; si falta, todos los del miembro.")] = None,
    answer: Annotated[Path | None, typer.Option(help="Respuesta de su TPM al reto (JSON).", exists=True, dir_okay=False)] = None,
    replace_tpm: Annotated[bool, typer.Option("--replace-tpm", help="La caja tiene ahora otro TPM, o ninguno.")] = False,
) -> None:
    """Certifica las claves de una caja y la registra con sus subsistemas."""
    wanted = enrolment.read_request(request.read_bytes())
    approval = enrolment.approve(
        Centre.open(directory),
        wanted,
        address,
        SystemClock(),
        subsystems=subsystem or None,
        internal_address=internal_address,
        answer=None if answer is None else tpm_enrolment.read_answer(answer.read_bytes()),
        replace_tpm=replace_tpm,
    )
    durable.write_file(out.absolute(), msgspec.json.format(msgspec.json.encode(approval)) + b"\n", 0o644)
    proven = "TPM comprobado" if wanted.tpm else "sin prueba de TPM"
    counted = f"{len(approval['certificates'])} certificados, {len(approval['clients'])} subsistemas"
    typer.echo(f"{approval['server']}: {counted}, {proven}")


@enrolment_app.command("challenge")
def enrolment_challenge(
    directory: Directory,
    request: Annotated[Path, typer.Argument(help="Solicitud de la caja (JSON).", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Archivo para el reto.", dir_okay=False)],
    endorsement: Annotated[
        str, typer.Option(help="SHA-256 de su clave de fabricante, si no trae certificado: xacbe attestation show.", metavar="HEX")
    ] = "",
) -> None:
    """Reta al TPM de una caja: sólo el que tiene las claves de la solicitud puede responder (xacbe attestation answer)."""
    wanted = enrolment.read_request(request.read_bytes())
    made = enrolment.challenge(Centre.open(directory), wanted, SystemClock(), tpm_commands.hexadecimal(endorsement))
    durable.write_file(out.absolute(), msgspec.json.format(msgspec.json.encode(made)) + b"\n", 0o644)
    typer.echo(f"{made['server']}: {out}")


@enrolment_app.command("renew")
def enrolment_renew(
    directory: Directory,
    request: Annotated[Path, typer.Argument(help="Solicitud de `xacbe key renew` (JSON).", exists=True, dir_okay=False)],
    out: Annotated[Path, typer.Option(help="Archivo para la respuesta.", dir_okay=False)],
) -> None:
    """Certifica las llaves nuevas de una caja registrada; las anteriores siguen vigentes hasta su fin o su revocación."""
    answer = enrolment.renew(Centre.open(directory), enrolment.read_request(request.read_bytes()), SystemClock())
    durable.write_file(out.absolute(), msgspec.json.format(msgspec.json.encode(answer)) + b"\n", 0o644)
    typer.echo(f"{answer['server']}: {len(answer['certificates'])} certificados renovados")


@certificate_app.command("list")
def certificate_list(directory: Directory, as_json: Annotated[bool, typer.Option("--json", help="En JSON.")] = False) -> None:
    """Muestra los certificados emitidos, también los revocados."""
    with Centre.open(directory).registry() as registry:
        rows = [
            {
                "serial": f"{one.serial:x}",
                "profile": one.profile,
                "holder": one.holder,
                "issued": iso(one.issued_us),
                "not_after": iso(one.not_after_us),
                "revoked": None if one.revoked_us is None else iso(one.revoked_us),
                "reason": one.reason,
            }
            for one in registry.certificates()
        ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['serial']:>40}  {row['profile']:12}  {row['holder']:40}  {row['not_after']}  {row['revoked'] or ''}")


@certificate_app.command("revoke")
def certificate_revoke(
    directory: Directory,
    serial: Annotated[str, typer.Argument(help="Número de serie, hexadecimal.")],
    reason: Annotated[str, typer.Option(help="Motivo de RFC 5280.")] = "unspecified",
) -> None:
    """Revoca un certificado para siempre; OCSP lo dice desde la siguiente respuesta."""
    try:
        number = int(serial, 16)
    except ValueError:
        raise typer.BadParameter("el número de serie es hexadecimal") from None
    with Centre.open(directory).registry() as registry:
        registry.revoke(number, SystemClock().now_us(), reason)
    typer.echo(f"{number:x}: revocado")


@member_app.command("suspend")
def member_suspend(directory: Directory, member: Annotated[str, typer.Argument(help="INSTANCIA/CLASE/CÓDIGO")]) -> None:
    """Suspende a un miembro: sale de la configuración global hasta que se le restituya (II.2.XIV)."""
    with Centre.open(directory).registry() as registry:
        registry.set_suspended(ClientId.parse(member), SystemClock().now_us())
    typer.echo(f"{member}: suspendido")


@member_app.command("restore")
def member_restore(directory: Directory, member: Annotated[str, typer.Argument(help="INSTANCIA/CLASE/CÓDIGO")]) -> None:
    """Restituye a un miembro suspendido."""
    with Centre.open(directory).registry() as registry:
        registry.set_suspended(ClientId.parse(member), None)
    typer.echo(f"{member}: restituido")


@app.command("serve")
def serve_services(
    directory: Directory,
    address: Annotated[str, typer.Option(help="Dirección local; si falta, la de la instancia.")] = "",
    configuration_port: Annotated[int, typer.Option(help="0: el de la instancia.", min=0, max=65535)] = 0,
    configuration_https_port: Annotated[int, typer.Option(help="0: el de la instancia.", min=0, max=65535)] = 0,
    ocsp_port: Annotated[int, typer.Option(help="0: el de la instancia.", min=0, max=65535)] = 0,
    tsa_port: Annotated[int, typer.Option(help="0: el de la instancia.", min=0, max=65535)] = 0,
    only: Annotated[
        list[str] | None, typer.Option(help="Sólo este servicio: configuration, configuration-https, ocsp o tsa; repetible.")
    ] = None,
    offset: Annotated[int, typer.Option(help="Segundos que difiere su reloj; nunca en la instancia de producción.")] = 0,
) -> None:
    """Distribuye la configuración global y responde OCSP y sellos de tiempo, hasta SIGTERM."""
    centre = Centre.open(directory)
    settings = centre.settings
    ports = {
        "configuration": configuration_port or settings.configuration_port,
        "configuration-https": configuration_https_port or settings.configuration_https_port,
        "ocsp": ocsp_port or settings.ocsp_port,
        "tsa": tsa_port or settings.tsa_port,
    }
    unknown = set(only or ()) - set(serve.SERVICES)
    if unknown:
        raise typer.BadParameter(f"servicios: {', '.join(serve.SERVICES)}")
    if offset and centre.instance == PRODUCTION_INSTANCE:
        raise typer.BadParameter("la instancia de producción no difiere de la hora")
    named = {name: port for name, port in ports.items() if not only or name in only}
    serve.run(centre, address or settings.address, named, offset)


@app.command("demo")
def demo(
    language: Annotated[str, typer.Option(help="es o en.")] = "es",
    keep: Annotated[bool, typer.Option("--keep", help="Deja la red en marcha.")] = False,
) -> None:
    """Demostración: una red de laboratorio, un intercambio paso a paso y dos verificadores que lo creen."""
    raise typer.Exit(importlib.import_module("provisioning.lab.demo").run(language, keep))


@app.command("verify", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False)
def verify(
    context: typer.Context,
    html: Annotated[Path | None, typer.Option(help="Escribe la página que verifica en un navegador, sin red.", dir_okay=False)] = None,
    embed: Annotated[list[Path] | None, typer.Option(help="Material de confianza dentro de la página; repetible.", exists=True)] = None,
) -> None:
    """Verifica contenedores como `xacbe verify`, con las mismas opciones, o escribe la página verify.html."""
    raise typer.Exit(importlib.import_module("provisioning.verifier.commands").run(html, embed or [], context.args))


def main() -> None:
    """The entry point of `ceiqroo`."""
    called = sys.argv[1] if len(sys.argv) > 1 else "--help"
    for noun, (module, name) in BESIDE.items():
        if called in (noun, "--help"):
            app.add_typer(getattr(importlib.import_module(module), name), name=noun)
    try:
        app()
    except XacbeError as error:
        typer.echo(refusal(error.kind, str(error)), err=True)
        raise SystemExit(1) from None
    except OSError as error:
        typer.echo(system_refusal(error), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
