"""The duration of queries and the state of the pools, named by OpenTelemetry's semantic conventions for databases."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol
from weakref import WeakKeyDictionary

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from ..telemetry import Telemetry
from ..telemetry.durations import Durations

SYSTEM = "postgresql"
# Semantic conventions for databases, db.client.operation.duration: the advised boundaries.
SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
LABELS = ("db_system_name", "db_namespace", "db_query_summary", "db_response_status_code", "error_type")
# A service has few queries. One that puts values into their text would make a series for each.
MAX_SUMMARIES = 200
OTHER = "_OTHER"
POOL = "db_client_connection_pool_name"


class QueryKey(NamedTuple):
    """The labels of a query; an empty value stands for none."""

    namespace: str
    summary: str
    status_code: str
    error_type: str


class PoolState(Protocol):
    """The state of a pool. It is read in another thread."""

    name: str
    in_use: int
    waiting: int
    timeouts: int
    max_size: int

    def idle(self) -> int:
        """The number of open connections that are not in use."""
        ...


class DatabaseMetrics(Durations[QueryKey]):
    """Queries and pools of all databases of a service. Beyond `MAX_SUMMARIES`, queries are counted together."""

    def __init__(self) -> None:
        super().__init__(SECONDS)
        self.pools: list[PoolState] = []
        self._summaries: set[str] = set()

    @classmethod
    def of(cls, telemetry: Telemetry) -> "DatabaseMetrics":
        """The metrics in the registry of `telemetry`."""
        metrics = _metrics.get(telemetry)
        if metrics is None:
            metrics = _metrics[telemetry] = cls()
            telemetry.metrics.registry.register(metrics)
        return metrics

    def _bounded(self, key: QueryKey) -> QueryKey:
        if key.summary not in self._summaries:
            if len(self._summaries) >= MAX_SUMMARIES:
                return QueryKey(key.namespace, OTHER, key.status_code, key.error_type)
            self._summaries.add(key.summary)
        return key

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        durations = HistogramMetricFamily(
            "db_client_operation_duration_seconds", "Duration of queries of the database.", labels=LABELS
        )
        self.add_to(durations, SYSTEM)
        count = GaugeMetricFamily(
            "db_client_connection_count", "Open connections.", labels=(POOL, "db_client_connection_state")
        )
        largest = GaugeMetricFamily("db_client_connection_max", "Maximum number of connections.", labels=(POOL,))
        waiting = GaugeMetricFamily(
            "db_client_connection_pending_requests", "Requests that wait for a connection.", labels=(POOL,)
        )
        timeouts = CounterMetricFamily(
            "db_client_connection_timeouts", "Requests that got no connection in time.", labels=(POOL,)
        )
        for pool in list(self.pools):
            count.add_metric((pool.name, "used"), pool.in_use)
            count.add_metric((pool.name, "idle"), pool.idle())
            largest.add_metric((pool.name,), pool.max_size)
            waiting.add_metric((pool.name,), pool.waiting)
            timeouts.add_metric((pool.name,), pool.timeouts)
        return (durations, count, largest, waiting, timeouts)


_metrics: WeakKeyDictionary[Telemetry, DatabaseMetrics] = WeakKeyDictionary()
