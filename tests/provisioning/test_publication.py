"""The signed directory, judged by openssl, by a reader of a few lines, and by the box's own trust core."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from lxml import etree

from appliance.clock import from_us, to_us
from appliance.model.identifiers import ClientId, ServerId
from provisioning import publication
from provisioning.authority import ca
from provisioning.centre import Centre, Parameters
from provisioning.publication import ConfigurationKey, Publication
from provisioning.records import IssuedCertificate
from tests.provisioning.parts import NOW_US, StandingClock, openssl
from tests.vectors import VECTORS, needs_vectors

TULUM = ClientId("QROO-TEST", "MUN", "TULUM")
BOX = ServerId(TULUM, "SS1")
XROAD = {"x": publication.XROAD}


def publish(centre: Centre, version: int = 6, now_us: int = NOW_US) -> Publication:
    signing = ConfigurationKey(centre.certificate("configuration"), centre.key("configuration"))
    with centre.registry() as registry:
        return publication.publish(registry, centre, signing, version, now_us)


def shared(published: Publication) -> bytes:
    return next(content for location, content in published.parts.items() if location.endswith("shared-params.xml"))


def taken_apart(directory: bytes) -> tuple[bytes, bytes, dict[str, str]]:
    """Signed bytes, signature, and the signature's headers: sheet 6.3 read with regular expressions."""
    inner = re.search(rb"multipart/mixed; charset=UTF-8; boundary=([^\r]+)\r\n\r\n", directory)
    assert inner
    closing = b"--" + inner[1] + b"--\r\n"
    end = directory.index(closing) + len(closing)
    head, _, rest = directory[end:].partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().strip().splitlines()[1:])
    return directory[inner.end() : end], base64.b64decode(rest.split(b"\r\n")[0]), headers


def with_box(centre: Centre) -> bytes:
    """Registers a box with an authentication certificate (its bytes are enough here); returns those bytes."""
    der = centre.certificate("broker").public_bytes(Encoding.DER)
    with centre.registry() as registry:
        registry.register_server(BOX, "127.0.11.21", (ClientId("QROO-TEST", "MUN", "TULUM", "SOLOMON"),), NOW_US)
        registry.add_certificate(IssuedCertificate(77, "tls-peer", str(BOX), b"k", der, NOW_US, NOW_US + 1_000_000))
    return der


