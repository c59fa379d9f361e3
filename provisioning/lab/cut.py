#!/usr/bin/env python3
"""Cuts an exported container (.asice) into plain files, so that OpenSSL alone can judge it. Believes and checks nothing itself.

    python cut.py MESSAGE.asice DIRECTORY

Shares no line with the box: standard library and lxml only. Files and what to do with them (CA: the certification authority's PEM, TSA: the
time-stamping authority's PEM, ROOT: every authority above, up to the self-signed one, in one PEM file):

    signed-info.c14n  signature.der  signer.pem  signer-key.pem         the seal
        openssl dgst -sha512 -verify signer-key.pem -signature signature.der signed-info.c14n
        (RSA-PSS besides: -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:-1)
    ocsp.der                                                            was the certificate good
        openssl ocsp -respin ocsp.der -issuer CA -cert signer.pem -CAfile ROOT -no_nonce
    stamped.bin  token.tst                                              when; the stamp covers stamped.bin
        openssl ts -verify -data stamped.bin -in token.tst -token_in -CAfile ROOT -untrusted TSA
    message.xml  attachment*  sig-hashchainresult.xml  STEP*.der        what; every printed line can be repeated with
        openssl dgst -sha512 -binary FILE | base64

Each line of the output says in which file the digest of another must stand, from the message up to signed-info.c14n (in STEP*.der the
digests are binary). A confirmation was for the moment of the stamp: once its next update has passed, openssl ocsp adds a warning.
With a stamp of many records stamped.bin is ts-hashchainresult.xml, and ts-STEP*.der lead to it from META-INF/signatures.xml.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
import sys
import textwrap
import zipfile
from pathlib import Path

from lxml import etree

DS, XADES, HC = ("{http://www.w3.org/2000/09/xmldsig#}", "{http://uri.etsi.org/01903/v1.3.2#}", "{http://cyber.ee/hashchain}")
SHA512 = "http://www.w3.org/2001/04/xmlenc#sha512"
PIECE_BYTES = 1 << 20


def cut(container: Path, directory: Path) -> list[str]:
    """Writes the files and returns the lines that link them."""
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(container) as archive:
        bodies = [entry.filename for entry in archive.infolist() if re.fullmatch(r"attachment\d+", entry.filename)]
        for name in bodies:  # may be large: from file to file, never in memory
            with archive.open(name) as source, (directory / name).open("wb") as target:
                shutil.copyfileobj(source, target, PIECE_BYTES)
        files = {name: archive.read(name) for name in archive.namelist() if name not in bodies}
    signatures = files["META-INF/signatures.xml"]
    root = etree.fromstring(signatures, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    info, value = the(root, f".//{DS}SignedInfo"), decoded(the(root, f".//{DS}SignatureValue"))
    exclusive = "exc-c14n" in the(info, DS + "CanonicalizationMethod").get("Algorithm", "")
    method = the(info, DS + "SignatureMethod").get("Algorithm", "")
    certificate = decoded(the(root, f".//{DS}X509Certificate"))
    put = {name: data for name, data in files.items() if name in ("message.xml", "sig-hashchainresult.xml")}
    digests = {name: digest_of(directory / name) for name in bodies}
    put["signed-info.c14n"] = etree.tostring(info, method="c14n", exclusive=exclusive, with_comments=False, with_tail=False)
    put["signature.der"] = ecdsa_der(value) if "ecdsa" in method else value
    put["signer.pem"] = pem("CERTIFICATE", certificate)
    put["signer-key.pem"] = pem("PUBLIC KEY", public_key(certificate))
    put["ocsp.der"] = decoded(the(root, f".//{XADES}EncapsulatedOCSPValue"))
    embedded = root.find(f".//{XADES}EncapsulatedTimeStamp")
    lines: list[str] = []
    if "META-INF/timestamp.tst" in files:
        put["token.tst"], put["stamped.bin"] = files["META-INF/timestamp.tst"], files["ts-hashchainresult.xml"]
        put["signatures.xml"] = signatures
        lines += chain_lines(files["ts-hashchain.xml"], "ts-", put, digests)
    elif embedded is not None:
        put["token.tst"], put["stamped.bin"] = decoded(embedded), value
    if b"/sig-hashchainresult.xml" in put["signed-info.c14n"] and "sig-hashchain.xml" in files:
        lines += chain_lines(files["sig-hashchain.xml"], "", put, digests)
    for reference in info.iterfind(DS + "Reference"):
        if (name := reference.get("URI", "").lstrip("/")) in {**put, **digests}:
            lines.append(link(name, digests.get(name) or hashlib.sha512(put[name]).digest(), "signed-info.c14n"))
    for name, data in put.items():
        (directory / name).write_bytes(data)
    return [*lines, f"{method} by the key of signer.pem: signature.der over signed-info.c14n"]


def chain_lines(chain: bytes, prefix: str, put: dict[str, bytes], bodies: dict[str, bytes]) -> list[str]:
    """Writes each step's digest list as DER (X-Road: its SHA-512 stands in the step above), from the bottom up."""
    steps = {step.get("id", ""): step for step in etree.fromstring(chain).iterfind(HC + "HashStep")}
    lines: list[str] = []

    def value_of(step: str) -> bytes:
        digests = b""
        for item in steps[step]:
            method = item.find(DS + "DigestMethod")
            algorithm = SHA512 if method is None else method.get("Algorithm", SHA512)
            if item.tag == HC + "StepRef":
                digest = value_of(item.get("URI", "").partition("#")[2])
            else:
                digest = decoded(the(item, DS + "DigestValue"))
            if item.tag == HC + "DataRef" and (name := item.get("URI", "").rpartition("/")[2]) in {**put, **bodies}:
                lines.append(link(name, bodies.get(name) or hashlib.sha512(put[name]).digest(), f"{prefix}{step}.der"))
            digests += der(0x30, der(0x04, digest) + der(0x0C, algorithm.encode()) + der(0x30, b""))
        put[f"{prefix}{step}.der"] = data = der(0x30, digests)
        number = int(step.removeprefix("STEP"))
        above = ("stamped.bin" if prefix else "sig-hashchainresult.xml") if number == 0 else f"{prefix}STEP{number - 1}.der"
        lines.append(link(f"{prefix}{step}.der", digest := hashlib.sha512(data).digest(), above))
        return digest

    value_of("STEP0")
    return lines


