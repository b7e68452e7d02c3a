"""The metrics of calls to other services, which only a service with a client has."""

from prometheus_client import generate_latest

from chassis import Telemetry
from chassis.client.telemetry import DependencyTelemetry
from chassis.telemetry.logs import Logs
from chassis.telemetry.tracing import Tracing


def client_metrics() -> str:
    """The text of `/metrics` of a service with a client."""
    tracing = Tracing("order-service", version="1.0.0")
    telemetry = Telemetry("order-service", version="1.0.0", commit="", logs=Logs(), tracing=tracing)
    DependencyTelemetry("catalogue", telemetry, scheme="http", host="catalogue", port=80)
    return generate_latest(telemetry.metrics.registry).decode()
