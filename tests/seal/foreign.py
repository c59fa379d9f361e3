"""A judge of containers in which nothing of ours decides: Info-ZIP, xmlsec1 and OpenSSL, each in a process of its own, and their output.

`provisioning/lab/cut.py` only cuts files apart (it shares no line with the box); the digests that link them are computed by OpenSSL. What
no tool knows (whose message, how old a confirmation may be, the eight-hour rule) is compared here on what the tools printed.
"""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from provisioning.lab.cut import cut

TOOLS = ("unzip", "xmlsec1", "openssl")
MISSING = [tool for tool in TOOLS if shutil.which(tool) is None]
EIGHT_HOURS_S = 8 * 3600
_LINK = re.compile(r"SHA-512\((\S+)\) = (\S+) must stand in (\S+)")
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class RefusedByToolError(Exception):
    """What a tool, or a comparison of what tools printed, does not accept."""


@dataclass(frozen=True)
class Authorities:
    """PEM files. `roots`: every authority, up to the self-signed one."""

    roots: Path
    issuing: Path
    tsa: Path


def judge(container: Path, directory: Path, authorities: Authorities) -> str:
    """`valid`, or which tool refused what."""
    try:
        _judge(container, directory, authorities)
    except RefusedByToolError as error:
        return f"invalid: {error}"
    return "valid"


def _judge(container: Path, directory: Path, authorities: Authorities) -> None:
    names = _unpacked(container, directory / "zip")
    lines = _pieces(container, directory)
    covered = _linked(lines, directory)
    for name in ("message.xml", *(name for name in names if re.fullmatch(r"attachment\d+", name))):
        _need(name in covered, f"{name} is covered by nothing")
    _signature(directory)
    moment, accuracy_s = _stamp(directory, authorities)
    text = _certificate(directory, authorities, moment)
    produced, updated = _confirmation(directory, authorities, moment)
    gap_s = max(abs(moment - produced), abs(moment - updated)) + accuracy_s
    _need(gap_s <= EIGHT_HOURS_S, f"{gap_s} s between confirmation and stamp")
    _member(directory, text)


def _unpacked(container: Path, directory: Path) -> list[str]:
    _tool(["unzip", "-qq", "-o", str(container), "-d", str(directory)], container.parent)
    names = [str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()]
    _need((directory / "mimetype").is_file(), "no mimetype")
    _need((directory / "mimetype").read_bytes().strip() == b"application/vnd.etsi.asic-e+zip", "another type")
    _need({"message.xml", "META-INF/signatures.xml"} <= set(names), "no message or no signature")
    return names


def _pieces(container: Path, directory: Path) -> list[str]:
    try:
        return cut(container, directory)
    except (Exception, SystemExit) as error:
        raise RefusedByToolError(f"cut.py: {type(error).__name__} {error}") from None


def _linked(lines: Sequence[str], directory: Path) -> set[str]:
    """The files whose digests stand where they must, up to the signed bytes or the stamped ones."""
    found = _LINK.findall("\n".join(lines))
    names = sorted({name for name, _, _ in found})
    _need(bool(names), "nothing is linked")
    shown = _tool(["openssl", "dgst", "-sha512", "-r", *names], directory)
    digests = {line.rpartition("*")[2]: bytes.fromhex(line.split()[0]) for line in shown.splitlines() if "*" in line}
    for name, stated, where in found:
        _need((directory / where).is_file(), f"{where} is missing")
        place = (directory / where).read_bytes()
        unbroken = b"".join(place.replace(b"&#xD;", b"").split())
        _need(base64.b64encode(digests[name]).decode() == stated, f"{name} has another digest")
        _need(stated.encode() in unbroken or digests[name] in place, f"the digest of {name} does not stand in {where}")
    return set(names)


def _signature(directory: Path) -> None:
    """The value of SignedInfo, the signed properties and every file that the signature names."""
    files = directory / "zip"
    mapped = [
        word for name in ("message.xml", "sig-hashchainresult.xml", "attachment1") for word in (f"--url-map:/{name}", str(files / name))
    ]
    properties = "--id-attr:Id", "http://uri.etsi.org/01903/v1.3.2#:SignedProperties"
    key = "--pubkey-cert-pem", str(directory / "signer.pem")
    _tool(["xmlsec1", "--verify", *key, *properties, *mapped, str(files / "META-INF" / "signatures.xml")], directory)
    signed = re.search(rb"<xades:SignedProperties.*?</xades:SignedProperties>", (files / "META-INF/signatures.xml").read_bytes(), re.DOTALL)
    digest = _tool(["openssl", "x509", "-in", "signer.pem", "-noout", "-fingerprint", "-sha512"], directory).rpartition("=")[2]
    named = base64.b64encode(bytes.fromhex(digest.strip().replace(":", "")))
    _need(signed is not None and named in signed[0], "the signed properties name another certificate")


