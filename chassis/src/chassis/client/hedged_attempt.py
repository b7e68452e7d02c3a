"""`HedgedAttempt`: an attempt that is made once more, on another replica, when it takes long."""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from .attempts import Result

# uvloop's timers have whole milliseconds, of a clock that stands while callbacks run. They fire up to 1.5 ms early, and
# a service that responds in a steady 5 ms would get several times as many hedges.
TIMER_SECONDS = 0.001

Sending = Coroutine[Any, Any, Result]


class HedgedAttempt:
    """The first attempt of a call, and perhaps a second one at the same time. The first success wins.

    (Dean and Barroso, "The Tail at Scale", 2013.) Not with `asyncio.wait`, which takes five times the CPU.
    """

    def __init__(self, start_second: Callable[[], Sending | None], is_success: Callable[[int], bool]) -> None:
        """`start_second` returns None while there should be no second attempt; it is asked again later.

        `is_success` takes the status of a result.
        """
        self._start_second = start_second
        self._is_success = is_success
        self._loop = asyncio.get_running_loop()
        self._winner: asyncio.Future[asyncio.Task[Result]] = self._loop.create_future()
        self._tasks: list[asyncio.Task[Result]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    async def run(self, first: Sending, delay: float | None) -> tuple[Result, bool]:
        """Return the better result, and whether it is that of the second attempt, which begins after `delay` seconds.

        With None, there is no second attempt. The other attempt is cancelled.
        """
        self._start(first)
        if delay is not None:
            self._set_timer(delay)
        winner: asyncio.Task[Result] | None = None
        try:
            winner = await self._winner
            return winner.result(), winner is not self._tasks[0]
        finally:
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                if task is not winner and not task.cancel():
                    _close(task)

    def _start(self, sending: Sending) -> None:
        task = self._loop.create_task(sending)
        self._tasks.append(task)
        task.add_done_callback(self._on_end)

    def _set_timer(self, delay: float) -> None:
        self._due = monotonic() + delay
        self._timer = self._loop.call_later(delay, self._on_timer, delay)

    def _on_timer(self, delay: float) -> None:
        if self._due > monotonic():
            self._timer = self._loop.call_later(TIMER_SECONDS, self._on_timer, delay)
            return
        sending = self._start_second()
        if sending is None:
            self._set_timer(2 * delay)
        else:
            self._start(sending)

    def _on_end(self, task: "asyncio.Task[Result]") -> None:
        if self._winner.done():
            _close(task)
        elif not task.cancelled() and task.exception() is None and not self._is_success(task.result().status):
            if all(other.done() for other in self._tasks):
                self._winner.set_result(task)
        else:
            self._winner.set_result(task)


def _close(task: "asyncio.Task[Result]") -> None:
    """Give back the connection of an attempt that has lost, if it ended before it could be cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
