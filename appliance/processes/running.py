"""How a process of the box runs: one TaskGroup until SIGTERM, one exit code for each way to end."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from appliance.errors import CorruptStateError
from appliance.journal import event
from appliance.processes.resting import NothingToDo
from appliance.supervision.policy import EXIT_CORRUPT, EXIT_RESTS

COLLECT_AFTER = 20_000
"""Objects more than freed ones before the collector looks at the young (Python: 700): hundreds of exchanges under way are no garbage.
What waits in cycles meanwhile is a few MB."""


def settle() -> None:
    """Once, when a process has started: what start-up made stays, so the collector need not walk it under load, and looks more rarely."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)


async def until_stopped(*parts: Coroutine[Any, Any, None]) -> None:
    """Runs the parts of a process together. SIGTERM cancels them all; the first that fails ends the process with its error."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
        await stop.wait()
        for task in tasks:
            task.cancel()


class Fuse:
    """Lets an answer end the process: a LocalServer turns errors into answers, but after a CorruptStateError nothing may go on."""

    def __init__(self) -> None:
        self._blown = asyncio.Event()
        self._error: CorruptStateError | None = None

    @contextmanager
    def guard(self) -> Iterator[None]:
        """A CorruptStateError inside reaches the caller, and `hold` as well."""
        try:
            yield
        except CorruptStateError as error:
            self._error = error
            self._blown.set()
            raise

    async def hold(self) -> None:
        """One of the process's tasks: raises what a guard saw."""
        await self._blown.wait()
        if self._error is not None:
            raise self._error


def run(log: logging.Logger, whole: Coroutine[Any, Any, None], loop: Callable[[Coroutine[Any, Any, None]], None] = asyncio.run) -> int:
    """The outermost loop; `loop`: `uvloop.run` in processes on the way of every message.

    0 after SIGTERM, EXIT_RESTS where there is nothing to do, EXIT_CORRUPT where our own state contradicts itself; a bug leaves with its
    traceback.
    """
    code = 0
    try:
        loop(whole)
    except* CorruptStateError as group:
        code = EXIT_CORRUPT
        event(log, logging.CRITICAL, "process.held", kind=_first(group).kind, reason=str(_first(group)))
    except* NothingToDo:
        code = code or EXIT_RESTS
    return code


def _first(group: BaseExceptionGroup[CorruptStateError]) -> CorruptStateError:
    found: BaseException = group
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    if not isinstance(found, CorruptStateError):
        raise RuntimeError("an empty group of errors")
    return found
