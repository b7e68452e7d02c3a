"""The metrics of calls to other services, which only a service with a client has."""

from prometheus_client import generate_latest

from chassis import App, ChassisSettings
from chassis.client.telemetry import DependencyTelemetry


def client_metrics() -> str:
    """The text of `/metrics` of a service with a client."""
    app = App(ChassisSettings())
    DependencyTelemetry("catalogue", app.telemetry, scheme="http", host="catalogue", port=80)
    return generate_latest(app.registry).decode()
