"""Renewal at CEIQROO: new keys certified beside the old ones of a registered box."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from appliance.errors import RefusedError
from provisioning import enrolment
from provisioning.__main__ import app
from provisioning.centre import Centre
from tests.provisioning.parts import StandingClock, box_keys, enrolment_request

CLOCK = StandingClock()
SEAL, PEER = "seal/MUN/TULUM", "tls-peer"


def enrolled(centre: Centre) -> dict[str, Any]:
    return enrolment.approve(centre, enrolment_request(box_keys()), "127.0.11.21", CLOCK, internal_address="10.1.2.3")


def renewal(*labels: str, server: str = "QROO-TEST/MUN/TULUM/SS1") -> enrolment.EnrolmentRequest:
    return enrolment.read_request(msgspec.json.encode(enrolment_request(box_keys(*labels), server)))


def read(answer: dict[str, Any], label: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(answer["certificates"][label]))


@pytest.mark.case("T17")
def test_a_renewal_changes_the_key_and_the_dates_and_nothing_else(own_centre: Centre) -> None:
    first = enrolled(own_centre)
    later = StandingClock(CLOCK.us + 86_400_000_000)

    second = enrolment.renew(own_centre, renewal(SEAL, PEER, "tls-internal", "tls-report", "log"), later)

    for label in first["certificates"]:
        old, new = read(first, label), read(second, label)
        assert new.subject == old.subject
        assert new.public_key() != old.public_key()
        assert new.not_valid_after_utc > old.not_valid_after_utc
        names = [[one.value for one in found.extensions if one.oid == x509.OID_SUBJECT_ALTERNATIVE_NAME] for found in (old, new)]
        assert names[0] == names[1]


@pytest.mark.case("T17")
def test_both_authentication_certificates_are_published_until_the_old_one_is_revoked(own_centre: Centre) -> None:
    old = read(enrolled(own_centre), PEER)
    new = read(enrolment.renew(own_centre, renewal(PEER), CLOCK), PEER)
    with own_centre.registry() as registry:
        (server,) = registry.snapshot(CLOCK.us).servers
        assert set(server.authentication_certificates) == {one.public_bytes(Encoding.DER) for one in (old, new)}
        registry.revoke(old.serial_number, CLOCK.us, "superseded")
        (server,) = registry.snapshot(CLOCK.us).servers
        assert server.authentication_certificates == (new.public_bytes(Encoding.DER),)
        assert str(server.clients[0]) == "QROO-TEST/MUN/TULUM/SOLOMON"


def test_what_does_not_hold_is_refused_and_leaves_nothing(own_centre: Centre) -> None:
    keys = box_keys()
    enrolment.approve(own_centre, enrolment_request(keys), "127.0.11.21", CLOCK)
    with own_centre.registry() as registry:
        before = len(registry.certificates())
    same_key = enrolment.read_request(msgspec.json.encode(enrolment_request({PEER: keys[PEER]})))
    other_purpose = enrolment.read_request(msgspec.json.encode(enrolment_request({PEER: keys[SEAL]})))
    for request, kind in (
        (renewal(PEER, server="QROO-TEST/MUN/TULUM/SS2"), "enrolment.not_registered"),
        (renewal(PEER, "seal/MUN/COZUMEL"), "enrolment.nothing_to_renew"),
        (renewal("tls-unheard-of"), "enrolment.unknown_key"),
        (renewal(PEER, server="QROO/MUN/TULUM/SS1"), "enrolment.other_instance"),
        (same_key, "enrolment.same_key"),
        (other_purpose, "request.key_reused"),
    ):
        with pytest.raises(RefusedError) as refused:
            enrolment.renew(own_centre, request, CLOCK)
        assert refused.value.kind == kind
    with own_centre.registry() as registry:
        assert len(registry.certificates()) == before


def test_a_box_renews_no_seal_of_a_member_that_is_not_on_it(own_centre: Centre) -> None:
    enrolled(own_centre)
    others = enrolment_request(box_keys("seal/MUN/COZUMEL", PEER), "QROO-TEST/MUN/COZUMEL/SS1")
    enrolment.approve(own_centre, others, "127.0.11.22", CLOCK)

    with pytest.raises(RefusedError) as refused:
        enrolment.renew(own_centre, renewal("seal/MUN/COZUMEL"), CLOCK)
    assert refused.value.kind == "enrolment.not_registered"


def test_the_command_writes_the_answer(own_centre: Centre, tmp_path: Path) -> None:
    enrolled(own_centre)
    (tmp_path / "request.json").write_bytes(msgspec.json.encode(enrolment_request(box_keys(SEAL))))

    done = CliRunner().invoke(
        app, ["enrolment", "renew", str(own_centre.directory), str(tmp_path / "request.json"), "--out", str(tmp_path / "answer.json")]
    )

    assert (done.exit_code, "1 certificados renovados" in done.output) == (0, True)
    assert set(msgspec.json.decode((tmp_path / "answer.json").read_bytes())["certificates"]) == {SEAL}
