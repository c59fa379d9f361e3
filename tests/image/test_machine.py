"""The machine of the tests is the one that the README tells others to start."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from image.machine import Plan, qemu

README = Path(__file__).parents[2] / "image" / "README.md"


def test_the_line_in_the_readme_is_the_machine_that_the_tests_boot() -> None:
    found = re.search(r"^qemu-system-x86_64 (?:.*\\\n)+.*$", README.read_text(), re.MULTILINE)
    plan = Plan(directory=Path(), disk=Path(), code=Path("build/image/OVMF_CODE.fd"), variables=Path(), reboot=True)

    assert found
    assert shlex.split(found[0].replace("\\\n", " ")) == qemu(plan, serial="mon:stdio")


def test_the_tpm_of_the_readme_starts_where_the_reader_stands(tmp_path: Path) -> None:
    """As a daemon it leaves that directory: a path from there would be another."""
    found = re.search(r"^swtpm socket .*$", README.read_text(), re.MULTILINE)
    (tmp_path / "tpm").mkdir()

    assert found
    subprocess.run(["bash", "-c", found[0]], cwd=tmp_path, check=True, timeout=60)
    try:
        subprocess.run(["swtpm_ioctl", "--unix", "swtpm.sock", "-i"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    finally:
        subprocess.run(["swtpm_ioctl", "--unix", "swtpm.sock", "-s"], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert list((tmp_path / "tpm").iterdir())
