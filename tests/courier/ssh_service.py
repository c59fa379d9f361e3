"""A real OpenSSH server on loopback, with keys and configuration of its own, for the user who runs the tests."""

from __future__ import annotations

import getpass
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.courier.loopback import LOOPBACK, free_ports, until_open

ROOT = Path(__file__).resolve().parents[2]
SSHD = next((file for file in (Path("/usr/sbin/sshd"), ROOT / "build/openssh/usr/sbin/sshd") if file.exists()), Path("none"))
"""`make test` unpacks it without installing it: a package of a server starts one."""
SFTP_SERVER = Path("/usr/lib/openssh/sftp-server")
MISSING = not SSHD.exists() or not SFTP_SERVER.exists()


@dataclass(frozen=True)
class SshService:
    port: int
    host_key: str
    client_key: Path
    user: str


def key_pair(file: Path) -> str:
    """The public half, without its comment."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True, timeout=30)
    return " ".join(file.with_name(f"{file.name}.pub").read_text().split()[:2])


@contextmanager
def sshd(directory: Path) -> Iterator[SshService]:
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it of root
    host_key, client = key_pair(directory / "host"), key_pair(directory / "client")
    (directory / "authorized").write_text(client + "\n")
    (port,) = free_ports(1)
    lines = [f"ListenAddress {LOOPBACK}", f"Port {port}", f"HostKey {directory / 'host'}", f"AuthorizedKeysFile {directory / 'authorized'}"]
    lines += ["StrictModes no", "UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "PidFile none"]
    lines += [f"Subsystem sftp {SFTP_SERVER}", "MaxStartups 100"]
    (directory / "config").write_text("\n".join(lines) + "\n")
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen([str(SSHD), "-D", "-e", "-f", str(directory / "config")], stdout=log, stderr=log)
    try:
        until_open(port)
        yield SshService(port, host_key, directory / "client", getpass.getuser())
    finally:
        process.terminate()
        process.wait(10)
