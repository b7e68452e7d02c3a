"""Hedging: when a read is so slow that the same request is sent to a second replica."""

from bisect import bisect_right
from itertools import accumulate
from math import log2

# Ranges of durations that grow by a twelfth root of 2, 6 %, from 0.1 ms to about 105 s.
STEPS = 12
SHORTEST_SECONDS = 0.0001
RANGES = 20 * STEPS
LONGEST_SECONDS = SHORTEST_SECONDS * 2 ** (RANGES / STEPS)
OFFSET = -log2(SHORTEST_SECONDS) * STEPS
# A quantile is computed once for so many observations.
OBSERVATIONS = 32


class LatencyQuantile:
    """A quantile of recent latencies, for the delay of hedges. It errs by up to 6 %, to the longer side.

    A histogram is halved whenever it holds `memory` observations, so recent ones count more. If all calls
    become slower, the 95th percentile follows after 5 % of `memory`.

    Observe the first attempt of each call. If a hedge wins, observe the time until the first attempt was
    cancelled: without the slow ones, the quantile would fall, and the number of hedges would grow. Do not observe a
    hedge that lost, since its latency is unknown.
    """

    __slots__ = ("_counts", "_due", "_memory", "_share", "_total", "value")

    def __init__(self, quantile: float = 0.95, *, min_count: int = 50, memory: int = 1_000) -> None:
        """There is no value before `min_count` observations."""
        self.value: float | None = None
        self._share = 1 - quantile
        self._memory = memory
        self._counts = [0.0] * (RANGES + 1)  # rounding may yield one more
        self._total = 0.0
        self._due = min_count  # observations until the value is computed

    def observe(self, seconds: float) -> None:
        """Add a latency."""
        if SHORTEST_SECONDS <= seconds < LONGEST_SECONDS:
            self._counts[int(log2(seconds) * STEPS + OFFSET)] += 1
        else:
            self._counts[-1 if seconds >= LONGEST_SECONDS else 0] += 1
        self._total += 1
        self._due -= 1
        if self._due <= 0:
            self._compute()

    def _compute(self) -> None:
        self._due = OBSERVATIONS
        slower = bisect_right(list(accumulate(reversed(self._counts))), self._total * self._share)
        self.value = SHORTEST_SECONDS * 2 ** ((RANGES + 1 - slower) / STEPS)
        if self._total >= self._memory:
            self._counts = [count / 2 for count in self._counts]
            self._total /= 2
