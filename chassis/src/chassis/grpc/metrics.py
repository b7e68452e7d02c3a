"""The duration of calls, named by OpenTelemetry's semantic conventions for RPC."""

from collections.abc import Iterable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from prometheus_client import Gauge
from prometheus_client.core import HistogramMetricFamily, Metric

from ..telemetry import Telemetry
from ..telemetry.durations import Durations

SYSTEM = "grpc"
OTHER = "_OTHER"  # a method that the server does not have
# Semantic conventions for RPC, rpc.server.call.duration: the advised boundaries.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LABELS = ("rpc_system_name", "rpc_method", "rpc_response_status_code", "error_type")


class CallKey(NamedTuple):
    """The labels of a call. `error_type` is empty for a call that has not failed."""

    method: str
    code: str
    error_type: str


class Calls(Durations[CallKey]):
    """Calls that have ended. A service has few methods, and unknown ones count as one."""

    def __init__(self) -> None:
        super().__init__(SECONDS)

    def _bounded(self, key: CallKey) -> CallKey:
        return key

    def collect(self) -> Iterable[Metric]:
        """The metrics that prometheus-client exposes."""
        durations = HistogramMetricFamily(
            "rpc_server_call_duration_seconds", "Duration of calls of the gRPC server.", labels=LABELS
        )
        self.add_to(durations, SYSTEM)
        return (durations,)


class CallMetrics:
    """The metrics of calls in one registry."""

    def __init__(self, telemetry: Telemetry) -> None:
        registry = telemetry.metrics.registry
        self.ended: Calls = Calls()
        registry.register(self.ended)
        self.active: Gauge = Gauge("rpc_server_active_calls", "gRPC calls in progress.", registry=registry)
        self.max_calls: Gauge = Gauge(
            "rpc_server_max_calls", "Maximum number of gRPC calls in progress.", registry=registry
        )

    @classmethod
    def of(cls, telemetry: Telemetry) -> "CallMetrics":
        """The metrics in the registry of `telemetry`."""
        metrics = _metrics.get(telemetry)
        if metrics is None:
            metrics = _metrics[telemetry] = cls(telemetry)
        return metrics


_metrics: WeakKeyDictionary[Telemetry, CallMetrics] = WeakKeyDictionary()
