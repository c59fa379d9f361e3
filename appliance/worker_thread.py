"""One daemon thread that does what it is given, one after the other: for calls that block where no other thread may call.

A daemon: a library that never returns does not keep a process alive. What the loop is told of the outcome is the work's own business
(`call_soon_threadsafe`). A simulation gives its own `Worker`, which works in virtual time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol


class Worker(Protocol):
    """Takes things without waiting, and works on them in the order in which they came."""

    def give(self, what: Any) -> None: ...

    def end(self) -> None:
        """After what was given; blocks until then."""
        ...

    def stop(self) -> None:
        """After what it is doing; nobody waits for it."""
        ...


StartWorker = Callable[[str, Callable[[Any], None]], Worker]
"""`start(name, work)`; `work` is called with each thing that is given."""


class WorkerThread:
    """Bounded by whoever gives: both users give the next thing only when the last one is done."""

    def __init__(self, name: str, work: Callable[[Any], None]) -> None:
        self._given: queue.SimpleQueue[tuple[Any] | None] = queue.SimpleQueue()
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def give(self, what: Any) -> None:
        self._given.put((what,))

    def end(self) -> None:
        self._given.put(None)
        self._thread.join()

    def stop(self) -> None:
        self._given.put(None)

    def _run(self) -> None:
        while (given := self._given.get()) is not None:
            self._work(given[0])
