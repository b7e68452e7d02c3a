"""Distinguishes a standing queue from a burst: controlled delay (CoDel, RFC 8289)."""

from collections.abc import Callable, Sequence
from typing import Protocol

QUEUE_REQUESTS = 5
BUSY_SECONDS = 0.2
LONG_QUEUE_REQUESTS = 20
LONG_BUSY_REQUESTS = 100
ARRIVING = 16
CALM_SECONDS = 0.25


class Waiting(Protocol):
    """A request in the queue."""

    read_at: float
    """Monotonic seconds."""


class StandingQueue:
    """Decides whether the request that has waited longest is shed.

    A burst may queue, a standing queue may not. A request is late when it has waited for more than `queue_seconds`
    while `QUEUE_REQUESTS` wait. Late requests are shed when both conditions hold. There has always been a late request
    while the process used `BUSY_SECONDS` of CPU. And `LONG_QUEUE_REQUESTS` wait now or `LONG_BUSY_REQUESTS` have begun
    meanwhile. Random arrivals below the possible rate rarely meet them, however slow the handlers are. Only CPU time
    counts: after other processes have delayed it, the service catches up with its backlog. Shedding does not begin when
    hardly any requests arrive any more, and ends when none had to be shed for `CALM_SECONDS`.

    A queue bridges the gaps between arrivals, and these are shorter under more load. So both targets are multiplied by
    the share of recent requests that were admitted. At ten times the possible load, a queue a tenth as long keeps the
    CPU as busy, and admitted requests wait less.
    """

    def __init__(self, queue_seconds: float, processor: Callable[[], float]) -> None:
        self.queue_seconds: float = queue_seconds
        self._processor = processor
        self._stands = False
        # Since the queue stands: the CPU time then, and the number of requests that have begun.
        self._processor_since = 0.0
        self._begun = 0
        # The number that arrive while one begins, averaged over about `ARRIVING` and multiplied by it.
        self._arriving = 0.0
        self._is_shedding = False
        self._shed_at = 0.0
        # While shedding: the share of requests that could be admitted, and the counts since it was computed.
        self._share = 1.0
        self._share_at = 0.0
        self._admitted = 0
        self._shed = 0

    def arrived(self) -> None:
        """A request has joined the queue."""
        self._arriving = min(self._arriving + 1, ARRIVING)

    def begun(self) -> None:
        """A request of the queue has begun."""
        self._begun += 1
        self._admitted += 1
        self._arriving *= 1 - 1 / ARRIVING

    def emptied(self) -> None:
        """Nothing waits."""
        self._stands = False

    def sheds(self, queue: Sequence[Waiting], now: float) -> bool:
        """Whether the first of `queue` is shed; `queue` is in the order of arrival and not empty."""
        if self._is_shedding:
            self._update(now)
        share = self._share
        if now - queue[0].read_at <= self.queue_seconds * share or len(queue) < QUEUE_REQUESTS * share:
            self._stands = False
            return False
        if not self._stands:
            self._stands = True
            self._processor_since = self._processor()
            self._begun = 0
        if not self._is_shedding and not self._begins(queue, now):
            return False
        self._shed_at = now
        self._shed += 1
        return True

    def _begins(self, queue: Sequence[Waiting], now: float) -> bool:
        if len(queue) < LONG_QUEUE_REQUESTS and self._begun < LONG_BUSY_REQUESTS:
            return False
        if self._arriving < ARRIVING / 2 or self._processor() - self._processor_since < BUSY_SECONDS:
            return False
        self._is_shedding = True
        self._share_at = now
        self._admitted = self._shed = 0
        return True

    def _update(self, now: float) -> None:
        if now - self._shed_at >= CALM_SECONDS:
            self._is_shedding = False
            self._share = 1.0
        elif now - self._share_at >= CALM_SECONDS:
            # At least one request may wait.
            self._share = max(self._admitted / (self._admitted + self._shed or 1), 1 / QUEUE_REQUESTS)
            self._share_at = now
            self._admitted = self._shed = 0
