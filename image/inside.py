"""A running box of the test profile, seen from inside through its probe: commands, files, and the facts that a judge asks for first.

The box as shipped lets nobody in; this is the same root under another kernel image (`image/testing.py`).
"""

from __future__ import annotations

import json
import re
import select
import socket
from pathlib import Path
from typing import Any

from appliance.topology import PROCESSES
from image import build, testing
from image.machine import BOOT_S_MAX, Machine, Plan
from image.tools import ImageError

FACTS = Path(__file__).with_name("facts.py")
COMMAND_S_MAX = 600.0
"""Of the guest's own clock, for one command."""
READ_S_MAX = 60.0
"""For the rest of an answer whose first bytes came."""


def plan(directory: Path, forwards: tuple[tuple[str, int, int], ...] = (), kernel: str = "xacbe.test.efi") -> Plan:
    """A machine of the test profile, whose firmware believes the test key; its disk is a copy."""
    directory.mkdir(parents=True, exist_ok=True)
    disk = testing.disk(build.OUT, directory / "disk.raw", build.OUT / kernel)
    channel = f"socket,id=probe,path={directory / 'probe.sock'},server=on,wait=off"
    port = ("-device", "virtio-serial-pci", "-chardev", channel, "-device", "virtserialport,chardev=probe,name=xacbe.test")
    return Plan(directory=directory, disk=disk, code=build.FIRMWARE_CODE, variables=build.TEST_VARS, forwards=forwards, devices=port)


def page(running: Machine) -> str:
    """The status page as the serial line showed it last."""
    return running.text().rpartition("CAJA XACBE")[2]


def unprovisioned(running: Machine) -> str:
    """Waits for the page that has the state and every process by name, up and waiting; returns it. Raises ImageError."""

    def shown() -> str:
        last = page(running)
        word = r" +en (espera(, en reposo)? \(espera: settings|servicio)"
        named = all(re.search(f"^  {one.name}{word}", last, re.MULTILINE) for one in PROCESSES)
        return last if "Estado: SIN ALTA" in last and "Hora:" in last and named else ""

    return str(running.until(shown, BOOT_S_MAX, "page with every process waiting by name"))


class Inside:
    """The probe of a running machine. Commands go one after the other; each waits for its answer. Raises ImageError."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(machine.directory / "probe.sock"))
        self._sock.settimeout(READ_S_MAX)
        self._lines = self._sock.makefile("rb")
        self._answer()  # says that it is ready

    def _answer(self) -> dict[str, Any]:
        def begun() -> bool:
            return bool(select.select([self._sock], [], [], 1.0)[0])

        self.machine.until(begun, BOOT_S_MAX + COMMAND_S_MAX, "answer of the probe")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        if "error" in answer:
            raise ImageError(str(answer["error"]))
        return answer

    def ask(self, do: str, **words: Any) -> dict[str, Any]:
        """One request of `image/probe.py`."""
        self._sock.sendall(json.dumps({"do": do, **words}).encode() + b"\n")
        return self._answer()

    def tried(self, *argv: str) -> dict[str, Any]:
        """Runs a program: `code`, `out`, `err`."""
        return self.ask("run", argv=list(argv), wait_s=COMMAND_S_MAX)

    def run(self, *argv: str) -> str:
        """What the program printed; it must end well."""
        done = self.tried(*argv)
        if done["code"] != 0:
            raise ImageError(f"{argv}: {done['code']}\n{done['out'][-2000:]}\n{done['err'][-2000:]}")
        return str(done["out"])

    def python(self, source: str) -> Any:
        """Runs a program inside; it prints one JSON document."""
        return json.loads(self.run("/usr/bin/python3", "-I", "-B", "-c", source))

    def facts(self) -> dict[str, Any]:
        """Memory, processes, sockets and mounts (`image/facts.py`)."""
        found: dict[str, Any] = self.python(FACTS.read_text())
        return found

    def read(self, path: str) -> str:
        return str(self.ask("read", path=path)["text"])

    def write(self, path: str, text: str) -> None:
        self.ask("write", path=path, text=text)

    def close(self) -> None:
        self._lines.close()
        self._sock.close()
