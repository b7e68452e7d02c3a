"""The ASGI applications of the public and the admin port, built from the parts that the owner has added."""

from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .api.access import AccessControl, Requires, no_login
from .api.dependencies import Providers
from .api.idempotency_store import IdempotencyStore, MemoryIdempotencyStore
from .api.negotiation import Encoder
from .api.openapi import documented_routes, extended, openapi_document
from .api.protection import Protection
from .api.rate_limit import RateLimits, RateLimitStore
from .api.rate_limiter import CallerOf
from .api.routing import Route, Router, handler_routes, limits_of
from .groups import Group
from .health import Health, State
from .http.rejection import send_rejection
from .middleware import TelemetryMiddleware, build_stack
from .middleware.guard import GuardMiddleware
from .middleware.load_shedder import LoadShedder
from .operations.admin_router import AdminRouter
from .operations.console import Console
from .operations.operations import Operations
from .operations.platform_routes import platform_routes
from .problem import Problem, ProblemOf
from .route_limits import NO_LIMITS
from .settings import ChassisSettings
from .telemetry import Telemetry
from .wiring import cors_middleware, default_rate_limit, make_rate_limiting

ADMIN_BODY_BYTES = 65_536
ADMIN_DEADLINE_SECONDS = 30.0


class Parts:
    """The parts that the owner of a service has added to its `App`."""

    def __init__(self, security_headers: Mapping[str, str]) -> None:
        self.security_headers: Mapping[str, str] = security_headers
        self.routes: list[BaseRoute] = []
        self.middleware: list[Middleware] = []
        self.problems: dict[type[Exception], ProblemOf] = {}
        self.providers: Providers = Providers()
        self.openapi: list[Mapping[str, Any]] = []
        self.admin_routes: list[Route] = []
        """Routes for operators, on the admin port."""
        self.encoders: dict[str, Encoder] = {}
        self.groups: list[Group] = []
        self.requires: dict[int, Requires] = {}
        """The requirements of routes, by their `id`."""
        self.rate_limits: dict[int, RateLimits] = {}
        """The rate limits of routes, by their `id`."""
        self.rate_limit_store: RateLimitStore | None = None
        self.caller_of: CallerOf | None = None
        self.access_control: AccessControl | None = None
        self.test_headers: Callable[[], dict[str, str]] = dict[str, str]
        """The headers that clients send in tests, when the app has started."""

    @property
    def access_controls(self) -> list[AccessControl]:
        """The access controls of the app and of its groups."""
        controls = [self.access_control, *(group.access_control for group in self.groups)]
        return [control for control in controls if control is not None]


class Stacks:
    """The ASGI applications of an `App`, built once. `info` is the `info` object of its OpenAPI document."""

    def __init__(
        self,
        parts: Parts,
        settings: ChassisSettings,
        telemetry: Telemetry,
        health: Health,
        load_shedder: LoadShedder,
        *,
        info: Mapping[str, str],
        scope_app: object,
        operations: Operations,
    ) -> None:
        if IdempotencyStore not in parts.providers:
            parts.providers.add(IdempotencyStore, MemoryIdempotencyStore())
        parts.providers.check()
        for route in handler_routes(parts.routes):
            route.resource.use(parts.providers, parts.encoders)
        faults = operations.faults
        limiting = make_rate_limiting(settings, telemetry, parts.rate_limit_store, parts.caller_of)
        self._limiting = limiting
        self._guards: list[GuardMiddleware] = []
        for group in parts.groups:
            group.build(parts.problems, parts.access_control, limiting)
        routes = limiting.of(parts.routes, parts.rate_limits, parts.requires, groups=parts.groups)
        control = limiting.control(parts.access_control)
        routes = Protection(control, parts.requires, groups=parts.groups).of(routes)
        controls = parts.access_controls
        schemes = {name: scheme for control in controls for name, scheme in control.schemes.items()}
        self.openapi: dict[str, Any] = extended(openapi_document(parts.routes, **info, schemes=schemes), parts.openapi)
        login = controls[0].login if controls else no_login
        router = Router([*routes, *documented_routes(parts.routes, self.openapi, login)])
        has_limits = any(route.limits is not NO_LIMITS for route in handler_routes(parts.routes))
        self.router: Router = router
        endpoint = public_endpoint(router, health, scope_app=scope_app)
        if faults is not None:
            from .middleware.faults import FaultMiddleware  # few services inject faults

            endpoint = FaultMiddleware(endpoint, faults=faults, find_route=router.find)
        self.public: ASGIApp = build_stack(
            endpoint,
            telemetry=telemetry,
            max_body_bytes=settings.max_body_bytes,
            deadline_seconds=settings.deadline_seconds,
            load_shedder=load_shedder,
            middleware=[
                *cors_middleware(settings, parts.problems, has_middleware=bool(parts.middleware)),
                *parts.middleware,
            ],
            scope_app=scope_app,
            problems=parts.problems,
            security_headers=parts.security_headers,
            find_route=router.find,
            limits_of=partial(limits_of, router) if has_limits else None,
            on_guard=self._guards.append,
        )
        platform = platform_routes(health, telemetry)
        # The console is not in `admin_paths`: a server with one port for both does not serve it.
        self.admin_paths: frozenset[str] = frozenset(route.path for route in platform)
        for route in parts.admin_routes:
            route.resource.use(parts.providers, parts.encoders)
        console = Route("/", Console(lambda: self.admin_router.paths), in_openapi=False)
        self.admin_router: AdminRouter = AdminRouter([*platform, console], operations, parts.admin_routes)
        self.admin: ASGIApp = admin_stack(
            self.admin_router, telemetry, parts.security_headers, traces=settings.trace_admin, problems=parts.problems
        )
        self.rejections: ASGIApp = TelemetryMiddleware(
            send_rejection, telemetry=telemetry, security_headers=parts.security_headers
        )

    def use_settings(self, settings: ChassisSettings) -> None:
        """Use changed settings for requests that begin from now on."""
        for guard in self._guards:
            guard.set_limits(max_body_bytes=settings.max_body_bytes, deadline_seconds=settings.deadline_seconds)
        self._limiting.set_default(default_rate_limit(settings))


def public_endpoint(router: Router, health: Health, *, scope_app: object) -> ASGIApp:
    """An application that responds 503 until the service has started, then dispatches to `router`.

    `scope_app` becomes `request.app`.
    """

    def dispatch(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if health.state is State.STARTING:
            raise Problem(503, "The service is starting; retry later.", headers={"retry-after": "1"})
        root_path = scope["root_path"]
        if root_path and not f"{scope['path']}/".startswith(f"{root_path}/"):
            scope["path"] = root_path + scope["path"]  # a proxy has removed the prefix; mounts need it
        scope["app"] = scope_app
        # Without this key, FastAPI creates spans of its own, with other ids.
        scope["fastapi.telemetry"] = None
        return router.dispatch(scope, receive, send)

    return dispatch


def admin_stack(
    router: AdminRouter,
    telemetry: Telemetry,
    security_headers: Mapping[str, str],
    *,
    traces: bool,
    problems: Mapping[type[Exception], ProblemOf],
) -> ASGIApp:
    """The application of the admin port. It has its own limits, so overload of the public port does not affect it."""
    return build_stack(
        router.dispatch,
        telemetry=telemetry,
        max_body_bytes=ADMIN_BODY_BYTES,
        deadline_seconds=ADMIN_DEADLINE_SECONDS,
        security_headers=security_headers,
        log_success=False,
        traces=traces,
        problems=problems,
        find_route=router.find,
        limits_of=router.limits_of,
    )
