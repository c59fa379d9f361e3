"""Tokens for the laboratory and the tests: SoftHSM2 behind `p11-kit server`, swtpm behind a UNIX socket, or keys in software.

Each token is a process of its own, so that the box's signer holds no key bytes and opens no network socket, and so that "unplugged" is one
`kill` away. Nothing here is part of the box.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from provisioning.lab.manufacturer import make_tpm

SOFTHSM_MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
CLIENT_MODULE = Path("/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so")
_INITIALISE = Path(__file__).with_name("initialise_softhsm.py")
_SOCKET = "token.sock"


@dataclass(frozen=True)
class TokenPlan:
    """How one token is run and reached.

    `argv` starts its process (empty for software: there is none) as leader of a session, so that killing the group is "unplugged":
    `p11-kit server` forks one child for each connection. It is ready when every one of `sockets` takes a connection. Token and signer run
    as the same user, or the parent gives the sockets to the signer's user once they are there. `settings` is the `[signer]` section.
    """

    argv: list[str]
    environment: dict[str, str]
    settings: dict[str, str]
    sockets: tuple[Path, ...] = ()
    pin: str = field(default="", repr=False)


def random_pin() -> str:
    """A PIN for unattended mode: nobody types it."""
    return secrets.token_hex(12)


def write_pin(state: Path, pin: str, user: int | None = None) -> None:
    """Leaves the PIN where the signer looks for its credential: 0400, owned by the signer's user where one is given."""
    directory = state / "credentials" / "signer"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    file = directory / "pin"
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "w") as opened:
        opened.write(pin)
    if user is not None:
        for path in (directory, file):
            os.chown(path, user, user)


def missing(kind: str) -> str | None:
    """Why this machine cannot run a token of this kind; None where it can."""
    if kind == "softhsm":
        needed = {"softhsm2": SOFTHSM_MODULE.exists(), "p11-kit-modules": CLIENT_MODULE.exists(), "p11-kit": shutil.which("p11-kit")}
    else:
        needed = {"swtpm": shutil.which("swtpm")} if kind == "swtpm" else {}
    absent = [package for package, found in needed.items() if not found]
    return f"not installed: {', '.join(absent)}" if absent else None


def prepare_softhsm(directory: Path, label: str, pin: str, so_pin: str, provider: Path = SOFTHSM_MODULE) -> TokenPlan:
    """A SoftHSM2 token below `directory`, initialised where it is new; the PINs pass through a pipe, never through argv.

    `provider`: what `p11-kit server` loads; a module that wraps SoftHSM2 (a slow one) in tests.
    """
    tokens, configuration = directory / "tokens", directory / "softhsm2.conf"
    directory.mkdir(parents=True, exist_ok=True)
    environment = {"SOFTHSM2_CONF": str(configuration)}
    if not configuration.exists():
        tokens.mkdir(exist_ok=True)
        lines = (f"directories.tokendir = {tokens}", "objectstore.backend = file", "log.level = ERROR")
        configuration.write_text("\n".join(lines) + "\n")
        command = [sys.executable, "-I", str(_INITIALISE), str(SOFTHSM_MODULE), label]
        subprocess.run(command, input=f"{pin}\n{so_pin}\n", text=True, check=True, env=environment)
    socket = directory / _SOCKET
    server = ["/usr/bin/p11-kit", "server", "--foreground", "--provider", str(provider), "--name", _SOCKET, f"pkcs11:token={quote(label)}"]
    settings = {
        "token": "pkcs11",
        "module": str(CLIENT_MODULE),
        "module_address": f"unix:path={socket}",
        "token_label": label,
    }
    return TokenPlan(_inside(directory, server), environment, settings, (socket,), pin)


def prepare_empty_softhsm(directory: Path, label: str) -> TokenPlan:
    """A SoftHSM2 without any token: its one slot waits to be initialised, as a new USB HSM does."""
    directory.mkdir(parents=True, exist_ok=True)
    configuration, socket = directory / "softhsm2.conf", directory / _SOCKET
    (directory / "tokens").mkdir(exist_ok=True)
    configuration.write_text(f"directories.tokendir = {directory / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n")
    server = ["/usr/bin/p11-kit", "server", "--foreground", "--provider", str(SOFTHSM_MODULE), "--name", _SOCKET, "pkcs11:"]
    settings = {"token": "pkcs11", "module": str(CLIENT_MODULE), "module_address": f"unix:path={socket}", "token_label": label}
    return TokenPlan(_inside(directory, server), {"SOFTHSM2_CONF": str(configuration)}, settings, (socket,))


def prepare_swtpm(directory: Path, manufacturer: Path | None = None) -> TokenPlan:
    """A software TPM with its state below `directory`: manufactured here, with an endorsement certificate, where `manufacturer` is the
    directory of the authority that issues it (`provisioning.lab.manufacturer`); otherwise at its first start, with none.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if manufacturer is not None:
        make_tpm(directory, manufacturer)
    server = [
        "/usr/bin/swtpm", "socket", "--tpm2", "--tpmstate", "dir=.", "--flags", "not-need-init,startup-clear",
        "--server", f"type=unixio,path={_SOCKET},mode=0600", "--ctrl", f"type=unixio,path={_SOCKET}.ctrl,mode=0600",
    ]  # fmt: skip
    sockets = directory / _SOCKET, directory / f"{_SOCKET}.ctrl"
    return TokenPlan(_inside(directory, server), {}, {"token": "tpm2", "tcti": f"swtpm:path={sockets[0]}"}, sockets)


def prepare_software(directory: Path) -> TokenPlan:
    """Keys in files of the signer: no process at all. `directory` stays unused; the three makers are called alike."""
    return TokenPlan([], {}, {"token": "software"})


def _inside(directory: Path, server: list[str]) -> list[str]:
    """Run in its directory with short socket names: a socket's path has at most 107 bytes, a state directory may have more."""
    return ["/usr/bin/env", "-C", str(directory), *server]
