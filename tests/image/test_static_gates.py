"""Gates that need no image: how exposed the units are that the topology renders, what the box consists of, what its code must not do."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclonedx.model.bom import Bom
from packaging.requirements import Requirement

from appliance.topology import IN_IMAGE
from image import bill, render
from image.checks import CLOSEST, EXPOSURE_MAX, EXPOSURE_MAX_OF_KEYS_AND_LOG, HELPERS

ROOT = Path(__file__).resolve().parents[2]
BILL = ROOT / "build" / "sbom.cdx.json"
UNITS = [*((render.service_name(one), one.name) for one in IN_IMAGE), *((name, "") for name in HELPERS)]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("root")
    for path, text in render.tree().items():
        file = place / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return place


@pytest.mark.case("T60")
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize(("unit", "process"), UNITS, ids=[unit for unit, _ in UNITS])
def test_no_unit_is_more_exposed_than_its_limit(rendered: Path, unit: str, process: str) -> None:
    """As `image/checks.py` judges the built root; an older systemd than the image's may only score worse."""
    limit = EXPOSURE_MAX_OF_KEYS_AND_LOG if process in CLOSEST else EXPOSURE_MAX
    words = ["systemd-analyze", "security", "--offline=yes", f"--root={rendered}", f"--threshold={limit}", "--no-pager", unit]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)
    figure = re.search(r"Overall exposure level for .*: ([0-9.]+)", done.stdout)

    assert figure is not None, done.stdout[-500:] + done.stderr[-500:]
    print(f"{unit}: {figure[1]}")
    assert float(figure[1]) * 10 <= limit
    assert done.returncode == 0


def needed(name: str, seen: set[str]) -> Iterator[str]:
    """A distribution and all that it asks for here, by normal names."""
    normal = re.sub(r"[-_.]+", "-", name).lower()
    if normal in seen:
        return
    seen.add(normal)
    yield normal
    for text in importlib.metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from needed(requirement.name, seen)


@pytest.mark.case("T60")
def test_the_bill_of_materials_is_written_and_names_all_that_a_box_imports() -> None:
    document = bill.of_python(ROOT)
    BILL.parent.mkdir(exist_ok=True)
    BILL.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")

    read = Bom.from_json(json.loads(BILL.read_text()))  # type: ignore[attr-defined]  # made by its serialiser
    named = {(re.sub(r"[-_.]+", "-", one.name).lower(), one.version) for one in read.components}
    wanted = {(name, importlib.metadata.version(name)) for name in needed("xacbe", set()) if name != "xacbe"}
    assert wanted <= named
    assert all(one["properties"] for one in document["components"]), "each with the digests that pip accepts"
    assert bill.of_python(ROOT) == document
