"""`ceiqroo verify`: the box's own `verify` for whoever has no box, and the page that does the same in a browser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from appliance import durable
from appliance.commands import main as box_command
from provisioning.verifier import build

PAGE_HELP = "ceiqroo verify --html ARCHIVO [--embed MATERIAL]...\n  escribe la página que verifica en un navegador, sin red\n"


def run(html: Path | None, embed: Sequence[Path], words: Sequence[str]) -> int:
    """Writes the page where `html` names a file, else verifies as `xacbe verify` with the same words. Returns the exit code."""
    if html is None:
        if {"-h", "--help"} & set(words):
            typer.echo(PAGE_HELP)
        return box_command(["verify", *words], program="ceiqroo")
    page = build.build(embed)
    durable.write_file(html.absolute(), page, 0o644)
    typer.echo(f"{html}\nSHA-256 {build.fingerprint(page)}")
    return 0
