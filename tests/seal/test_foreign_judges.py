"""T24: OpenSSL, xmlsec1 and Info-ZIP agree with `xacbe verify` on a thousand containers (50 in each run of `make test`)."""

from __future__ import annotations

import os
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.seal.container import Contents, write_container
from appliance.seal.container_check import verify_container
from appliance.seal.report import INVALID, VALID
from appliance.seal.xades import signature_value
from tests.seal.foreign import MISSING, Authorities, judge
from tests.seal.test_verify_container import repacked
from tests.seal.workshop import HEAD, HOUR_US, NOON_US, SECOND_US, Workshop, known, parts_of
from tests.verifier.mutations import mutated

CONTAINERS = 1000 if os.environ.get("XACBE_DEPTH") == "deep" else 50  # noqa: TID251  a test's own switch
STRICTER = {
    "seal.malformed": "one form of XML, no element or transform that nobody asked for",
    "container.malformed": "one reading of the ZIP",
    "container.no_signature": "exactly one signature document; ASiC-E allows several",
    "seal.chain_malformed": "X-Road's schema of hash chains",
    "ocsp.malformed": "strict DER throughout, bounded",
    "tsa.malformed": "strict DER throughout, bounded",
    "certificate.malformed": "strict DER throughout, bounded",
    "seal.chain_unused_input": "nothing beside what was sealed",
    "seal.uncovered_part": "nothing beside what was sealed",
}
"""Where ours may refuse what the tools accept, by name and with its reason. The other way round there is no exception."""

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}")

Make = Callable[[Workshop, random.Random], bytes]


def _sealed(
    workshop: Workshop, head: bytes = HEAD, confirmation: bytes | None = None, stamped: bytes | None = None, after_us: int = SECOND_US
) -> bytes:
    (seal,) = workshop.sealed([parts_of(head)], NOON_US, confirmation)
    token = workshop.stamp(signature_value(seal.signature) if stamped is None else stamped, NOON_US + after_us)
    return write_container(Contents(message=head, signature=seal.signature, stamp_token=token), NOON_US)


def _of_a_batch(workshop: Workshop, chance: random.Random, swapped: bool = False) -> bytes:
    heads = [HEAD + b"X-Number:%d\r\n" % at for at in range(chance.randrange(2, 9))]
    bodies = [chance.randbytes(chance.randrange(300)) for _ in heads]
    seals = workshop.sealed([parts_of(head, [body]) for head, body in zip(heads, bodies, strict=True)], NOON_US)
    at = chance.randrange(len(heads))
    seal, chain = seals[at], seals[(at + swapped) % len(heads)].chain
    token = workshop.stamp(signature_value(seal.signature), NOON_US + SECOND_US)
    contents = Contents(
        message=heads[at],
        signature=seal.signature,
        chain_result=seal.chain_result,
        chain=chain,
        stamp_token=token,
        attachments=[bodies[at]],
    )
    return write_container(contents, NOON_US)


def _body(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice([0, 1, 100, 70_000]))


def _of_another_member(workshop: Workshop, _: random.Random) -> bytes:
    return _sealed(workshop, HEAD.replace(b"X-Road-Client:QROO-TEST/GOV/1001", b"X-Road-Client:QROO-TEST/GOV/2002"))


GOOD: dict[str, Make] = {
    "message alone": lambda workshop, chance: workshop.container(stamped_us=NOON_US + chance.randrange(7 * 3600) * SECOND_US),
    "message and body": lambda workshop, chance: workshop.container(body=_body(chance)),
    "stamp of a batch": lambda workshop, chance: workshop.container(body=_body(chance), batch_stamp=True),
    "one of a batch": _of_a_batch,
    "eight hours but the stated accuracy": lambda workshop, _: workshop.container(stamped_us=NOON_US + 8 * HOUR_US - SECOND_US),
}
BAD: dict[str, Make] = {
    "eight hours and a second": lambda workshop, _: workshop.container(stamped_us=NOON_US + 8 * HOUR_US + SECOND_US),
    "nine hours before": lambda workshop, _: workshop.container(stamped_us=NOON_US - 9 * HOUR_US),
    "revoked": lambda workshop, _: _sealed(workshop, confirmation=workshop.confirmation(NOON_US, revoked_us=NOON_US - HOUR_US)),
    "an old confirmation": lambda workshop, _: _sealed(workshop, confirmation=workshop.confirmation(NOON_US - 9 * HOUR_US)),
    "another's confirmation": lambda workshop, _: _sealed(workshop, confirmation=Workshop().confirmation(NOON_US)),
    "a stamp of something else": lambda workshop, _: _sealed(workshop, stamped=b"something else"),
    "another member": _of_another_member,
    "another authority": lambda workshop, chance: Workshop(workshop.key, workshop.algorithm).container(body=_body(chance)),
    "another's chain": lambda workshop, chance: _of_a_batch(workshop, chance, swapped=True),
    "another body": lambda workshop, chance: repacked(workshop.container(body=b"a body"), body=chance.randbytes(6)),
    "a body taken out and one put in": lambda workshop, _: repacked(workshop.container(), body=b"smuggled"),
    "after the certificate's end": lambda workshop, _: workshop.container(NOON_US + 4 * 365 * 24 * HOUR_US),
}


