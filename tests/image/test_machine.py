"""The machine of the tests is the one that the README tells others to start."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from image.machine import Plan, qemu

README = Path(__file__).parents[2] / "image" / "README.md"


def test_the_line_in_the_readme_is_the_machine_that_the_tests_boot() -> None:
    found = re.search(r"^qemu-system-x86_64 (?:.*\\\n)+.*$", README.read_text(), re.MULTILINE)
    plan = Plan(directory=Path(), disk=Path(), code=Path("build/image/OVMF_CODE.fd"), variables=Path(), reboot=True)

    assert found
    assert shlex.split(found[0].replace("\\\n", " ")) == qemu(plan, serial="mon:stdio")
