"""The token of a laboratory box: prepared once, run as a process of its own under the signer's user."""

from __future__ import annotations

import os
from pathlib import Path

from provisioning.lab import tokens
from provisioning.lab.keeper import Unit
from provisioning.lab.layout import Box
from provisioning.lab.tokens import TokenPlan

KINDS = ("software", "softhsm", "swtpm")


def prepare(kind: str, box: Box, manufacturer: Path, provider: Path = tokens.SOFTHSM_MODULE) -> tuple[list[Unit], dict[str, str]]:
    """Units (none for software keys) and the `[signer]` settings. The PIN goes into the signer's credentials, nowhere else.

    `manufacturer`: where the laboratory's manufacturer of TPMs lives.
    """
    directory = box.state / "token"
    pin_file = box.state / "credentials" / "signer" / "pin"
    pin = pin_file.read_text() if pin_file.exists() else tokens.random_pin()
    plan = _plan(kind, box, pin, manufacturer, provider)
    user = None if box.first_user is None else box.user("signer")
    if not pin_file.exists():
        tokens.write_pin(box.state, pin, user)
    if not plan.argv:
        return [], plan.settings
    if user is not None:
        for place, _, files in os.walk(directory):
            for path in (place, *(os.path.join(place, name) for name in files)):
                os.chown(path, user, user)
    unit = Unit(
        name=f"box{box.number}.token",
        argv=plan.argv,
        log=str(box.state / "journal" / "token.log"),
        environment=plan.environment,
        uid=user or 0,
        stop_rank=1,
    )
    return [unit], plan.settings


def _plan(kind: str, box: Box, pin: str, manufacturer: Path, provider: Path) -> TokenPlan:
    directory = box.state / "token"
    if kind == "softhsm":
        return tokens.prepare_softhsm(directory, f"xacbe-{box.number}", pin, tokens.random_pin(), provider)
    if kind == "swtpm":
        return tokens.prepare_swtpm(directory, manufacturer)
    return tokens.prepare_software(directory)
