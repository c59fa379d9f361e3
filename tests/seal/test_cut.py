"""The second judge: `cut.py` takes a container apart, OpenSSL alone says whether its pieces hold."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.seal.test_verify_container import repacked
from tests.seal.workshop import NOON_US, Workshop
from tests.vectors import VECTORS, needs_vectors

CUT = Path(__file__).resolve().parents[2] / "provisioning" / "lab" / "cut.py"

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command is not installed")


def cut(container: Path, directory: Path) -> str:
    done = subprocess.run([sys.executable, "-I", str(CUT), str(container), str(directory)], capture_output=True, text=True, check=True)
    return done.stdout


def openssl(directory: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(["openssl", *words], cwd=directory, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def links_hold(lines: str, directory: Path) -> bool:
    """Every printed digest is its file's, and stands in the file that the line names (in binary in DER files)."""
    found = re.findall(r"^SHA-512\((\S+)\) = (\S+) must stand in (\S+)$", lines, re.MULTILINE)
    for name, digest, where in found:
        done = subprocess.run(["openssl", "dgst", "-sha512", "-binary", name], cwd=directory, capture_output=True, check=True)
        content = (directory / where).read_bytes()
        unbroken = b"".join(content.replace(b"&#xD;", b"").split())  # other makers break base64 into lines
        if base64.b64encode(done.stdout).decode() != digest or (digest.encode() not in unbroken and done.stdout not in content):
            return False
    return bool(found)


@pytest.mark.case("T24")
@pytest.mark.rule("I.4.XV")
@pytest.mark.parametrize("batch_stamp", [False, True], ids=["single stamp", "batch stamp"])
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-sha512"),
        (ec.generate_private_key(ec.SECP384R1()), "ecdsa-sha512"),
        (rsa.generate_private_key(65537, 2048), "rsa-sha512"),
        (rsa.generate_private_key(65537, 2048), "rsa-pss-sha512"),
    ],
    ids=["P-256", "P-384", "RSA", "RSA-PSS"],
)
def test_openssl_believes_a_container_of_ours(
    tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str, batch_stamp: bool
) -> None:
    workshop = Workshop(key, algorithm)
    container, pieces = tmp_path / "message.asice", tmp_path / "pieces"
    container.write_bytes(workshop.container(NOON_US, body=b'{"a":1}', batch_stamp=batch_stamp))
    lines = cut(container, pieces)
    (pieces / "CA").write_bytes(workshop.issuing.public_bytes(Encoding.PEM))
    (pieces / "ROOT").write_bytes(workshop.root.public_bytes(Encoding.PEM) + workshop.issuing.public_bytes(Encoding.PEM))
    (pieces / "TSA").write_bytes(workshop.tsa.public_bytes(Encoding.PEM))
    at = str(NOON_US // 1_000_000 + 60)
    pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1"] if "pss" in algorithm else []

    seal = openssl(pieces, "dgst", "-sha512", *pss, "-verify", "signer-key.pem", "-signature", "signature.der", "signed-info.c14n")
    confirmation = openssl(
        pieces, "ocsp", "-respin", "ocsp.der", "-issuer", "CA", "-cert", "signer.pem", "-CAfile", "ROOT", "-no_nonce", "-attime", at
    )
    stamp = openssl(
        pieces,
        "ts",
        "-verify",
        "-data",
        "stamped.bin",
        "-in",
        "token.tst",
        "-token_in",
        "-CAfile",
        "ROOT",
        "-untrusted",
        "TSA",
        "-attime",
        at,
    )

    assert seal == (0, "Verified OK\n")
    assert "Response verify OK" in confirmation[1]
    assert "signer.pem: good" in confirmation[1] or "WARNING: Status times invalid" in confirmation[1]
    assert stamp[0] == 0, stamp[1]
    assert "Verification: OK" in stamp[1]
    assert openssl(pieces, "x509", "-in", "signer.pem", "-pubkey", "-noout")[1] == (pieces / "signer-key.pem").read_text()
    assert links_hold(lines, pieces)


def test_a_changed_message_breaks_the_links_that_cut_prints(tmp_path: Path) -> None:
    container = tmp_path / "message.asice"
    container.write_bytes(repacked(Workshop().container(body=b"x"), body=b"y"))

    assert not links_hold(cut(container, tmp_path), tmp_path)


def test_a_hundred_megabytes_are_linked_as_well_in_little_memory(tmp_path: Path) -> None:
    container = tmp_path / "message.asice"
    container.write_bytes(Workshop().container(body=bytes(100_000_000)))
    limited = f"ulimit -v {256 << 10}; exec '{sys.executable}' -I '{CUT}' '{container}' '{tmp_path}'"  # KiB of address space

    lines = subprocess.run(["/bin/sh", "-c", limited], capture_output=True, text=True, check=True).stdout

    assert "SHA-512(attachment1) = " in lines
    assert (tmp_path / "attachment1").stat().st_size == 100_000_000
    assert links_hold(lines, tmp_path)


@needs_vectors
@pytest.mark.parametrize("name", ["asice/valid-batch-ts", "asice/valid-non-batch-rest", "generated/containers/ok-batch5-4"])
def test_x_roads_containers_come_apart_as_well(tmp_path: Path, name: str) -> None:
    lines = cut(VECTORS / f"{name}.asice", tmp_path)

    seal = openssl(tmp_path, "dgst", "-sha512", "-verify", "signer-key.pem", "-signature", "signature.der", "signed-info.c14n")
    assert seal == (0, "Verified OK\n")
    assert links_hold(lines, tmp_path)
