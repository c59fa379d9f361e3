"""A guest for power cuts, made in seconds: Debian's cloud kernel, and as its only file system in memory what the load needs from here.

No distribution is installed: Python, the libraries and the packages that the load really opened here (one short run tells) are packed
into an initramfs. The kernel's package is fetched once and kept in `~/.cache/xacbe-crash`.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CACHE = Path.home() / ".cache" / "xacbe-crash"
KERNEL = "linux-image-cloud-amd64"
MODULES = ("virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk")
"""In the order of their needs; ext4 is built in."""
TRACE = """
import json, os, sys, tests.crash.guest_init, tests.crash.load
sys.argv = ["load", sys.argv[1], "--turns", "13"]
tests.crash.load.main()
files = {getattr(m, "__file__", None) for m in sys.modules.values()} | {getattr(m, "__cached__", None) for m in sys.modules.values()}
files |= {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
json.dump([sorted(f for f in files if f and os.path.isfile(f)), [p for p in sys.path if p]], open(os.environ["TRACED"], "w"))
"""


@dataclass(frozen=True)
class Guest:
    kernel: Path
    initramfs: Path


def build(place: Path) -> Guest:
    """Some seconds, and a minute where the kernel is not there yet. Raises CalledProcessError."""
    kernel = fetched_kernel()
    initramfs = place / "initramfs.cpio"
    files, path = opened_by_the_load(place)
    with open(initramfs, "wb") as out:
        pack = Cpio(out)
        for file in files:
            pack.file(file)
        interpreter = os.path.realpath(sys.executable)
        pack.file("/lib64/ld-linux-x86-64.so.2")
        pack.symlink("/lib", "usr/lib")
        pack.data("/etc/passwd", b"root:x:0:0:root:/:/bin/false\n")
        modules = {file.stem: file for file in (kernel / "lib").rglob("*.ko")}
        for name in MODULES:
            pack.data(f"/modules/{name}.ko", modules[name].read_bytes())
        pack.data("/modules/order", "".join(f"/modules/{name}.ko\n" for name in MODULES).encode())
        source = (Path(__file__).parent / "guest_init.py").read_text()
        begin = f"#!{interpreter} -B\n".encode()
        set_path = f"import sys\nsys.path[:] = {json.dumps(path)}\n"
        pack.data("/init", begin + set_path.encode() + source.replace("from __future__ import annotations\n", "").encode(), 0o755)
        pack.end()
    return Guest(next((kernel / "boot").glob("vmlinuz-*")), initramfs)


def fetched_kernel() -> Path:
    """The newest cloud kernel of this machine's Debian, unpacked."""
    question = ["apt-cache", "depends", KERNEL]
    depends = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    if not depends:  # a bare machine knows of no package yet
        subprocess.run(["apt-get", "update", "-qq"], check=True)
        depends = subprocess.run(question, capture_output=True, text=True, check=True).stdout
    name = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    place = CACHE / name
    if not place.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as passing:
            subprocess.run(["apt-get", "download", "-qq", name], cwd=passing, check=True, capture_output=True)
            subprocess.run(["dpkg-deb", "-x", str(next(Path(passing).glob("*.deb"))), f"{passing}/tree"], check=True)
            shutil.rmtree(f"{passing}/tree/usr", ignore_errors=True)
            os.replace(f"{passing}/tree", place)
    return place


def opened_by_the_load(place: Path) -> tuple[list[str], list[str]]:
    """(files that the load imports and maps, Python's path), by a run of it here."""
    traced = place / "traced.json"
    with tempfile.TemporaryDirectory(dir=place) as passing:
        environment = {**os.environ, "TRACED": str(traced), "PYTHONPATH": str(REPOSITORY)}  # noqa: TID251  for a program of ours
        subprocess.run([sys.executable, "-c", TRACE, passing], check=True, capture_output=True, env=environment, cwd=REPOSITORY)
    files, path = json.loads(traced.read_text())
    standard = Path(sysconfig.get_paths()["stdlib"])
    more = [str(file) for folder in ("encodings", "encodings/__pycache__") for file in (standard / folder).glob("*.py*")]
    names = []
    for file in [*files, *more]:
        names.append(file)
        if ".so" in file:  # the names that the loader knows it by
            target = os.path.realpath(file)
            names += [str(each) for each in Path(file).parent.glob("*.so*") if each.is_symlink() and os.path.realpath(each) == target]
    return sorted({n for n in names if not n.endswith(".gconv")}), path


class Cpio:
    """Writes an archive of the kernel's `newc` format, directories as they are needed."""

    def __init__(self, out: object) -> None:
        self._out = out
        self._made: set[str] = set()
        self._number = 0

    def file(self, path: str) -> None:
        """As it is here, at the same place; a link's target with it."""
        if os.path.islink(path):
            self.symlink(path, os.readlink(path))
            return
        found = os.stat(path)
        self._put(path, stat.S_IFREG | (0o755 if found.st_mode & 0o100 else 0o644), Path(path).read_bytes(), int(found.st_mtime))

    def data(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._put(path, stat.S_IFREG | mode, content, 0)

    def symlink(self, path: str, target: str) -> None:
        self._put(path, stat.S_IFLNK | 0o777, target.encode(), 0)

    def end(self) -> None:
        self._entry("TRAILER!!!", 0, b"", 0)

    def _put(self, path: str, mode: int, content: bytes, time: int) -> None:
        if path in self._made:
            return
        for parent in [str(each) for each in reversed(Path(path).parents)][1:]:
            if parent not in self._made:
                self._made.add(parent)
                self._entry(parent[1:], stat.S_IFDIR | 0o755, b"", 0)
        self._made.add(path)
        self._entry(path[1:], mode, content, time)

    def _entry(self, name: str, mode: int, content: bytes, time: int) -> None:
        self._number += 1
        numbers = (self._number, mode, 0, 0, 1, time, len(content), 0, 0, 0, 0, len(name.encode()) + 1, 0)
        head = b"070701" + b"".join(b"%08X" % each for each in numbers) + name.encode() + b"\0"
        for part in (head, content):
            self._out.write(part + b"\0" * (-len(part) % 4))  # type: ignore[attr-defined]
