"""The Python parts of the box for Debian 13's interpreter: the same lock, other wheels, unpacked into one directory.

pip downloads on this machine, with its own configuration and with hashes; what has no wheel is built in the tree of tools without network.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import zipfile
from pathlib import Path

from image import tools

LOCK = Path("appliance/requirements.lock")
PYTHON = "3.13"
PLATFORMS = ("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
BUILT_WITH = {"HOME": "/tmp", "SOURCE_DATE_EPOCH": "1760000000", "CFLAGS": "-g0"}  # noqa: S108  the tree's own
"""What is compiled gives the same bytes on every machine: debugging information would name pip's temporary directory."""
NOT_IN_IMAGE = ("appliance/hsm/software.py",)
"""Keys in files are for the bench: the production image does not even carry the code."""


def collect(repository: Path, *, anew: bool = False) -> Path:
    """A directory of wheels for the lock as it stands, from the cache where nothing changed, unless they are wanted anew."""
    lock = (repository / LOCK).read_bytes()
    place = tools.CACHE / "wheels" / hashlib.sha256(lock + f"{PYTHON} {BUILT_WITH}".encode()).hexdigest()[:16]
    if (place / "complete").exists() and not anew:
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    where = ["--python-version", PYTHON, "--implementation", "cp", "--abi", "cp313", "--abi", "abi3", "--abi", "none"]
    for platform in PLATFORMS:
        where += ["--platform", platform]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--prefer-binary"]
    tools.run([*pip, "-r", repository / LOCK, *where, "--dest", place])
    for source in sorted(place.glob("*.tar.gz")):
        build: list[str | Path] = [
            "python3",
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            place,
            source,
        ]
        tools.inside(build, place, env=BUILT_WITH)
        source.unlink()
    (place / "complete").touch()
    return place


def unpack(repository: Path, wheels: Path, target: Path) -> None:
    """Fills `target` with every wheel and the appliance itself. Tests, bytecode and headers stay out."""
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc", "README.md", "requirements.lock")
    shutil.copytree(repository / "appliance", target / "appliance", ignore=ignored)
    for name in NOT_IN_IMAGE:
        (target / name).unlink()
    for unwanted in [*target.glob("*/tests"), *target.glob("*.data"), *target.glob("**/*.pyx"), *target.glob("**/*.pxd")]:
        if unwanted.is_dir():
            shutil.rmtree(unwanted)
        else:
            unwanted.unlink()
