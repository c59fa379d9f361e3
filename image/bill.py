"""The bill of materials of the image (CycloneDX): Debian's packages by `debsbom`, and the Python parts of the lock beside them.

The same image gives the same bytes: time and serial number follow from what was built.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import uuid
from pathlib import Path
from typing import Any

from appliance.version import VERSION
from image import tools, wheels

FILE = "sbom.cdx.json"
_PINNED = re.compile(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", re.MULTILINE)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def python_parts(lock: str) -> list[dict[str, Any]]:
    """CycloneDX components of a lock file, each with the digests that pip accepts for it."""
    starts = [match.start() for match in _PINNED.finditer(lock)] + [len(lock)]
    parts = []
    for start, end in zip(starts, starts[1:], strict=False):
        entry = lock[start:end]
        name, version = _PINNED.match(entry).groups()  # type: ignore[union-attr]  # begins at a match
        reference = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        accepted = [{"name": "pip:sha256", "value": digest} for digest in _HASH.findall(entry)]
        parts.append({"type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference, "properties": accepted})
    return parts


def of_python(repository: Path) -> dict[str, Any]:
    """CycloneDX of what `pip` installs on a box, from its lock: the part of the bill that needs no image. The same lock, the same bytes."""
    lock = (repository / wheels.LOCK).read_text()
    own = f"pkg:pypi/xacbe@{VERSION}"
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, lock)}",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": own, "name": "xacbe", "version": VERSION, "purl": own}},
        "components": python_parts(lock),
    }


def write(repository: Path, out: Path, root_hash: str) -> Path:
    """Makes `sbom.cdx.json` from the package states that the build kept. Raises ImageError."""
    root = out / "bill-root"
    (root / "var/lib/dpkg").mkdir(parents=True)
    shutil.copyfile(out / "dpkg-status", root / "var/lib/dpkg/status")
    made = out / "sbom"
    number = uuid.uuid5(uuid.NAMESPACE_OID, root_hash)
    command: list[str | Path] = [Path(sys.executable).with_name("debsbom"), "generate", "--sbom-type", "cdx", "--root", root, "--out", made]
    command += ["--distro-name", "Xacbe", "--distro-version", VERSION, "--distro-arch", "amd64"]
    tools.run([*command, "--timestamp", "2025-10-09T08:53:20+00:00", "--cdx-serialnumber", str(number)])
    document = json.loads(made.with_name("sbom.cdx.json").read_text())
    document["components"] += python_parts((repository / wheels.LOCK).read_text())
    file = out / FILE
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(root)
    return file


def problems(out: Path, repository: Path) -> list[str]:
    """Whether everything that was installed is named, with a version."""
    document = json.loads((out / FILE).read_text())
    named = {(one["name"], one.get("version", "")) for one in document["components"]}
    installed = {(one["name"], one["version"]) for one in json.loads((out / "manifest.json").read_text())["packages"]}
    pinned = {(one["name"], one["version"]) for one in python_parts((repository / wheels.LOCK).read_text())}
    return [f"{name} {version}: not in the bill of materials" for name, version in sorted((installed | pinned) - named)]
