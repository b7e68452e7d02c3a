"""The duration of calls to other services, as a histogram named by OpenTelemetry's semantic conventions."""

from collections.abc import Iterable
from typing import NamedTuple

from prometheus_client.core import HistogramMetricFamily, Metric

from .durations import Durations
from .metrics import SECONDS

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


class CallMetrics(Durations[CallKey]):
    """`http.client.request.duration`. Beyond `MAX_SERVERS` addresses, further ones are counted together."""

    def __init__(self) -> None:
        super().__init__(SECONDS)
        self._servers: set[tuple[str, str]] = set()

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
        self.add_to(family)
        return (family,)
