"""The metrics of calls to other services, which only a service with a client has."""

from prometheus_client import generate_latest

from chassis import App, ChassisSettings
from chassis.client.origin import Origin
from chassis.client.telemetry import DependencyTelemetry


def client_metrics() -> str:
    """The text of `/metrics` of a service with a client."""
    app = App(ChassisSettings.from_values())
    DependencyTelemetry("catalogue", app.telemetry, Origin.of("http://catalogue"))
    return generate_latest(app.registry).decode()
