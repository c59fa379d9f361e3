"""`make image`: from the repository to a disk image in `build/image/`.

Order: machine and tools, Python parts, keys, rendered files, mkosi, then what a machine needs to boot it (firmware with our keys) and the
test profile's kernel image. Everything but the first two is made anew each time; mkosi keeps its package layer between builds.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from appliance.version import VERSION
from image import bill, host, keys, render, testing, tools, wheels
from image.tools import ImageError, NotHereError

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = REPOSITORY / "build" / "image"
KEYS = REPOSITORY / "build" / "keys"
DISK, FACTS = OUT / "xacbe.raw", OUT / "image.json"
DISK_BYTES = 3 << 30
"""As large as the smallest disk of a box: two root slots, the boot partition, and the data partition that the first boot makes."""
FIRMWARE_CODE, FIRMWARE_VARS = OUT / "OVMF_CODE.fd", OUT / "OVMF_VARS.fd"
TEST_VARS = OUT / "OVMF_VARS.test.fd"
OURS = re.compile(r"Unable to locate package|has no installation candidate")
"""Words of apt for a package that we ask for and nobody has; what else fails before there are tools is the machine's."""
OWNER = "9d3a1c52-6a0c-4f53-9e0c-7f1b0a9f5d21"
"""Signature owner in the firmware's lists: any number, always the same."""


def build(*, clean: bool = False, out: Path = OUT) -> dict[str, object]:
    """Builds everything; returns what `image.json` says. `clean`: also Debian's packages and the Python parts. Raises ImageError."""
    with _step("tools"):
        tools.prepare_host()
        tools.prepare_tree()
    with _step("python"):
        parts = wheels.collect(REPOSITORY, anew=clean)
    signing = keys.keys(KEYS)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with _step("tree"):
        _tree(out / "tree", parts)
    with _step("mkosi"):
        _mkosi(out, signing["release"], clean)
    with _step("machine"):
        _enlarge(out)
        _firmware(out, signing)
    with _step("test profile"):
        testing.kernel_image(out, signing["test"])
    facts = _facts(out)
    with _step("bill"):
        bill.write(REPOSITORY, out, str(facts["root_hash"]))
    (out / "image.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def fetch() -> None:
    """Everything that comes from elsewhere: this machine's packages, the tree of tools, the Python parts; then whether it can build.

    Raises NotHereError where it is plainly this machine's fault that there will be no image, ImageError elsewhere.
    """
    host.can_build(REPOSITORY, tools.CACHE / "workspace")
    try:
        with _step("tools"):
            tools.prepare_host()
            tools.prepare_tree()
    except (ImageError, OSError) as error:
        if OURS.search(str(error)):
            raise
        raise NotHereError(str(error)) from None
    host.can_enter()
    with _step("python"):
        wheels.collect(REPOSITORY)


@contextlib.contextmanager
def _step(name: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"  {name:14}", end="", flush=True)
    yield
    print(f"{time.monotonic() - began:6.1f} s", flush=True)


def _tree(target: Path, parts: Path) -> None:
    """What the image has beyond Debian's packages and `mkosi.extra`: rendered files and the box's software."""
    for name, text in render.tree().items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    wheels.unpack(REPOSITORY, parts, target / "usr/lib/xacbe")


def _mkosi(out: Path, key: keys.SigningKey, clean: bool) -> None:
    """mkosi of the tree, run by this machine's Python: it enters the tree by itself."""
    library = tools.CACHE / "mkosi-library"
    library.mkdir(exist_ok=True)
    link = library / "mkosi"
    link.unlink(missing_ok=True)
    link.symlink_to(tools.TREE / "usr/lib/python3/dist-packages/mkosi")
    apt = out / "sandbox" / "etc" / "apt"
    (apt / "sources.list.d").mkdir(parents=True)
    (apt / "sources.list.d" / "mkosi.sources").write_text(tools.deb822(tools.sources()))
    workspace = tools.CACHE / "workspace"
    for place in (workspace, tools.CACHE / "mkosi", tools.CACHE / "packages", out / "mkosi"):
        place.mkdir(parents=True, exist_ok=True)
    options = {
        "directory": REPOSITORY / "image" / "mkosi",
        "tools-tree": tools.TREE,
        "image-version": VERSION,
        "output-directory": out / "mkosi",
        "workspace-directory": workspace,
        "cache-directory": tools.CACHE / "mkosi",
        "package-cache-directory": tools.CACHE / "packages",
        "sandbox-tree": out / "sandbox",
        "extra-tree": out / "tree",
        "incremental": "yes",
    }
    for use in ("secure-boot", "verity", "sign-expected-pcr"):
        options |= {f"{use}-key": key.key, f"{use}-certificate": key.certificate}
    arguments = [f"--{name}={value}" for name, value in options.items()]
    force = ["--force"] * (2 if clean else 1)
    tools.run(
        ["/usr/bin/python3", "-m", "mkosi", *arguments, *force, "build"],
        log=out / "mkosi.log",
        env={"PYTHONPATH": str(library), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    made = out / "mkosi"
    for name, wanted in {
        "raw": "xacbe.raw",
        "efi": "xacbe.efi",
        "vmlinuz": "vmlinuz",
        "initrd": "initrd",
        "manifest": "manifest.json",
    }.items():
        (made / f"xacbe_{VERSION}.{name}").rename(out / wanted)
    (made / "dpkg-status").rename(out / "dpkg-status")
    shutil.rmtree(made)
    shutil.rmtree(out / "sandbox")


def _enlarge(out: Path) -> None:
    """The disk at its size, with the second partition table at its end."""
    grow = ["systemd-repart", "--dry-run=no", "--empty=allow", f"--size={DISK_BYTES}", "--definitions=/var/empty", "--json=off"]
    tools.inside([*grow, out / "xacbe.raw"], out)


def _firmware(out: Path, signing: dict[str, keys.SigningKey]) -> None:
    """Firmware that believes our release key, and one that believes the test key as well: for the test profile's machine only."""
    shutil.copyfile(host.OVMF / "OVMF_CODE_4M.secboot.fd", out / FIRMWARE_CODE.name)
    blank = out / "blank.fd"
    shutil.copyfile(host.OVMF / "OVMF_VARS_4M.fd", blank)
    release = signing["release"].certificate
    for vars_file, more in ((FIRMWARE_VARS.name, []), (TEST_VARS.name, [signing["test"].certificate])):
        enrol: list[str | Path] = ["virt-fw-vars", "--input", blank, "--output", out / vars_file, "--secure-boot"]
        enrol += ["--set-pk", OWNER, release, "--add-kek", OWNER, release]
        for certificate in (release, *more):
            enrol += ["--add-db", OWNER, certificate]
        tools.inside(enrol, out, KEYS)
    blank.unlink()


def _facts(out: Path) -> dict[str, object]:
    """What was built: the root's hash as the kernel image carries it, and sizes."""
    found = re.search(rb"roothash=([0-9a-f]{64})", (out / "xacbe.efi").read_bytes())
    if found is None:
        raise ImageError("the kernel image names no root hash")
    partitions = json.loads(
        tools.inside(
            ["systemd-repart", "--json=short", "--dry-run=yes", "--empty=allow", "--definitions=/var/empty", out / "xacbe.raw"], out
        )
    )
    manifest = json.loads((out / "manifest.json").read_text())
    return {
        "version": VERSION,
        "root_hash": found.group(1).decode(),
        "packages": len(manifest["packages"]),
        "kernel_image_bytes": (out / "xacbe.efi").stat().st_size,
        "partitions": partitions,
    }
