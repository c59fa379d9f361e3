"""The display: shows the box's state on its own screen and on the technician's serial line. It may look, and nothing else.

The screen is standard output (systemd opens the terminal); the serial line is opened here, 115200 8N1, and again whenever it went away.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from pathlib import Path

import serial

from appliance.clock import Clock, SystemClock
from appliance.console.machine import machine_facts
from appliance.console.pages import page
from appliance.errors import UNREADABLE, XacbeError
from appliance.journal import event, start_journal
from appliance.net.local_client import BlockingClient
from appliance.net.local_sockets import channel_path
from appliance.settings import BoxSettings, load
from appliance.supervision.wire import BoxStatus
from appliance.texts import set_language
from appliance.topology import DISPLAY
from appliance.version import VERSION

SERIAL_LINE = "/dev/ttyS0"
BAUD = 115200
LOOK_INTERVAL_S = 2.0
ASK_S_MAX = 3.0
SCREEN_INTERVAL_S = 10.0
"""The clock on the screen is this old at most."""
SERIAL_INTERVAL_S = 60.0
"""The page takes a tenth of a second of the line. Whoever connects later presses a key, or waits a minute."""
WRITE_S_MAX = 5.0
INPUT_BYTES_MAX = 1024
_CLEAR = "\x1b[?25l\x1b[H\x1b[2J"


class SerialLine:
    """The technician's line: text out, and whether somebody pressed a key. A line that is not there costs nothing."""

    def __init__(self, device: str, log: logging.Logger) -> None:
        self._device, self._log = device, log
        self._port: serial.Serial | None = None

    def key_pressed(self) -> bool:
        """Reads away what was typed."""
        try:
            return bool(self._opened().read(INPUT_BYTES_MAX))
        except (OSError, serial.SerialException):
            self._lose()
            return False

    def write(self, lines: list[str]) -> None:
        try:
            self._opened().write(("\r\n" + "\r\n".join(lines) + "\r\n").encode())
        except (OSError, serial.SerialException):  # also SerialTimeoutException: nobody takes the bytes
            self._lose()

    def _opened(self) -> serial.Serial:
        if self._port is None:
            self._port = serial.Serial(self._device, BAUD, timeout=0, write_timeout=WRITE_S_MAX)
            event(self._log, logging.INFO, "serial.opened", device=self._device)
        return self._port

    def _lose(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            event(self._log, logging.WARNING, "serial.lost", device=self._device)
            with contextlib.suppress(OSError):
                port.close()


class Display:
    """One page on two terminals, written again when it changed."""

    def __init__(self, state: Path, clock: Clock, line: SerialLine, screen: int) -> None:
        self._supervisor = BlockingClient(channel_path(state, "supervisor", DISPLAY.name), ASK_S_MAX)
        self._clock, self._line, self._screen = clock, line, screen
        self._shown: list[str] = []
        self._screen_s = self._line_s = float("-inf")

    def turn(self) -> None:
        """Looks once, and writes where something changed, time passed or a key was pressed."""
        now_s, lines = self._clock.monotonic_s(), page(self._ask(), machine_facts(), VERSION, self._clock.now_us())
        steady = [line for line in lines[:-2]]  # memory and time move all the while
        changed, self._shown = steady != self._shown, steady
        if changed or now_s - self._screen_s >= SCREEN_INTERVAL_S:
            self._screen_s = now_s
            os.write(self._screen, (_CLEAR + "\r\n".join(lines)).encode())
        if self._line.key_pressed() or changed or now_s - self._line_s >= SERIAL_INTERVAL_S:
            self._line_s = now_s
            self._line.write(lines)

    def _ask(self) -> BoxStatus | None:
        try:
            found: BoxStatus = self._supervisor.call("box_status", None, BoxStatus)
        except (XacbeError, *UNREADABLE):
            return None
        return found


def main(state: Path) -> int:
    """Until SIGTERM."""
    log = start_journal(DISPLAY.name)
    set_language(load(state, BoxSettings).language)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    display = Display(state, SystemClock(), SerialLine(SERIAL_LINE, log), sys.stdout.fileno())
    while True:
        display.turn()
        time.sleep(LOOK_INTERVAL_S)
