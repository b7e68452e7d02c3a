"""`Hedge`: the second attempt of a call whose first one takes long."""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic
from typing import Any

from .attempt_timeout import AttemptTimeout
from .results import Result

# uvloop's timers have whole milliseconds, of a clock that stands while callbacks run. They fire up to 1.5 ms early, and
# a service that responds in a steady 5 ms would get several times as many hedges.
TIMER_SECONDS = 0.001


class Hedge:
    """A second attempt, which begins when the first one takes long. The first success wins.

    (Dean and Barroso, "The Tail at Scale", 2013.) Most calls need none, so the first attempt gets no task of its own.
    If the second one wins, it ends the first one by the timeout of that.
    """

    __slots__ = ("_due", "_first", "_is_success", "_loop", "_second", "_start", "_timer", "won")

    def __init__(
        self, start: Callable[[], Coroutine[Any, Any, Result] | None], is_success: Callable[[int], bool]
    ) -> None:
        """`start` returns None while there should be no second attempt; it is asked again later.

        `is_success` takes the status of a result.
        """
        self._start = start
        self._is_success = is_success
        self._loop = asyncio.get_running_loop()
        self._first: AttemptTimeout | None = None
        self._second: asyncio.Task[Result] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.won: Result | None = None
        """The result of the second attempt, if it has succeeded before the first one ended."""

    def begin(self, delay: float | None) -> None:
        """Begin the second attempt after `delay` seconds; with None, there is none. `end` must follow."""
        if delay is not None:
            self._due = monotonic() + delay
            self._timer = self._loop.call_later(delay, self._on_timer, delay)

    def watch(self, first: AttemptTimeout | None) -> None:
        """The first attempt is in progress, with this timeout; with None, it has ended."""
        self._first = first

    async def better(self, first: Result) -> Result:
        """The better one of a first attempt that has failed, and of the second one if it is in progress."""
        if self._second is None:
            return first
        second = await self._second
        if not self._is_success(second.status):
            return first
        first.close()
        return second

    def end(self, result: Result | None) -> None:
        """The call has this result, or none: end the second attempt, unless it is that of it."""
        if self._timer is not None:
            self._timer.cancel()
        second = self._second
        if second is None or second.cancel() or second.cancelled() or second.exception() is not None:
            return
        if second.result() is not result:
            second.result().close()  # gives its connection back

    def _on_timer(self, delay: float) -> None:
        if self._due > monotonic():
            self._timer = self._loop.call_later(TIMER_SECONDS, self._on_timer, delay)
            return
        sending = self._start()
        if sending is None:
            self.begin(2 * delay)
            return
        self._timer = None
        self._second = self._loop.create_task(sending)
        self._second.add_done_callback(self._on_end)

    def _on_end(self, second: "asyncio.Task[Result]") -> None:
        first = self._first
        if first is None:
            return
        if not second.cancelled() and second.exception() is None and self._is_success(second.result().status):
            self.won = second.result()
            first.expire()
