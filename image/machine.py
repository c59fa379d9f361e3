"""A machine for the image: QEMU with firmware under Secure Boot, TPM 2.0 (swtpm) and a watchdog, everything in one directory.

The directory is the machine: disk overlay, firmware variables, TPM state. KVM is never taken for granted: everything runs under emulation.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from image.tools import ImageError

MEMORY_MIB = 512
PROCESSORS = 2
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[a-zA-Z]|\x1b[()][A-Z0-9]|\r")


def qemu(directory: Path, code: Path, disk: Path, *, disk_format: str = "qcow2", serial: str, reboot: bool = True) -> list[str]:
    """The command line of a machine whose variables and TPM socket lie in `directory`."""
    return [
        "qemu-system-x86_64",
        *("-machine", "q35,smm=on", "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "max"),
        *("-smp", str(PROCESSORS), "-m", str(MEMORY_MIB)),
        *("-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={code}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={directory / 'vars.fd'}"),
        *("-drive", f"if=none,id=disk,format={disk_format},file={disk},cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-chardev", f"socket,id=tpm,path={directory / 'swtpm.sock'}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0", "-device", "virtio-rng-pci"),
        *("-device", "i6300esb", "-action", "watchdog=reset"),
        *("-vga", "std", "-display", "none", "-serial", serial, "-monitor", "none"),
        *([] if reboot else ["-no-reboot"]),
    ]


def prepare(directory: Path, disk: Path, variables: Path) -> Path:
    """Makes the machine's directory where it is new; returns its disk, an overlay over the built image."""
    (directory / "tpm").mkdir(parents=True, exist_ok=True)
    overlay = directory / "disk.qcow2"
    if not overlay.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(disk), str(overlay)], check=True)
    if not (directory / "vars.fd").exists():
        shutil.copyfile(variables, directory / "vars.fd")
    return overlay


def start_tpm(directory: Path) -> subprocess.Popen[bytes]:
    """swtpm as a child; it ends with the machine that connects."""
    path = directory / "swtpm.sock"
    path.unlink(missing_ok=True)
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory / 'tpm'}", "--ctrl", f"type=unixio,path={path}"]
    child = subprocess.Popen([*command, "--terminate"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 10
    while not path.exists():
        if child.poll() is not None or time.monotonic() > deadline:
            raise ImageError("swtpm did not start")
        time.sleep(0.02)
    return child


class Machine:
    """A running machine: its serial line by lines, its monitor, its screen. Ends with `stop`."""

    def __init__(self, directory: Path, code: Path, overlay: Path, more: Sequence[str] = (), *, reboot: bool = False) -> None:
        self.directory = directory
        self.started_s = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        """What came over the serial line: seconds since the start, text."""
        self.events: list[dict[str, Any]] = []
        self._tpm = start_tpm(directory)
        for name in ("serial.sock", "qmp.sock"):
            (directory / name).unlink(missing_ok=True)
        serial = f"unix:{directory / 'serial.sock'},server=on,wait=off"
        command = qemu(directory, code, overlay, serial=serial, reboot=reboot)
        command += ["-qmp", f"unix:{directory / 'qmp.sock'},server=on,wait=off", *more]
        with (directory / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(["nice", "-n", "5", *command], stdout=log, stderr=log)
        self._serial = self._connected("serial.sock")
        self._monitor = self._connected("qmp.sock")
        self._answers = self._monitor.makefile("r")
        self._answers.readline()
        self._lock = threading.Lock()
        self.ask("qmp_capabilities")
        threading.Thread(target=self._read_serial, daemon=True).start()

    def _connected(self, name: str) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.directory / name))
                return sock
            except OSError:
                sock.close()
                if self._qemu.poll() is not None or time.monotonic() > deadline:
                    raise ImageError(f"QEMU did not start: {(self.directory / 'qemu.log').read_text()[-500:]}") from None
                time.sleep(0.05)

    def _read_serial(self) -> None:
        rest = ""
        with (self.directory / "serial.log").open("a") as log, contextlib.suppress(OSError):
            while data := self._serial.recv(4096):
                rest += data.decode("utf-8", "replace")
                *whole, rest = rest.split("\n")
                for line in whole:
                    self.lines.append((self.age_s(), _ESCAPES.sub("", line)))
                    log.write(f"[{self.lines[-1][0]:7.2f}] {self.lines[-1][1]}\n")
                    log.flush()

    def age_s(self) -> float:
        return time.monotonic() - self.started_s

    def text(self) -> str:
        """Everything that came over the serial line."""
        return "\n".join(line for _, line in self.lines)

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command of QEMU's monitor; events that come meanwhile are kept."""
        with self._lock:
            self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
            while True:
                answer = json.loads(self._answers.readline())
                if "event" in answer:
                    self.events.append(answer)
                elif "error" in answer:
                    raise ImageError(f"{command}: {answer['error']['desc']}")
                else:
                    return answer["return"]

    def happened(self, event: str) -> bool:
        """Whether the monitor told of an event so far."""
        if self.running():
            with contextlib.suppress(ImageError, OSError, ValueError):
                self.ask("query-status")
        return any(one["event"] == event for one in self.events)

    def running(self) -> bool:
        return self._qemu.poll() is None

    def wait_for(self, pattern: str, wait_s_max: float, *, after_s: float = 0.0) -> str:
        """The first line of the serial line that matches. Raises ImageError when none came in time, or the machine ended."""

        def seen() -> str | None:
            return next((line for at_s, line in self.lines if at_s >= after_s and re.search(pattern, line)), None)

        return str(self.until(seen, wait_s_max, f"{pattern!r} on the serial line"))

    def until(self, look: Callable[[], Any], wait_s_max: float, what: str) -> Any:
        """Looks until something true comes back. Raises ImageError."""
        deadline = time.monotonic() + wait_s_max
        while not (found := look()):
            if time.monotonic() > deadline or not self.running():
                raise ImageError(f"no {what} after {self.age_s():.0f} s; last lines:\n{self.text()[-1500:]}")
            time.sleep(0.2)
        return found

    def screen(self, file: Path) -> Path:
        """The screen as a picture (PNG)."""
        self.ask("screendump", filename=str(file), format="png")
        return file

    def resident_mib(self) -> int:
        """What QEMU itself holds on this machine."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self._qemu.pid}/status").read_text())
        return int(found.group(1)) // 1024 if found else 0

    def stop(self) -> None:
        """Pulls the plug: the box is made for it."""
        for child in (self._qemu, self._tpm):
            if child.poll() is None:
                child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(10)
            if child.poll() is None:
                child.kill()
                child.wait()
        self._serial.close()
        self._monitor.close()


@contextlib.contextmanager
def running(
    directory: Path, disk: Path, code: Path, variables: Path, more: Sequence[str] = (), *, reboot: bool = False
) -> Iterator[Machine]:
    """A machine for the length of a block."""
    machine = Machine(directory, code, prepare(directory, disk, variables), more, reboot=reboot)
    try:
        yield machine
    finally:
        machine.stop()
