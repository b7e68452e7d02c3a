"""Tables of routes: the routes of an app, and groups of routes below a path."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from .api.access import AccessControl, Requires, no_login
from .api.handler import Handler
from .api.openapi import documented_routes, openapi_document
from .api.protection import Protection
from .api.rate_limit import RateLimits
from .api.rate_limiting import RateLimiting
from .api.routing import Route, Router
from .middleware.problems import ProblemMiddleware
from .problem import ProblemOf
from .route_limits import NO_LIMITS, RouteLimits


class RouteTable:
    """Routes and middleware: the base of `App` and of its `Group`s."""

    def __init__(self, routes: list[BaseRoute], middleware: list[Middleware]) -> None:
        self.routes: list[BaseRoute] = routes
        self.requires: dict[int, Requires] = {}
        """The requirements of routes, by their `id`."""
        self.rate_limits: dict[int, RateLimits] = {}
        """The rate limits of routes, by their `id`."""
        self._middleware = middleware

    def add_route(
        self,
        path: str,
        handler: Handler,
        *,
        name: str | None = None,
        in_openapi: bool = True,
        max_body_bytes: int | None = None,
        deadline_seconds: float | None = None,
        sheds_load: bool = True,
        requires: Requires | None = None,
        rate_limit: RateLimits | None = None,
    ) -> None:
        """Add a route: requests to `path`, such as `/orders/{order_id}`, go to `handler`.

        `max_body_bytes` and `deadline_seconds` replace the limits of the service for this route. With
        `sheds_load=False`, its requests are not shed under overload. Raises `SignatureError` if a method of the handler
        does not fit this path.

        `requires` is what clients need, such as `Requirement(scopes=["orders:read"])`, `PUBLIC`, or `read_write(…)`.
        `@requires` and `@public` on the handler's methods and class replace it.

        `rate_limit` is a limit for each caller, such as `RateLimit(10, 60)`, or one for each method. It is beside the
        limit of the service.
        """
        limits = RouteLimits(max_body_bytes, deadline_seconds, sheds_load)
        limits = NO_LIMITS if limits == NO_LIMITS else limits
        route = Route(path, handler, name=name, in_openapi=in_openapi, limits=limits)
        self.add_routes(route, requires=requires, rate_limit=rate_limit)

    def add_routes(
        self, *routes: BaseRoute, requires: Requires | None = None, rate_limit: RateLimits | None = None
    ) -> None:
        """Add routes of Starlette, such as `WebSocketRoute`, or of `chassis`, such as `HttpServerRoute`.

        `requires` is what clients need for them, and `rate_limit` the limit of each of them; see `add_route`.
        """
        self._must_not_be_built()
        self.routes.extend(routes)
        if requires is not None:
            self.requires |= {id(route): requires for route in routes}
        if rate_limit is not None:
            self.rate_limits |= {id(route): rate_limit for route in routes}

    def add_middleware(self, cls: Callable[..., ASGIApp], *args: Any, **kwargs: Any) -> None:
        """Add pure ASGI middleware around the handlers: `cls(app, *args, **kwargs)`.

        The middleware that is added first is the outermost. All of it is inside telemetry and limits, and outside the
        problem responses, so CORS, sessions and compression apply to errors as well.
        """
        self._must_not_be_built()
        self._middleware.append(Middleware(cls, *args, **kwargs))

    def _must_not_be_built(self) -> None:
        raise NotImplementedError


class Group(RouteTable):
    """Routes below a path, such as a version of an API, with their own middleware and OpenAPI document.

    Create it with `App.group`. `/openapi.json` and `/docs` below the path describe these routes; those of the app
    describe all routes. The middleware of the group is inside the middleware of the app.
    """

    def __init__(
        self,
        path: str,
        info: Mapping[str, str],
        requires: Requires | None = None,
        rate_limit: RateLimits | None = None,
    ) -> None:
        super().__init__([], [])
        self.path: str = path
        self.access_control: AccessControl | None = None
        """The authentication of this group; by default, that of the app."""
        self._info = dict(info)
        self._requires = requires
        self._rate_limit = rate_limit
        self._app: ASGIApp | None = None
        self.served_routes: list[BaseRoute] = []
        """The routes of its router, when it is built: behind their guard and their rate limits."""

    def build(
        self,
        problems: Mapping[type[Exception], ProblemOf],
        access_control: AccessControl | None,
        rate_limiting: RateLimiting,
    ) -> None:
        """Build the application of the group, when its routes are complete and their dependencies are resolved."""
        control = self.access_control = rate_limiting.control(self.access_control or access_control)
        routes = rate_limiting.of(self.routes, self.rate_limits, self.requires, group=self._rate_limit, path=self.path)
        routes = Protection(control, self.requires, group=self._requires, path=self.path).of(routes)
        document = openapi_document(self.routes, **self._info, schemes=control.schemes if control else {})
        documented = documented_routes(self.routes, document, control.login if control else no_login)
        self.routes.extend(documented)
        self.served_routes = [*routes, *documented]
        app: ASGIApp = Router(self.served_routes)
        if self._middleware:
            app = ProblemMiddleware(app, problems=problems)
        for cls, args, kwargs in reversed(self._middleware):
            app = cls(app, *args, **kwargs)
        self._app = app

    def mounted(self) -> Mount:
        """The route of the app that leads to this group."""
        return Mount(self.path, self, name=self.path.strip("/"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._app is None:
            raise RuntimeError(f"the group {self.path} cannot serve requests yet; start its App first")
        await self._app(scope, receive, send)

    def set_access_control(self, control: AccessControl) -> None:
        """Protect the routes of this group: see `App.set_access_control`."""
        self._must_not_be_built()
        if self.access_control is not None:
            raise ValueError(f"the group {self.path} has authentication already; call add_auth once for it")
        self.access_control = control

    def _must_not_be_built(self) -> None:
        if self._app is not None:
            raise RuntimeError(
                f"the application has started; add routes and middleware of the group {self.path} earlier, "
                "in create_app"
            )
