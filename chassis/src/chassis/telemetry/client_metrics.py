"""The duration of calls to other services, as a histogram named by OpenTelemetry's semantic conventions."""

from bisect import bisect_left
from collections.abc import Iterable
from time import time
from typing import NamedTuple

from prometheus_client.core import Exemplar, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .metrics import SECONDS, cumulate

# A service calls few others. One that calls addresses of its customers would make a series for each.
MAX_SERVERS = 100
OTHER = "_OTHER"


LABELS = ("http_request_method", "server_address", "server_port", "http_response_status_code", "error_type")


class CallKey(NamedTuple):
    """The labels of a call; an empty value stands for none."""

    method: str
    server_address: str
    server_port: str
    status: str
    error_type: str


class CallMetrics(Collector):
    """`http.client.request.duration`. Beyond `MAX_SERVERS` addresses, further ones are counted together."""

    def __init__(self) -> None:
        self._series: dict[CallKey, tuple[list[int], list[float], dict[int, Exemplar]]] = {}
        self._servers: set[tuple[str, str]] = set()

    def observe(self, key: CallKey, seconds: float, sampled_trace_id: str | None) -> None:
        """Count a call that has ended; the trace id of a sampled one becomes its bucket's exemplar."""
        series = self._series.get(key)
        if series is None:
            key = self._bounded(key)
            series = self._series.setdefault(key, ([0] * (len(SECONDS) + 1), [0.0], {}))
        counts, total, exemplars = series
        bucket = bisect_left(SECONDS, seconds)
        counts[bucket] += 1
        total[0] += seconds
        if sampled_trace_id is not None:
            exemplars[bucket] = Exemplar({"trace_id": sampled_trace_id}, seconds, time())

    def _bounded(self, key: CallKey) -> CallKey:
        server = (key.server_address, key.server_port)
        if server not in self._servers:
            if len(self._servers) >= MAX_SERVERS:
                return CallKey(key.method, OTHER, "", key.status, key.error_type)
            self._servers.add(server)
        return key

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        family = HistogramMetricFamily(
            "http_client_request_duration_seconds", "Duration of HTTP client requests.", labels=LABELS
        )
        for key, (counts, total, exemplars) in list(self._series.items()):
            family.add_metric(key, cumulate(SECONDS, counts, exemplars), total[0])
        return (family,)
