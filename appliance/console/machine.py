"""What the machine says of itself: release, image, addresses, memory. Reads /proc and /etc; nothing is kept."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import psutil

from appliance.console.pages import MachineFacts

OS_RELEASE, COMMAND_LINE = Path("/etc/os-release"), Path("/proc/cmdline")
_IMAGE_VERSION = re.compile(r'^IMAGE_VERSION="?([^"\n]*)"?$', re.MULTILINE)
_ROOT_HASH = re.compile(r"(?:^|\s)roothash=([0-9a-f]{64})(?:\s|$)")
ADDRESSES_MAX = 4
"""Shown; a box has one or two."""


def machine_facts() -> MachineFacts:
    """The facts of this moment; what cannot be read is left empty. Takes about a millisecond."""
    memory = psutil.virtual_memory()
    return MachineFacts(
        image_version=_found(_IMAGE_VERSION, OS_RELEASE),
        image_hash=_found(_ROOT_HASH, COMMAND_LINE),
        kernel=os.uname().release,
        addresses=_addresses(),
        memory_bytes=memory.total,
        memory_used_bytes=memory.total - memory.available,
    )


def _found(pattern: re.Pattern[str], file: Path) -> str:
    try:
        match = pattern.search(file.read_text(errors="replace"))
    except OSError:
        return ""
    return match.group(1) if match else ""


def _addresses() -> tuple[tuple[str, str], ...]:
    try:
        found = psutil.net_if_addrs()
    except OSError:
        return ()
    pairs = ((name, one.address) for name, several in sorted(found.items()) for one in several if one.family == socket.AF_INET)
    return tuple((name, address) for name, address in pairs if not address.startswith("127."))[:ADDRESSES_MAX]
