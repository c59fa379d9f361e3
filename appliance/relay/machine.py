"""The machine's figures for environmental monitoring (sheet 8.4), as far as the relay's own confinement lets it see them.

What it cannot read is left out. Lists of processes and packages are never told: they help whoever looks for a way in, and CEIQROO has the
image's own bill of materials.
"""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from appliance.clock import Clock, iso
from appliance.exchange.monitoring import Histogram, Metric
from appliance.version import VERSION

SAMPLE_S, SAMPLES_MAX = 5.0, 60
"""As X-Road's sensors: every five seconds; five minutes of them."""


class MachineFigures:
    """The port `Machine`."""

    def __init__(self, state: Path, clock: Clock) -> None:
        self._state, self._clock = state, clock
        self._loads: deque[float] = deque(maxlen=SAMPLES_MAX)
        self._sampled_us = 0

    async def run(self) -> None:
        """For ever: samples the processor's load."""
        while True:
            with suppress(OSError, psutil.Error):
                self._loads.append(psutil.cpu_percent(None) / 100)
                self._sampled_us = self._clock.now_us()
            await asyncio.sleep(SAMPLE_S)

    def proxy_version(self) -> str:
        return VERSION

    async def metrics(self) -> dict[str, Metric]:
        """By X-Road's names; bytes where they are sizes."""
        found: dict[str, Metric] = {}
        for names, read in self._readers():
            with suppress(OSError, psutil.Error, ValueError, IndexError):
                found |= dict(zip(names, read(), strict=True))
        if self._loads:
            loads = list(self._loads)
            found["SystemCpuLoad"] = Histogram(
                iso(self._sampled_us),
                min(loads),
                max(loads),
                statistics.fmean(loads),
                statistics.median(loads),
                statistics.pstdev(loads),
            )
        return found

    def _readers(self) -> tuple[tuple[tuple[str, ...], Callable[[], tuple[int | str, ...]]], ...]:
        return (
            (("OperatingSystem",), lambda: (f"Linux version {os.uname().release}",)),
            (("TotalPhysicalMemory", "FreePhysicalMemory"), _memory),
            (("TotalSwapSpace", "FreeSwapSpace"), _swap),
            (("OpenFileDescriptorCount",), lambda: (len(os.listdir("/proc/self/fd")),)),
            (("MaxFileDescriptorCount",), lambda: (resource.getrlimit(resource.RLIMIT_NOFILE)[0],)),
            (("CommittedVirtualMemory",), _committed),
            (("DiskSpaceTotal", "DiskSpaceFree"), self._disk),
        )

    def _disk(self) -> tuple[int, int]:
        usage = psutil.disk_usage(str(self._state))
        return usage.total, usage.free


def _memory() -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.total, memory.available


def _swap() -> tuple[int, int]:
    swap = psutil.swap_memory()
    return swap.total, swap.free


def _committed() -> tuple[int]:
    return (int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize(),)
