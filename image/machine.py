"""A machine for the image: QEMU with firmware under Secure Boot, TPM 2.0 (swtpm) and a watchdog, everything in one directory.

The directory is the machine: disk overlay, firmware variables, TPM state. KVM is never taken for granted: everything runs under emulation.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import queue
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from image.tools import ImageError

MEMORY_MIB = 512
PROCESSORS = 2
BOOT_S_MAX = 600.0
"""Four times what a boot takes on two processors; whoever waits for it waits for a defect, because `until` counts no second in which
other programs had them."""
ANSWER_S_MAX = 60.0
LOOK_INTERVAL_S = 0.2
STILL_LOOKS = 5
_ESCAPES = re.compile(r"\x1b\[[0-9;?=]*[a-zA-Z]|\x1b[()][A-Z0-9]|\r")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One machine. `directory` holds what it is: disk overlay, firmware variables, TPM state; the rest it only reads."""

    directory: Path
    disk: Path
    code: Path
    variables: Path
    forwards: tuple[tuple[str, int, int], ...] = ()
    """Address and port of this machine, port of the guest."""
    devices: tuple[str, ...] = ()
    """More words of QEMU's command line."""
    reboot: bool = False
    """Whether a reset starts it again, or ends it."""


def qemu(plan: Plan, *, serial: str) -> list[str]:
    """QEMU's command line, as `image/README.md` shows it."""
    forwards = "".join(f",hostfwd=tcp:{address}:{port}-:{inside}" for address, port, inside in plan.forwards)
    return [
        "qemu-system-x86_64",
        *("-machine", "q35,smm=on", "-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max"),
        *("-smp", str(PROCESSORS), "-m", str(MEMORY_MIB)),
        *("-global", "driver=cfi.pflash01,property=secure,value=on"),
        *("-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={plan.code}"),
        *("-drive", f"if=pflash,format=raw,unit=1,file={plan.directory / 'vars.fd'}"),
        *("-drive", f"if=none,id=disk,format=qcow2,file={plan.directory / 'disk.qcow2'},cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk,bootindex=1"),
        *("-chardev", f"socket,id=tpm,path={plan.directory / 'swtpm.sock'}", "-tpmdev", "emulator,id=tpm0,chardev=tpm"),
        *("-device", "tpm-crb,tpmdev=tpm0", "-device", "virtio-rng-pci"),
        *("-nic", f"user,model=virtio-net-pci{forwards}"),
        *("-device", "i6300esb", "-action", "watchdog=reset"),
        *("-vga", "std", "-display", "none", "-serial", serial),
        *([] if plan.reboot else ["-no-reboot"]),
        *plan.devices,
    ]


def prepare(plan: Plan) -> None:
    """Makes the machine's directory where it is new."""
    (plan.directory / "tpm").mkdir(parents=True, exist_ok=True)
    overlay = plan.directory / "disk.qcow2"
    if not overlay.exists():
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(plan.disk), str(overlay)], check=True)
    if not (plan.directory / "vars.fd").exists():
        shutil.copyfile(plan.variables, plan.directory / "vars.fd")


