"""Prometheus metrics on a registry of their own, named by OpenTelemetry's semantic conventions.

The requests' histograms are plain lists behind a collector: a few list operations for each request,
and prometheus-client still does the exposition.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics import Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

# Semantic conventions for HTTP metrics, http.server.request.duration: the advised boundaries.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BYTES = (100.0, 1_000.0, 10_000.0, 100_000.0, 1_000_000.0, 10_000_000.0)
LABELS = ("http_request_method", "http_route", "http_response_status_code")


class RequestSeries:
    """What was observed of one method, route and status."""

    __slots__ = ("duration", "exemplars", "request_size", "response_size", "sums")

    def __init__(self) -> None:
        self.duration = [0] * (len(SECONDS) + 1)
        self.request_size = [0] * (len(BYTES) + 1)
        self.response_size = [0] * (len(BYTES) + 1)
        self.sums = [0.0, 0.0, 0.0]
        self.exemplars: dict[int, Exemplar] = {}


class RequestMetrics(Collector):
    """Duration, body sizes and the number of requests under way."""

    def __init__(self) -> None:
        self.active: dict[str, int] = {}
        self._series: dict[tuple[str, str, int], RequestSeries] = {}

    def observe(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        request_bytes: int,
        response_bytes: int,
        sampled_trace_id: str | None,
        timestamp: float,
    ) -> None:
        """Count a request that ended at `timestamp`; the trace id of a sampled one becomes its bucket's exemplar."""
        key = (method, route, status)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = RequestSeries()
        bucket = bisect_left(SECONDS, seconds)
        series.duration[bucket] += 1
        series.request_size[bisect_left(BYTES, request_bytes)] += 1
        series.response_size[bisect_left(BYTES, response_bytes)] += 1
        sums = series.sums
        sums[0] += seconds
        sums[1] += request_bytes
        sums[2] += response_bytes
        if sampled_trace_id is not None:
            series.exemplars[bucket] = Exemplar({"trace_id": sampled_trace_id}, seconds, timestamp)

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client exposes."""
        duration = HistogramMetricFamily(
            "http_server_request_duration_seconds", "Duration of HTTP server requests.", labels=LABELS
        )
        request_size = HistogramMetricFamily(
            "http_server_request_body_size_bytes", "Size of HTTP server request bodies.", labels=LABELS
        )
        response_size = HistogramMetricFamily(
            "http_server_response_body_size_bytes", "Size of HTTP server response bodies.", labels=LABELS
        )
        for (method, route, status), series in self._series.items():
            labels = (method, route, str(status))
            sums = series.sums
            duration.add_metric(labels, cumulate(SECONDS, series.duration, series.exemplars), sums[0])
            request_size.add_metric(labels, cumulate(BYTES, series.request_size), sums[1])
            response_size.add_metric(labels, cumulate(BYTES, series.response_size), sums[2])
        active = GaugeMetricFamily(
            "http_server_active_requests", "HTTP server requests under way.", labels=("http_request_method",)
        )
        for method, count in self.active.items():
            active.add_metric((method,), count)
        return (duration, request_size, response_size, active)


class Tally(Collector):
    """A counter that somebody else keeps: `read` gives its count for each value of `label`."""

    def __init__(self, name: str, documentation: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client exposes."""
        family = CounterMetricFamily(self._name, self._documentation, labels=(self._label,))
        for value, count in self._read().items():
            family.add_metric((value,), count)
        return (family,)


def cumulate(
    bounds: Sequence[float], counts: Sequence[int], exemplars: dict[int, Exemplar] | None = None
) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """The `le` buckets of the exposition format: each holds all that are below it."""
    buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    total = 0
    for index, (bound, count) in enumerate(zip((*bounds, float("inf")), counts, strict=True)):
        total += count
        name = "+Inf" if bound == float("inf") else str(bound)
        exemplar = exemplars.get(index) if exemplars else None
        buckets.append((name, total) if exemplar is None else (name, total, exemplar))
    return buckets


class Metrics:
    """The service's registry and what the chassis itself counts; add yours with `registry=metrics.registry`."""

    def __init__(self, service: str, *, version: str, commit: str, chassis_version: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.requests = RequestMetrics()
        self.registry.register(self.requests)
        self.timed_out_requests = Counter(
            "http_server_timed_out_requests", "Requests that passed their deadline.", registry=self.registry
        )
        self.shed_requests = Counter(
            "http_server_shed_requests", "Requests turned away by load control.", ["reason"], registry=self.registry
        )
        self.max_requests = Gauge(
            "http_server_max_requests", "Requests allowed under way at once, 0 without a limit.", registry=self.registry
        )
        self.dropped_log_lines = Counter(
            "log_lines_dropped", "Log lines that found no room while nobody read them.", registry=self.registry
        )
        self.loop_lag = Histogram(
            "event_loop_lag_seconds",
            "How much later than asked for the event loop ran a timer.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=self.registry,
        )
        self.background_tasks = Gauge(
            "background_tasks", "Background tasks that have not ended.", ["task"], registry=self.registry
        )
        self.failed_background_tasks = Counter(
            "background_tasks_failed",
            "Background tasks that ended with an exception.",
            ["task"],
            registry=self.registry,
        )
        build = Gauge(
            "build_info",
            "Always 1; what is running is in the labels.",
            ["service", "version", "commit", "chassis_version"],
            registry=self.registry,
        )
        build.labels(service, version, commit, chassis_version).set(1)