def _stamp(directory: Path, authorities: Authorities) -> tuple[float, float]:
    """(moment, stated accuracy) in seconds."""
    token = "-in", "token.tst", "-token_in"
    _need((directory / "token.tst").is_file(), "no time stamp")
    said = _tool(["openssl", "ts", "-reply", *token, "-text"], directory)
    moment = _moment(said, r"Time stamp: (.*)")
    accuracy = re.search(r"Accuracy: (unspecified|0x\w+|\w+) seconds, (unspecified|0x\w+|\w+) millis, (unspecified|0x\w+|\w+) micros", said)
    words = [0 if word == "unspecified" else int(word, 0) for word in accuracy.groups()] if accuracy else [0, 0, 0]
    trust = "-CAfile", str(authorities.roots), "-untrusted", str(authorities.tsa), "-attime", str(int(moment))
    _need("Verification: OK" in _tool(["openssl", "ts", "-verify", "-data", "stamped.bin", *token, *trust], directory), "the time stamp")
    return moment, words[0] + words[1] / 1e3 + words[2] / 1e6


def _certificate(directory: Path, authorities: Authorities, moment: float) -> str:
    """Its subject, as text."""
    _tool(["openssl", "verify", "-attime", str(int(moment)), "-CAfile", str(authorities.roots), "signer.pem"], directory)
    text = _tool(["openssl", "x509", "-in", "signer.pem", "-noout", "-subject", "-nameopt", "multiline", "-ext", "keyUsage"], directory)
    _need("Non Repudiation" in text, "not for signing")
    return text


def _confirmation(directory: Path, authorities: Authorities, moment: float) -> tuple[float, float]:
    """(produced, updated) in seconds."""
    which = "-issuer", str(authorities.issuing), "-cert", "signer.pem"
    trust = "-CAfile", str(authorities.roots), "-no_nonce", "-attime", str(int(moment)), "-resp_text"
    said = _tool(["openssl", "ocsp", "-respin", "ocsp.der", *which, *trust], directory)
    _need("Response verify OK" in said, "the confirmation is not by who may give it")
    # the tool judges times by today and then does not say the status: the text of the response does
    _need(re.findall(r"Cert Status: (\w+)", said) == ["good"], "not good")
    _need("signer.pem: " in said and "No Status found" not in said, "the confirmation is of another certificate")
    updated = _moment(said, r"This Update: (.*)")
    following = _moment(said, r"Next Update: (.*)")
    _need(updated >= moment - EIGHT_HOURS_S and following >= moment, "the confirmation was too old")
    return _moment(said, r"Produced At: (.*)"), updated


def _member(directory: Path, certificate: str) -> None:
    parts = dict(re.findall(r"^\s+(\w+)\s+= (.*)$", certificate, re.MULTILINE))
    head = (directory / "zip" / "message.xml").read_bytes().decode("utf-8", "replace")
    sender = re.findall(r"^x-road-client:([^/\r\n]*)/([^/\r\n]*)/([^/\r\n]*)", head, re.MULTILINE | re.IGNORECASE)
    _need(len(sender) == 1 and sender[0][1:] == (parts.get("businessCategory"), parts.get("serialNumber")), "another member's certificate")


def _moment(said: str, pattern: str) -> float:
    found = re.search(pattern, said)
    _need(found is not None, f"no {pattern}")
    month, day, clock, year = (found[1] if found else "").removesuffix(" GMT").split()
    hour, minute, second = clock.split(":")
    whole = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), tzinfo=UTC)
    return whole.timestamp() + float(second)


def _tool(command: Sequence[str], where: Path) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, check=False, timeout=60)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    _need(done.returncode == 0, f"{' '.join(command[:2])}: {' '.join(said.split())[-160:]}")
    return said


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RefusedByToolError(otherwise)
