"""The one thread that touches the token, and the queue in front of it.

A token's library blocks for as long as the chip thinks and knows one thread only. The event loop never waits: it asks
`hsm.service.TokenQueue` whose turn it is, and is woken when the thread is done. The thread is a daemon: a library that never returns does
not keep a process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

from appliance.clock import Clock
from appliance.hsm.service import Asked, Effect, Freed, GivenUp, Refuse, TokenQueue, UseToken
from appliance.hsm.token import TokenBusyError
from appliance.worker_thread import StartWorker, WorkerThread

Result = TypeVar("Result")


class TokenThread:
    """Runs calls one at a time, by urgency. Made inside a running loop."""

    def __init__(self, waiting_max: int, clock: Clock, start_worker: StartWorker = WorkerThread) -> None:
        self._clock, self._queue = clock, TokenQueue(waiting_max)
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[int, tuple[Callable[[], Any], asyncio.Future[Any]]] = {}
        self._next = 0
        self._at_token_since_s: float | None = None
        self._worker = start_worker("token", self._work)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def at_token_s(self) -> float:
        """For how long the token has been busy with one call; 0 while it is free."""
        return 0.0 if self._at_token_since_s is None else self._clock.monotonic_s() - self._at_token_since_s

    async def run(self, urgency: int, call: Callable[[], Result], wait_s_max: float) -> Result:
        """The call's result or error. Raises TokenBusyError where its turn or its end does not come within `wait_s_max`."""
        self._next += 1
        job, future = self._next, self._loop.create_future()
        self._jobs[job] = call, future
        self._handle(Asked(job, urgency, self._clock.monotonic_s() + wait_s_max))
        try:
            async with asyncio.timeout(wait_s_max):
                result: Result = await future
            return result
        except TimeoutError:
            raise TokenBusyError(f"the token was not done within {wait_s_max} s", retry_after_s=1.0) from None
        finally:
            self._jobs.pop(job, None)
            if future.cancelled():
                self._handle(GivenUp(job))

    def stop(self) -> None:
        """The thread ends after the call that it is in."""
        self._worker.stop()

    def _handle(self, event: Asked | Freed | GivenUp) -> None:
        for effect in self._queue.handle(event, self._clock.monotonic_s()):
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        job = effect.job
        call, future = self._jobs.get(job, (None, None))
        match effect:
            case UseToken():
                if call is None:
                    self._handle(Freed())
                    return
                self._at_token_since_s = self._clock.monotonic_s()
                self._worker.give((job, call))
            case Refuse():
                if future is not None and not future.done():
                    future.set_exception(TokenBusyError("too much waits for the token", retry_after_s=1.0))

    def _done(self, job: int, result: Any, error: BaseException | None) -> None:
        self._at_token_since_s = None
        _, future = self._jobs.get(job, (None, None))
        if future is not None and not future.done():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        self._handle(Freed())

    def _work(self, given: tuple[int, Callable[[], Any]]) -> None:
        """In the token's thread."""
        job, call = given
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:  # handed to the waiting task, which raises it
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._done, job, result, error)
