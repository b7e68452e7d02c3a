"""The innermost applications of the two ports: the router of each, and what a request gets before it."""

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .api.openapi import Docs, OpenApi
from .api.routing import Route, Router
from .health import Health, State
from .middleware import build_stack
from .problem import Problem
from .telemetry import Telemetry

ADMIN_BODY_BYTES = 65_536
ADMIN_DEADLINE_SECONDS = 30.0


def public_router(routes: Sequence[BaseRoute], document: dict[str, Any]) -> Router:
    """The owner's routes, and the OpenAPI document with its page."""
    documentation = [
        Route("/openapi.json", OpenApi(document), in_openapi=False),
        Route("/docs", Docs(), in_openapi=False),
    ]
    return Router([*routes, *documentation])


def public_endpoint(router: Router, health: Health, *, scope_app: object) -> ASGIApp:
    """Dispatches to the routes of `router` as soon as the service has started; `scope_app` is `request.app`."""

    def dispatch(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if health.state is State.STARTING:
            raise Problem(503, "The service is starting.", headers={"retry-after": "1"})
        root_path = scope["root_path"]
        if root_path and not f"{scope['path']}/".startswith(f"{root_path}/"):
            scope["path"] = root_path + scope["path"]  # which a proxy has removed; mounts need it
        scope["app"] = scope_app
        # FastAPI traces by itself, with ids of its own, unless its scope says that somebody else does.
        scope["fastapi.telemetry"] = None
        return router.dispatch(scope, receive, send)

    return dispatch


def admin_stack(
    routes: Sequence[Route], telemetry: Telemetry, security_headers: Mapping[str, str], *, traces: bool
) -> ASGIApp:
    """The application of the admin port. It has limits of its own, so that those of the public one do not reach it."""
    return build_stack(
        Router(routes).dispatch,
        telemetry=telemetry,
        max_body_bytes=ADMIN_BODY_BYTES,
        deadline_seconds=ADMIN_DEADLINE_SECONDS,
        security_headers=security_headers,
        log_success=False,
        traces=traces,
    )
