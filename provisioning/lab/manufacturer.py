"""The laboratory's manufacturer of TPMs: swtpm's own tools make a root, an issuing authority, and for each TPM an endorsement certificate.

What leaves the factory is what a real chip has: endorsement keys and their certificates in the TPM's NV memory (TCG EK Credential Profile).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

AUTHORITIES = ("issuercert.pem", "swtpm-localca-rootca-cert.pem")
"""What an officer of CEIQROO adds with `ceiqroo tpm trust`."""
_STATE = "tpm2-00.permall"
_MAKE_S_MAX = 120.0


def missing() -> str | None:
    """Why no TPM can be manufactured here; None where one can."""
    absent = [name for name in ("swtpm_setup", "swtpm_localca") if shutil.which(name) is None]
    return f"not installed: swtpm-tools ({', '.join(absent)})" if absent else None


def make_tpm(directory: Path, manufacturer: Path) -> None:
    """A new TPM's state in `directory`, unless one is there; the manufacturer's authority is made with its first TPM. Takes 1 to 3 s."""
    if (directory / _STATE).exists():
        return
    manufacturer.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = ["swtpm_setup", "--tpm2", "--tpmstate", str(directory), "--create-ek-cert", "--not-overwrite"]
    command += ["--config", str(_configuration(manufacturer)), "--logfile", str(manufacturer / "setup.log")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_MAKE_S_MAX)
    if done.returncode:
        raise RuntimeError(f"swtpm_setup: {done.stdout}{done.stderr}")


def authorities(manufacturer: Path) -> list[Path]:
    return [file for name in AUTHORITIES if (file := manufacturer / name).exists()]


def _configuration(place: Path) -> Path:
    names = {"statedir": ".", "signingkey": "signkey.pem", "issuercert": AUTHORITIES[0], "certserial": "certserial"}
    (place / "localca.conf").write_text("".join(f"{name} = {(place / file).absolute()}\n" for name, file in names.items()))
    (place / "localca.options").write_text("--platform-manufacturer Xacbe\n--platform-version 1\n--platform-model laboratory\n")
    lines = (
        "create_certs_tool = /usr/bin/swtpm_localca",
        f"create_certs_tool_config = {(place / 'localca.conf').absolute()}",
        f"create_certs_tool_options = {(place / 'localca.options').absolute()}",
        "active_pcr_banks = sha256",
    )
    file = place / "setup.conf"
    file.write_text("\n".join(lines) + "\n")
    return file
