"""An instance from nothing: what `authority init` leaves behind."""

from __future__ import annotations

import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from appliance.clock import SystemClock
from appliance.errors import CorruptStateError, RefusedError, SettingsError
from appliance.model.identifiers import ClientId, ServerId
from provisioning.authority import ca
from provisioning.authority.ocsp_responder import CertificateStatus
from provisioning.centre import Centre, CentreMissingError, Parameters
from provisioning.registry import Registry
from tests.provisioning.parts import NOW_US, StandingClock, openssl


def extended(certificate: x509.Certificate) -> tuple[set[x509.ObjectIdentifier], bool]:
    extension = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    return set(extension.value), extension.critical


def test_it_takes_less_than_two_seconds_and_opens_again(tmp_path: Path) -> None:
    began = time.monotonic()
    made = ca.initialise(tmp_path / "c", "QROO-TEST", "127.0.11.1", SystemClock())

    assert time.monotonic() - began < 2
    assert Centre.open(tmp_path / "c") == made


def test_keys_are_readable_to_their_owner_alone_and_the_roots_lies_apart(centre: Centre) -> None:
    keys = sorted(
        file.relative_to(centre.directory).as_posix() for file in centre.directory.rglob("*.pem") if b"PRIVATE" in file.read_bytes()
    )

    assert keys == [
        *(f"keys/{name}.pem" for name in ("broker", "configuration", "issuing", "monitor", "ocsp", "tsa", "web")),
        "root/root.pem",
    ]
    assert {stat.S_IMODE((centre.directory / key).stat().st_mode) for key in keys} == {0o600}
    assert {stat.S_IMODE((centre.directory / name).stat().st_mode) for name in ("root", "keys")} == {0o700}


@pytest.mark.parametrize(
    ("name", "purpose"), [("ocsp", "ocsphelper"), ("tsa", "timestampsign"), ("broker", "sslserver"), ("monitor", "sslclient")]
)
def test_openssl_accepts_every_service_for_its_purpose(centre: Centre, name: str, purpose: str) -> None:
    trust = ("-x509_strict", "-CAfile", centre.authorities_file, "-purpose", purpose)

    assert ": OK" in openssl("verify", *trust, centre.certificate_file(name, "pem"))


def test_each_service_may_do_one_thing(centre: Centre) -> None:
    assert extended(centre.certificate("tsa")) == ({ExtendedKeyUsageOID.TIME_STAMPING}, True)
    assert extended(centre.certificate("ocsp"))[0] == {ExtendedKeyUsageOID.OCSP_SIGNING}
    assert centre.certificate("ocsp").extensions.get_extension_for_class(x509.OCSPNoCheck)
    assert extended(centre.certificate("broker"))[0] == {ExtendedKeyUsageOID.SERVER_AUTH}
    assert extended(centre.certificate("monitor"))[0] == {ExtendedKeyUsageOID.CLIENT_AUTH}
    depths = {
        name: centre.certificate(name).extensions.get_extension_for_class(x509.BasicConstraints).value for name in ("root", "issuing")
    }
    assert {name: (found.ca, found.path_length) for name, found in depths.items()} == {"root": (True, 1), "issuing": (True, 0)}


def test_the_registry_begins_with_quintana_roos_members(centre: Centre) -> None:
    with centre.registry() as registry:
        snapshot = registry.snapshot(NOW_US)

    classes = [member.id.member_class for member in snapshot.members]
    assert {name: classes.count(name) for name in ("MUN", "EST", "FED")} == {"MUN": 11, "EST": 2, "FED": 1}
    assert {member.id for member in snapshot.members} == {one.id.member for one in snapshot.subsystems if one.id.subsystem == "SOLOMON"}
    assert [one.id.member_code for one in snapshot.subsystems if one.id.subsystem == "GEOPORTAL"] == ["SSP"]
    assert all(str(member.id).isascii() for member in snapshot.members)


