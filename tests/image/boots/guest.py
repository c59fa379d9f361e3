"""The test profile's machine as a test sees it: commands and files inside, ways from its loopback to this machine's."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

from appliance.topology import PROCESSES
from image import build, probe, testing
from image.machine import Machine, Plan

BOOT_S_MAX = 600.0
"""Nine times what a boot takes on two idle processors: whoever waits for it here waits for a defect, not for a slow machine."""
PORT_DEVICES = ("-device", "virtio-serial-pci")
XACBE = ("/usr/bin/python3", "-I", "-B", "-c", "import sys; from appliance.commands import main; sys.exit(main())")
AWAY = 3
"""The command's exit code while a process of the box is still starting."""


def page(running: Machine) -> str:
    """The status page as the serial line showed it last."""
    return running.text().rpartition("CAJA XACBE")[2]


def unprovisioned(running: Machine) -> str:
    """Waits for the page that has the state and every process by name, up and waiting; returns it."""

    def shown() -> str:
        last = page(running)
        word = r" +en (espera(, en reposo)? \(espera: settings|servicio)"
        named = all(re.search(f"^  {one.name}{word}", last, re.MULTILINE) for one in PROCESSES)
        return last if "Estado: SIN ALTA" in last and "Hora:" in last and named else ""

    return str(running.until(shown, BOOT_S_MAX, "page with every process waiting by name"))


class Guest:
    """A running machine of the test profile and the probe inside it."""

    def __init__(self, running: Machine) -> None:
        self.machine = running
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(running.directory / "probe.sock"))
        self._sock.settimeout(BOOT_S_MAX)
        self._lines = self._sock.makefile("rb")
        self._answer()  # says that it is ready

    def _answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self._lines.readline())
        assert "error" not in answer, answer["error"]
        return answer

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        self.tell(do, **words)
        return self._answer()

    def tell(self, do: str, **words: Any) -> None:
        self._sock.sendall(json.dumps({"do": do, **words}).encode() + b"\n")

    def run(self, *argv: str, wait_s: float = 300) -> str:
        """What the program printed; it must end well."""
        done = self.ask("run", argv=list(argv), wait_s=wait_s)
        assert done["code"] == 0, f"{argv}: {done['code']}\n{done['out'][-2000:]}\n{done['err'][-2000:]}"
        return str(done["out"])

    def python(self, source: str) -> Any:
        """Runs a program inside; it prints one JSON document."""
        return json.loads(self.run("/usr/bin/python3", "-I", "-B", "-c", source))

    def read(self, path: str) -> str:
        return str(self.ask("read", path=path)["text"])

    def write(self, path: str, text: str) -> None:
        self.ask("write", path=path, text=text)

    def xacbe(self, *words: str) -> str:
        """The technician's command; asked again while a process is still starting."""

        def tried() -> dict[str, Any] | None:
            done = self.ask("run", argv=[*XACBE, *words], wait_s=300)
            return None if done["code"] == AWAY else done

        done = self.machine.until(tried, BOOT_S_MAX, f"answer to xacbe {words}")
        assert done["code"] == 0, f"xacbe {words}: {done['err'][-2000:]}"
        return str(done["out"])

    def way_out(self, targets: list[tuple[str, int, int]]) -> None:
        """Lets the guest reach addresses of this machine's loopback under the same addresses: address, port inside, port here."""
        ways = [(address, inside, forwarded(address, port)) for address, inside, port in targets]
        for rule in (("input", "iif", "lo", "accept"), ("output", "oif", "lo", "accept"), ("output", "meta", "skuid", "0", "accept")):
            self.run("/usr/sbin/nft", "add", "rule", "inet", "box", *rule)
        self.ask("forward", ways=ways)

    def close(self) -> None:
        self._lines.close()
        self._sock.close()


def testing_plan(directory: Path, forwards: tuple[tuple[str, int, int], ...]) -> Plan:
    """A machine of the test profile, whose firmware believes the test key."""
    directory.mkdir(parents=True, exist_ok=True)
    disk = testing.disk(build.OUT, directory / "disk.raw", build.OUT / "xacbe.test.efi")
    channel = f"socket,id=probe,path={directory / 'probe.sock'},server=on,wait=off"
    port = (*PORT_DEVICES, "-chardev", channel, "-device", "virtserialport,chardev=probe,name=xacbe.test")
    return Plan(directory=directory, disk=disk, code=build.FIRMWARE_CODE, variables=build.TEST_VARS, forwards=forwards, devices=port)


def release_plan(directory: Path, disk: Path | None = None) -> Plan:
    """A machine as a box is: its firmware believes the release key alone."""
    return Plan(directory=directory, disk=disk or build.DISK, code=build.FIRMWARE_CODE, variables=build.FIRMWARE_VARS)


def forwarded(address: str, port: int) -> int:
    """A port of 127.0.0.1 that leads to `address:port`: user-mode networking reaches no other loopback address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    probe.carry(listener, (address, port))
    return int(listener.getsockname()[1])