def made(workshop: Workshop, chance: random.Random) -> tuple[str, bytes]:
    kind = chance.choice(["good", "good", "bad", "spoiled", "spoiled"])
    if kind == "bad":
        name = chance.choice(sorted(BAD))
        return name, BAD[name](workshop, chance)
    name = chance.choice(sorted(GOOD))
    data = GOOD[name](workshop, chance)
    if kind == "good":
        return name, data
    spoiled, data = mutated(data, chance)
    return f"{name}; {spoiled}", data


WORKSHOPS = [
    Workshop(),
    Workshop(ec.generate_private_key(ec.SECP384R1())),
    Workshop(rsa.generate_private_key(65537, 2048), "rsa-sha512"),
]


@pytest.mark.case("T24")
@pytest.mark.rule("I.4.XV")
def test_tools_that_are_not_ours_agree_on_every_container(tmp_path: Path) -> None:
    chance = random.Random(CONTAINERS)  # noqa: S311  the same containers in every run, but for keys
    verdicts: Counter[str] = Counter()
    stricter: Counter[str] = Counter()
    disagreements: list[str] = []
    for at in range(CONTAINERS):
        number = at % len(WORKSHOPS)
        workshop = WORKSHOPS[number]
        name, data = made(workshop, chance)
        place = tmp_path / str(at)
        place.mkdir()
        (place / "message.asice").write_bytes(data)
        ours = verify_container(data, known(workshop))
        theirs = judge(place / "message.asice", place, authorities(tmp_path / f"authorities{number}", workshop))
        verdicts[f"{ours.verdict}, {theirs.partition(':')[0]}"] += 1
        if ours.verdict == INVALID and theirs == VALID and ours.reason in STRICTER:
            stricter[ours.reason or ""] += 1
        elif (ours.verdict == VALID) != (theirs == VALID):
            disagreements.append(f"{at} {name}: ours {ours.verdict} {ours.reason}, theirs {theirs}")
    print(f"{CONTAINERS} containers: {dict(verdicts)}; stricter by name: {dict(stricter)}")

    assert not disagreements, "\n".join(disagreements)
    assert verdicts["valid, valid"] >= CONTAINERS // 4
    assert verdicts["invalid, invalid"] >= CONTAINERS // 4
    assert stricter.total() <= CONTAINERS // 10


@pytest.mark.case("T24")
@pytest.mark.parametrize("name", [*GOOD, *BAD])
def test_each_fault_is_seen_by_the_tools_too(tmp_path: Path, name: str) -> None:
    chance, workshop = random.Random(name), WORKSHOPS[0]  # noqa: S311
    data = {**GOOD, **BAD}[name](workshop, chance)
    (tmp_path / "message.asice").write_bytes(data)

    theirs = judge(tmp_path / "message.asice", tmp_path, authorities(tmp_path / "authorities", workshop))

    assert (theirs == VALID) == (name in GOOD), theirs
    assert verify_container(data, known(workshop)).verdict == (VALID if name in GOOD else INVALID)


def test_xmlsec_itself_looks_at_the_files_that_are_signed(tmp_path: Path) -> None:
    """A judge that looked past the references would agree with anything."""
    data = WORKSHOPS[0].container()
    with zipfile.ZipFile(BytesIO(data)) as archive:
        signature = archive.read("META-INF/signatures.xml")
    (tmp_path / "message.asice").write_bytes(data)
    place = authorities(tmp_path / "authorities", WORKSHOPS[0])
    assert judge(tmp_path / "message.asice", tmp_path, place) == VALID
    spoiled = repacked(data, signature=signature.replace(b"<xades:SigningTime>2026", b"<xades:SigningTime>2027"))
    (tmp_path / "message.asice").write_bytes(spoiled)

    assert judge(tmp_path / "message.asice", tmp_path, place).startswith("invalid: xmlsec1 --verify")


def authorities(place: Path, workshop: Workshop) -> Authorities:
    if not place.exists():
        place.mkdir()
        pems = {"root": workshop.root, "issuing": workshop.issuing, "tsa": workshop.tsa}
        for name, certificate in pems.items():
            (place / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        (place / "roots.pem").write_bytes((place / "root.pem").read_bytes() + (place / "issuing.pem").read_bytes())
    return Authorities(place / "roots.pem", place / "issuing.pem", place / "tsa.pem")