def test_openssl_verifies_the_directory_under_the_key_of_the_anchor(centre: Centre, tmp_path: Path) -> None:
    anchor = etree.fromstring(centre.anchor_file.read_bytes())
    pinned = x509.load_der_x509_certificate(base64.b64decode(anchor.findtext("source/verificationCert") or ""))
    (tmp_path / "key.pem").write_bytes(pinned.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    signed, signature, headers = taken_apart(publish(centre).directory)

    (tmp_path / "signed").write_bytes(signed)
    (tmp_path / "signature").write_bytes(signature)
    verify = ("dgst", "-sha512", "-verify", tmp_path / "key.pem", "-signature", tmp_path / "signature", tmp_path / "signed")
    assert "Verified OK" in openssl(*verify)
    fingerprint = base64.b64encode(hashlib.sha512(pinned.public_bytes(Encoding.DER)).digest()).decode()
    assert headers["Verification-certificate-hash"] == f'{fingerprint}; hash-algorithm-id="{publication.SHA512}"'
    assert headers["Signature-Algorithm-Id"].endswith("#ecdsa-sha512")


@pytest.mark.parametrize("version", publication.VERSIONS)
def test_every_part_is_at_its_location_with_its_digest(centre: Centre, version: int) -> None:
    published = publish(centre, version)

    entries = re.findall(rb"Content-location: (\S+)\r\n.*?\r\n\r\n(\S+)\r\n", published.directory, re.DOTALL)

    assert {location.decode(): base64.b64decode(digest) for location, digest in entries} == {
        location: hashlib.sha512(content).digest() for location, content in published.parts.items()
    }
    assert f"\r\nVersion: {version}\r\n".encode() in published.directory


def test_it_expires_nine_hours_after_it_was_signed(centre: Centre) -> None:
    expected = from_us(NOW_US + 9 * 3600 * 1_000_000).strftime("%Y-%m-%dT%H:%M:%SZ")

    assert f"Expire-date: {expected}\r\n".encode() in publish(centre).directory


@needs_vectors
def test_lines_and_headers_are_those_of_a_real_central_server(centre: Centre) -> None:
    """Boundaries, digests, dates and the algorithm differ; every other byte of the frame is the same."""

    def frame(directory: bytes) -> list[str]:
        text = re.sub(r"boundary=\S+|(?<=: )20\S+Z|/V6\S+/|(?<=hash: )\S+;|instance='\S+'", "*", directory.decode())
        text = re.sub(r"(?m)^--\S+?(--)?\r$", r"--*\1\r", text)
        return re.sub(r"(?m)^[A-Za-z0-9+/=]{64,}\r$|(?<=dsig-more#)\S+", "*", text).split("\r\n")

    real = (VECTORS / "globalconf-signed" / "V6" / "internalconf").read_bytes()

    assert [line.rstrip("\r") for line in frame(publish(centre).directory)] == [line.rstrip("\r") for line in frame(real)]


def test_what_did_not_change_keeps_its_location_and_bytes(own_centre: Centre) -> None:
    before, later = publish(own_centre), publish(own_centre, now_us=NOW_US + 60_000_000)

    assert before.parts == later.parts
    assert before.directory != later.directory


@pytest.mark.rule("II.2.XIV")
def test_a_change_moves_only_what_changed_and_always_forward(own_centre: Centre) -> None:
    locations = [set(publish(own_centre).parts)]
    for suspended_us, now_us in ((NOW_US, NOW_US + 1), (None, NOW_US - 3600 * 1_000_000)):
        with own_centre.registry() as registry:
            registry.set_suspended(TULUM, suspended_us)
        locations.append(set(publish(own_centre, now_us=now_us).parts))

    first, suspended, restored = (next(one for one in found if "shared" in one) for found in locations)
    assert first < suspended < restored  # also when the clock stepped back, and though the content is the first one's again
    assert len({one for found in locations for one in found if "private" in one}) == 1


@pytest.mark.rule("II.2.XIV")
def test_a_suspended_member_is_gone_with_its_box_and_registrations(own_centre: Centre) -> None:
    with_box(own_centre)
    assert b"TULUM" in shared(publish(own_centre))

    with own_centre.registry() as registry:
        registry.set_suspended(TULUM, NOW_US)

    document = etree.fromstring(shared(publish(own_centre)))
    assert "TULUM" not in document.xpath("member/memberCode/text()")
    assert not document.xpath("securityServer")
    references, ids = document.xpath("//client/text() | //owner/text()"), document.xpath("//@id")
    assert set(references) <= set(ids)


def test_a_box_is_published_by_the_digest_of_its_valid_certificates_only(own_centre: Centre) -> None:
    der = with_box(own_centre)
    expected = [base64.b64encode(hashlib.sha256(der).digest()).decode()]

    def hashes(now_us: int) -> list[str]:
        found: list[str] = etree.fromstring(shared(publish(own_centre, now_us=now_us))).xpath("securityServer/authCertHash/text()")
        return found

    assert hashes(NOW_US) == expected
    assert hashes(NOW_US + 1_000_000) == []
    with own_centre.registry() as registry:
        registry.revoke(77, NOW_US)
    assert hashes(NOW_US) == []


def test_versions_differ_by_names_maintenance_and_costs(own_centre: Centre) -> None:
    with_box(own_centre)
    with own_centre.registry() as registry:
        registry.set_maintenance(BOX, "Cambio de disco")

    found = {version: etree.fromstring(shared(publish(own_centre, version))) for version in publication.VERSIONS}

    assert {version: len(tree.xpath("//subsystemName")) > 0 for version, tree in found.items()} == {3: False, 4: False, 5: True, 6: True}
    assert [found[5].findtext("securityServer/inMaintenanceMode/message"), found[4].find(".//inMaintenanceMode")] == [
        "Cambio de disco",
        None,
    ]
    assert {version: len(tree.xpath("//costType")) for version, tree in found.items()} == {3: 0, 4: 0, 5: 0, 6: 3}


def test_elements_come_in_the_order_of_the_schema(own_centre: Centre) -> None:
    with_box(own_centre)
    order = [
        "instanceIdentifier",
        "source",
        "approvedCA",
        "approvedTSA",
        "member",
        "securityServer",
        "globalSettings",
        f"{{{publication.EXTENSION}}}xacbe",
    ]

    children = [str(child.tag) for child in etree.fromstring(shared(publish(own_centre)))]

    assert list(dict.fromkeys(children)) == order


def test_the_instance_signs_its_parameters(tmp_path: Path) -> None:
    parameters = Parameters(validity_s=20, ocsp_freshness_s=600, stamp_grace_s=0)
    centre = ca.initialise(tmp_path / "c", "QROO-TEST", "127.0.11.1", StandingClock(), parameters=parameters)

    published = publish(Centre.open(centre.directory))

    tree = etree.fromstring(shared(published))
    assert tree.findtext("globalSettings/ocspFreshnessSeconds") == "600"
    assert tree.findtext(f"{{{publication.EXTENSION}}}xacbe/{{{publication.EXTENSION}}}stampGraceSeconds") == "0"
    assert f"Expire-date: {from_us(NOW_US + 20_000_000):%Y-%m-%dT%H:%M:%SZ}".encode() in published.directory


def test_the_fingerprint_is_sha224_in_upper_case_with_colons(centre: Centre) -> None:
    said = openssl("dgst", "-sha224", centre.anchor_file).strip().rpartition(" ")[2]

    assert publication.fingerprint(centre.anchor_file.read_bytes()).replace(":", "").lower() == said


@pytest.mark.rule("II.2.II")
@pytest.mark.parametrize("version", publication.VERSIONS)
def test_the_boxs_own_trust_core_believes_it(own_centre: Centre, version: int) -> None:
    der = with_box(own_centre)
    core = pytest.importorskip("appliance.trust.trusted_configuration", reason="the box's trust core is not there")
    from appliance.trust.global_configuration import parse_anchor

    trusted = core.TrustedConfiguration(parse_anchor(own_centre.anchor_file.read_bytes()))
    published = publish(own_centre, version)
    entries = trusted.directory_received(published.directory, parse_anchor(own_centre.anchor_file.read_bytes()).sources[0], NOW_US)
    view = trusted.parts_received({entry: published.parts[entry.location] for entry in entries})

    assert view.shared.instance == "QROO-TEST"
    assert view.shared.server_by_auth_hash(hashlib.sha256(der).digest()).id == BOX
    assert view.shared.stamp_grace_s == 14400
    assert view.shared.ocsp_freshness_s == 28800
    assert len([client for client in view.shared.members if client.subsystem is None]) == 14
    assert to_us(from_us(view.directory.expires_us)) // 1_000_000 == NOW_US // 1_000_000 + 9 * 3600
