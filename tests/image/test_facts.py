"""What is told from inside a guest is what the kernel says: asked here of this machine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from image import inside


def test_sockets_processes_and_memory_are_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as channel:
        channel.bind(str(tmp_path / "caller.sock"))
        (tmp_path / "caller.sock").chmod(0o600)
        channel.listen()
        done = subprocess.run([sys.executable, "-I", "-B", "-c", inside.FACTS.read_text()], capture_output=True, text=True, check=True)
        port = tcp.getsockname()[1]
    facts = json.loads(done.stdout)

    assert f"127.0.0.1:{port}" in facts["tcp"]
    assert facts["unix"][str(tmp_path / "caller.sock")] == f"0600 {os.getuid()}"
    assert os.getpid() not in {one["pid"] for one in facts["processes"]}, "whoever started it is the test's own"
    assert 0 < facts["memory"]["used"] < facts["memory"]["MemTotal"]
    assert "/proc" in facts["mounts"]
