"""What an instance may say besides its parameters (sheet 6.6), and what comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.configuration_files import load_directory, write_layout
from appliance.model.identifiers import ClientId
from appliance.trust.global_configuration import ConfigurationMalformedError
from appliance.trust.optional_parts import OptionalParts, parse_optional_parts
from appliance.trust.trusted_configuration import TrustedConfiguration
from tests.trust.centre import NAMESPACES
from tests.trust.test_trusted_configuration import ANCHOR, made, parts, take


def part(content: str) -> bytes:
    return f"<xr:conf {NAMESPACES}>{content}</xr:conf>".encode()


def test_what_is_absent_leaves_the_defaults() -> None:
    assert parse_optional_parts({}) == OptionalParts(None, 1200, True)
    assert parse_optional_parts({"ANOTHER": b"not even XML"}) == OptionalParts()


def test_the_monitoring_client_is_exactly_the_one_that_is_named() -> None:
    names = "<id:xRoadInstance>QROO-TEST</id:xRoadInstance><id:memberClass>EST</id:memberClass><id:memberCode>CEIQROO</id:memberCode>"
    named = part(f'<monitoringClient><monitoringClientId id:objectType="MEMBER">{names}</monitoringClientId></monitoringClient>')

    assert parse_optional_parts({"MONITORING": named}).monitoring_client == ClientId("QROO-TEST", "EST", "CEIQROO")
    assert parse_optional_parts({"MONITORING": part("<monitoringClient/>")}).monitoring_client is None


@pytest.mark.parametrize(("asked", "kept"), [("59", 60), ("60", 60), ("600", 600), ("2880", 2880), ("86400", 2880), ("0", 60)])
def test_responses_are_fetched_as_the_instance_asks_and_never_later_than_48_minutes(asked: str, kept: int) -> None:
    found = parse_optional_parts({"FETCHINTERVAL": part(f"<ocspFetchInterval>{asked}</ocspFetchInterval>")})

    assert found.ocsp_fetch_interval_s == kept


@pytest.mark.parametrize(
    ("identifier", "content"),
    [
        ("MONITORING", part('<monitoringClient><monitoringClientId id:objectType="SERVER"/></monitoringClient>')),
        ("FETCHINTERVAL", part("<ocspFetchInterval>-1</ocspFetchInterval>")),
        ("FETCHINTERVAL", part("<ocspFetchInterval>soon</ocspFetchInterval>")),
        ("FETCHINTERVAL", part("")),
        ("NEXTUPDATE", part("<verifyNextUpdate>perhaps</verifyNextUpdate>")),
        ("NEXTUPDATE", b"<!DOCTYPE x [<!ENTITY e 'true'>]><x/>"),
    ],
)
def test_a_part_that_does_not_say_what_it_must_refuses_the_configuration(identifier: str, content: bytes) -> None:
    trusted = TrustedConfiguration(ANCHOR)
    before = take(trusted, made())

    with pytest.raises(ConfigurationMalformedError):
        take(trusted, made(generated="20261123120001000000000", parts={**parts(), identifier: content}))
    assert trusted.in_force is before


def test_an_instance_that_switches_next_update_off_says_so_to_every_process(tmp_path: Path) -> None:
    content = {**parts(), "NEXTUPDATE": part("<verifyNextUpdate>false</verifyNextUpdate>")}
    configuration = take(TrustedConfiguration(ANCHOR), made(parts=content))
    write_layout(tmp_path / "configuration", "QROO-TEST", [configuration])

    loaded = load_directory(tmp_path / "configuration")

    assert not configuration.shared.checks_next_update
    assert not loaded.shared["QROO-TEST"].checks_next_update
    assert (tmp_path / "configuration" / "QROO-TEST" / "nextupdate-params.xml").is_file()
