"""A box's requests become certificates and an entry in the registry: all of it, or nothing."""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.clock import from_us
from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId
from provisioning import enrolment
from provisioning.authority import profiles
from provisioning.centre import Centre
from tests.provisioning.parts import LABELS, NOW_US, StandingClock, box_keys, csr, enrolment_request, new_key, openssl

CLOCK = StandingClock()


def approve(centre: Centre, request: dict[str, Any], **more: Any) -> dict[str, Any]:
    return enrolment.approve(centre, request, "127.0.11.21", CLOCK, **more)


def certificates(approval: dict[str, Any]) -> dict[str, x509.Certificate]:
    return {label: x509.load_der_x509_certificate(base64.b64decode(text)) for label, text in approval["certificates"].items()}


def usages(certificate: x509.Certificate) -> set[str]:
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "key_cert_sign")
    return {name for name in names if getattr(usage.value, name)}


def extended(certificate: x509.Certificate) -> set[x509.ObjectIdentifier]:
    try:
        return set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return set()


def subject(certificate: x509.Certificate) -> dict[x509.ObjectIdentifier, str]:
    return {attribute.oid: str(attribute.value) for attribute in certificate.subject}


def untouched(centre: Centre) -> bool:
    """Neither server nor certificate of a box in the registry."""
    with centre.registry() as registry:
        return not registry.snapshot(NOW_US).servers and {one.holder for one in registry.certificates()} == {"CEIQROO"}


@pytest.mark.rule("I.4.XIII")
def test_every_key_gets_the_certificate_of_its_purpose(own_centre: Centre) -> None:
    keys = box_keys()
    made = certificates(approve(own_centre, enrolment_request(keys)))

    assert {label: certificate.public_key() for label, certificate in made.items()} == {
        label: key.public_key() for label, key in keys.items()
    }
    assert {label: usages(certificate) for label, certificate in made.items()} == {
        "seal/MUN/TULUM": {"content_commitment"},
        "tls-peer": {"digital_signature", "key_agreement"},
        "tls-internal": {"digital_signature", "key_agreement"},
        "tls-report": {"digital_signature"},
        "log": {"digital_signature"},
    }
    client, server = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
    assert {label: extended(certificate) for label, certificate in made.items()} == {
        "seal/MUN/TULUM": set(),
        "tls-peer": {client, server},
        "tls-internal": {server},
        "tls-report": {client},
        "log": set(),
    }


@pytest.mark.rule("IV.3.I")
def test_the_seal_certificate_names_the_registered_member_and_not_what_the_request_says(own_centre: Centre) -> None:
    made = certificates(approve(own_centre, enrolment_request(box_keys())))["seal/MUN/TULUM"]

    assert subject(made) == {
        NameOID.COUNTRY_NAME: "MX",
        NameOID.ORGANIZATION_NAME: "Municipio de Tulum",
        NameOID.BUSINESS_CATEGORY: "MUN",
        NameOID.SERIAL_NUMBER: "TULUM",
        NameOID.COMMON_NAME: "Municipio de Tulum",
    }
    reader = pytest.importorskip("appliance.trust.certificate_profiles", reason="the box's reader is not there")
    from provisioning.authority.ca import BASIC_PROFILE

    member = ClientId("QROO-TEST", "MUN", "TULUM")
    assert reader.member_of(made, BASIC_PROFILE, member) == member


def test_tls_certificates_are_for_ninety_days_and_the_boxs_addresses(own_centre: Centre) -> None:
    made = certificates(approve(own_centre, enrolment_request(box_keys()), internal_address="10.1.2.3"))

    for label, address in (("tls-peer", "127.0.11.21"), ("tls-internal", "10.1.2.3")):
        names = made[label].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address(address)]
        assert subject(made[label])[NameOID.COMMON_NAME] == address
        assert subject(made[label])[NameOID.SERIAL_NUMBER] == "TULUM"
        assert (made[label].not_valid_after_utc - from_us(NOW_US)).days == 89  # ninety, less the fraction of a second
    assert subject(made["tls-report"])[NameOID.COMMON_NAME] == "MUN:TULUM:SS1"


