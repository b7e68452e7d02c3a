"""The service on one page: its routes, its middleware in order, its checks and collaborators."""

from starlette.middleware import Middleware

from .chassis import App, Check, LoadControl, Route, Tasks, Telemetry
from .chassis.middleware import GuardMiddleware, SecurityHeadersMiddleware, TelemetryMiddleware
from .handlers.orders import Catalogue, OrderItem, Orders, OrderStore
from .settings import Settings


def create_app(settings: Settings) -> App:
    """Put the service together; nothing listens and nothing is connected until a server runs it."""
    telemetry = Telemetry.from_settings(settings)
    tasks = Tasks(telemetry)
    store = OrderStore(max_orders=settings.max_orders)

    return App(
        telemetry=telemetry,
        tasks=tasks,
        routes=[
            Route("/orders", Orders(store, Catalogue(), tasks)),
            Route("/orders/{order_id}", OrderItem(store)),
        ],
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
        checks=[Check("order store", store.check)],
        resources=[],  # async context managers, such as a database pool: entered at the start, left at the end
        readiness_cache_seconds=settings.readiness_cache_seconds,
    )
