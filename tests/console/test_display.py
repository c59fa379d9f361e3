"""The display on real terminals: a pseudo terminal for the serial line, a pipe for the screen, a supervisor that is away."""

from __future__ import annotations

import logging
import os
import select
from pathlib import Path

from appliance.console.machine import machine_facts
from appliance.processes.display import SERIAL_INTERVAL_S, Display, SerialLine

LOG = logging.getLogger("test")


class HandClock:
    def __init__(self) -> None:
        self.s = 0.0

    def now_us(self) -> int:
        return int(self.s * 1e6)

    def monotonic_s(self) -> float:
        return self.s


def read(descriptor: int) -> str:
    """What came so far."""
    data = b""
    while select.select([descriptor], [], [], 0.2)[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            break
        data += piece
    return data.decode()


def test_the_same_page_comes_on_both_terminals_and_again_when_a_key_is_pressed(tmp_path: Path) -> None:
    master, slave = os.openpty()
    screen_out, screen_in = os.pipe()
    clock = HandClock()
    display = Display(tmp_path, clock, SerialLine(os.ttyname(slave), LOG), screen_in)

    display.turn()
    first_line, first_screen = read(master), read(screen_out)
    display.turn()
    quiet = read(master)
    os.write(master, b"\r")
    display.turn()
    pressed = read(master)
    clock.s += SERIAL_INTERVAL_S
    display.turn()
    later = read(master)

    assert "CAJA XACBE" in first_line
    assert "CAJA XACBE" in first_screen
    assert "\x1b" not in first_line
    assert quiet == ""
    assert "CAJA XACBE" in pressed
    assert "CAJA XACBE" in later
    for descriptor in (master, slave, screen_out, screen_in):
        os.close(descriptor)


def test_a_machine_without_a_serial_line_shows_its_screen(tmp_path: Path) -> None:
    screen_out, screen_in = os.pipe()

    Display(tmp_path, HandClock(), SerialLine(str(tmp_path / "ttyS9"), LOG), screen_in).turn()

    assert "CAJA XACBE" in read(screen_out)
    os.close(screen_out)
    os.close(screen_in)


def test_the_machine_s_facts_are_read_from_this_machine() -> None:
    facts = machine_facts()

    assert facts.memory_bytes > facts.memory_used_bytes > 0
    assert facts.kernel == os.uname().release
    assert all(not address.startswith("127.") for _, address in facts.addresses)
