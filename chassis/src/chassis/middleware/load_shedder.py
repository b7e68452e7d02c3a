"""Load shedding: rejects requests under overload, so that the others get their responses in time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic, process_time

from prometheus_client import Counter

from ..problem import Problem
from ..telemetry.metrics import Metrics
from .delayed_rejections import DelayedRejections
from .standing_queue import StandingQueue

QUEUE_SECONDS = 0.02
FREE_REQUESTS = 4
TURN_SECONDS = 0.00025
LATE_SECONDS = 0.005
# How the CPU time of a request is measured.
EMPTY_TURN_SECONDS = 0.00005
# How long a loop that has nothing to do is left alone, unless a request ends. The timers of uvloop take whole ms.
REST_SECONDS = 0.001
COST_PERIOD_SECONDS = 0.1
FIRST_COST_SECONDS = 0.001
EAGERNESS = 1.25
# Quick requests begin together, as many as end within this time.
BATCH_SECONDS = 0.002
MAX_BATCH = 256


class Waiting(asyncio.Future["Problem | None"]):
    """A request that waits to begin: its result is None when it may, or the problem with which it is rejected."""

    read_at: float


class LoadShedder:
    """Admits a request, lets it wait until there is CPU for it, or rejects it with a `Problem` of 503.

    `max_requests` bounds the requests in progress. It is for handlers that wait, and for owners who know the
    bottleneck: beyond the N connections of a pool, further requests only queue.

    Handlers that compute need no number, whether they compute in one piece, in slices between awaits, or in a thread.
    While the event loop is busy, requests wait to begin, so that those in progress get the CPU. A request that waits
    can still be shed, and each further one in progress would delay all others. The next one begins when the loop has
    completed a turn at once, that is, when it had nothing else to do. So the fewest requests are in progress that keep
    the CPU busy, also when they wait for something in between. `StandingQueue` decides when requests that wait are
    shed. Nothing depends on the duration of handlers, so that quick and slow routes may be mixed; limits by latency or
    by the number of requests do not allow that.

    Handlers that wait first and compute later would all begin while the loop has nothing to do. So requests begin at
    no more than `EAGERNESS` times the rate that the CPU time of each allows. But `FREE_REQUESTS` may always be in
    progress, and as many quick ones as the CPU serves within `BATCH_SECONDS`.

    While all requests in progress wait for something else, such as a database, the loop is left alone until one ends.

    A turn of the loop for each quick request would be expensive. So while all that begin together
    end in the same turn, as many begin together as end within `BATCH_SECONDS`.

    Many rejections are delayed (`DelayedRejections`).

    The server notes when a request was read; behind another server the wait is unknown, and only `max_requests`
    counts.
    """

    def __init__(
        self,
        max_requests: int | None,
        metrics: Metrics,
        *,
        queue_seconds: float = QUEUE_SECONDS,
        clock: Callable[[], float] = monotonic,
        processor: Callable[[], float] = process_time,
    ) -> None:
        self.in_progress: int = 0
        self._max_requests = max_requests
        self._most = metrics.max_requests
        self._clock = clock
        self._processor = processor
        self._concurrency = metrics.shed_requests.labels("concurrency")
        self._delay = metrics.shed_requests.labels("delay")
        self._most.set(max_requests or 0)
        self._rejections = DelayedRejections()
        self._queue: deque[Waiting] = deque()
        self._standing = StandingQueue(queue_seconds, processor)
        self._turned_at = 0.0
        # How many may begin together; those that have begun since the last turn, and those of them that have ended.
        self._batch = 0
        self._begun_in_turn = 0
        self._ended_in_turn = 0
        self._turns = 0
        # The CPU time of a request, and since it was computed: when, the CPU time then, of it in turns without work,
        # and the number of requests that have ended.
        self._cost = FIRST_COST_SECONDS
        self._free = FREE_REQUESTS  # how many may always be in progress
        self._cost_at = 0.0
        self._cost_processor = 0.0
        self._cost_empty = 0.0
        self._left = 0
        self._next_begins_at = 0.0
        self._rest: asyncio.TimerHandle | None = None

    def set_limits(self, max_requests: int | None, *, queue_seconds: float) -> None:
        """Use other limits from now on. Requests in progress stay, even if there are too many of them now."""
        self._max_requests = max_requests
        self._most.set(max_requests or 0)
        self._standing.queue_seconds = queue_seconds

    def enter(self, read_at: float | None) -> "Awaitable[Problem | None] | None":
        """Admit a request that was read at that time (monotonic seconds; None if it is unknown).

        Returns None if the request is admitted; then `leave` must follow at its end. Otherwise await the result, which
        is None when it is admitted, or the problem with which it is rejected.
        """
        if self._max_requests is not None and self.in_progress >= self._max_requests:
            self._concurrency.inc()
            return self._rejections.delay(overloaded())
        if read_at is not None:
            now = self._clock()
            late = now - read_at
            if self._queue or (late > TURN_SECONDS and (late > LATE_SECONDS or self.in_progress >= self._free)):
                return self._wait(read_at, now)
        self.in_progress += 1
        return None

    def leave(self) -> None:
        """An admitted request has ended."""
        self.in_progress -= 1
        self._left += 1
        if self._rest is not None:
            self._end_rest()

    def leaver(self) -> Callable[[], None]:
        """Return the function to call in place of `leave` for a request that has waited. Call this on its admission."""
        return partial(self._leave_after, self._turns)

    def _leave_after(self, turns: int) -> None:
        self._ended_in_turn += turns == self._turns
        self.leave()

    @property
    def delayed_rejections(self) -> int:
        """The number of rejections that are delayed now."""
        return self._rejections.count

    def hurry(self) -> None:
        """The service is stopping: delay no rejection any more."""
        self._rejections.hurry()

    async def _wait(self, read_at: float, now: float) -> Problem | None:
        loop = asyncio.get_running_loop()
        if not self._queue:
            self._turned_at = now
            self._begin_cost_period(now)
            loop.call_soon(self._turn)
        waiting = Waiting(loop=loop)
        waiting.read_at = read_at
        self._queue.append(waiting)
        self._standing.arrived()
        try:
            problem = await waiting
        except asyncio.CancelledError:
            if not waiting.cancelled() and waiting.result() is None:
                self.leave()
            raise
        return None if problem is None else await self._rejections.delay(problem)

    def _turn(self) -> None:
        """Runs in each turn of the event loop while requests wait."""
        now = self._clock()
        turn = now - self._turned_at
        self._turned_at = now
        if turn < EMPTY_TURN_SECONDS:
            self._cost_empty += turn
        if now - self._cost_at > COST_PERIOD_SECONDS and self._left:
            self._compute_cost(now)
        self._set_batch(turn)
        self._turns += 1
        queue = self._queue
        while queue and (queue[0].done() or self._standing.sheds(queue, now)):
            self._reject(queue.popleft(), self._delay)
        while queue and (
            self.in_progress < self._free
            or self._begun_in_turn < self._batch
            or (turn < TURN_SECONDS and now >= self._next_begins_at)
        ):
            if self._max_requests is not None and self.in_progress >= self._max_requests:
                self._reject(queue.popleft(), self._concurrency)
            else:
                self._begin(queue.popleft(), now)
                if now < self._next_begins_at and self._begun_in_turn >= self._batch:
                    break
        if not queue:
            self._standing.emptied()
        elif turn < EMPTY_TURN_SECONDS and not self._begun_in_turn:
            # Turns without work would take CPU from the others on this machine, such as the database.
            self._rest = asyncio.get_running_loop().call_later(REST_SECONDS, self._end_rest)
        else:
            asyncio.get_running_loop().call_soon(self._turn)

    def _end_rest(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._turned_at = self._clock()
        asyncio.get_running_loop().call_soon(self._turn)

    def _set_batch(self, turn: float) -> None:
        """Compute how many may begin together, from the results of the last ones, in a turn of that many seconds."""
        if self._ended_in_turn < self._begun_in_turn:
            self._batch = 0
        elif not self._begun_in_turn:
            pass
        elif turn < BATCH_SECONDS:
            self._batch = min(max(2 * self._begun_in_turn, FREE_REQUESTS), MAX_BATCH)
        else:
            self._batch = self._begun_in_turn // 2
        self._begun_in_turn = self._ended_in_turn = 0

    def _begin(self, waiting: Waiting, now: float) -> None:
        if not waiting.done():
            credit = self._free * self._cost
            # Bounded in both directions, because those that may begin in any case would defer it further and further.
            self._next_begins_at = min(max(self._next_begins_at, now - credit) + self._cost / EAGERNESS, now + credit)
            self.in_progress += 1
            self._begun_in_turn += 1
            self._standing.begun()
            waiting.set_result(None)

    def _reject(self, waiting: Waiting, reason: Counter) -> None:
        if not waiting.done():
            reason.inc()
            waiting.set_result(overloaded())

    def _compute_cost(self, now: float) -> None:
        used = self._processor() - self._cost_processor
        self._cost = (self._cost + max(used - self._cost_empty, 0.0) / self._left) / 2
        self._free = max(FREE_REQUESTS, min(int(BATCH_SECONDS / max(self._cost, 1e-6)), MAX_BATCH))
        self._begin_cost_period(now)

    def _begin_cost_period(self, now: float) -> None:
        self._cost_at = now
        self._cost_processor = self._processor()
        self._cost_empty = 0.0
        self._left = 0


def overloaded() -> Problem:
    """503 (RFC 9110, section 15.6.4): the client may retry, preferably another instance."""
    return Problem(503, "The service is overloaded; retry later.", headers={"retry-after": "1"})