def on_this_terminal(plan: Plan) -> int:
    """Runs a machine for a person: serial line on the terminal, Ctrl-A X ends it. Returns QEMU's exit code."""
    prepare(plan)
    tpm = start_tpm(plan.directory)
    try:
        return subprocess.run(qemu(plan, serial="mon:stdio"), check=False).returncode
    finally:
        tpm.terminate()
        tpm.wait()


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

    def __init__(self, plan: Plan) -> None:
        prepare(plan)
        self.directory = plan.directory
        self.started_s = time.monotonic()
        self.lines: list[tuple[float, str]] = []
        """What came over the serial line: seconds since the start, text."""
        self.events: list[dict[str, Any]] = []
        for name in ("serial.sock", "qmp.sock"):
            (plan.directory / name).unlink(missing_ok=True)
        self._tpm = start_tpm(plan.directory)
        command = qemu(plan, serial=f"unix:{plan.directory / 'serial.sock'},server=on,wait=off")
        command += ["-monitor", "none", "-qmp", f"unix:{plan.directory / 'qmp.sock'},server=on,wait=off"]
        with (plan.directory / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(["nice", "-n", "5", *command], stdout=log, stderr=log)
        self._serial = self._connected("serial.sock")
        self._monitor = self._connected("qmp.sock")
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        for read in (self._read_monitor, self._read_serial):
            threading.Thread(target=read, daemon=True).start()
        self._answers.get(timeout=ANSWER_S_MAX)  # the greeting
        self.ask("qmp_capabilities")

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
        rest, decoder = "", codecs.getincrementaldecoder("utf-8")("replace")
        with (self.directory / "serial.log").open("a") as log, contextlib.suppress(OSError):
            while data := self._serial.recv(4096):
                rest += decoder.decode(data)
                *whole, rest = rest.split("\n")
                for line in whole:
                    self.lines.append((self.age_s(), _ESCAPES.sub("", line)))
                    log.write(f"[{self.lines[-1][0]:7.2f}] {self.lines[-1][1]}\n")
                    log.flush()

    def _read_monitor(self) -> None:
        with contextlib.suppress(OSError, ValueError), self._monitor.makefile("r") as lines:
            for line in lines:
                said = json.loads(line)
                if "event" in said:
                    self.events.append(said)
                else:
                    self._answers.put(said)

    def age_s(self) -> float:
        return time.monotonic() - self.started_s

    def text(self) -> str:
        """Everything that came over the serial line."""
        return "\n".join(line for _, line in self.lines)

    def ask(self, command: str, **arguments: Any) -> Any:
        """One command of QEMU's monitor, from one thread. Raises ImageError."""
        self._monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        try:
            answer = self._answers.get(timeout=ANSWER_S_MAX)
        except queue.Empty:
            raise ImageError(f"QEMU's monitor does not answer {command}") from None
        if "error" in answer:
            raise ImageError(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def happened(self, event: str) -> bool:
        """Whether the monitor told of an event so far."""
        return any(one["event"] == event for one in self.events)

    def running(self) -> bool:
        return self._qemu.poll() is None

    def starved_s(self) -> float:
        """Seconds since the start in which the emulator could have run but other programs had the processors: its unluckiest thread's."""
        waited = [0]
        for file in Path(f"/proc/{self._qemu.pid}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):  # a thread that ended meanwhile
                waited.append(int(file.read_text().split()[1]))
        return max(waited) / 1e9

    def wait_for(self, pattern: str, wait_s_max: float, *, after_s: float = 0.0) -> str:
        """The first line of the serial line that matches. Raises ImageError when none came in time, or the machine ended."""

        def seen() -> str | None:
            return next((line for at_s, line in self.lines if at_s >= after_s and re.search(pattern, line)), None)

        return str(self.until(seen, wait_s_max, f"{pattern!r} on the serial line"))

    def until(self, look: Callable[[], Any], wait_s_max: float, what: str) -> Any:
        """Looks until something true comes back. Seconds that the emulator was kept from a processor do not count: a busy machine is
        no defect of the image. Raises ImageError, at once where the machine ended.
        """
        began_s, before_s = time.monotonic(), self.starved_s()
        while True:
            over = time.monotonic() - began_s - (self.starved_s() - before_s) > wait_s_max or not self.running()
            if over:
                time.sleep(0.5)  # what came last is still being read
            if found := look():
                return found
            if over:
                told = [one["event"] for one in self.events]
                ages = f"{self.age_s():.0f} s, {self.starved_s():.0f} of them without a processor"
                raise ImageError(f"no {what} after {ages}; events {told}; last lines:\n{self.text()[-1500:]}")
            time.sleep(LOOK_INTERVAL_S)

    def screen(self, file: Path) -> Path:
        """The screen as a picture (PNG), when it stood still for a second: it is not being drawn. Raises ImageError."""
        seen: list[bytes] = []

        def still() -> bool:
            self.ask("screendump", filename=str(file), format="png")
            seen.append(file.read_bytes())
            return len(seen) >= STILL_LOOKS and len(set(seen[-STILL_LOOKS:])) == 1

        self.until(still, ANSWER_S_MAX, "screen that stands still")
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
def running(plan: Plan) -> Iterator[Machine]:
    """A machine for the length of a block."""
    machine = Machine(plan)
    try:
        yield machine
    finally:
        machine.stop()
