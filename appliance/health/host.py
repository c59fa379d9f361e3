"""The machine's figures, read through psutil. What a machine does not have is None, never zero."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil

from appliance.health.report import HostFigures

_PROBABLE_C = range(-40, 150)
"""A sensor outside this range is broken."""


def host_figures(state: Path, pids: Iterable[int]) -> HostFigures:
    """Takes about a millisecond and no lock. `pids`: the processes of the box; one that has ended is left out."""
    memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(state))
    return HostFigures(
        psutil.getloadavg()[0],
        psutil.cpu_count() or 1,
        memory.total,
        memory.available,
        disk.total,
        disk.free,
        _temperature(),
        {pid: resident for pid in pids if (resident := _resident(pid)) is not None},
    )


def _resident(pid: int) -> int | None:
    if pid <= 0:
        return None
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _temperature() -> float | None:
    """The hottest sensor, degrees Celsius."""
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError):
        return None
    found = [sensor.current for group in sensors.values() for sensor in group if int(sensor.current) in _PROBABLE_C]
    return max(found, default=None)
