"""A histogram of durations whose series are bounded, and whose buckets have exemplars."""

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Sequence
from time import time
from typing import Generic, TypeVar

from prometheus_client.core import Exemplar, HistogramMetricFamily
from prometheus_client.registry import Collector

from .metrics import cumulate

Key = TypeVar("Key", bound=tuple[str, ...])


class Durations(Collector, Generic[Key]):
    """Durations in seconds by their labels. A subclass bounds the number of series, and exposes the metrics."""

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` are the upper bounds of the buckets in seconds, ascending and without infinity."""
        self._bounds: Sequence[float] = bounds
        self._series: dict[Key, tuple[list[int], list[float], dict[int, Exemplar]]] = {}

    def observe(self, key: Key, seconds: float, sampled_trace_id: str | None) -> None:
        """Count what has ended; the trace id of what is sampled becomes its bucket's exemplar."""
        series = self._series.get(key)
        if series is None:
            key = self._bounded(key)
            series = self._series.setdefault(key, ([0] * (len(self._bounds) + 1), [0.0], {}))
        counts, total, exemplars = series
        bucket = bisect_left(self._bounds, seconds)
        counts[bucket] += 1
        total[0] += seconds
        if sampled_trace_id is not None:
            exemplars[bucket] = Exemplar({"trace_id": sampled_trace_id}, seconds, time())

    @abstractmethod
    def _bounded(self, key: Key) -> Key:
        """The key of a new series: the given one, or that of all others if there are too many."""

    def add_to(self, family: HistogramMetricFamily, *labels: str) -> None:
        """Add all series to a family, with these labels in front of their own."""
        for key, (counts, total, exemplars) in list(self._series.items()):
            family.add_metric((*labels, *key), cumulate(self._bounds, counts, exemplars), total[0])
