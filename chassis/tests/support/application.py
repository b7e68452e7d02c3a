"""The application that tests run: any routes, in the layers of a generated service."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from chassis import App, Check, LoadShedder, Telemetry


def make_app(
    telemetry: Telemetry,
    *routes: BaseRoute,
    max_body_bytes: int = 100_000,
    max_requests: int | None = None,
    deadline_seconds: float = 20.0,
    middleware: Sequence[Middleware] = (),
    security_headers: Mapping[str, str] | None = None,
    checks: Sequence[Check] = (),
    resources: Sequence[AbstractAsyncContextManager[Any]] = (),
    readiness_cache_seconds: float = 0.0,
) -> App:
    """Routes in the layers that a generated service has; `middleware` is the owner's."""
    return App(
        telemetry=telemetry,
        routes=routes,
        middleware=middleware,
        max_body_bytes=max_body_bytes,
        deadline_seconds=deadline_seconds,
        load_shedder=LoadShedder(max_requests, telemetry.metrics),
        security_headers=security_headers,
        checks=checks,
        resources=resources,
        readiness_cache_seconds=readiness_cache_seconds,
        description="A service for tests.",
    )
