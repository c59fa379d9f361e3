"""Anchor -> directory -> parts -> view: what replaces what is in force, and what never does (T14)."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import XacbeError
from appliance.trust.global_configuration import AnchorSource, parse_anchor
from appliance.trust.trusted_configuration import (
    ConfigurationAbsentError,
    ConfigurationExpiredError,
    ConfigurationInForce,
    TrustedConfiguration,
)
from tests.trust import centre, pki
from tests.trust.centre import Directory, Shared
from tests.trust.pki import NOW, NOW_US

CA = pki.ca()
SIGNER, NEW_SIGNER = pki.issue("CN=Configuration"), pki.issue("CN=Configuration 2")
URL = "http://127.0.0.1:1/internalconf"
ANCHOR = parse_anchor(centre.anchor((URL, SIGNER)))
HOUR_US = 3600 * 1_000_000
LATER = "20261123120001000000000"
"""One second after the directories of `made`, in the form of X-Road's paths."""


def parts(freshness: str = "28800", instance: str = "QROO-TEST", source: str = "") -> dict[str, bytes]:
    shared = Shared(ca=CA, freshness=freshness, instance=instance, source=source).xml()
    return {"SHARED-PARAMETERS": shared, "PRIVATE-PARAMETERS": centre.private(instance)}


def made(**fields: object) -> Directory:
    return Directory(**{"signer": SIGNER, "parts": parts(), **fields})  # type: ignore[arg-type]  # passed through


def take(
    trusted: TrustedConfiguration, directory: Directory, now_us: int = NOW_US, source: AnchorSource = ANCHOR.sources[0]
) -> ConfigurationInForce:
    """Plays the fetcher: directory, then every part that was asked for."""
    files = directory.files()
    needed = trusted.directory_received(directory.body(), source, now_us)
    return trusted.parts_received({entry: files[entry.location] for entry in needed})


def kind_of(trusted: TrustedConfiguration, directory: Directory, now_us: int = NOW_US) -> str:
    try:
        take(trusted, directory, now_us)
    except XacbeError as error:
        return error.kind
    return "good"


def with_one() -> TrustedConfiguration:
    trusted = TrustedConfiguration(ANCHOR)
    take(trusted, made())
    return trusted


@pytest.mark.rule("II.2.II")
def test_a_configuration_comes_into_force_as_a_whole() -> None:
    trusted = TrustedConfiguration(ANCHOR)

    with pytest.raises(ConfigurationAbsentError):
        trusted.view(NOW_US)
    configuration = take(trusted, made())

    assert trusted.view(NOW_US) is configuration
    assert (configuration.instance, configuration.version, configuration.expires_us) == ("QROO-TEST", 6, NOW_US + 9 * HOUR_US)
    assert configuration.shared.ocsp_freshness_s == 28_800
    assert configuration.private is not None


@pytest.mark.case("T41")
def test_the_last_good_one_counts_until_it_expires_and_not_after() -> None:
    trusted = with_one()

    assert trusted.view(NOW_US + 9 * HOUR_US - 1)
    with pytest.raises(ConfigurationExpiredError):
        trusted.view(NOW_US + 9 * HOUR_US)


@pytest.mark.case("T14")
@pytest.mark.parametrize(
    ("directory", "kind"),
    [
        (made(signer=NEW_SIGNER), "configuration.untrusted"),
        (made(expires=NOW), "configuration.expired"),
        (made(expires=NOW - timedelta(days=400), generated=""), "configuration.expired"),
        (made(expires=NOW + timedelta(hours=8), generated=""), "configuration.rolled_back"),
        (made(expires=NOW + timedelta(hours=8)), "configuration.rolled_back"),
        (made(generated="20261123115959000000000", expires=NOW + timedelta(hours=99)), "configuration.rolled_back"),
        (made(instance="QROO"), "configuration.wrong_instance"),
        (made(parts=parts(instance="QROO"), generated=LATER), "configuration.wrong_instance"),
        (
            made(parts={**parts(), "SHARED-PARAMETERS": parts(instance="QROO")["SHARED-PARAMETERS"]}, generated=LATER),
            "configuration.wrong_instance",
        ),
        (made(parts={**parts(), "PRIVATE-PARAMETERS": centre.private("QROO")}, generated=LATER), "configuration.wrong_instance"),
        (made(digests={"SHARED-PARAMETERS": b"d" * 64}, generated=LATER), "configuration.mixed"),
        (made(parts={"SHARED-PARAMETERS": b"<x/>"}, generated=LATER), "configuration.malformed"),
        (made(parts={"PRIVATE-PARAMETERS": centre.private()}), "configuration.malformed"),
        (made(version="9", generated=LATER, parts=parts("60")), "configuration.malformed"),
    ],
)
def test_what_does_not_verify_leaves_the_old_one_in_force(directory: Directory, kind: str) -> None:
    trusted = with_one()
    before = trusted.in_force

    assert kind_of(trusted, directory) == kind
    assert trusted.in_force is before
    assert trusted.view(NOW_US) is before


