"""The built roots as files: taken out of the disk image and the initrd, not out of the build, so that what is judged is what boots."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from image import tools
from image.tools import ImageError

ROOT_TYPE = "root-x86-64"
BLOCK = 1 << 20


def partition(out: Path, kind: str) -> dict[str, Any]:
    """One partition as `image.json` tells of it: `offset` and `raw_size` in bytes. Raises ImageError."""
    facts = json.loads((out / "image.json").read_text())
    found = [one for one in facts["partitions"] if one["type"] == kind and one["label"] != "_empty"]
    if not found:
        raise ImageError(f"no partition of type {kind}")
    first: dict[str, Any] = found[0]
    return first


def extract(out: Path) -> Path:
    """Every file of the root below `root/` with owners, modes and extended attributes; made again when the disk is newer."""
    target, mark = out / "root", out / "root.made"
    root_hash = json.loads((out / "image.json").read_text())["root_hash"]
    if target.is_dir() and mark.exists() and mark.read_text() == root_hash:
        return target
    shutil.rmtree(target, ignore_errors=True)
    at = partition(out, ROOT_TYPE)
    raw = out / "root.erofs"
    with (out / "xacbe.raw").open("rb") as disk, raw.open("wb") as file:
        disk.seek(at["offset"])
        left = at["raw_size"]
        while left:
            data = disk.read(min(BLOCK, left))
            file.write(data)
            left -= len(data)
    tools.inside(["fsck.erofs", f"--extract={target}", "--xattrs", "--preserve", raw], out)
    raw.unlink()
    mark.write_text(root_hash)
    return target


def first_root(out: Path) -> Path:
    """Every file of the initrd below `first-root/`, made again each time: it is small."""
    target = out / "first-root"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    tools.inside(
        ["sh", "-c", f"cd {target} && zstd --quiet -dc {out / 'initrd'} | cpio -i --quiet --no-absolute-filenames --no-preserve-owner"], out
    )
    return target
