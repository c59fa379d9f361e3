"""The report says what results say, shows what is missing, and carries nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.report.keeping import load
from tests.report.page import page
from tests.report.plan import CASES, RULES
from tests.report.promises import PROMISES, Figure

ROOT = Path(__file__).resolve().parents[2]


def result(outcome: str = "passed", **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "seconds": 1.5, "figures": {}, "rules": [], "cases": [], "at": "now"} | more


TESTS = {
    "tests/a.py::test_seals": result(rules=["IV.3.V"], cases=["T20"]),
    "tests/a.py::test_fails[<b>]": result("failed", rules=["IV.3.V"], figures={"good_p99_ms": 2500.0}),
    "tests/a.py::test_rests": result("skipped", cases=["T53"]),
}
MEMORY = {"idle_mib": {"whole": 138.1}, "idle_mib_wanted": 150.0, "loaded_mib": {"whole": 210.5}, "loaded_mib_wanted": 200.0}
PARTS = {
    "memory": {
        "seconds": 100,
        "load_average": 0.4,
        "found": MEMORY | {"within_limit": {}, "idle_peer_kib": 25.0, "idle_peer_kib_wanted": 32.0, "start_s": {}, "start_s_wanted": 1.5},
    }
}


def test_every_rule_every_case_and_every_promise_has_its_place_and_what_is_missing_says_so() -> None:
    made = page(PARTS, TESTS, "abc", "today")
    ElementTree.fromstring(made.removeprefix("<!doctype html>").replace('<meta charset="utf-8">', ""))  # noqa: S314  our own page

    for name in (*RULES, *CASES, *(promise.text for promise in PROMISES)):
        assert f">{name}<" in made
    assert "1 failed, 1 passed" in made
    assert "210.5 MiB (at most 200)" in made
    assert "2,500 ms (at most 2,000)" in made
    assert made.count("missing: run make bench ARGS=exchange") == 1
    assert "no test" in made
    assert "&lt;b&gt;" in made
    assert "<b>" not in made
    assert "http" not in made
    assert "<script" not in made


def test_without_any_results_the_page_says_that_there_are_none() -> None:
    made = page({}, {}, "abc", "today")

    assert "no results: run make test" in made
    assert made.count("missing: run make bench") == sum(1 for promise in PROMISES if promise.part)


def test_what_an_older_bench_wrote_is_missing_and_no_error() -> None:
    assert "missing: run make bench ARGS=log" in page({"log": {"found": {"other": 1}}}, {}, "abc", "today")


@pytest.mark.parametrize(
    ("figure", "holds"),
    [
        (Figure("", 1, 2), True),
        (Figure("", 3, 2), False),
        (Figure("", 3, 2, at_least=True), True),
        (Figure("", None, 2), None),
        (Figure("", 3, None), None),
    ],
)
def test_a_figure_holds_its_bound_from_the_right_side(figure: Figure, holds: bool | None) -> None:
    assert figure.holds is holds


SAMPLE = """
import pytest
@pytest.mark.rule("IV.3.V")
@pytest.mark.case("T20")
def test_good(record_property):
    record_property("good_p99_ms", 12.5)
    record_property("words", "SECRET-canary")
    print("SECRET-canary")
def test_bad():
    assert "SECRET-canary" == ""
def test_rests():
    pytest.skip("SECRET-canary")
"""


@pytest.mark.case("T60")
def test_a_run_is_kept_with_outcomes_marks_and_figures_and_without_what_was_said(tmp_path: Path) -> None:
    kept, sample = tmp_path / "tests.json", tmp_path / "test_sample.py"
    sample.write_text(SAMPLE)
    (tmp_path / "conftest.py").write_text(
        "from pathlib import Path\nfrom tests.conftest import pytest_collection_modifyitems\nfrom tests.report.keeping import Keeper\n"
        "def pytest_configure(config):\n"
        "    [config.addinivalue_line('markers', each) for each in ('rule(id)', 'case(id)')]\n"
        f"    config.pluginmanager.register(Keeper(Path({str(kept)!r})))\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert "1 failed, 1 passed, 1 skipped" in done.stdout, done.stdout + done.stderr

    found = {name.rpartition("::")[2]: one for name, one in load(kept).items()}
    assert {name: one["outcome"] for name, one in found.items()} == {"test_good": "passed", "test_bad": "failed", "test_rests": "skipped"}
    assert (found["test_good"]["rules"], found["test_good"]["cases"], found["test_good"]["figures"]) == (
        ["IV.3.V"],
        ["T20"],
        {"good_p99_ms": 12.5},
    )
    assert "canary" not in kept.read_text()
    assert json.loads(kept.read_text())


def test_results_that_cannot_be_read_are_none(tmp_path: Path) -> None:
    (tmp_path / "tests.json").write_text("{")

    assert load(tmp_path / "tests.json") == {}
    assert load(tmp_path / "nothing") == {}
