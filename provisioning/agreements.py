"""`ceiqroo federation|group|monitoring`: what the instance agrees on with others, and what boxes are told of it.

One function a verb. Rules II.2.X (federation), II.2.XIV (publication).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from appliance.model.identifiers import ClientId
from appliance.trust.global_configuration import parse_anchor
from provisioning import publication
from provisioning.centre import Centre

federation_app = typer.Typer(help="Federación con otras instancias (II.2.X).", no_args_is_help=True)
group_app = typer.Typer(help="Grupos globales: derechos que se dan a varios miembros a la vez.", no_args_is_help=True)
monitoring_app = typer.Typer(help="Quién puede pedir datos de operación a todas las cajas.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Directorio de la instancia.", metavar="DIR")]
AsJson = Annotated[bool, typer.Option("--json", help="En JSON.")]


@federation_app.command("add")
def federation_add(
    directory: Directory,
    anchor: Annotated[Path, typer.Argument(help="Ancla externa de la otra instancia (XML).", exists=True, dir_okay=False)],
) -> None:
    """Federa con la instancia del ancla; compare antes su huella SHA-224 de viva voz. Un ancla nueva reemplaza la anterior."""
    content = anchor.read_bytes()
    found = parse_anchor(content)
    with Centre.open(directory).registry() as registry:
        registry.federate(found.instance, content)
    typer.echo(f"{found.instance}: federada\nSHA-224 {publication.fingerprint(content)}")


@federation_app.command("remove")
def federation_remove(directory: Directory, instance: Annotated[str, typer.Argument(help="Nombre de la otra instancia.")]) -> None:
    """Termina la federación: sus miembros son extraños desde la siguiente configuración."""
    with Centre.open(directory).registry() as registry:
        registry.unfederate(instance)
    typer.echo(f"{instance}: ya no federada")


@federation_app.command("list")
def federation_list(directory: Directory, as_json: AsJson = False) -> None:
    """Muestra las instancias federadas, sus lugares y las huellas de sus anclas."""
    with Centre.open(directory).registry() as registry:
        rows = [
            {"instance": instance, "sha224": publication.fingerprint(anchor), "urls": [one.url for one in parse_anchor(anchor).sources]}
            for instance, anchor in registry.federated()
        ]
    typer.echo(json.dumps(rows, indent=1) if as_json else "\n".join(f"{row['instance']:20} {row['sha224']}" for row in rows))


@group_app.command("set")
def group_set(
    directory: Directory,
    code: Annotated[str, typer.Argument(help="Código del grupo.")],
    member: Annotated[list[str] | None, typer.Argument(help="INSTANCIA/CLASE/CÓDIGO[/SUBSISTEMA]; ninguno: el grupo termina.")] = None,
    description: Annotated[str, typer.Option(help="Descripción.")] = "",
) -> None:
    """Publica el grupo con exactamente estos miembros."""
    members = tuple(ClientId.parse(one) for one in member or ())
    with Centre.open(directory).registry() as registry:
        registry.set_group(code, description or code, members)
    typer.echo(f"{code}: {len(members)} miembros")


@group_app.command("list")
def group_list(directory: Directory, as_json: AsJson = False) -> None:
    """Muestra los grupos globales como se publican."""
    with Centre.open(directory).registry() as registry:
        groups = registry.snapshot(0).groups
    rows = [{"code": one.code, "description": one.description, "members": [str(member) for member in one.members]} for one in groups]
    typer.echo(json.dumps(rows, indent=1) if as_json else "\n".join(f"{row['code']:20} {' '.join(row['members'])}" for row in rows))


@monitoring_app.command("set")
def monitoring_set(
    directory: Directory,
    client: Annotated[str, typer.Argument(help="INSTANCIA/CLASE/CÓDIGO[/SUBSISTEMA]; vacío: nadie.")] = "",
) -> None:
    """Nombra al único cliente que puede pedir datos de operación a todas las cajas."""
    with Centre.open(directory).registry() as registry:
        registry.set_monitoring_client(ClientId.parse(client) if client else None)
    typer.echo(client or "nadie")
