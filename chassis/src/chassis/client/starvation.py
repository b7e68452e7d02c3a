"""`Starvation`: whether this service is so late itself that slow responses say nothing about a dependency."""

import asyncio
from collections.abc import Callable
from math import inf
from time import monotonic

PERIOD_SECONDS = 0.02
LATE_SECONDS = 0.012
# A loop that was late has responses and timers to work off.
MEMORY_SECONDS = 0.2


class Starvation:
    """Tells whether the event loop is late, or was within the last `MEMORY_SECONDS`.

    A service without CPU (its cgroup throttles it, or the machine is busy) reads responses late and finds its timers
    expired. If it takes this for slowness of its dependencies, it sends hedges and retries, which need more CPU, and
    opens circuit breakers against healthy services.

    A timer measures how late the loop is. It runs only while calls are in progress: an idle service has none.
    It may not see a pause that is shorter than its period, so whoever handles an expired timer calls `note_late`.
    """

    __slots__ = ("_clock", "_due", "_in_progress", "_loop", "_starved_until")

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._in_progress = 0
        self._starved_until = -inf
        self._loop: asyncio.AbstractEventLoop | None = None  # of the timer; None while there is none
        self._due = inf  # when the timer should fire

    def begin(self) -> None:
        """A call begins. Must be called in the event loop."""
        self._in_progress += 1
        if self._in_progress == 1:
            loop = asyncio.get_running_loop()
            # The timer of a loop that was closed, as those of tests are, never fires.
            if loop is not self._loop:
                self._start_timer(loop)

    def end(self) -> None:
        """A call has ended. The timer ends by itself, so that one call after another does not restart it each time."""
        self._in_progress -= 1

    def note_late(self, seconds: float) -> None:
        """A timer has expired so many seconds after its time."""
        if seconds > LATE_SECONDS:
            self._starved_until = self._clock() + MEMORY_SECONDS

    @property
    def is_starved(self) -> bool:
        """Whether the loop is late now, or was a moment ago."""
        now = self._clock()
        return now < self._starved_until or now - self._due > LATE_SECONDS

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._due = self._clock() + PERIOD_SECONDS
        loop.call_later(PERIOD_SECONDS, self._on_timer, loop)

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        self.note_late(self._clock() - self._due)
        if self._in_progress:
            self._start_timer(loop)
        else:
            self._loop = None
            self._due = inf
