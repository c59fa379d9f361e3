"""A box's log, or a copy of it, against the checkpoints that CEIQROO keeps: each must be the root over its first records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.messagelog.checkpoint import Checkpoint
from appliance.messagelog.merkle import GrowingTree
from appliance.messagelog.record import BrokenLinkError, Record
from appliance.messagelog.recovery import ChainCheck

SEGMENT_SUFFIX = ".log"


@dataclass(frozen=True, slots=True)
class Comparison:
    """`agrees_to`: records up to which every checkpoint agrees. `contradicted`: the first that does not, and why; None: none."""

    records: int
    compared: int
    agrees_to: int
    contradicted: Checkpoint | None
    why: str = ""


def compare(log: Path, kept: Sequence[Checkpoint]) -> Comparison:
    """Follows the segments of `log/`. Raises OSError."""
    wanted = sorted(kept, key=lambda each: each.size)
    tree, compared, agrees_to = GrowingTree(), 0, 0
    found: list[tuple[Checkpoint, str]] = []

    def visit(record: Record) -> None:
        nonlocal compared, agrees_to
        tree.extend([record.link])
        while compared < len(wanted) and wanted[compared].size == tree.size and not found:
            if wanted[compared].root != tree.root():
                why = f"the log's first {tree.size} records are others than the box signed; changed after record {agrees_to}"
                found.append((wanted[compared], why))
                return
            agrees_to, compared = tree.size, compared + 1

    check = ChainCheck(visit=visit)
    segments = sorted((log / "segments").glob(f"*{SEGMENT_SUFFIX}"))
    broken = ""
    try:
        for file in segments:
            check.check(int(file.stem), file.read_bytes(), last=file == segments[-1])
    except BrokenLinkError as error:
        broken = str(error)
    if not found and compared < len(wanted):
        found.append((wanted[compared], broken or f"the log ends with record {tree.size}"))
    return Comparison(tree.size, compared, agrees_to, found[0][0] if found else None, found[0][1] if found else "")
