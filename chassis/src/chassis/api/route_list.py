"""The routes of an app as a list, for operators: what each one serves, needs and allows."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from starlette.routing import BaseRoute, Host, Mount, WebSocketRoute

from ..route_limits import NO_LIMITS, RouteLimits
from .access import METHODS, OTHERS, Requirement, for_method
from .guarded import GuardedApp
from .rate_limit import RateLimit
from .rate_limiter import LimitedApp
from .routing import Route

WEBSOCKET = "WEBSOCKET"


class ServesRoutes(Protocol):
    """An app, or a group of its routes."""

    @property
    def served_routes(self) -> Sequence[BaseRoute]:
        """The routes of its router, behind their guard and their rate limits."""
        ...


class ListedRoute(NamedTuple):
    """One method of one route. None stands for the value of the service."""

    method: str
    """An HTTP method, `WEBSOCKET`, or `*` for all (other) methods. GET includes HEAD."""
    path: str
    """The path template, including the paths of the mounts above it. An application below a path ends with `/*`."""
    name: str
    """The name of the route, for `request.url_for`."""
    handler: str
    """The method or the function that serves it, with its module."""
    requires: str | None
    """What clients need, such as `the scope orders:read`; None if nothing protects it."""
    rate_limits: tuple[str, ...]
    """The rate limits, that of the route first, such as `/orders: 10 in 60 s`."""
    deadline_seconds: float | None
    max_body_bytes: int | None
    sheds_load: bool

    def document(self) -> dict[str, Any]:
        """The route as JSON has it."""
        return self._asdict()


def routes_of(app: ServesRoutes) -> list[ListedRoute]:
    """The routes of an app in the order of its router: its handlers, other routes, mounts, and groups.

    `/openapi.json` and `/docs` are among them, the routes of the admin port are not. Call it when all routes are added:
    it builds the applications of the app, and raises `SignatureError` for a handler that does not fit.
    """
    return list(_listed(app.served_routes, _Outer()))


class _Outer(NamedTuple):
    """The path, the guard and the rate limits around a route."""

    path: str = ""
    guard: GuardedApp | None = None
    limits: tuple[RateLimit, ...] = ()

    def around(self, app: object) -> "_Outer":
        """These, and those that `app` is behind."""
        outer = self
        while isinstance(app, GuardedApp | LimitedApp):
            if isinstance(app, GuardedApp):
                outer = outer._replace(guard=app)
            else:
                outer = outer._replace(limits=(*app.limits, *outer.limits))
            app = app.app
        return outer

    def requirement(self, method: str) -> Requirement | None:
        """The requirement for a method; None without a guard."""
        if self.guard is None:
            return None
        asked = "GET" if method == WEBSOCKET else method
        return for_method(asked, *self.guard.levels) or self.guard.default

    def methods(self) -> list[str]:
        """The methods that have requirements of their own, and all others."""
        levels = () if self.guard is None else self.guard.levels
        own = {method for level in levels for method in level} - {OTHERS}
        return [*(method for method in METHODS if method in own), OTHERS]


def _listed(routes: Sequence[BaseRoute], outer: _Outer) -> Iterator[ListedRoute]:
    for route in routes:
        if isinstance(route, Route):
            yield from _of_handler(route, outer)
            continue
        app = getattr(route, "app", None)
        around = outer.around(app)
        if not isinstance(route, Mount | Host):
            methods = _methods_of(route) or around.methods()
            yield from _of_application(route, methods, outer.path + getattr(route, "path", ""), around)
            continue
        path = f"//{route.host}{outer.path}" if isinstance(route, Host) else outer.path + route.path
        inner: object = getattr(app, "served_routes", None) or route.routes
        if isinstance(inner, Sequence) and inner:  # another framework's may be of any type
            yield from _listed(inner, around._replace(path=path))
        else:
            yield from _of_application(route, around.methods(), f"{path}/*", around)


def _of_handler(route: Route, outer: _Outer) -> Iterator[ListedRoute]:
    endpoint = route.resource
    for method, operation in endpoint.operations.items():
        yield _entry(
            method,
            outer.path + route.path,
            route.name,
            f"{endpoint.__module__}.{operation.name}",
            endpoint.requirements.get(method) or outer.requirement(method),
            [*endpoint.rate_limits.get(method, ()), *outer.limits],
            route.limits,
        )


def _of_application(route: BaseRoute, methods: Sequence[str], path: str, around: _Outer) -> Iterator[ListedRoute]:
    name = str(getattr(route, "name", None) or "")
    handler = _name_of(getattr(route, "endpoint", None) or _innermost(getattr(route, "app", route)))
    for method in methods:
        yield _entry(method, path, name, handler, around.requirement(method), around.limits, NO_LIMITS)


def _entry(
    method: str,
    path: str,
    name: str,
    handler: str,
    requirement: Requirement | None,
    rate_limits: Sequence[RateLimit],
    limits: RouteLimits,
) -> ListedRoute:
    return ListedRoute(
        method=method,
        path=path,
        name=name,
        handler=handler,
        requires=None if requirement is None else str(requirement),
        rate_limits=tuple(map(_limit_text, rate_limits)),
        deadline_seconds=limits.deadline_seconds,
        max_body_bytes=limits.max_body_bytes,
        sheds_load=limits.sheds_load,
    )


def _methods_of(route: BaseRoute) -> list[str]:
    """The methods of a route of Starlette, HEAD aside where there is GET; empty if it serves all."""
    if isinstance(route, WebSocketRoute):
        return [WEBSOCKET]
    methods: object = getattr(route, "methods", None)
    if not methods:
        endpoint = getattr(route, "endpoint", None)
        methods = [method for method in METHODS if hasattr(endpoint, method.lower())]
    names = {str(method) for method in methods} if isinstance(methods, set | frozenset | list | tuple) else set[str]()
    if "GET" in names:
        names.discard("HEAD")
    known = [method for method in METHODS if method in names]
    return [*known, *sorted(names.difference(known))]


def _innermost(app: object) -> object:
    while isinstance(app, GuardedApp | LimitedApp):
        app = app.app
    return app


def _name_of(served: Any) -> str:
    """The function or class with its module; of an object, its class."""
    named = served if hasattr(served, "__qualname__") else type(served)
    return f"{named.__module__}.{named.__qualname__}"


def _limit_text(limit: RateLimit) -> str:
    burst = f", {limit.capacity} at once" if limit.capacity != limit.requests else ""
    return f"{limit.name}: {limit.requests} in {limit.seconds:g} s{burst}"
