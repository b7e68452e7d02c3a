"""`Bulkhead`: bounds the calls to a dependency that are in progress, so that a slow one does not take all resources."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable


class BulkheadFullError(Exception):
    """Too many calls are in progress, and too many wait, or this one has waited too long."""


class Bulkhead:
    """Admits `max_in_progress` calls. Up to `max_waiting` further ones wait for `wait_seconds`, first in, first out.

    A place is handed from a call that ends to the first one that waits, so that new calls cannot overtake it.
    """

    __slots__ = ("_max_in_progress", "_max_waiting", "_queue", "_wait_seconds", "in_progress")

    def __init__(self, max_in_progress: int, max_waiting: int, wait_seconds: float) -> None:
        self.in_progress: int = 0
        """The number of calls that have been admitted and have not left."""
        self._max_in_progress = max_in_progress
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        # The results are whether the call is admitted. An ordered dictionary forgets cancelled calls in constant time.
        self._queue: OrderedDict[asyncio.Future[bool], None] = OrderedDict()

    def set_limits(self, max_in_progress: int, max_waiting: int, wait_seconds: float) -> None:
        """Use other limits from now on. Calls in progress stay, even if there are too many of them now."""
        self._max_in_progress = max_in_progress
        self._max_waiting = max_waiting
        self._wait_seconds = wait_seconds
        while self._queue and self.in_progress < max_in_progress:
            self.in_progress += 1
            self.leave()  # to the first one that waits

    @property
    def waiting(self) -> int:
        """The number of calls that wait."""
        return len(self._queue)

    def enter(self) -> Awaitable[None] | None:
        """Begin a call. None: it is admitted. Otherwise await the result, which ends when the call is admitted.

        `leave` must follow an admission, and nothing else. Raises `BulkheadFullError`, at once or from the result.
        """
        if self.in_progress < self._max_in_progress:
            self.in_progress += 1
            return None
        if len(self._queue) >= self._max_waiting or self._wait_seconds <= 0:
            raise BulkheadFullError(f"{self.in_progress} calls are in progress, and {len(self._queue)} wait")
        return self._wait()

    def leave(self) -> None:
        """An admitted call has ended."""
        while self._queue and self.in_progress <= self._max_in_progress:
            waiter, _ = self._queue.popitem(last=False)
            if not waiter.done():  # a task that is cancelled has cancelled its future, and has not run yet
                waiter.set_result(True)
                return
        self.in_progress -= 1

    async def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._queue[waiter] = None
        timer = loop.call_later(self._wait_seconds, self._end_wait, waiter)
        is_admitted = False
        try:
            is_admitted = await waiter
        finally:
            timer.cancel()
            self._queue.pop(waiter, None)
            if not is_admitted and waiter.done() and not waiter.cancelled() and waiter.result():
                self.leave()  # cancelled in the moment of its admission
        if not is_admitted:
            raise BulkheadFullError(f"{self.in_progress} calls are in progress, and none ended in time")

    def _end_wait(self, waiter: asyncio.Future[bool]) -> None:
        if not waiter.done():
            waiter.set_result(False)
