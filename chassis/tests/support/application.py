"""The application that tests run: any routes in an `App`, composed as a service composes it."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from chassis import App, ChassisSettings, Check, Telemetry

# Settings that differ from the defaults, so that tests take no longer than they must.
TEST_SETTINGS: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "drain_seconds": 0.0,
    "max_body_bytes": 100_000,
    "deadline_seconds": 20.0,
    "readiness_cache_seconds": 0.0,
}


def make_app(
    telemetry: Telemetry,
    *routes: BaseRoute,
    middleware: Iterable[Middleware] = (),
    checks: Iterable[Check] = (),
    resources: Iterable[AbstractAsyncContextManager[Any]] = (),
    security_headers: dict[str, str] | None = None,
    **settings: Any,
) -> App:
    """Routes in an `App`; `settings` are those of the chassis."""
    app = App(
        ChassisSettings.from_values(**TEST_SETTINGS | settings),
        name="test-service",
        version="1.2.3",
        description="A service for tests.",
        telemetry=telemetry,
        security_headers=security_headers,
    )
    app.add_routes(*routes)
    for owners in middleware:
        app.add_middleware(owners.cls, *owners.args, **owners.kwargs)
    for check in checks:
        app.add_check(check.name, check.probe, timeout=check.timeout, required=check.required)
    for resource in resources:
        app.add_resource(resource)
    return app
