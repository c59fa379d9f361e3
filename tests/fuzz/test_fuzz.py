"""Whatever bytes come, a parser takes them or raises an error of ours, soon and without growing: one table, 300,000 inputs a day.

By night each target has thirty times as many, from other beginnings, and `python -m tests.fuzz` follows the code's branches (atheris).
"""

from __future__ import annotations

import gc
import hashlib
import resource
import time
from collections import Counter
from pathlib import Path

import pytest

from appliance.errors import XacbeError
from tests.depth import DEEP
from tests.fuzz.mutate import mutants
from tests.fuzz.targets import CORPUS, TARGETS, Target

pytestmark = pytest.mark.case("T01", "T05", "T07", "T08")

INPUTS = 300_000
NIGHTS = 30 if DEEP else 1
PORTION = 2_000
CPU_S_MAX = 0.5
"""For one input of at most 64 KiB. Usual is 0.1 ms; a machine that swaps or compiles does not make a thousand of it."""
GROWN_KIB_MAX = 64 << 10
"""Of the process, over all inputs of one target: what it would keep of hostile ones, and the allocator's own steps."""
_WEIGHTS = sum(target.weight for target in TARGETS)


def outcome(target: Target, data: bytes) -> str:
    """`taken`, or the kind of the refusal. What is no error of ours goes through, and stops the test."""
    try:
        target.run(data)
    except XacbeError as error:
        return error.kind
    except target.also:
        return "refused"
    return "taken"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_parser_takes_any_bytes_or_names_what_is_wrong(target: Target) -> None:
    seeds = list(target.seeds())
    assert [outcome(target, seed) for seed in seeds] == ["taken"] * len(seeds), "good inputs are the beginning"
    for data in target.kept():
        outcome(target, data)
    count, before_kib, found = -(-INPUTS * target.weight // _WEIGHTS) * NIGHTS, 0, Counter[str]()
    for portion in range(-(-count // PORTION)):
        for data in mutants(f"{target.name} {portion}", seeds, min(PORTION, count - portion * PORTION)):
            began = time.process_time()
            found[tried(target, data)] += 1
            took_s = time.process_time() - began
            if took_s > CPU_S_MAX:
                again = time.process_time()
                tried(target, data)  # once more: the collector, or somebody else's pages
                assert time.process_time() - again < CPU_S_MAX, kept(target, data)
        if not portion:
            gc.collect()
            before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert found.total() == count
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < GROWN_KIB_MAX


def tried(target: Target, data: bytes) -> str:
    try:
        return outcome(target, data)
    except BaseException as error:
        error.add_note(f"with {len(data)} bytes, kept in {kept(target, data)}")
        raise


def kept(target: Target, data: bytes) -> Path:
    """Where the input lies now: it stays in the repository once its bug is mended."""
    file = CORPUS / target.name / hashlib.sha256(data).hexdigest()[:16]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def test_every_directory_of_the_corpus_has_its_target_and_stays_small() -> None:
    assert {place.name for place in CORPUS.iterdir()} <= {target.name for target in TARGETS}
    assert sum(file.stat().st_size for file in CORPUS.rglob("*") if file.is_file()) < 1 << 20


def test_the_machine_finds_a_parser_that_lets_a_foreign_error_out() -> None:
    def careless(data: bytes) -> None:
        if data.startswith(b"7"):
            int(data)

    target = Target("careless", careless, lambda: (b"77", b"123"))
    with pytest.raises(ValueError, match="invalid literal"):
        _ = [outcome(target, data) for data in mutants("careless", [b"77", b"123"], 500)]