def digest_of(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha512").digest()


def link(name: str, digest: bytes, where: str) -> str:
    return f"SHA-512({name}) = {base64.b64encode(digest).decode()} must stand in {where}"


def the(element: etree._Element, path: str) -> etree._Element:
    found = element.find(path)
    if found is None:
        sys.exit(f"cut.py: the signature has no {path.rpartition('}')[2]}")
    return found


def decoded(element: etree._Element) -> bytes:
    return base64.b64decode(element.text or "")


def der(tag: int, content: bytes) -> bytes:
    length = len(content)
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, length)) + content if length < 128 else bytes((tag, 128 | len(size))) + size + content


def ecdsa_der(raw: bytes) -> bytes:
    """r and s side by side, as XML has them -> SEQUENCE of two INTEGERs, as OpenSSL reads them."""
    halves = (int.from_bytes(raw[: len(raw) // 2], "big"), int.from_bytes(raw[len(raw) // 2 :], "big"))
    return der(0x30, b"".join(der(0x02, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in halves))


def public_key(certificate: bytes) -> bytes:
    """SubjectPublicKeyInfo: the field after version, serial number, algorithm, issuer, validity and subject."""
    fields = elements(elements(elements(certificate)[0][1])[0][1])
    return fields[6 if fields[0][0][0] == 0xA0 else 5][0]


def elements(data: bytes) -> list[tuple[bytes, bytes]]:
    """(whole element, content) of each DER element in a row."""
    found, at = [], 0
    while at < len(data):
        size = data[at + 1] & 127 if data[at + 1] & 128 else 0
        start = at + 2 + size
        end = start + (int.from_bytes(data[at + 2 : start], "big") if size else data[at + 1])
        found.append((data[at:end], data[start:end]))
        at = end
    return found


def pem(label: str, data: bytes) -> bytes:
    body = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n".encode()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: cut.py MESSAGE.asice DIRECTORY")
    print("\n".join(cut(Path(sys.argv[1]), Path(sys.argv[2]))))
