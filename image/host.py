"""What this machine must be able to do before a build or a boot says anything about the image: tried, not asked for by name.

Continuous integration runs in places that give root and little else. Each ability is tried in a second or two, in the way and in the
directory in which the build or the boot needs it.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from image import machine, tools
from image.machine import Plan
from image.tools import ImageError, NotHereError

ROOM_BYTES = 6 << 30
"""Tree, layers and packages 1.8 GB, the image 0.4, a working copy of each while mkosi runs."""
BUILD_MEMORY_BYTES = 1 << 30
BOOT_MEMORY_BYTES = 5 << 30
"""A machine was seen to hold 1.6 GiB (guest, translated code). The boot tests have four at once, of which two stay in firmware."""
BOOT_ROOM_BYTES = 3 << 30
"""Four disks at once of 0.3 GB, and what a guest writes to each."""
OVMF = Path("/usr/share/OVMF")


def can_build(repository: Path, workspace: Path) -> None:
    """Root, a processor, room, memory and mounts, before anything is fetched. `workspace`: mkosi's. Raises NotHereError."""
    if os.geteuid() != 0:
        raise NotHereError("needs root")
    if platform.machine() != "x86_64":
        raise NotHereError("needs an x86-64 machine")
    workspace.mkdir(parents=True, exist_ok=True)
    for place in (repository, workspace):
        _needs_room(place, ROOM_BYTES)
    _needs_memory(BUILD_MEMORY_BYTES)
    _mounts(workspace)


def _needs_memory(wanted_bytes: int) -> None:
    available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    if int(available.split()[1]) * 1024 < wanted_bytes:
        raise NotHereError(f"needs {wanted_bytes >> 20} MiB of free memory")


def _needs_room(place: Path, wanted_bytes: int) -> None:
    if shutil.disk_usage(place).free < wanted_bytes:
        raise NotHereError(f"needs {wanted_bytes >> 30} GiB of disk at {place}")


def _mounts(workspace: Path) -> None:
    """An overlay in mkosi's workspace: a container's own root often takes no further one."""
    with tempfile.TemporaryDirectory(dir=workspace) as name:
        place = Path(name)
        for part in ("lower", "upper", "work", "whole"):
            (place / part).mkdir()
        layers = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
        try:
            tools.run(["unshare", "--mount", "mount", "-t", "overlay", "overlay", "-o", layers, place / "whole"])
        except (ImageError, OSError) as error:
            raise NotHereError(f"no overlay can be mounted: {error}") from None


def can_enter() -> None:
    """Name spaces for the tree of tools, once it is there. Raises NotHereError."""
    try:
        tools.inside(["true"])
    except (ImageError, OSError) as error:
        raise NotHereError(f"no name spaces: {error}") from None


def can_boot() -> None:
    """Whether QEMU, its firmware and swtpm start here, with an empty disk and nothing run yet. Raises NotHereError."""
    _needs_memory(BOOT_MEMORY_BYTES)
    _needs_room(Path(tempfile.gettempdir()), BOOT_ROOM_BYTES)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        disk = place / "empty.raw"
        with disk.open("wb") as file:
            file.truncate(1 << 20)
        code, variables = OVMF / "OVMF_CODE_4M.secboot.fd", OVMF / "OVMF_VARS_4M.fd"
        try:
            with machine.running(Plan(directory=place, disk=disk, code=code, variables=variables, devices=("-S",))) as started:
                started.ask("query-status")
        except (ImageError, OSError, subprocess.SubprocessError) as error:
            raise NotHereError(f"QEMU does not start: {error}") from None
