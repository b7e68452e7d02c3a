"""Load control: whom to turn away so that the others are answered in time."""

from collections.abc import Callable
from time import monotonic, thread_time

from ..problem import Problem
from ..telemetry.metrics import Metrics

QUEUE_SECONDS = 0.02
QUEUE_REQUESTS = 5
BUSY_SECONDS = 0.2
CALM_SECONDS = 0.25


class LoadShedder:
    """Admits a request or raises a `Problem` of 503, at a fraction of what answering costs.

    `max_requests` bounds how many are under way. It is for handlers that wait, and known to whoever
    knows what they wait for: more than a pool of N connections can serve at once only queue.

    Handlers that compute need no number. All requests that came in while the event loop was busy begin
    in its next turn, one after the other, and the later ones wait for the processor. That wait is seen
    here, and it says nothing of how long handlers take, so that quick and slow routes may be mixed, as
    limits that go by latency or by the number under way don't allow. The rule is that of controlled
    delay (CoDel, RFC 8289): a burst may queue, a queue that stays may not. A request is queued when it
    has waited for more than `queue_seconds` behind `QUEUE_REQUESTS` others. When no turn was without
    one for so long that the loop has computed for `BUSY_SECONDS`, those that are queued are turned away,
    until for `CALM_SECONDS` nobody had to be. So the processor always has work, and nobody who is admitted
    waits for much longer than the target. It is the loop's own time on the processor that counts: a
    process that others held up has to catch up with what has gathered, not to turn it away.

    A queue is there to bridge the gaps between arrivals, which are the shorter the more arrive. So of both
    targets only that share counts which could be admitted lately: at ten times the load that can be
    served a queue a tenth as long keeps the processor as busy, and those who are served wait less.

    The server instance notes when a request was read; behind another server there is no wait to be seen.
    """

    def __init__(
        self,
        max_requests: int | None,
        metrics: Metrics,
        *,
        queue_seconds: float = QUEUE_SECONDS,
        clock: Callable[[], float] = monotonic,
        processor: Callable[[], float] = thread_time,
    ) -> None:
        self.under_way = 0
        self._max_requests = max_requests
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._processor = processor
        self._concurrency = metrics.shed_requests.labels("concurrency")
        self._delay = metrics.shed_requests.labels("delay")
        if max_requests is not None:
            metrics.max_requests.set(max_requests)
        self._began_at = 0.0  # the request before
        # Of this turn: how many requests were admitted, and whether one was queued.
        self._admitted = 0
        self._queued = False
        # The row of turns of which each had one: whether there is one, and the processor's time at its begin.
        self._in_row = False
        self._row_began = 0.0
        self._shedding = False
        self._shed_at = 0.0
        # While shedding: the share of requests that could be admitted, and what was counted since it was found.
        self._share = 1.0
        self._share_at = 0.0
        self._taken = 0
        self._refused = 0

    def enter(self, read_at: float | None) -> None:
        """A request begins that was read at that time (monotonic seconds), or it is turned away.

        Who has entered takes itself out of `under_way` at its end.
        """
        if read_at is not None:
            now = self._clock()
            if read_at > self._began_at:
                self._begin_turn(now)
            self._began_at = now
            if now - read_at > self._queue_seconds * self._share and self._admitted >= QUEUE_REQUESTS * self._share:
                self._queue(now)
        if self._max_requests is not None and self.under_way >= self._max_requests:
            self._concurrency.inc()
            raise overloaded()
        self._admitted += 1
        self.under_way += 1

    def _begin_turn(self, now: float) -> None:
        """This request was read after the one before had begun: nobody is left of those that were read before."""
        if self._shedding:
            self._taken += self._admitted
            if now - self._shed_at >= CALM_SECONDS:
                self._shedding = False
                self._share = 1.0
            elif now - self._share_at >= CALM_SECONDS:
                self._find_share(now)
        paused = now - self._began_at > CALM_SECONDS
        self._in_row = self._in_row and self._queued and not paused
        self._admitted = 0
        self._queued = False

    def _queue(self, now: float) -> None:
        """This request is queued; turn it away if the queue stays."""
        self._queued = True
        if not self._in_row:
            self._in_row = True
            self._row_began = self._processor()
        if not self._shedding and self._processor() - self._row_began > BUSY_SECONDS:
            self._shedding = True
            self._share_at = now
            self._taken = self._refused = 0
        if self._shedding:
            self._shed_at = now
            self._refused += 1
            self._delay.inc()
            raise overloaded()

    def _find_share(self, now: float) -> None:
        # Never less than one request in each turn.
        self._share = max(self._taken / (self._taken + self._refused), 1 / QUEUE_REQUESTS)
        self._share_at = now
        self._taken = self._refused = 0


def overloaded() -> Problem:
    """503 (RFC 9110, section 15.6.4), which a client may try again, preferably elsewhere."""
    return Problem(503, "The service has more to do than it can.", headers={"retry-after": "1"})
