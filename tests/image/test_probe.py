"""The way from a guest's loopback to this machine's: bytes both ways, and nothing left open."""

from __future__ import annotations

import socket
import threading

from image import probe


def test_a_carried_connection_brings_bytes_both_ways_and_ends_with_its_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as there:
        listener = socket.create_server(("127.0.0.1", 0))
        here = listener.getsockname()
        probe.carry(listener, there.getsockname())
        with socket.create_connection(here, 10) as near:
            far, _ = there.accept()
            with far:
                near.sendall(b"question")
                near.shutdown(socket.SHUT_WR)
                assert far.makefile("rb").read() == b"question"
                far.sendall(b"answer")
                far.shutdown(socket.SHUT_WR)
                assert near.makefile("rb").read() == b"answer"
        for thread in threading.enumerate():
            if thread.name.endswith("(_join)"):
                thread.join(10)
                assert not thread.is_alive()
