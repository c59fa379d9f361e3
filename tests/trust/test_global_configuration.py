"""The parts of the global configuration: what they say, and what is refused (sheet 6.5)."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import UnverifiedError, XacbeError
from appliance.model.identifiers import ClientId, ServerId
from appliance.trust.global_configuration import (
    ConfigurationMalformedError,
    parse_anchor,
    parse_private_parameters,
    parse_shared_parameters,
)
from tests.trust import centre, pki
from tests.trust.centre import AUTH_HASH, GRACE, Shared
from tests.vectors import VECTORS, needs_vectors

CA = pki.ca()
MIDDLE = pki.ca("O=Red,CN=Middle", CA)
TSA = pki.tsa(CA)
SSP = ClientId("QROO-TEST", "GOB", "SSP")
SOLOMON = ClientId("QROO-TEST", "GOB", "SSP", "Solomon")
FGE = ClientId("QROO-TEST", "GOB", "FGE")


def document(**fields: object) -> bytes:
    return Shared(ca=CA, tsas=[("TSA", "http://127.0.0.1:2/", TSA)], **fields).xml()  # type: ignore[arg-type]  # passed through


def test_members_servers_groups_and_services_are_read() -> None:
    shared = parse_shared_parameters(document(responders=(TSA,), intermediates=(MIDDLE,)), 6)

    assert shared.members == {
        SSP: "Policía",
        SOLOMON: "Captura",
        ClientId("QROO-TEST", "GOB", "SSP", "Geoportal"): "Policía",
        FGE: "Fiscalía",
    }
    (server,) = shared.servers
    assert (server.id, server.address, server.clients, server.maintenance) == (ServerId(SSP, "ss1"), "127.0.0.2", {SOLOMON, FGE}, None)
    assert shared.groups == {"police": {SOLOMON}}
    assert [(ca.top, ca.certificate) for ca in shared.cas] == [(True, CA.certificate), (False, MIDDLE.certificate)]
    assert shared.cas[0].ocsp_certificates == (TSA.certificate,)
    assert (shared.tsas[0].name, shared.tsas[0].certificate) == ("TSA", TSA.certificate)
    assert (shared.ocsp_freshness_s, shared.stamp_grace_s) == (28_800, 0)


def test_look_ups_are_exact() -> None:
    shared = parse_shared_parameters(document(), 6)

    assert shared.servers_of(SOLOMON) == shared.servers
    assert shared.servers_of(SSP) == shared.servers  # the owner
    assert shared.servers_of(ClientId("QROO-TEST", "GOB", "SSP", "Geoportal")) == ()
    assert shared.server_by_auth_hash(AUTH_HASH) == shared.servers[0]
    assert shared.server_by_auth_hash(bytes(32)) is None
    found = shared.ca_by_subject(CA.certificate.subject.public_bytes())
    assert found is not None
    assert found.certificate == CA.certificate


@pytest.mark.rule("IV.3.VI")
def test_the_grace_is_what_the_extension_says() -> None:
    assert parse_shared_parameters(document(extension=GRACE.format(14400)), 6).stamp_grace_s == 14400
    with pytest.raises(ConfigurationMalformedError):
        parse_shared_parameters(document(extension=GRACE.format(8 * 3600 + 1)), 6)


def test_unknown_elements_at_the_end_are_passed_over() -> None:
    assert parse_shared_parameters(document(extension="<other/>" + GRACE.format(60)), 6).stamp_grace_s == 60


def test_maintenance_carries_the_operators_message() -> None:
    with_text = "<inMaintenanceMode><message>until 6</message></inMaintenanceMode>"

    assert parse_shared_parameters(document(maintenance=with_text), 6).servers[0].maintenance == "until 6"
    assert parse_shared_parameters(document(maintenance="<inMaintenanceMode/>"), 6).servers[0].maintenance == ""


def test_certificates_may_be_pem_inside_the_base64() -> None:
    pem = base64.b64encode(CA.certificate.public_bytes(serialization.Encoding.PEM)).decode()

    shared = parse_shared_parameters(document().replace(CA.base64.encode(), pem.encode()), 6)

    assert shared.cas[0].certificate == CA.certificate


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_every_version_is_read(version: int) -> None:
    assert parse_shared_parameters(document(), version).version == version


@pytest.mark.parametrize(
    "xml",
    [
        document(freshness="0"),
        document(freshness="-1"),
        document(freshness="1e3"),
        document(freshness="99999999999"),
        document(owner="nobody"),
        document(client_type="SERVICE"),
        document().replace(b"<memberCode>SSP</memberCode>", b"<memberCode> </memberCode>"),
        document().replace(b'id="s2"', b'id="s1"'),
        document().replace(b"<xr:conf", b"<xr:other").replace(b"</xr:conf", b"</xr:other"),
        document().replace(b"<topCA>", b"<bottomCA>").replace(b"</topCA>", b"</bottomCA>"),
        document().replace(CA.base64[:40].encode(), b"AAAA" * 10),
        document().replace(b"<authCertHash>", b"<authCertHash>!"),
        document()[:-20],
        b"",
        b"<a/>",
        document().replace(b"<xr:conf", b'<!DOCTYPE x [<!ENTITY e "x">]><xr:conf'),
        b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]><x>&c;</x>',
        b'<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        b"<x>" * 5000,
    ],
)
@pytest.mark.case("T05")
def test_what_does_not_say_what_it_must_is_refused(xml: bytes) -> None:
    with pytest.raises(UnverifiedError):
        parse_shared_parameters(xml, 6)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ConfigurationMalformedError):
        parse_shared_parameters(document(), 7)


def test_an_anchor_names_its_sources() -> None:
    anchor = parse_anchor(centre.anchor(("http://127.0.0.1:1/internalconf", CA), ("http://127.0.0.1:2/internalconf", TSA)))

    assert anchor.instance == "QROO-TEST"
    assert [(source.url, source.certificates) for source in anchor.sources] == [
        ("http://127.0.0.1:1/internalconf", (CA.certificate,)),
        ("http://127.0.0.1:2/internalconf", (TSA.certificate,)),
    ]


@pytest.mark.parametrize("xml", [centre.anchor(), centre.private(), b"<x/>"])
def test_an_anchor_without_a_source_is_none(xml: bytes) -> None:
    with pytest.raises(ConfigurationMalformedError):
        parse_anchor(xml)


@pytest.mark.rule("II.2.X")
def test_private_parameters_name_the_anchors_of_other_instances() -> None:
    other = (
        "<configurationAnchor><instanceIdentifier>YUC</instanceIdentifier>"
        + centre.anchor_sources(("http://127.0.0.1:3/externalconf", CA))
        + "</configurationAnchor>"
    )

    private = parse_private_parameters(centre.private(anchors=other))

    assert [(anchor.instance, anchor.sources[0].url) for anchor in private.anchors] == [("YUC", "http://127.0.0.1:3/externalconf")]
    assert private.stamp_interval_s == 60


GOOD = document()


@pytest.mark.case("T05")
@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=4))
def test_any_change_gives_a_value_or_our_error(at: int, new: bytes) -> None:
    try:
        parse_shared_parameters(GOOD[:at] + new + GOOD[at + len(new) :], 6)
    except XacbeError:
        return


@given(st.binary(max_size=100))
def test_any_bytes_give_our_error(data: bytes) -> None:
    for parse in (parse_anchor, parse_private_parameters):
        with pytest.raises(ConfigurationMalformedError):
            parse(data)


@needs_vectors
def test_xroads_own_samples_are_read() -> None:
    good = VECTORS / "globalconf-DEV-v3" / "DEV" / "shared-params.xml"
    signed = VECTORS / "globalconf-signed" / "V6" / "20251110170000548026000"

    old, new = parse_shared_parameters(good.read_bytes(), 3), parse_shared_parameters((signed / "shared-params.xml").read_bytes(), 6)
    private = parse_private_parameters((signed / "private-params.xml").read_bytes())

    assert (old.instance, old.ocsp_freshness_s) == ("DEV", 3600)
    assert [str(server.id) for server in new.servers] == ["DEV/COM/1234/SS0", "DEV/COM/4321/SS1"]
    assert new.members[ClientId("DEV", "COM", "1234", "TestSaved")] == "Test saved"
    assert new.sources[0].address == "cs"
    assert str(private.management_provider) == "DEV/COM/1234/MANAGEMENT"
    assert parse_anchor((VECTORS / "conf-download" / "configuration-anchor1.xml").read_bytes()).instance == "EE"
