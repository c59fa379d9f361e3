"""`ceiqroo lab up|down|status`: a whole network on loopback addresses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from provisioning.lab import keeper, layout, network

lab_app = typer.Typer(help="Laboratorio: una red completa en direcciones locales.", no_args_is_help=True)

Directory = Annotated[Path, typer.Argument(help="Directorio del laboratorio.")]


@lab_app.command()
def up(
    directory: Directory,
    boxes: Annotated[int, typer.Option(help="Cuántas cajas, de 1 a 14.", min=1, max=14)] = 3,
    token: Annotated[str, typer.Option(help="software, softhsm o swtpm.")] = "softhsm",  # noqa: S107  a kind of token, no secret
    base: Annotated[str, typer.Option(help="Los tres primeros octetos de las direcciones.")] = "127.0.10",
    relays: Annotated[int, typer.Option(help="Procesos de relevo por caja.", min=1, max=8)] = 1,
    instance: Annotated[str, typer.Option(help="Nombre de la instancia.")] = layout.INSTANCE,
) -> None:
    """Levanta el laboratorio; vuelve cuando todas las cajas operan."""
    document = network.up(directory.absolute(), boxes, token, base, relays, lambda line: typer.echo(line, err=True), instance=instance)
    typer.echo(str(directory.absolute() / "lab.json"))
    if not document["boxes"]:
        raise typer.Exit(1)


@lab_app.command()
def down(directory: Directory) -> None:
    """Detiene todo el laboratorio; no deja ningún proceso."""
    network.down(directory.absolute())


@lab_app.command()
def status(
    directory: Directory, as_json: Annotated[bool, typer.Option("--json", help="Imprime lab.json como está ahora.")] = False
) -> None:
    """Qué corre ahora. Sale con 3 si el laboratorio no corre."""
    document = network.status(directory.absolute())
    if document is None:
        typer.echo("el laboratorio no corre", err=True)
        raise typer.Exit(3)
    if as_json:
        typer.echo(json.dumps(document, indent=1))
        return
    for box in document["boxes"]:
        alive = sum(len(pids) for pids in box["pids"].values())
        typer.echo(f"{box['server_id']:40} {box['address']:14} {alive} procesos")


Unit = Annotated[str, typer.Argument(help="Unidad: ceiqroo.services, ceiqroo.broker, box1.relay...")]


@lab_app.command()
def hold(directory: Directory, unit: Unit) -> None:
    """Detiene una unidad hasta `release`: así se ve qué hace la red cuando un servicio calla."""
    _ask_about(directory, "hold", unit)


@lab_app.command()
def release(directory: Directory, unit: Unit) -> None:
    """Pone otra vez en marcha una unidad detenida con `hold`."""
    _ask_about(directory, "release", unit)


def _ask_about(directory: Path, request: str, unit: str) -> None:
    running = keeper.ask(directory.absolute(), "status")
    if running is None:
        typer.echo("el laboratorio no corre", err=True)
        raise typer.Exit(3)
    if unit not in running["units"]:
        raise typer.BadParameter(f"unidades: {', '.join(sorted(running['units']))}")
    keeper.ask(directory.absolute(), f"{request} {unit}")
