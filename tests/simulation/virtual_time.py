"""An event loop on virtual time, and processes that can be killed in it.

Time stands still while anything can run, then jumps to the next timer: an hour costs as long as what happens in it. UNIX sockets are real
(the kernel hands their bytes over at once, within this process); TCP is `network`'s. Nothing runs in a thread: what the product gives to
one runs here, later, in virtual time.

A process is a context variable. Whatever was started in its context dies with it, between one callback and the next: no `finally`, no
`except`, as after SIGKILL.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

PROCESS: contextvars.ContextVar[SimProcess | None] = contextvars.ContextVar("process", default=None)

OUTSIDE = contextvars.Context()
"""Of what happens to the machines: no process's end stops it."""

TURNS_MAX = 1_000_000
"""A run takes some ten thousand: who needs more runs in a circle."""


class NothingHappensError(Exception):
    """Every task waits and no timer runs: somebody waits for ever."""


class SimProcess:
    """One process of one machine. Its tasks are kept after its death, so that no coroutine is closed at a moment of the collector's."""

    def __init__(self, host: str, name: str) -> None:
        self.host, self.name = host, name
        self.dead = False
        self.tasks: set[asyncio.Task[Any]] = set()
        self.on_death: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"{self.host}/{self.name}"


class _Selector(selectors.BaseSelector):
    """The real selector, never waited for: an empty one moves the clock."""

    def __init__(self) -> None:
        self._real = selectors.DefaultSelector()
        self._order: dict[int, int] = {}
        self._next = self.turns = 0
        self.loop: SimLoop

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._real.register(fileobj, events, data)
        self._next += 1
        self._order[key.fd] = self._next
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.modify(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.turns += 1
        if self.turns > TURNS_MAX:
            raise NothingHappensError(f"{TURNS_MAX} turns of the loop, and no end")
        found = self._real.select(0)
        if found:
            return sorted(found, key=lambda each: self._order[each[0].fd])
        if timeout is None:
            raise NothingHappensError
        if timeout > 0:
            self.loop.jump()
        return []

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Any:
        return self._real.get_map()


class SimLoop(asyncio.SelectorEventLoop):
    """`thread_s`: how long the next piece of work of a thread takes. `now` begins above zero: some code takes 0 for "never"."""

    def __init__(self, thread_s: Callable[[], float] = lambda: 0.0) -> None:
        self._own = _Selector()
        self._own.loop = self
        self.now = 1000.0
        super().__init__(self._own)
        self._clock_resolution = 1e-9
        self._thread_s = thread_s
        self._thread_free_s: dict[int, float] = {}
        self.keep: set[int] = set()
        """Descriptors of listening sockets: they belong to the parent and outlive their process."""
        self.failures: list[str] = []
        """What no task caught: a bug of the product or of the simulation."""
        self.set_task_factory(self._new_task)
        self.set_exception_handler(self._unhandled)

    # -- time

    def time(self) -> float:
        return self.now

    def jump(self) -> None:
        """To the next timer."""
        self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]

    # -- processes

    def _new_task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **more: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(coroutine, loop=loop, **more)
        context = more.get("context")
        process = PROCESS.get() if context is None else context.get(PROCESS)
        if process is not None:
            process.tasks.add(task)
            task.add_done_callback(process.tasks.discard)
        return task

    def start(self, process: SimProcess, main: Any) -> asyncio.Task[Any]:
        """Runs a coroutine as the beginning of a process."""
        context = contextvars.copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(main, context=context)

    def kill(self, process: SimProcess) -> None:
        """At once, also from within. Its callers' connections end."""
        if process.dead:
            return
        process.dead = True
        for handle in (*self._ready, *self._scheduled):  # type: ignore[attr-defined]
            if handle._context is not None and handle._context.get(PROCESS) is process:
                handle.cancel()
        for key in list(self._own.get_map().values()):
            if key.data is not None and any(each is not None and each._context.get(PROCESS) is process for each in key.data):
                self.remove_reader(key.fd)
                self.remove_writer(key.fd)
                if key.fd not in self.keep:
                    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(key.fd)) as same:
                        same.shutdown(socket.SHUT_RDWR)
        for told in process.on_death:
            told()

    def _is_dead(self, context: contextvars.Context | None) -> bool:
        process = PROCESS.get() if context is None else context.get(PROCESS)
        return process is not None and process.dead

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        if self._is_dead(context):
            return _nothing(self, context)
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.TimerHandle:
        handle = super().call_at(when, callback, *args, context=context)
        if self._is_dead(context):
            handle.cancel()
        return handle

    def _unhandled(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failures.append(f"{context.get('message')}: {error!r}")

    # -- threads

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:
        """In the order given for each executor, as its one thread would; the work itself takes no time, waiting for its turn does."""
        future = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:  # handed to whoever waits
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        when = max(self.now + self._thread_s(), self._thread_free_s.get(id(executor), 0.0) + 1e-7)
        self._thread_free_s[id(executor)] = when
        self.call_at(when, work)
        return future

    # -- the end

    def drop(self, processes: list[SimProcess]) -> None:
        """The curtain: nothing of these processes runs any more, and their coroutines are closed one after the other."""
        for process in processes:
            process.dead = True
        for process in processes:
            for task in list(process.tasks):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                with contextlib.suppress(BaseException):
                    task.get_coro().close()  # type: ignore[union-attr]


def _nothing(loop: asyncio.AbstractEventLoop, context: contextvars.Context | None) -> asyncio.Handle:
    handle = asyncio.Handle(lambda: None, (), loop, context)
    handle.cancel()
    return handle


class VirtualWorker:
    """A thread of its own, in virtual time (`worker_thread.Worker`): one thing after the other, each after `takes_s()`."""

    def __init__(self, loop: SimLoop, work: Callable[[Any], None], takes_s: Callable[[], float]) -> None:
        self._loop, self._work, self._takes_s = loop, work, takes_s
        self._given: deque[Any] = deque()
        self._busy = False

    def give(self, what: Any) -> None:
        self._given.append(what)
        if not self._busy:
            self._busy = True
            self._loop.call_later(self._takes_s(), self._one)

    def _one(self) -> None:
        self._work(self._given.popleft())
        self._busy = bool(self._given)
        if self._busy:
            self._loop.call_later(self._takes_s(), self._one)

    def end(self) -> None:
        """Nothing to wait for: a group that was given is written when its time comes."""

    def stop(self) -> None:
        """Likewise."""
