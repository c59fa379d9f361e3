"""One laboratory for all tests of whole boxes: real processes, real sockets, SoftHSM2, mosquitto, CEIQROO's services."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from provisioning.lab import network

BASE = "127.0.30"
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Lab:
    """The running laboratory: its document, and the few things that every test needs of it."""

    directory: Path
    document: dict[str, Any]

    @property
    def client(self) -> str:
        return str(self.document["clients"][0]["id"])

    @property
    def service(self) -> str:
        return str(self.document["services"][0]["id"])

    @property
    def refused(self) -> str:
        return next(str(service["id"]) for service in self.document["services"] if service.get("refused"))

    def url(self, path: str, service: str | None = None) -> str:
        return f"{self.document['boxes'][0]['client_http']}/r1/{service or self.service}{path}"

    def box(self, number: int) -> dict[str, Any]:
        return dict(self.document["boxes"][number - 1])

    def pids(self, number: int, process: str) -> list[int]:
        """As they are now."""
        now = network.status(self.directory)
        assert now is not None
        return list(now["boxes"][number - 1]["pids"].get(process, []))

    def xacbe(self, number: int, *words: str) -> subprocess.CompletedProcess[str]:
        if words[0] == "log" and words[1] in ("list", "find", "show", "export", "prove", "report") and "--reason" not in words:
            words = (*words, "--reason", "a test")
        command = [str(BIN / "xacbe"), *words, "--state", self.box(number)["state"]]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def records(self, number: int, *words: str) -> list[dict[str, Any]]:
        done = self.xacbe(number, "log", "list", "--json", *words)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """In a directory that the boxes' own users can reach, and that stays for a look when something failed."""
    directory = Path(tempfile.mkdtemp(prefix="xacbe-lab-"))
    document = network.up(directory, 3, "softhsm", BASE, 1, lambda line: None)
    yield Lab(directory, document)
    network.down(directory)
    shutil.rmtree(directory)