@pytest.mark.case("T14")
def test_parts_of_two_directories_never_meet() -> None:
    trusted = with_one()
    newer = made(parts=parts("60"), generated=LATER)
    needed = trusted.directory_received(newer.body(), ANCHOR.sources[0], NOW_US)
    old_content = made().parts["SHARED-PARAMETERS"]

    with pytest.raises(XacbeError) as refused:
        trusted.parts_received({entry: old_content for entry in needed})

    assert refused.value.kind == "configuration.mixed"
    assert trusted.view(NOW_US).shared.ocsp_freshness_s == 28_800


def test_unchanged_parts_are_not_asked_for_again() -> None:
    trusted = with_one()
    later = made(expires=NOW + timedelta(hours=10))

    assert trusted.directory_received(later.body(), ANCHOR.sources[0], NOW_US) == ()
    before = trusted.view(NOW_US).content
    after = trusted.parts_received({})

    assert (after.content, after.expires_us) == (before, NOW_US + 10 * HOUR_US)


def test_ceiqroo_may_shorten_the_validity_where_paths_carry_their_time() -> None:
    trusted = with_one()

    shorter = made(expires=NOW + timedelta(hours=1), generated=LATER, parts=parts("60"))

    assert take(trusted, shorter).expires_us == NOW_US + HOUR_US


def test_parts_without_a_directory_are_a_bug() -> None:
    trusted = TrustedConfiguration(ANCHOR)

    with pytest.raises(RuntimeError):
        trusted.parts_received({})


def test_ceiqroo_changes_its_keys_through_the_configuration() -> None:
    trusted = TrustedConfiguration(ANCHOR)
    source = f"<source><address>ceiqroo</address><internalVerificationCert>{NEW_SIGNER.base64}</internalVerificationCert></source>"
    take(trusted, made(parts=parts(source=source)))
    new = next(one for one in trusted.sources() if one.url == "http://ceiqroo/internalconf")

    configuration = take(trusted, made(signer=NEW_SIGNER, generated=LATER), source=new)

    assert configuration.directory.generated == LATER


@pytest.mark.case("T14", "T40")
@pytest.mark.parametrize(("now_us", "kind"), [(NOW_US - 300_000_000, "good"), (NOW_US - 301_000_000, "configuration.from_future")])
def test_a_directory_of_more_than_five_minutes_from_now_is_not_taken(now_us: int, kind: str) -> None:
    trusted = TrustedConfiguration(ANCHOR)

    assert kind_of(trusted, made(), now_us) == kind
    assert (trusted.in_force is not None) is (kind == "good")


def test_after_a_restart_an_old_directory_is_still_old() -> None:
    first = with_one().in_force
    assert first is not None
    trusted = TrustedConfiguration(ANCHOR)

    trusted.reloaded(first.directory.raw, {entry.digest: content for entry, content in first.parts})

    assert trusted.view(NOW_US).shared == first.shared
    assert kind_of(trusted, made(expires=NOW + timedelta(hours=8))) == "configuration.rolled_back"


def test_a_damaged_file_does_not_come_back_after_a_restart() -> None:
    first = with_one().in_force
    assert first is not None
    trusted = TrustedConfiguration(ANCHOR)

    with pytest.raises(XacbeError) as refused:
        trusted.reloaded(first.directory.raw, {entry.digest: content + b" " for entry, content in first.parts})

    assert refused.value.kind == "configuration.mixed"
    assert trusted.in_force is None


def test_a_new_anchor_is_a_new_beginning() -> None:
    trusted = with_one()

    trusted.anchored_anew(parse_anchor(centre.anchor((URL, NEW_SIGNER))))

    assert trusted.view(NOW_US)
    rebuilt = made(signer=NEW_SIGNER, expires=NOW + timedelta(hours=1), generated="")
    assert take(trusted, rebuilt, source=trusted.sources()[0]).expires_us == NOW_US + HOUR_US


@pytest.mark.rule("II.2.X")
def test_of_another_instance_only_the_shared_parameters_are_taken() -> None:
    trusted = TrustedConfiguration(ANCHOR, own=False)

    configuration = take(trusted, made())

    assert configuration.private is None
    assert [entry.identifier for entry, _ in configuration.parts] == ["SHARED-PARAMETERS"]


@pytest.mark.case("T14")
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=8))
def test_whatever_comes_in_what_order_the_configuration_never_gets_older(steps: list[tuple[int, bool]]) -> None:
    trusted = TrustedConfiguration(ANCHOR)
    newest = -1
    for number, is_genuine in steps:
        directory = made(
            signer=SIGNER if is_genuine else NEW_SIGNER,
            expires=NOW + timedelta(hours=1 + number),
            generated=f"2026112312000{number}000000000",
            parts=parts(str(100 + number)),
        )
        accepted = kind_of(trusted, directory) == "good"
        assert accepted is (is_genuine and number >= newest)
        newest = max(newest, number) if accepted else newest
        assert newest < 0 or trusted.view(NOW_US).shared.ocsp_freshness_s == 100 + newest
