"""The technician's status page: what the box is, what it lacks and where it is reached, as plain lines for a screen and a serial line.

Pure. A skeleton: the console on the same terminals replaces it.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from appliance.clock import iso
from appliance.supervision.wire import BoxStatus, ProcessStatus
from appliance.texts import TEXTS, text

COLUMNS = 79
"""Fits every terminal, and a serial line whose terminal wraps at 80."""
PROCESS_COLUMNS = 14
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What the machine itself says. Empty text, or zero: not known."""

    image_version: str = ""
    image_hash: str = ""
    """Root hash of the verity tree, hexadecimal: names the image to the last byte."""
    kernel: str = ""
    addresses: tuple[tuple[str, str], ...] = ()
    """Interface and IPv4 address."""
    memory_bytes: int = 0
    memory_used_bytes: int = 0


def page(box: BoxStatus | None, machine: MachineFacts, version: str, now_us: int) -> list[str]:
    """The whole page; `box` is None while the supervisor does not answer. The last line alone changes with the time."""
    if box is None:
        state = [text("display.no_state"), *_bullets([text("advice.supervisor_away")])]
    else:
        state = [*_state(box), "", text("status.processes"), *(_process(one) for one in box.processes)]
    server = box.server_id.strip("/") if box is not None else ""
    title = text("display.title", server=_plain(server) or text("display.no_name"))
    return [title, "=" * min(len(title), COLUMNS), *state, "", *_machine(machine, version), text("display.time", at=iso(now_us))]


def _state(box: BoxStatus) -> list[str]:
    key = f"state.{box.state}"
    lines = [text("status.state", state=text(key) if key in TEXTS else _plain(box.state))]
    if not box.advice:
        return [*lines, text("status.nothing_to_do")]
    return [*lines, text("status.to_do"), *_bullets([text(key) for key in box.advice if key in TEXTS])]


def _process(one: ProcessStatus) -> str:
    line = f"  {_plain(one.process):<{PROCESS_COLUMNS}}{text(f'process.{one.state}')}"
    if one.waits_for:
        line += " " + text("status.waits_for", what=_plain(", ".join(one.waits_for)))
    return line[:COLUMNS]


def _machine(machine: MachineFacts, version: str) -> list[str]:
    unknown = text("status.unknown")
    addresses = ", ".join(f"{address} ({name})" for name, address in machine.addresses) or text("display.no_address")
    half = len(machine.image_hash) // 2
    return [
        text("display.addresses", addresses=_plain(addresses))[:COLUMNS],
        text("display.versions", version=version, image=machine.image_version or unknown, kernel=machine.kernel or unknown)[:COLUMNS],
        # Two lines of 32: sixty-four characters in a row are not compared by a person.
        text("display.image_hash", half=machine.image_hash[:half] or unknown),
        *([text("display.image_hash_rest", half=machine.image_hash[half:])] if half else []),
        text("display.memory", used=machine.memory_used_bytes // MIB, total=machine.memory_bytes // MIB),
    ]


def _bullets(items: list[str]) -> list[str]:
    return [line for item in items for line in textwrap.wrap(item, COLUMNS, initial_indent="  * ", subsequent_indent="    ")]


def _plain(value: str) -> str:
    """Names come from other processes: nothing of them moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in value)
