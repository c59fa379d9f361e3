"""A container judged by OpenSSL alone: `cut.py` cuts the signed bytes into files, three `openssl` commands judge those files."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CUT = Path(__file__).with_name("cut.py")
_LINK = re.compile(r"SHA-512\((\S+)\) = (\S+) must stand in (\S+)")


class NotBelievedError(Exception):
    """OpenSSL refuses what it was given; the message is its own."""


def judge(container: Path, directory: Path, centre: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Each command as one would type it, with OpenSSL's verdict. `centre`: the `ceiqroo` part of lab.json. Raises NotBelievedError."""
    command, said = _run([sys.executable, str(CUT), str(container), str(directory)], directory.parent, "must stand in", whole=True)
    _check_links(said, directory)
    yield command, said
    authorities, issuing, tsa = centre["ca_cert"], centre["issuing_cert"], centre["tsa_cert"]
    yield _run(
        ["openssl", "dgst", "-sha512", "-verify", "signer-key.pem", "-signature", "signature.der", "signed-info.c14n"],
        directory,
        "Verified OK",
    )
    yield _run(
        ["openssl", "ocsp", "-respin", "ocsp.der", "-issuer", issuing, "-cert", "signer.pem", "-CAfile", authorities, "-no_nonce"],
        directory,
        "signer.pem: good",
    )
    stamp = ["openssl", "ts", "-verify", "-data", "stamped.bin", "-in", "token.tst", "-token_in", "-CAfile", authorities]
    yield _run([*stamp, "-untrusted", tsa], directory, "Verification: OK")


def _check_links(said: str, directory: Path) -> None:
    """Every digest that the cut names is that of its file, and stands where it must: base64 in XML, binary in a digest list."""
    for name, digest, where in _LINK.findall(said):
        shown = subprocess.run(["openssl", "dgst", "-sha512", "-binary", name], cwd=directory, capture_output=True, check=True).stdout
        place = (directory / where).read_bytes()
        if base64.b64encode(shown).decode() != digest or not (digest.encode() in place or shown in place):
            raise NotBelievedError(f"the digest of {name} does not stand in {where}")


def _run(command: list[str], where: Path, expected: str, *, whole: bool = False) -> tuple[str, str]:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
    said = f"{done.stdout}\n{done.stderr}"
    if done.returncode != 0 or expected not in said or "Response Verify Failure" in said:
        raise NotBelievedError(f"{' '.join(command)}: {said.strip()}")
    lines = [line.strip() for line in said.splitlines() if line.strip() and "Using configuration" not in line]
    shown = "\n      ".join(lines) if whole else "; ".join(line for line in lines if line.startswith((expected, "Response verify")))
    return " ".join(command), shown
