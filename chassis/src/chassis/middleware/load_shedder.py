"""Load shedding: rejects requests under overload, so that the others get their responses in time."""

from collections.abc import Callable
from time import monotonic, thread_time

from ..problem import Problem
from ..telemetry.metrics import Metrics

QUEUE_SECONDS = 0.02
QUEUE_REQUESTS = 5
BUSY_SECONDS = 0.2
CALM_SECONDS = 0.25


class LoadShedder:
    """Admits a request or raises a `Problem` of 503, at a fraction of what a response costs.

    `max_requests` bounds the requests in progress. It is for handlers that wait, and for owners who know the
    bottleneck: beyond the N connections of a pool, further requests only queue.

    Handlers that compute need no number. All requests that arrive while the event loop is busy begin in its next
    turn, one after the other, and the later ones wait for CPU. The load shedder measures that wait. It does not
    depend on the duration of handlers, so that quick and slow routes may be mixed; limits by latency or by the
    number of requests do not allow that. The rule is controlled delay (CoDel, RFC 8289): a burst may queue, a
    standing queue may not. A request is queued when it has waited for more than `queue_seconds` behind
    `QUEUE_REQUESTS` others. When every turn has had a queued request for so long that the loop has used
    `BUSY_SECONDS` of CPU, queued requests are shed, until none had to be shed for `CALM_SECONDS`. So the CPU always
    has work, and no admitted request waits for much longer than the target. Only CPU time of the loop's own thread
    counts: after other processes have delayed it, the service catches up with its backlog and sheds nothing.

    A queue bridges the gaps between arrivals, and these are shorter under more load. So both targets are multiplied
    by the share of requests that could be admitted lately: at ten times the possible load a queue a tenth as long
    keeps the CPU as busy, and admitted requests wait less.

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
        processor: Callable[[], float] = thread_time,
    ) -> None:
        self.in_progress: int = 0
        self._max_requests = max_requests
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._processor = processor
        self._concurrency = metrics.shed_requests.labels("concurrency")
        self._delay = metrics.shed_requests.labels("delay")
        if max_requests is not None:
            metrics.max_requests.set(max_requests)
        self._last_entered_at = 0.0
        # Of this turn: how many requests were admitted, and whether one was queued.
        self._admitted = 0
        self._queued = False
        # Whether each of the last turns had a queued request, and the CPU time at the start of the first of them.
        self._queue_stands = False
        self._queue_stands_since = 0.0
        self._shedding = False
        self._shed_at = 0.0
        # While shedding: the share of requests that could be admitted, and the counts since it was computed.
        self._share = 1.0
        self._share_at = 0.0
        self._share_admitted = 0
        self._share_shed = 0

    def enter(self, read_at: float | None) -> None:
        """Admit a request that was read at that time (monotonic seconds; None if it is unknown).

        Raises a `Problem` of 503 if the request is shed; otherwise `leave` must follow at its end.
        """
        if read_at is not None:
            now = self._clock()
            if read_at > self._last_entered_at:
                self._begin_turn(now)
            self._last_entered_at = now
            if now - read_at > self._queue_seconds * self._share and self._admitted >= QUEUE_REQUESTS * self._share:
                self._queue(now)
        if self._max_requests is not None and self.in_progress >= self._max_requests:
            self._concurrency.inc()
            raise overloaded()
        self._admitted += 1
        self.in_progress += 1

    def leave(self) -> None:
        """An admitted request has ended."""
        self.in_progress -= 1

    def _begin_turn(self, now: float) -> None:
        """This request was read after the last one had entered: none of an earlier turn is left."""
        if self._shedding:
            self._share_admitted += self._admitted
            if now - self._shed_at >= CALM_SECONDS:
                self._shedding = False
                self._share = 1.0
            elif now - self._share_at >= CALM_SECONDS:
                self._compute_share(now)
        paused = now - self._last_entered_at > CALM_SECONDS
        self._queue_stands = self._queue_stands and self._queued and not paused
        self._admitted = 0
        self._queued = False

    def _queue(self, now: float) -> None:
        """This request is queued; shed it if the queue stands."""
        self._queued = True
        if not self._queue_stands:
            self._queue_stands = True
            self._queue_stands_since = self._processor()
        if not self._shedding and self._processor() - self._queue_stands_since > BUSY_SECONDS:
            self._shedding = True
            self._share_at = now
            self._share_admitted = self._share_shed = 0
        if self._shedding:
            self._shed_at = now
            self._share_shed += 1
            self._delay.inc()
            raise overloaded()

    def _compute_share(self, now: float) -> None:
        # At least one request in each turn.
        self._share = max(self._share_admitted / (self._share_admitted + self._share_shed), 1 / QUEUE_REQUESTS)
        self._share_at = now
        self._share_admitted = self._share_shed = 0


def overloaded() -> Problem:
    """503 (RFC 9110, section 15.6.4): the client may retry, preferably another instance."""
    return Problem(503, "The service is overloaded; retry later.", headers={"retry-after": "1"})
