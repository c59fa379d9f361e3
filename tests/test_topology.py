"""The static table: who may call whom."""

from __future__ import annotations

import pytest

from appliance import topology
from appliance.settings import RelaySettings


def test_an_operation_that_is_not_listed_is_granted_to_nobody() -> None:
    assert not topology.may_call("relay", "signer", "export_key")
    assert not topology.may_call("relay", "signer", "generate_key")


@pytest.mark.case("T59")
def test_the_relay_writes_nothing_and_nobody_calls_it() -> None:
    relay = topology.BY_NAME["relay"]

    assert relay.writes is None
    assert topology.channels("relay") == ()


def test_what_reaches_a_token_has_no_network_and_what_has_a_network_no_token() -> None:
    for process in topology.PROCESSES:
        assert not (process.internet and process.devices), process.name
        assert process.internet or not process.listens, process.name


def test_the_relay_has_descriptors_left_when_every_listener_is_full() -> None:
    relay = topology.BY_NAME["relay"]

    assert relay.descriptors_max >= len(relay.listens) * RelaySettings().connections_max + 4096


def test_every_directory_has_one_writer() -> None:
    written = [process.writes for process in topology.PROCESSES if process.writes]

    assert len(written) == len(set(written))


def test_every_caller_is_a_process_or_the_console() -> None:
    known = {*topology.USER_OFFSETS, topology.CONSOLE}

    assert {caller for owner in topology.BY_NAME for caller in topology.channels(owner)} <= known


def test_every_process_has_a_user_of_its_own() -> None:
    assert len(set(topology.USER_OFFSETS.values())) == len(topology.IN_IMAGE)


def test_the_display_may_only_look() -> None:
    granted = {
        (owner.name, operation)
        for owner in topology.PROCESSES
        for operation, callers in owner.callers.items()
        if topology.DISPLAY.name in callers
    }

    assert granted == {("supervisor", "box_status")}