def test_a_centre_is_never_made_over_another(centre: Centre, tmp_path: Path) -> None:
    with pytest.raises(ca.CentreExistsError):
        ca.initialise(centre.directory, "QROO-TEST", "127.0.11.1", SystemClock())
    (tmp_path / "root").mkdir()  # a first attempt that was cut off
    with pytest.raises(ca.CentreExistsError):
        ca.initialise(tmp_path, "QROO-TEST", "127.0.11.1", SystemClock())


def test_an_absent_and_a_torn_centre_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CentreMissingError):
        Centre.open(tmp_path)
    (tmp_path / "centre.json").write_text('{"instance": "QROO-TEST", "addr')
    with pytest.raises(CorruptStateError):
        Centre.open(tmp_path)


@pytest.mark.rule("IV.3.V")
def test_no_parameter_may_promise_more_than_eight_hours() -> None:
    for more in ({"ocsp_freshness_s": 28801}, {"stamp_grace_s": 28801}):
        with pytest.raises(SettingsError):
            Parameters(**more)


def test_the_registry_refuses_what_it_does_not_know(own_centre: Centre) -> None:
    with own_centre.registry() as registry:
        for wrong in (
            lambda: registry.member(ClientId("QROO", "MUN", "TULUM")),
            lambda: registry.add_member(ClientId("QROO-TEST", "MUN", "TULUM"), "Municipio de Tulum"),
            lambda: registry.add_member(ClientId("QROO-TEST", "COM", "X"), "X"),
            lambda: registry.add_member(ClientId("QROO-TEST", "MUN", "X"), "X" * 65),
            lambda: registry.add_subsystem(ClientId("QROO-TEST", "MUN", "X", "SOLOMON"), "X"),
            lambda: registry.revoke(1, NOW_US),
            lambda: registry.set_maintenance(ServerId(ClientId("QROO-TEST", "MUN", "TULUM"), "SS1"), "x"),
        ):
            with pytest.raises(RefusedError):
                wrong()


def add_two(registry: Registry) -> None:
    """A new member, and in the same change one that is registered already."""
    with registry.changing():
        registry.add_member(ClientId("QROO-TEST", "MUN", "NEW"), "Nuevo")
        registry.add_member(ClientId("QROO-TEST", "MUN", "TULUM"), "Municipio de Tulum")


def test_a_failed_change_leaves_neither_rows_nor_a_revision(own_centre: Centre) -> None:
    with own_centre.registry() as registry:
        before = registry.revision()
        with pytest.raises(RefusedError):
            add_two(registry)

        assert registry.revision() == before
        with pytest.raises(RefusedError):
            registry.member(ClientId("QROO-TEST", "MUN", "NEW"))


def test_a_revocation_is_for_good_and_keeps_its_first_moment(own_centre: Centre) -> None:
    serial = own_centre.certificate("tsa").serial_number
    with own_centre.registry() as registry:
        assert registry.status(serial) == CertificateStatus()
        registry.revoke(serial, NOW_US, "superseded")
        registry.revoke(serial, NOW_US + 1, "keyCompromise")
        assert registry.status(serial) == CertificateStatus(NOW_US, "superseded")
        with pytest.raises(RefusedError):
            registry.revoke(serial, NOW_US, "because")


def test_a_change_by_another_process_is_seen(own_centre: Centre) -> None:
    with own_centre.registry() as reader, own_centre.registry() as writer:
        before = reader.revision()
        writer.set_suspended(ClientId("QROO-TEST", "MUN", "TULUM"), NOW_US)
        assert reader.revision() == before + 1


def test_a_certificate_never_outlives_its_issuer(tmp_path: Path) -> None:
    clock = StandingClock()
    centre = ca.initialise(tmp_path / "c", "QROO-TEST", "127.0.11.1", clock)
    later_us = NOW_US + 9 * 365 * 86400 * 1_000_000 + 300 * 86400 * 1_000_000
    from provisioning.authority import profiles
    from tests.provisioning.parts import new_key

    subject = profiles.authority_subject("QROO-TEST", "late")
    late = profiles.certify(profiles.Profile.LOG, subject, new_key().public_key(), ca.issuer(centre), later_us)

    assert late.not_valid_after_utc == centre.certificate("issuing").not_valid_after_utc
