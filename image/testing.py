"""The test profile: the same root and kernel, in a kernel image of its own that is signed by the test key.

It carries one more initrd, whose one unit lays `probe.py` and a unit for it into /run before the root is entered: the root stays as it is.
A box's firmware does not know the test key, so such an image does not boot there.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from image import tools
from image.keys import SigningKey
from image.tools import ImageError

COMMAND_LINE = re.compile(rb"[ -~]*roothash=[ -~]*")
PROBE = Path(__file__).with_name("probe.py")
ESP_OFFSET = 1 << 20
"""Where the boot partition begins in the disk (`image.json` says so; systemd-repart aligns to a megabyte)."""

_LAY_OUT = """[Unit]
Description=Test profile: lay out the probe
DefaultDependencies=no
Before=initrd.target initrd-switch-root.target

[Service]
Type=oneshot
ExecStart=/usr/bin/cp -a /xacbe-test/run/. /run/
"""
_PROBE_UNIT = """[Unit]
Description=Test profile: probe

[Service]
Type=exec
ExecStart=/usr/bin/python3 -I -B /run/xacbe-test/probe.py
Restart=always
RestartSec=1
StandardError=journal+console
"""


def kernel_image(out: Path, key: SigningKey, more: str = "", name: str = "xacbe.test.efi") -> Path:
    """Makes it from the release's parts. `more`: words for the command line, to look into a boot. Raises ImageError."""
    made, initrd = out / name, _initrd(out)
    ukify: list[str | Path] = ["/usr/bin/ukify", "build", f"--linux={out / 'vmlinuz'}", "--initrd", out / "initrd", "--initrd", initrd]
    ukify += [f"--cmdline={command_line(out / 'xacbe.efi')} {more}".strip(), f"--output={made}"]
    ukify += [f"--secureboot-private-key={key.key}", f"--secureboot-certificate={key.certificate}"]
    tools.inside(ukify, out, key.key.parent)
    initrd.unlink()
    return made


def command_line(kernel_image: Path) -> str:
    """The kernel's command line inside a unified kernel image. Raises ImageError."""
    found = COMMAND_LINE.search(kernel_image.read_bytes())
    if found is None:
        raise ImageError(f"{kernel_image} names no root hash")
    return found.group(0).decode().strip()


def _initrd(out: Path) -> Path:
    """A cpio archive with the probe; the kernel unpacks it over the release's initrd."""
    top = out / "test-initrd"
    units, run = top / "usr/lib/systemd/system", top / "xacbe-test/run"
    for place in (units / "initrd.target.wants", run / "systemd/system/multi-user.target.wants", run / "xacbe-test"):
        place.mkdir(parents=True)
    (units / "xacbe-test.service").write_text(_LAY_OUT)
    (units / "initrd.target.wants/xacbe-test.service").symlink_to("../xacbe-test.service")
    (run / "systemd/system/xacbe-probe.service").write_text(_PROBE_UNIT)
    (run / "systemd/system/multi-user.target.wants/xacbe-probe.service").symlink_to("../xacbe-probe.service")
    shutil.copyfile(PROBE, run / "xacbe-test/probe.py")
    archive = out / "test-initrd.cpio"
    tools.inside(["sh", "-c", f"cd {top} && find . | cpio --quiet -o -H newc > {archive}"], out)
    shutil.rmtree(top)
    return archive


def disk(out: Path, target: Path, kernel: Path) -> Path:
    """A copy of the built disk with another kernel image in the boot partition."""
    tools.run(["cp", "--sparse=always", out / "xacbe.raw", target])
    at = f"{target}@@{ESP_OFFSET}"
    listed = tools.inside(["mdir", "-b", "-i", at, "::/EFI/Linux"], target.parent)
    for name in listed.split():
        tools.inside(["mdel", "-i", at, name], target.parent)
    tools.inside(["mcopy", "-i", at, kernel, "::/EFI/Linux/"], target.parent, kernel.parent)
    return target
