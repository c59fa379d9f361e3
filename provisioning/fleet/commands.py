"""`ceiqroo fleet`: what CEIQROO hears from its boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from appliance.errors import SettingsError, XacbeError
from appliance.texts import refusal, set_language
from provisioning.fleet.watch import BrokerAccess, watch

fleet_app = typer.Typer(help="Las cajas, como ellas mismas se reportan.", no_args_is_help=True)

SNAPSHOT_S = 5.0
"""Long enough for every box to answer a rebirth command."""


@fleet_app.callback()
def fleet() -> None:
    """Las cajas, como ellas mismas se reportan."""  # keeps `watch` a verb of its own while it is the only one


@fleet_app.command("watch")
def watch_command(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Directorio del laboratorio (su lab.json nombra el broker).")
    ] = None,
    broker: Annotated[str, typer.Option(help="ANFITRIÓN:PUERTO en lugar de DIR.")] = "",
    ca: Annotated[Path | None, typer.Option(help="Certificado de la autoridad del broker (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificado del monitor (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Clave del monitor (PEM).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Una sola vista, en JSON.")] = False,
    seconds: Annotated[float, typer.Option(help="Cuántos segundos se escucha; 0 es sin fin (5 con --json).")] = 0.0,
    language: Annotated[str, typer.Option(help="es o en.")] = "es",
) -> None:
    """Muestra cada caja en vivo; la que muere se pone roja enseguida."""
    set_language("en" if language == "en" else "es")
    try:
        access, known = broker_access(directory, broker, ca, cert, key)
        watch(access, known, as_json=as_json, seconds=seconds or (SNAPSHOT_S if as_json else 0.0))
    except XacbeError as error:
        typer.echo(refusal(error.kind, str(error)), err=True)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None


def broker_access(
    directory: Path | None, broker: str, ca: Path | None, cert: Path | None, key: Path | None
) -> tuple[BrokerAccess, list[str]]:
    """From the laboratory's lab.json or from the options. Raises SettingsError."""
    if directory is not None:
        return _of_laboratory(directory)
    host, _, port = broker.rpartition(":")
    if not host or not port.isdigit() or ca is None or cert is None or key is None:
        raise SettingsError("DIR, or --broker HOST:PORT with --ca, --cert and --key")
    return BrokerAccess(host=host, port=int(port), ca=ca, cert=cert, key=key), []


def _of_laboratory(directory: Path) -> tuple[BrokerAccess, list[str]]:
    file = directory / "lab.json"
    try:
        laboratory = json.loads(file.read_text())
        told = laboratory["ceiqroo"]["broker"]
        files = {"ca": Path(told["ca"]), "cert": Path(told["monitor_cert"]), "key": Path(told["monitor_key"])}
        access = BrokerAccess(host=str(told["host"]), port=int(told["port"]), **files)
        known = [str(box["server_id"]) for box in laboratory["boxes"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{file}: {error!r}") from None
    return access, known
