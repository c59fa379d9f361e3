"""`ceiqroo log`: CEIQROO as witness of its boxes' message logs."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.clock import SystemClock, iso
from appliance.errors import UnavailableError
from appliance.messagelog.checkpoint import key_of
from provisioning.centre import Centre
from provisioning.fleet import witness
from provisioning.fleet.commands import broker_access
from provisioning.fleet.log_comparison import compare
from provisioning.fleet.watch import BrokerAccess, Listening
from provisioning.fleet.witness import Witness

log_app = typer.Typer(help="Testigo de las bitácoras de las cajas.", no_args_is_help=True)

WITNESS_FILE = "witness.sqlite"
FEED_S = 1.0
RETRY_S = 2.0
Directory = Annotated[Path, typer.Argument(help="Directorio de la instancia.", metavar="DIR")]


def opened(directory: Path) -> Witness:
    """Beside the registry, whose certificates say which keys a box's log has."""
    centre = Centre.open(directory)

    def keys(server: str) -> Sequence[bytes]:
        with centre.registry() as registry:
            return [key_of(one.der) for one in registry.certificates() if one.profile == "log" and one.holder == server]

    return Witness(directory / WITNESS_FILE, keys)


@log_app.command("collect")
def collect(
    directory: Directory,
    lab: Annotated[Path | None, typer.Option(help="Directorio del laboratorio (su lab.json nombra el broker).")] = None,
    broker: Annotated[str, typer.Option(help="ANFITRIÓN:PUERTO.")] = "",
    ca: Annotated[Path | None, typer.Option(help="Certificado de la autoridad del broker (PEM).")] = None,
    cert: Annotated[Path | None, typer.Option(help="Certificado del monitor (PEM).")] = None,
    key: Annotated[Path | None, typer.Option(help="Clave del monitor (PEM).")] = None,
    seconds: Annotated[float, typer.Option(help="Cuántos segundos; 0 es sin fin.")] = 0.0,
) -> None:
    """Guarda cada punto de control que llega con los reportes, y comprueba que siga al anterior."""
    clock = SystemClock()
    ends = clock.monotonic_s() + seconds if seconds else float("inf")
    access, _ = broker_access(lab, broker, ca, cert, key)
    kept = opened(directory)
    listening: Listening | None = None
    try:
        while clock.monotonic_s() < ends:
            if listening is None:
                listening = _connected(access)
            if listening is not None:
                listening.feed(kept, clock, FEED_S)
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
    finally:
        if listening is not None:
            listening.close()
        kept.close()


def _connected(access: BrokerAccess) -> Listening | None:
    try:
        return Listening(access)
    except UnavailableError as error:
        typer.echo(f"{error.kind}: {error}", err=True)
        time.sleep(RETRY_S)
        return None


@log_app.command("witness")
def witness_command(
    directory: Directory,
    box: Annotated[str, typer.Option(help="Sólo esta caja: INSTANCIA/CLASE/CÓDIGO/SERVIDOR.")] = "",
    log: Annotated[Path | None, typer.Option(help="La bitácora de esa caja, o una copia: se compara con lo guardado.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="En JSON.")] = False,
) -> None:
    """Dice si las cajas han cambiado su bitácora. Salida 0: no; 1: sí, y qué lo prueba; 2: hay huecos sin comprobar."""
    if log is not None and not box:
        raise typer.BadParameter("--log necesita --box")
    kept = opened(directory)
    try:
        rows = [_row(kept, origin, log) for origin in kept.origins() if not box or origin.endswith(f"/{box}")]
    finally:
        kept.close()
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
    for row in [] if as_json else rows:
        typer.echo(
            f"{row['server']}: {row['verdict']}, {row['checkpoints']} puntos de control, {row['records']} registros, {row['newest']}"
        )
        for each in row["evidence"]:
            typer.echo(f"  {each['finding']}: {each['records']} registros, {each['at']} {each.get('why', '')}\n{each['note']}")
    verdicts = {row["verdict"] for row in rows}
    raise typer.Exit(1 if "tampered" in verdicts else 2 if "undecided" in verdicts or not rows else 0)


def _row(kept: Witness, origin: str, log: Path | None) -> dict[str, Any]:
    """One box: what is kept, what contradicts itself, and what its log says of it."""
    found = kept.kept(origin)
    evidence = [_evidence(one, one.finding) for one in found if one.finding in witness.BAD]
    gaps = sum(one.finding == witness.UNPROVEN for one in found)
    compared = None
    if log is not None:
        comparison = compare(log, [one.checkpoint for one in found])
        compared, gaps = comparison.compared, 0
        if comparison.contradicted is not None:
            one = next(each for each in found if each.checkpoint == comparison.contradicted)
            evidence.append({**_evidence(one, "contradicted"), "why": comparison.why})
    newest = max(found, key=lambda one: one.checkpoint.size)
    return {
        "server": newest.checkpoint.server,
        "verdict": "tampered" if evidence else "undecided" if gaps else "intact",
        "checkpoints": len(found),
        "records": newest.checkpoint.size,
        "newest": iso(newest.checkpoint.at_us),
        "unproven": gaps,
        "compared": compared,
        "evidence": evidence,
    }


def _evidence(one: witness.Kept, finding: str) -> dict[str, Any]:
    return {"finding": finding, "records": one.checkpoint.size, "at": iso(one.checkpoint.at_us), "note": one.note.decode()}
