"""The service on one page: its routes, its middleware in order, its checks and collaborators."""

from starlette.middleware import Middleware

from .chassis import App, LoadControl, Tasks, Telemetry
from .chassis.middleware import GuardMiddleware, SecurityHeadersMiddleware, TelemetryMiddleware
from .settings import Settings


def create_app(settings: Settings) -> App:
    """Put the service together; nothing listens and nothing is connected until a server runs it."""
    telemetry = Telemetry.from_settings(settings)
    tasks = Tasks(telemetry)

    return App(
        telemetry=telemetry,
        tasks=tasks,
        routes=[],  # make handler name=invoices
        middleware=[  # from the outermost to the innermost; yours go last
            Middleware(TelemetryMiddleware, telemetry=telemetry),
            Middleware(SecurityHeadersMiddleware),
            Middleware(
                GuardMiddleware,
                max_body_bytes=settings.max_body_bytes,
                deadline_seconds=settings.deadline_seconds,
                timed_out=telemetry.metrics.timed_out_requests,
                load=LoadControl(settings.max_requests, telemetry.metrics, queue_seconds=settings.queue_seconds),
            ),
        ],
        checks=[],  # what requests can't do without, such as: Check("database", pool.check)
        resources=[],  # async context managers, such as a database pool: entered at the start, left at the end
        readiness_cache_seconds=settings.readiness_cache_seconds,
    )