def test_openssl_builds_the_path_and_the_status_address_is_inside(own_centre: Centre, tmp_path: Path) -> None:
    approval = approve(own_centre, enrolment_request(box_keys()))
    issuers = [x509.load_der_x509_certificate(base64.b64decode(text)).public_bytes(Encoding.PEM) for text in approval["issuers"]]
    (tmp_path / "issuing.pem").write_bytes(issuers[0])
    (tmp_path / "root.pem").write_bytes(issuers[1])

    for label, certificate in certificates(approval).items():
        (tmp_path / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
        trust = (
            "-attime",
            str(NOW_US // 1_000_000),
            "-x509_strict",
            "-CAfile",
            tmp_path / "root.pem",
            "-untrusted",
            tmp_path / "issuing.pem",
        )
        assert "leaf.pem: OK" in openssl("verify", *trust, tmp_path / "leaf.pem"), label
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value[0]
        assert access.access_method == AuthorityInformationAccessOID.OCSP
        assert access.access_location.value == own_centre.ocsp_url


@pytest.mark.rule("I.4.XVIII")
def test_the_box_is_published_with_its_address_its_certificate_and_its_clients(own_centre: Centre) -> None:
    approval = approve(own_centre, enrolment_request(box_keys()))

    with own_centre.registry() as registry:
        (server,) = registry.snapshot(NOW_US).servers
    assert (str(server.id), server.address) == ("QROO-TEST/MUN/TULUM/SS1", "127.0.11.21")
    assert server.authentication_certificates == (base64.b64decode(approval["certificates"]["tls-peer"]),)
    assert [str(client) for client in server.clients] == approval["clients"] == ["QROO-TEST/MUN/TULUM/SOLOMON"]
    assert base64.b64decode(approval["anchor"]) == own_centre.anchor_file.read_bytes()
    assert approval["broker"] == {"host": "127.0.11.1", "port": 8883}


def test_only_the_named_subsystems_become_clients(own_centre: Centre) -> None:
    request = enrolment_request(box_keys("seal/EST/SSP", "tls-peer"), "QROO-TEST/EST/SSP/SS1")

    assert approve(own_centre, request, subsystems=["GEOPORTAL"])["clients"] == ["QROO-TEST/EST/SSP/GEOPORTAL"]
    with pytest.raises(RefusedError) as refused:
        approve(own_centre, request, subsystems=["GEOPORTAL", "NONE"])
    assert refused.value.kind == "enrolment.unknown_subsystem"


@pytest.mark.rule("IV.2.V")
def test_a_shared_box_gets_one_seal_certificate_for_each_member(own_centre: Centre) -> None:
    request = enrolment_request(box_keys(*LABELS, "seal/MUN/COZUMEL"))

    approval = approve(own_centre, request)

    assert subject(certificates(approval)["seal/MUN/COZUMEL"])[NameOID.SERIAL_NUMBER] == "COZUMEL"
    assert approval["clients"] == ["QROO-TEST/MUN/TULUM/SOLOMON", "QROO-TEST/MUN/COZUMEL/SOLOMON"]


def test_a_second_enrolment_renews_and_both_certificates_count_until_one_is_revoked(own_centre: Centre) -> None:
    first, second = (approve(own_centre, enrolment_request(box_keys())) for _ in range(2))

    with own_centre.registry() as registry:
        published = registry.snapshot(NOW_US).servers[0].authentication_certificates
        assert set(published) == {base64.b64decode(one["certificates"]["tls-peer"]) for one in (first, second)}
        registry.revoke(certificates(first)["tls-peer"].serial_number, NOW_US)
        assert registry.snapshot(NOW_US).servers[0].authentication_certificates == (base64.b64decode(second["certificates"]["tls-peer"]),)


def _with(request: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return request | changes


def _label(label: str, text: str | None = None) -> dict[str, Any]:
    request: dict[str, Any] = enrolment_request(box_keys())
    request["requests"][label] = base64.b64encode(csr(new_key())).decode() if text is None else text
    return request


def _without(label: str) -> dict[str, Any]:
    return enrolment_request(box_keys(*(one for one in LABELS if one != label)))


@pytest.mark.rule("II.2.III")
@pytest.mark.parametrize(
    ("request_document", "kind"),
    [
        (_with(enrolment_request(box_keys()), server="QROO/MUN/TULUM/SS1"), "enrolment.other_instance"),
        (_with(enrolment_request(box_keys()), server="QROO-TEST/MUN/TULUM"), "enrolment.malformed"),
        (_with(enrolment_request(box_keys("seal/MUN/X", "tls-peer")), server="QROO-TEST/MUN/X/SS1"), "registry.unknown"),
        (_with(enrolment_request(box_keys()), more=1), "enrolment.malformed"),
        (_with(enrolment_request(box_keys()), requests={}), "enrolment.malformed"),
        (_without("tls-peer"), "enrolment.incomplete"),
        (_without("seal/MUN/TULUM"), "enrolment.incomplete"),
        (_label("root"), "enrolment.unknown_key"),
        (_label("seal/MUN"), "enrolment.malformed"),
        (_label("seal/MUN/NOBODY"), "registry.unknown"),
        (_label("log", "no base64!"), "enrolment.malformed"),
        (_label("log", base64.b64encode(b"no request").decode()), "request.malformed"),
        (_label("log", base64.b64encode(bytes(9000)).decode()), "request.malformed"),
    ],
    ids=[
        "other instance",
        "no server code",
        "unknown owner",
        "unknown field",
        "no requests",
        "no tls key",
        "no seal key of the owner",
        "a profile of the centre",
        "seal without code",
        "seal of nobody",
        "no base64",
        "no csr",
        "huge csr",
    ],
)
def test_what_does_not_hold_is_refused_by_name_and_leaves_nothing(own_centre: Centre, request_document: dict[str, Any], kind: str) -> None:
    with pytest.raises(RefusedError) as refused:
        approve(own_centre, request_document)

    assert refused.value.kind == kind
    assert untouched(own_centre)


@pytest.mark.rule("II.2.XIV")
def test_a_suspended_member_gets_no_certificates(own_centre: Centre) -> None:
    with own_centre.registry() as registry:
        registry.set_suspended(ClientId("QROO-TEST", "MUN", "TULUM"), NOW_US)

    with pytest.raises(RefusedError) as refused:
        approve(own_centre, enrolment_request(box_keys()))

    assert refused.value.kind == "enrolment.suspended"
    assert untouched(own_centre)


@pytest.mark.parametrize("address", ["", "127.0.11", "caja á.mx", "caja.mx/x", "-caja.mx", "caja..mx", "x" * 65, "http://127.0.0.1"])
def test_an_address_that_is_none_is_refused(own_centre: Centre, address: str) -> None:
    with pytest.raises(RefusedError) as refused:
        enrolment.approve(own_centre, enrolment_request(box_keys()), address, CLOCK)

    assert (refused.value.kind, untouched(own_centre)) == ("enrolment.address", True)


@pytest.mark.parametrize("address", ["127.0.11.21", "2001:db8::21", "xacbe.tulum.gob.mx"])
def test_addresses_and_host_names_are_registered(own_centre: Centre, address: str) -> None:
    enrolment.approve(own_centre, enrolment_request(box_keys()), address, CLOCK)

    with own_centre.registry() as registry:
        assert registry.snapshot(NOW_US).servers[0].address == address


def test_a_key_serves_one_purpose_and_one_holder(own_centre: Centre) -> None:
    key, keys = new_key(), box_keys()
    for label in ("tls-peer", "seal/MUN/TULUM"):
        keys[label] = key
    with pytest.raises(RefusedError) as twice:
        approve(own_centre, enrolment_request(keys))
    assert (twice.value.kind, untouched(own_centre)) == ("request.key_reused", True)

    keys = box_keys()
    approve(own_centre, enrolment_request(keys))
    stolen = box_keys("seal/MUN/COZUMEL", "tls-peer") | {"tls-peer": keys["tls-peer"]}
    with pytest.raises(RefusedError) as foreign:
        approve(own_centre, enrolment_request(stolen, "QROO-TEST/MUN/COZUMEL/SS1"))
    assert foreign.value.kind == "request.key_reused"


def test_a_certified_key_may_be_certified_again_for_the_same_purpose(own_centre: Centre) -> None:
    request = enrolment_request(box_keys())

    serials = {certificates(approve(own_centre, request))["tls-peer"].serial_number for _ in range(2)}

    assert len(serials) == 2


@pytest.mark.case("T09")
@pytest.mark.parametrize(
    ("request_der", "kind"),
    [
        (csr(ec.generate_private_key(ec.SECP192R1())), "request.key"),
        (csr(ec.generate_private_key(ec.SECP384R1())), "request.key"),
        (csr(ec.generate_private_key(ec.SECP256K1())), "request.key"),
        (csr(rsa.generate_private_key(65537, 1024)), "request.key"),  # noqa: S505  weak on purpose
        (csr(rsa.generate_private_key(3, 2048)), "request.key"),
        (csr(new_key())[:-9] + bytes(9), "request.signature"),
    ],
    ids=["P-192", "P-384", "secp256k1", "RSA-1024", "exponent 3", "signature broken"],
)
def test_a_weak_or_unproven_key_is_not_certified(request_der: bytes, kind: str) -> None:
    with pytest.raises(profiles.CertificateRequestError) as refused:
        profiles.checked_request(request_der)

    assert refused.value.kind == kind


@pytest.mark.parametrize(
    ("making", "signing", "kind"),
    [
        (("-param_enc", "explicit"), (), "request.key"),
        (("-conv_form", "compressed"), (), "request.key"),
        ((), ("-sha1",), "request.signature"),
    ],
    ids=["explicit curve", "compressed point", "SHA-1"],
)
def test_an_unusual_form_of_key_or_signature_is_not_certified(
    tmp_path: Path, making: tuple[str, ...], signing: tuple[str, ...], kind: str
) -> None:
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", *making, "-out", tmp_path / "key.pem")
    openssl("ec", "-in", tmp_path / "key.pem", *making, "-out", tmp_path / "formed.pem")
    openssl("req", "-new", "-key", tmp_path / "formed.pem", "-subj", "/CN=x", *signing, "-outform", "DER", "-out", tmp_path / "csr.der")

    with pytest.raises(profiles.CertificateRequestError) as refused:
        profiles.checked_request((tmp_path / "csr.der").read_bytes())

    assert refused.value.kind == kind


def test_rsa_keys_of_real_tokens_are_certified() -> None:
    key = rsa.generate_private_key(65537, 2048)

    assert profiles.checked_request(csr(key, hashes.SHA512())) == key.public_key()


@given(st.binary(max_size=400))
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_are_no_request(der: bytes) -> None:
    with pytest.raises(profiles.CertificateRequestError):
        profiles.checked_request(der)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_arbitrary_documents_are_no_enrolment_request(document: bytes) -> None:
    with pytest.raises(enrolment.EnrolmentError):
        enrolment.read_request(document)


def test_digests_in_the_registry_are_those_of_the_keys(own_centre: Centre) -> None:
    keys = box_keys()
    approve(own_centre, enrolment_request(keys))
    from cryptography.hazmat.primitives.serialization import PublicFormat

    name = hashlib.sha256(keys["log"].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()
    with own_centre.registry() as registry:
        (found,) = registry.certificates_of_key(name)
    assert (found.profile, found.holder) == ("log", "QROO-TEST/MUN/TULUM/SS1")
