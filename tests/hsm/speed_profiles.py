"""How fast real parts sign, as data, and a module that is as slow as they are.

Published figures for P-256: Nitrokey's documentation (hsm/faq), wolfTPM's README (SPI at 43 MHz), optiga-trust-m's issues 93 and 136.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from provisioning.lab.tokens import SOFTHSM_MODULE


@dataclass(frozen=True)
class Profile:
    """`later_per_second` from `after_s` seconds of use on, where a part slows itself down."""

    name: str
    per_second: float
    later_per_second: float = 0.0
    after_s: float = 0.0

    @property
    def sign_ms(self) -> float:
        return 1000 / self.per_second

    def line(self) -> str:
        """What the module reads."""
        if not self.later_per_second:
            return f"{self.sign_ms:.3f}"
        return f"{self.sign_ms:.3f} {1000 / self.later_per_second:.3f} {self.after_s}"


PROFILES = (
    Profile("Nitrokey HSM 2", 6.0),
    Profile("Infineon SLB 9670", 14.5),
    Profile("Infineon SLB 9672", 28.1),
    Profile("ST33KTPM2X", 39.6),
    Profile("OPTIGA Trust M", 13.0, later_per_second=0.2, after_s=30.0),
)


@dataclass(frozen=True)
class SlowModule:
    """A built module and the file that says how slow it is."""

    file: Path
    speed: Path

    def set(self, line: str) -> None:
        self.speed.write_text(line + "\n")
        self.speed.chmod(0o644)


def build(directory: Path) -> SlowModule:
    """Compiles the module into `directory`, without delay at first. Skips where there is no compiler."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc not installed")
    directory.mkdir(parents=True, exist_ok=True)
    made = SlowModule(directory / "slow.so", directory / "speed")
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", f'-DMODULE="{SOFTHSM_MODULE}"', f'-DSPEED="{made.speed}"']
    subprocess.run([*command, "-o", str(made.file), str(Path(__file__).with_name("slow_module.c")), "-ldl"], check=True)
    made.set("0")
    return made
