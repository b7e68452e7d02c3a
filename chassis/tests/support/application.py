"""The application that tests run: any routes, behind the middlewares of a generated service."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from chassis import App, Check, LoadShedder, Telemetry
from chassis.middleware import (
    GuardMiddleware,
    SecurityHeadersMiddleware,
    TelemetryMiddleware,
)


def make_app(
    telemetry: Telemetry,
    *routes: BaseRoute,
    max_body_bytes: int = 100_000,
    max_requests: int | None = None,
    deadline_seconds: float = 20.0,
    inner: Sequence[Middleware] = (),
    checks: Sequence[Check] = (),
    resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    readiness_cache_seconds: float = 0.0,
) -> App:
    """Routes behind the middlewares that a generated service has."""
    return App(
        telemetry=telemetry,
        routes=routes,
        middleware=[
            Middleware(TelemetryMiddleware, telemetry=telemetry),
            Middleware(SecurityHeadersMiddleware),
            Middleware(
                GuardMiddleware,
                max_body_bytes=max_body_bytes,
                deadline_seconds=deadline_seconds,
                timed_out=telemetry.metrics.timed_out_requests,
                load=LoadShedder(max_requests, telemetry.metrics),
            ),
            *inner,
        ],
        checks=checks,
        resources=resources,
        readiness_cache_seconds=readiness_cache_seconds,
        description="A service for tests.",
    )
