"""Units, channels, users and packet filter of the image say what the topology says."""

from __future__ import annotations

import re

import pytest

from appliance import topology
from appliance.settings import RelaySettings
from appliance.supervision.policy import EXIT_CORRUPT, EXIT_RESTS, EXIT_SETTINGS, RestartBudget
from appliance.topology import DISPLAY, IN_IMAGE, PROCESSES
from image import firewall, render
from image.sandbox import STATE, user

FILES = render.tree()


def lines(name: str) -> list[str]:
    return FILES[f"usr/lib/systemd/system/{name}"].splitlines()


@pytest.mark.parametrize("process", IN_IMAGE, ids=lambda process: process.name)
def test_every_process_has_a_service_of_its_own_user(process: topology.Process) -> None:
    unit = lines(render.service_name(process))

    assert f"User={user(process.name)}" in unit
    assert f"ExecStart=/usr/bin/python3 -I -B -m appliance {process.name} --state {STATE}" in unit
    assert f"u {user(process.name)} {render.uid(process.name)} " in FILES["usr/lib/sysusers.d/xacbe.conf"]


@pytest.mark.parametrize("process", IN_IMAGE, ids=lambda process: process.name)
def test_only_who_has_the_network_in_the_topology_can_open_a_socket(process: topology.Process) -> None:
    unit = lines(render.service_name(process))

    assert ("RestrictAddressFamilies=AF_UNIX AF_INET" in unit) == process.internet
    assert process.internet or "IPAddressDeny=any" in unit
    assert ("PrivateNetwork=yes" in unit) == (not process.internet and not process.looks_around)


@pytest.mark.parametrize("process", IN_IMAGE, ids=lambda process: process.name)
def test_a_process_writes_into_its_own_directory_and_no_other(process: topology.Process) -> None:
    unit = lines(render.service_name(process))

    assert "ProtectSystem=strict" in unit
    written = [line for line in unit if line.startswith("ReadWritePaths=")]
    assert written == ([] if process.writes is None else [f"ReadWritePaths={STATE}/{process.writes}"])


@pytest.mark.parametrize("owner", PROCESSES, ids=lambda process: process.name)
def test_every_channel_is_a_socket_that_its_caller_alone_can_open(owner: topology.Process) -> None:
    for caller in topology.channels(owner.name):
        unit = lines(f"{user(owner.name)}.{caller}.socket")

        assert f"ListenStream=/run/xacbe/{owner.name}/{caller}.sock" in unit
        assert f"SocketUser={'root' if caller == topology.CONSOLE else user(caller)}" in unit
        assert "SocketMode=0600" in unit
        assert f"FileDescriptorName=channel.{caller}" in unit
        assert f"Service={render.service_name(owner)}" in unit
        assert f"{user(owner.name)}.{caller}.socket" in " ".join(lines(render.service_name(owner)))


def test_the_channels_lie_where_the_processes_look_for_them() -> None:
    assert f"L+ {STATE}/run - - - - /run/xacbe" in FILES["usr/lib/tmpfiles.d/xacbe.conf"]


def test_the_relay_s_listeners_come_by_name_at_the_settings_default_addresses() -> None:
    for name in topology.BY_NAME["relay"].listens:
        unit = lines(f"xacbe-relay.tcp-{name.replace('_', '-')}.socket")

        assert f"ListenStream={getattr(RelaySettings(), name)}" in unit
        assert f"FileDescriptorName=tcp.{name}" in unit


@pytest.mark.parametrize("process", IN_IMAGE, ids=lambda process: process.name)
def test_systemd_restarts_by_the_policy_s_numbers_and_holds_what_it_would_hold(process: topology.Process) -> None:
    unit, budget = lines(render.service_name(process)), RestartBudget()

    assert f"RestartSec={budget.first_after_s * 1000:.0f}ms" in unit
    assert f"StartLimitBurst={budget.ends_max}" in unit
    assert f"RestartPreventExitStatus={EXIT_SETTINGS} {EXIT_CORRUPT}{f' {EXIT_RESTS}' if process.rests else ''}" in unit
    assert (f"SuccessExitStatus={EXIT_RESTS}" in unit) == process.rests
    assert f"OnFailure=xacbe-held@{process.name}.service" in unit
    assert f"d /run/xacbe/{process.name} 0755 root root" in FILES["usr/lib/tmpfiles.d/xacbe.conf"]


def test_the_packet_filter_drops_by_default_and_lets_in_the_listeners_alone() -> None:
    rules = FILES["etc/nftables.conf"]

    assert re.findall(r"hook (\w+) priority filter; policy (\w+);", rules) == [("input", "drop"), ("forward", "drop"), ("output", "drop")]
    assert {int(port) for port in re.findall(r"tcp dport (\d+) accept", rules)} == set(render.listening().values())
    outward = {int(number) for number in re.findall(r"meta skuid (\d+) accept", rules)}
    assert outward == {render.uid(one.name) for one in PROCESSES if one.internet}
    assert not re.search(r"\b(lo|iif|oif)\b", rules)  # the box's processes speak over local sockets, not over loopback


def test_nobody_gets_out_where_no_process_has_the_network() -> None:
    assert "skuid" not in firewall.ruleset({}, {})


def test_the_signer_alone_owns_the_tpm() -> None:
    assert 'KERNEL=="tpmrm0", OWNER="xacbe-signer", MODE="0600"' in FILES["usr/lib/udev/rules.d/80-xacbe.rules"]
    having = [one.name for one in IN_IMAGE if "DeviceAllow=/dev/tpmrm0 rw" in lines(render.service_name(one))]
    assert having == ["signer"]


def test_what_is_not_named_in_the_preset_does_not_start() -> None:
    preset = FILES["usr/lib/systemd/system-preset/00-xacbe.preset"].splitlines()

    assert preset[-1] == "disable *"
    assert {f"enable {render.service_name(one)}" for one in IN_IMAGE} < set(preset)


def test_the_display_gets_the_screen_and_the_serial_line() -> None:
    unit = lines(render.service_name(DISPLAY))

    assert "TTYPath=/dev/tty1" in unit
    assert {"DeviceAllow=/dev/tty1 rw", "DeviceAllow=/dev/ttyS0 rw", "SupplementaryGroups=dialout"} < set(unit)
