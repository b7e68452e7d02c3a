"""Prometheus metrics on a registry of their own, named by OpenTelemetry's semantic conventions.

The requests' histograms are plain lists behind a collector, and prometheus-client does the exposition.
"""

from bisect import bisect_left
from collections import Counter as Counting
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import (
    CounterMetricFamily,
    Exemplar,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from ..request_info import CALLER_DEADLINE, NOT_BEGUN, OWN_DEADLINE
from .error_type import OtherError, error_type, qualified_name
from .observation import Observation

# Semantic conventions for HTTP metrics, http.server.request.duration: the advised boundaries.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
RUN_SECONDS = (0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0)
BYTES = (100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0)
LEAST_SECONDS, LEAST_BYTES = SECONDS[0], BYTES[0]
LABELS = ("http_request_method", "http_route", "http_response_status_code", "url_scheme", "error_type")
# Error types beyond that are one, because a class may be made for each request.
MAX_ERROR_TYPES = 100

Merge = Literal["sum", "max", "min"]

# Method, route, status (0 without a response), scheme, and the class of an exception.
SeriesKey = tuple[str, str, int, str, type[BaseException] | None]


class RequestSeries:
    """The observed values of requests with the same labels."""

    __slots__ = ("duration", "exemplars", "request_size", "response_size", "sums")

    def __init__(self) -> None:
        self.duration: list[int] = [0] * (len(SECONDS) + 1)
        self.request_size: list[int] = [0] * (len(BYTES) + 1)
        self.response_size: list[int] = [0] * (len(BYTES) + 1)
        self.sums: list[float] = [0.0, 0.0, 0.0]
        self.exemplars: dict[int, Exemplar] = {}


class RequestMetrics(Collector):
    """Duration, body sizes and the number of requests in progress."""

    def __init__(self) -> None:
        self.active: set[Observation] = set()
        """The requests in progress."""
        self._series: dict[SeriesKey, RequestSeries] = {}
        # By name, because the labels of two series must differ.
        self._error_types: dict[str, type[BaseException]] = {}

    def observe(
        self,
        key: SeriesKey,
        seconds: float,
        request_bytes: int,
        response_bytes: int,
        sampled_trace_id: str | None,
        timestamp: float,
    ) -> None:
        """Count a request that ended at `timestamp`; the trace id of a sampled one becomes its bucket's exemplar."""
        series = self._series.get(key)
        if series is None:
            series = self._other_series(key)
        # Most requests are in the first buckets, and a call takes longer than a comparison.
        bucket = bisect_left(SECONDS, seconds) if seconds > LEAST_SECONDS else 0
        series.duration[bucket] += 1
        series.request_size[bisect_left(BYTES, request_bytes) if request_bytes > LEAST_BYTES else 0] += 1
        series.response_size[bisect_left(BYTES, response_bytes) if response_bytes > LEAST_BYTES else 0] += 1
        sums = series.sums
        sums[0] += seconds
        sums[1] += request_bytes
        sums[2] += response_bytes
        if sampled_trace_id is not None:
            series.exemplars[bucket] = Exemplar({"trace_id": sampled_trace_id}, seconds, timestamp)

    def _other_series(self, key: SeriesKey) -> RequestSeries:
        """The series of a key that is new, or whose class of exception has the labels of another one."""
        error = key[4]
        if error is not None:
            name = qualified_name(error)
            if name not in self._error_types and len(self._error_types) < MAX_ERROR_TYPES:
                self._error_types[name] = error
            key = (*key[:4], self._error_types.get(name, OtherError))
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = RequestSeries()
        return series

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        duration = HistogramMetricFamily(
            "http_server_request_duration_seconds", "Duration of HTTP server requests.", labels=LABELS
        )
        request_size = HistogramMetricFamily(
            "http_server_request_body_size_bytes", "Size of HTTP server request bodies.", labels=LABELS
        )
        response_size = HistogramMetricFamily(
            "http_server_response_body_size_bytes", "Size of HTTP server response bodies.", labels=LABELS
        )
        # In a thread, while requests end: `list` copies in one step.
        for key, series in list(self._series.items()):
            method, route, status, scheme, error = key
            labels = (method, route, str(status or ""), scheme, error_type(status, error) or "")
            sums = series.sums
            duration.add_metric(labels, cumulate(SECONDS, series.duration, series.exemplars), sums[0])
            request_size.add_metric(labels, cumulate(BYTES, series.request_size), sums[1])
            response_size.add_metric(labels, cumulate(BYTES, series.response_size), sums[2])
        active = GaugeMetricFamily(
            "http_server_active_requests",
            "HTTP server requests in progress.",
            labels=("http_request_method", "url_scheme"),
        )
        counts = Counting((entry.method, entry.scope.get("scheme", "http")) for entry in list(self.active))
        # A series that existed before becomes zero, so that graphs have no gap.
        for label_values in dict.fromkeys([*((key[0], key[3]) for key in list(self._series)), *counts]):
            active.add_metric(label_values, counts[label_values])
        return (duration, request_size, response_size, active)


class Tally(Collector):
    """A counter that other code keeps: `read` returns its count for each value of `label`."""

    def __init__(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        family = CounterMetricFamily(self._name, self._documentation, labels=(self._label,))
        for value, count in list(self._read().items()):
            family.add_metric((value,), count)
        return (family,)


def cumulate(
    bounds: Sequence[float], counts: Sequence[int], exemplars: dict[int, Exemplar] | None = None
) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """The `le` buckets of the exposition format: each includes all smaller ones."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    total = 0
    for index, (bound, count) in enumerate(zip((*bounds, float("inf")), counts, strict=True)):
        total += count
        name = "+Inf" if bound == float("inf") else str(bound)
        exemplar = exemplars.get(index) if exemplars else None
        buckets.append((name, total) if exemplar is None else (name, total, exemplar))
    return buckets


class Metrics:
    """The service's registry and the metrics of the chassis; add yours with `registry=metrics.registry`."""

    def __init__(self, service: str, *, version: str, commit: str, chassis_version: str) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self.merges: dict[str, Merge] = {}
        """How several workers' values of a gauge of yours become one; see `merge`."""
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests: RequestMetrics = RequestMetrics()
        self.registry.register(self.requests)
        self.ready: Gauge = Gauge(
            "service_ready", "1 if the service is ready, by the last results of its checks.", registry=self.registry
        )
        self.checks: Gauge = Gauge(
            "readiness_check_passed",
            "1 if the last run of a readiness check has passed.",
            ["check"],
            registry=self.registry,
        )
        self.timed_out_requests: Counter = Counter(
            "http_server_timed_out_requests",
            "Requests that did not respond before their deadline.",
            ["reason"],
            registry=self.registry,
        )
        for reason in (OWN_DEADLINE, CALLER_DEADLINE, NOT_BEGUN):
            self.timed_out_requests.labels(reason)  # 0 from now on: `increase` counts no series that begins at 1
        self.shed_requests: Counter = Counter(
            "http_server_shed_requests", "Requests rejected under overload.", ["reason"], registry=self.registry
        )
        self.rate_limited_requests: Counter = Counter(
            "http_server_rate_limited_requests",
            "Requests rejected because of a rate limit.",
            ["policy"],
            registry=self.registry,
        )
        self.rate_limit_store_failures: Counter = Counter(
            "rate_limit_store_failures",
            "Failures of the shared store of rate limits. Meanwhile each instance counts alone.",
            registry=self.registry,
        )
        self.max_requests: Gauge = Gauge(
            "http_server_max_requests",
            "Maximum number of concurrent requests; 0 without a limit.",
            registry=self.registry,
        )
        self.threads: Gauge = Gauge("handler_threads", "Threads that run `def` handlers.", registry=self.registry)
        self.max_threads: Gauge = Gauge(
            "handler_threads_max", "Maximum number of threads for `def` handlers.", registry=self.registry
        )
        self.dropped_log_lines: Counter = Counter(
            "log_lines_dropped",
            "Log lines dropped because standard output was not read fast enough.",
            registry=self.registry,
        )
        self.loop_lag: Histogram = Histogram(
            "event_loop_lag_seconds",
            "Delay with which the event loop ran a timer.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=self.registry,
        )
        self.background_tasks: Gauge = Gauge(
            "background_tasks", "Background tasks that are running.", ["task"], registry=self.registry
        )
        self.failed_background_tasks: Counter = Counter(
            "background_tasks_failed",
            "Background tasks that ended with an exception.",
            ["task"],
            registry=self.registry,
        )
        self.restarted_background_tasks: Counter = Counter(
            "background_tasks_restarted",
            "Background tasks that were started again after a failure.",
            ["task"],
            registry=self.registry,
        )
        self.periodic_task_last_success: Gauge = Gauge(
            "periodic_task_last_success_timestamp_seconds",
            "Unix timestamp of the last successful run of a periodic task.",
            ["task"],
            registry=self.registry,
        )
        self.periodic_task_duration: Histogram = Histogram(
            "periodic_task_duration_seconds",
            "Duration of the runs of periodic tasks that had something to do.",
            ["task"],
            buckets=RUN_SECONDS,
            registry=self.registry,
        )
        self.periodic_task_failures: Counter = Counter(
            "periodic_task_failures", "Runs of periodic tasks that failed.", ["task"], registry=self.registry
        )
        self.interrupted_requests: Counter = Counter(
            "http_server_interrupted_requests",
            "Requests and streams that were not complete at the end of the graceful shutdown.",
            registry=self.registry,
        )
        build = Gauge(
            "build_info",
            "Always 1; the labels identify the running build.",
            ["service", "version", "commit", "chassis_version"],
            registry=self.registry,
        )
        build.labels(service, version, commit, chassis_version).set(1)

    def merge(self, gauge: str, how: Merge) -> None:
        """With several workers (`APP_WORKERS`), report the `sum`, `max` or `min` of their values of a gauge of yours.

        By default, each worker's value is reported, with the label `worker`. Counters and histograms are always summed.
        """
        self.merges[gauge] = how
