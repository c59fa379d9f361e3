"""What the instance agrees on with others, as boxes are told of it: federation, groups, monitoring, optional parts."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import msgspec
import pytest

from appliance.errors import RefusedError
from appliance.model.identifiers import ClientId
from appliance.trust.directory import parse_directory
from appliance.trust.global_configuration import parse_anchor, parse_private_parameters, parse_shared_parameters
from appliance.trust.optional_parts import OptionalParts, parse_optional_parts
from provisioning import publication
from provisioning.centre import Centre, Parameters
from provisioning.publication import ConfigurationKey, Publication
from provisioning.registry import UnknownEntryError
from tests.provisioning.parts import NOW_US
from tests.provisioning.test_command import ceiqroo

TULUM = ClientId("QROO-TEST", "MUN", "TULUM")
MERIDA = ClientId("YUC", "MUN", "MERIDA", "SOLOMON")


def published(centre: Centre, *, external: bool = False) -> Publication:
    signing = ConfigurationKey(centre.certificate("configuration"), centre.key("configuration"))
    with centre.registry() as registry:
        return publication.publish(registry, centre, signing, 6, NOW_US, external=external)


def contents(made: Publication) -> dict[str, bytes]:
    """By identifier, as the signed directory names them."""
    return {entry.identifier: made.parts[entry.location] for entry in parse_directory(made.directory).parts}


def foreign_anchor(centre: Centre) -> bytes:
    return publication.anchor(centre, external=True).replace(b"QROO-TEST", b"YUC")


@pytest.mark.rule("II.2.X")
def test_boxes_are_told_the_anchors_of_federated_instances(own_centre: Centre, tmp_path: Path) -> None:
    (tmp_path / "yuc.xml").write_bytes(foreign_anchor(own_centre))
    added = ceiqroo("federation", "add", own_centre.directory, tmp_path / "yuc.xml")
    assert added.returncode == 0, added.stderr

    [told] = parse_private_parameters(contents(published(own_centre))["PRIVATE-PARAMETERS"]).anchors
    given = parse_anchor(foreign_anchor(own_centre))
    assert told == given
    assert [row["instance"] for row in json.loads(ceiqroo("federation", "list", own_centre.directory, "--json").stdout)] == ["YUC"]

    assert ceiqroo("federation", "remove", own_centre.directory, "YUC").returncode == 0
    assert parse_private_parameters(contents(published(own_centre))["PRIVATE-PARAMETERS"]).anchors == ()


def test_an_instance_does_not_federate_with_itself_nor_end_what_never_was(own_centre: Centre, tmp_path: Path) -> None:
    (tmp_path / "own.xml").write_bytes(publication.anchor(own_centre, external=True))

    assert "federation.own_instance" in ceiqroo("federation", "add", own_centre.directory, tmp_path / "own.xml").stderr
    with own_centre.registry() as registry, pytest.raises(UnknownEntryError):
        registry.unfederate("YUC")


def test_another_instance_is_given_the_shared_parameters_alone(own_centre: Centre) -> None:
    with own_centre.registry() as registry:
        registry.set_monitoring_client(TULUM)

    assert set(contents(published(own_centre))) == {"SHARED-PARAMETERS", "PRIVATE-PARAMETERS", "MONITORING"}
    assert set(contents(published(own_centre, external=True))) == {"SHARED-PARAMETERS"}


def test_the_anchor_for_others_names_the_external_place_and_the_encrypted_one_first(own_centre: Centre) -> None:
    urls = [source.url for source in parse_anchor(publication.anchor(own_centre, external=True, https=True)).sources]

    assert urls == ["https://127.0.11.1:4443/externalconf", "http://127.0.11.1:8000/externalconf"]


def test_a_group_is_published_with_its_members_and_without_suspended_ones(own_centre: Centre) -> None:
    with own_centre.registry() as registry:
        registry.set_group("costa", "Municipios de la costa", (TULUM, MERIDA))
        before = contents(published(own_centre))["SHARED-PARAMETERS"]
        registry.set_suspended(TULUM, NOW_US)
        after = contents(published(own_centre))["SHARED-PARAMETERS"]

    assert parse_shared_parameters(before, 6).groups == {"costa": frozenset({TULUM, MERIDA})}
    assert parse_shared_parameters(after, 6).groups == {"costa": frozenset({MERIDA})}


def test_a_group_without_members_ends(own_centre: Centre) -> None:
    assert ceiqroo("group", "set", own_centre.directory, "costa", str(TULUM)).returncode == 0
    assert json.loads(ceiqroo("group", "list", own_centre.directory, "--json").stdout)[0]["members"] == [str(TULUM)]
    assert ceiqroo("group", "set", own_centre.directory, "costa").returncode == 0

    assert parse_shared_parameters(contents(published(own_centre))["SHARED-PARAMETERS"], 6).groups == {}
    with own_centre.registry() as registry, pytest.raises(RefusedError):
        registry.set_group("", "x", (TULUM,))


def test_optional_parts_say_what_the_instance_decided_and_nothing_when_it_did_not(own_centre: Centre) -> None:
    assert set(contents(published(own_centre))) == {"SHARED-PARAMETERS", "PRIVATE-PARAMETERS"}

    decided = Parameters(ocsp_fetch_interval_s=600, checks_next_update=False)
    made = dataclasses.replace(own_centre, settings=msgspec.structs.replace(own_centre.settings, parameters=decided))
    assert ceiqroo("monitoring", "set", own_centre.directory, str(MERIDA)).returncode == 0
    told = parse_optional_parts(contents(published(made)))

    assert told == OptionalParts(MERIDA, 600, False)
