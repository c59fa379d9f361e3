"""The test profile's machine as a boot test sees it: the technician's command inside, and ways from its loopback to this machine's."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from image import build, probe
from image.inside import Inside
from image.machine import BOOT_S_MAX, Plan

XACBE = ("/usr/bin/python3", "-I", "-B", "-c", "import sys; from appliance.commands import main; sys.exit(main())")
AWAY = 3
"""The command's exit code while a process of the box is still starting."""


class Guest(Inside):
    """A running machine of the test profile and the probe inside it."""

    def xacbe(self, *words: str) -> str:
        """The technician's command; asked again while a process is still starting."""

        def said() -> dict[str, Any] | None:
            done = self.tried(*XACBE, *words)
            return None if done["code"] == AWAY else done

        done = self.machine.until(said, BOOT_S_MAX, f"answer to xacbe {words}")
        assert done["code"] == 0, f"xacbe {words}: {done['err'][-2000:]}"
        return str(done["out"])

    def way_out(self, targets: list[tuple[str, int, int]]) -> None:
        """Lets the guest reach addresses of this machine's loopback under the same addresses: address, port inside, port here."""
        ways = [(address, inside, forwarded(address, port)) for address, inside, port in targets]
        for rule in (("input", "iif", "lo", "accept"), ("output", "oif", "lo", "accept"), ("output", "meta", "skuid", "0", "accept")):
            self.run("/usr/sbin/nft", "add", "rule", "inet", "box", *rule)
        self.ask("forward", ways=ways)


def release_plan(directory: Path, disk: Path | None = None) -> Plan:
    """A machine as a box is: its firmware believes the release key alone."""
    return Plan(directory=directory, disk=disk or build.DISK, code=build.FIRMWARE_CODE, variables=build.FIRMWARE_VARS)


def forwarded(address: str, port: int) -> int:
    """A port of 127.0.0.1 that leads to `address:port`: user-mode networking reaches no other loopback address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    probe.carry(listener, (address, port))
    return int(listener.getsockname()[1])
