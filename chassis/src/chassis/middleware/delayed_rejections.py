"""Delays rejections, so that clients that try again at once cannot take the CPU from the admitted requests."""

import asyncio
from collections import deque
from time import monotonic

from ..problem import Problem

PER_SECOND = 200
MAX_SECONDS = 1.0
TIMER_SECONDS = 0.01


class DelayedRejections:
    """Releases rejections one after the other, `PER_SECOND`, each within `MAX_SECONDS`.

    The first ones are released at once, so that a load balancer can try another instance. A client that
    gets its rejection at once, and retries at once, costs more CPU than its request would.
    """

    def __init__(self) -> None:
        self._delayed: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._last_due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._hurries = False

    @property
    def count(self) -> int:
        """The number of rejections that are delayed now."""
        return len(self._delayed)

    async def delay(self, problem: Problem) -> Problem:
        """Return `problem` when it is its turn."""
        now = monotonic()
        # In order, so that one timer is enough for all.
        self._last_due = due = min(max(self._last_due + 1 / PER_SECOND, now), now + MAX_SECONDS)
        if due - now > TIMER_SECONDS and not self._hurries:
            loop = asyncio.get_running_loop()
            waiting: asyncio.Future[None] = loop.create_future()
            self._delayed.append((due, waiting))
            if self._timer is None:
                self._timer = loop.call_later(due - now, self._release)
            await waiting
        return problem

    def hurry(self) -> None:
        """Delay nothing from now on."""
        self._hurries = True
        if self._timer is not None:
            self._timer.cancel()
            self._release()

    def _release(self) -> None:
        self._timer = None
        now = monotonic()
        while self._delayed:
            due, waiting = self._delayed[0]
            if due > now and not self._hurries:
                self._timer = asyncio.get_running_loop().call_later(max(due - now, TIMER_SECONDS), self._release)
                return
            self._delayed.popleft()
            if not waiting.done():
                waiting.set_result(None)
