"""The page and `xacbe verify` say the same: about every vector, about containers of ours, and about spoiled ones."""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.seal.container_check import Configuration, verify_container
from appliance.trust.global_configuration import ApprovedTsa
from tests.seal.test_verify_container import VERDICTS, configuration_of, judged
from tests.seal.workshop import HOUR_US, INSTANCE, NOON_US, Known, Workshop
from tests.vectors import VECTORS, needs_vectors
from tests.verifier.mutations import mutated
from tests.verifier.page import Page, comparable

IS_DEEP = os.environ.get("XACBE_DEPTH") == "deep"  # noqa: TID251  a test's own switch
SPOILED = 12_000 if IS_DEEP else 200
AT_ONCE = 100
SAME_REASON_SHARE = 0.98
"""DER and ZIP faults may be met by another check first; the verdict may not differ."""
WORKSHOP = Workshop()


def known_of(workshop: Workshop) -> Known:
    """The instance that certificates alone make: the authority is called by its subject."""
    tsa = ApprovedTsa(workshop.tsa.subject.rfc4514_string(), "", workshop.tsa)
    return Known(INSTANCE, {INSTANCE: replace(workshop.shared, tsas=(tsa,))})


def certificates_of(workshop: Workshop, directory: Path) -> list[Path]:
    files = {"root.pem": workshop.root, "issuing.pem": workshop.issuing, "tsa.pem": workshop.tsa}
    for name, certificate in files.items():
        (directory / name).write_bytes(certificate.public_bytes(Encoding.PEM))
    return [directory / name for name in files]


@needs_vectors
@pytest.mark.case("T24")
@pytest.mark.parametrize(("folder", "configuration"), [("asice", "globalconf-DEV-v3"), ("generated/containers", "generated/conf-LAB")])
def test_both_verifiers_give_the_same_report_on_every_vector(page: Page, folder: str, configuration: str) -> None:
    files = sorted((VECTORS / folder).glob("*.asice"))

    said = page.trust([path for path in (VECTORS / configuration).rglob("*") if path.is_file()])
    reports = dict(zip((file.name for file in files), page.verify(files), strict=True))

    assert said.startswith("Configuración de DEV sin ancla")
    assert reports.keys() <= VERDICTS.keys()
    assert {name: comparable(found) for name, found in reports.items()} == {name: comparable(judged(name)) for name in reports}


@needs_vectors
def test_both_see_the_same_without_trust_material(page: Page) -> None:
    files = sorted((VECTORS / "generated/containers").glob("*.asice"))

    for file, report in zip(files, page.verify(files), strict=True):
        assert comparable(report) == comparable(verify_container(file.read_bytes(), None)), file.name


@pytest.mark.case("T24")
@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ecdsa-sha512"),
        (ec.generate_private_key(ec.SECP384R1()), "ecdsa-sha512"),
        (rsa.generate_private_key(65537, 2048), "rsa-sha512"),
        (rsa.generate_private_key(65537, 3072), "rsa-pss-sha512"),
    ],
    ids=["P-256", "P-384", "RSA", "RSA-PSS"],
)
def test_what_we_seal_is_valid_in_the_browser_too(
    page: Page, tmp_path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, algorithm: str
) -> None:
    workshop = Workshop(key, algorithm)
    containers = {
        "single": workshop.container(),
        "body": workshop.container(body=b'{"a":1}'),
        "empty body": workshop.container(body=b""),
        "batch stamp": workshop.container(body=b"x" * 100_000, batch_stamp=True),
        "late stamp": workshop.container(stamped_us=NOON_US + 8 * HOUR_US - 100_000),
        "too late": workshop.container(stamped_us=NOON_US + 8 * HOUR_US - 99_000),
    }
    for name, data in containers.items():
        (tmp_path / f"{name}.asice").write_bytes(data)

    page.trust(certificates_of(workshop, tmp_path))
    reports = page.verify([tmp_path / f"{name}.asice" for name in containers])

    for (name, data), report in zip(containers.items(), reports, strict=True):
        assert comparable(report) == comparable(verify_container(data, known_of(workshop))), name
    assert [report["verdict"] for report in reports] == ["valid"] * 5 + ["invalid"]


def judged_alike(page: Page, directory: Path, sources: list[bytes], configuration: Configuration, seed: int, rounds: int) -> Counter[str]:
    """Spoils, has both judge, compares; the verdicts counted. The same containers in every run."""
    chance = random.Random(seed)  # noqa: S311
    seen: Counter[str] = Counter()
    same = 0
    for _ in range(rounds):
        spoiled = [mutated(chance.choice(sources), chance) for _ in range(AT_ONCE)]
        files = [directory / f"{at}.asice" for at in range(AT_ONCE)]
        for file, (_, data) in zip(files, spoiled, strict=True):
            file.write_bytes(data)
        for (kind, data), report in zip(spoiled, page.verify(files), strict=True):
            ours = verify_container(data, configuration)
            assert report["verdict"] == ours.verdict, (kind, ours, report)
            seen[ours.verdict] += 1
            same += report["reason"] == ours.reason
    assert same >= SAME_REASON_SHARE * rounds * AT_ONCE
    return seen


@pytest.mark.case("T04")
def test_a_spoiled_container_of_ours_is_judged_alike_and_the_page_comes_to_an_end(page: Page, tmp_path: Path) -> None:
    sources = [WORKSHOP.container(body=b'{"a":1}', batch_stamp=True), WORKSHOP.container(body=b"body"), WORKSHOP.container()]
    page.trust(certificates_of(WORKSHOP, tmp_path))

    seen = judged_alike(page, tmp_path, sources, known_of(WORKSHOP), 24, SPOILED // AT_ONCE)

    assert seen["invalid"] > SPOILED // 2
    assert seen["valid"] > 0  # white space, prefixes, entries that nobody reads: what is free stays free in both


@needs_vectors
def test_a_spoiled_container_of_x_roads_is_judged_alike(page: Page, tmp_path: Path) -> None:
    files = [VECTORS / "asice" / name for name, verdict in sorted(VERDICTS.items()) if verdict == "successful"]
    page.trust([path for path in (VECTORS / "globalconf-DEV-v3").rglob("*") if path.is_file()])

    sources = [file.read_bytes() for file in files if file.is_file()]
    judged_alike(page, tmp_path, sources, configuration_of("globalconf-DEV-v3"), 42, SPOILED // AT_ONCE // 2)
