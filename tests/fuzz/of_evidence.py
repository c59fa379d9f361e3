"""Fuzzing targets: seals, stamps, confirmations, certificates, containers."""

from __future__ import annotations

import functools
import hashlib
import io

from appliance.errors import XacbeError
from appliance.messagelog import archive
from appliance.model import certificates
from appliance.seal import container, hash_chain, xades
from appliance.seal.container_check import verify_container
from appliance.trust import der, ocsp, timestamps
from tests.fuzz.target import Target
from tests.seal.workshop import NOON_US, Workshop, parts_of
from tests.trust import pki


@functools.cache
def workshop() -> Workshop:
    return Workshop()


@functools.cache
def seal_documents() -> tuple[bytes, bytes, bytes]:
    (seal, _) = workshop().sealed([parts_of(b"one"), parts_of(b"two", [b"more"])], NOON_US)
    return seal.signature, seal.chain_result or b"", seal.chain or b""


def _xades(data: bytes) -> None:
    xades.read(data)
    xades.signature_value(data)


def _strict(data: bytes) -> None:
    xades.read_strictly(data)


def _chain(data: bytes) -> None:
    hash_chain.result_value(data)
    hash_chain.leads_to(b"\x00" * 64, data, {"/message.xml": b"\x00" * 64})


@functools.cache
def containers() -> tuple[bytes, ...]:
    return workshop().container(), workshop().container(body=b"a body", batch_stamp=True)


def _container(data: bytes) -> None:
    read = container.read_container(data)
    for name in read.attachments:
        for _ in read.read_attachment(name):
            pass


def _signature_inside(data: bytes) -> None:
    """A container that is whole, with a signature document that is not; judged without trust, step by step."""
    contents = container.Contents(
        message=b"m",
        signature=data,
        chain_result=None,
        chain=None,
        stamp_token=b"t",
        stamp_chain_result=None,
        stamp_chain=None,
        attachments=[],
    )
    verify_container(container.write_container(contents, NOON_US), None)


@functools.cache
def archives() -> tuple[bytes, ...]:
    made = []
    for count in (1, 3):
        output = io.BytesIO()
        writer = archive.ArchiveWriter(output, archive.Link("", ""))
        for number in range(count):
            writer.add(f"{number}-request-{number}.asice", NOON_US, lambda into: into.write(b"content of a container" * 20) and None)
        writer.close(NOON_US)
        made.append(output.getvalue())
    return tuple(made)


CA = pki.ca()
LEAF = pki.signing(CA)
TSA = pki.tsa(CA)
ISSUER = pki.approved(CA)
SHARED = pki.shared(ISSUER, tsas=(pki.approved_tsa(TSA),))
DATA = b"what was stamped"


@functools.cache
def ocsp_answers() -> tuple[bytes, ...]:
    delegate = pki.responder(CA)
    about = pki.Statement(LEAF, CA)
    return pki.ocsp_response(about, CA, nonce=b"n" * 16), pki.ocsp_response(about, delegate, enclosed=(delegate,))


@functools.cache
def stamp_tokens() -> tuple[bytes, ...]:
    return pki.token(TSA, pki.Stamp(data=DATA)), pki.token(TSA, pki.Stamp(data=DATA, ess_version=1, ordering=True))


def _ocsp(data: bytes) -> None:
    ocsp.nonce_of(data)
    ocsp.facts(data)
    ocsp.check_response(data, LEAF.certificate, ISSUER, SHARED, pki.NOW_US)


def _token(data: bytes) -> None:
    timestamps.check_token(data, DATA, SHARED.tsas)


def _stamp_answer(data: bytes) -> None:
    timestamps.token_of_response(data, hashlib.sha512(DATA).digest(), SHARED.tsas, nonce=5)


def _der(data: bytes) -> None:
    """Everything that an element may be asked, on all of them."""
    waiting, taken = [der.parse(data, 1 << 16)], 0
    while waiting and taken < 200:
        element = waiting.pop()
        taken += 1
        for ask in (element.integer, element.octets, element.oid, element.time_us):
            try:
                ask()
            except XacbeError:
                continue
        try:
            waiting += list(element.children().rest())
        except XacbeError:
            continue


def _certificate(data: bytes) -> None:
    read = certificates.read(data)
    certificates.public_key(read)
    certificates.is_valid_at(read, pki.NOW_US)


TARGETS: tuple[Target, ...] = (
    Target("xades", _xades, lambda: (seal_documents()[0],), 4),
    Target("xades-own", _strict, lambda: (seal_documents()[0],), 4),
    Target("hash-chain", _chain, lambda: seal_documents()[1:], 6),
    Target("container", _container, containers, 3),
    Target("signature-inside", _signature_inside, lambda: (seal_documents()[0],), 1),
    Target("archive", lambda data: archive.check_archive(io.BytesIO(data), None), archives, 3),
    Target("ocsp", _ocsp, ocsp_answers, 4),
    Target("time-stamp", _token, stamp_tokens, 5),
    Target("time-stamp-answer", _stamp_answer, lambda: (pki.stamp_response(pki.token(TSA, pki.Stamp(data=DATA, nonce=5))),), 5),
    Target("der", _der, lambda: (*stamp_tokens(), LEAF.der), 5),
    Target("certificate", _certificate, lambda: (LEAF.der, TSA.der, CA.der), 8),
)  # fmt: skip
