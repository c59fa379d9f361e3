"""What a fuzzing target is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
REFERENCE = Path(__file__).resolve().parents[2] / "provisioning" / "reference"
Run = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """`weight`: its share of the inputs; what is dear has less. `also`: errors beside ours that its caller is told to expect."""

    name: str
    run: Run
    seeds: Callable[[], Sequence[bytes]]
    weight: int = 4
    also: tuple[type[Exception], ...] = ()

    def kept(self) -> list[bytes]:
        return [file.read_bytes() for file in sorted((CORPUS / self.name).glob("*"))] if (CORPUS / self.name).is_dir() else []
