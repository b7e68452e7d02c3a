"""Routes of handlers, and the router that finds them in an index."""

from collections.abc import Coroutine, Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.convertors import StringConvertor
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount, NoMatchFound, WebSocketRoute, compile_path
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router as StarletteRouter
from starlette.types import Receive, Scope, Send

from ..response_sender import send_response
from ..route_limits import NO_LIMITS, RouteLimits
from .access import Requirement, Requires
from .endpoint import Endpoint
from .errors import SignatureError
from .handler import Handler
from .operation import Operation
from .rate_limit import RateLimits

ALL_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class Route(StarletteRoute):
    """A route to a `Handler`, for a path such as `/orders/{order_id}`. Starlette accepts it as a route of its own.

    Raises `SignatureError` if a method of the handler does not fit this path.
    """

    def __init__(
        self,
        path: str,
        handler: Handler,
        *,
        name: str | None = None,
        in_openapi: bool = True,
        limits: RouteLimits = NO_LIMITS,
        requires: Requires | None = None,
        rate_limit: RateLimits | None = None,
    ) -> None:
        """`limits` replace the limits of the service.

        They have an effect only in an `App`, and so have `requires` and `rate_limit`.
        """
        if not isinstance(handler, Handler):
            raise SignatureError(
                f"{path}: {handler!r} is not an instance of Handler; pass one, such as Orders(store), "
                "or use starlette.routing.Route for a function"
            )
        # The routes outside the index that precede this one in the router's list.
        self.precursors: tuple[BaseRoute, ...] = ()
        convertors = compile_path(path)[2]
        self.names: tuple[str, ...] = tuple(convertors)
        self.limits: RouteLimits = limits
        self.requires: Requires | None = requires
        self.rate_limit: RateLimits | None = rate_limit
        self.resource: Endpoint = Endpoint(handler, convertors)
        super().__init__(path, self.resource, name=name or type(handler).__name__, include_in_schema=in_openapi)


class Router:
    """An ASGI application: an index of routes in front of Starlette's router.

    The index has the routes of handlers whose parameters are whole segments (`/orders/{order_id}`). It looks up each
    segment in a dictionary; a literal segment wins over a parameter, in any order of the list. Starlette's router tries
    all other routes, mounts and WebSockets in order. They win over routes that follow them in the list.

    A trailing slash is not redirected, because a redirect would drop the body of a POST.
    """

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self.routes: list[BaseRoute] = list(routes)
        self._starlette = StarletteRouter(routes, redirect_slashes=False, default=not_found)
        self._root = _Node()
        others: list[BaseRoute] = []
        for route in routes:
            if isinstance(route, Route):
                route.resource.check()
            if isinstance(route, Route) and self._index(route):
                route.precursors = tuple(others)
            else:
                others.append(route)
        patterns = [route.path_regex.pattern for route in routes if isinstance(route, Route)]
        for route in routes:
            if isinstance(route, Route) and patterns.count(route.path_regex.pattern) > 1:
                raise SignatureError(f"two handlers for one path: {route.path}; remove one of them, or merge them")

    # An `async def`, because third-party middleware takes other callables for ASGI 2.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatch(scope, receive, send)

    # Returns the coroutine of the operation without awaiting it, for performance.
    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] == "http":
            path = scope["path"]
            if scope["root_path"]:  # inside a mount, or behind a proxy's prefix
                path = _below(scope["root_path"], path)
            values: list[str] = []
            route = self._root.find(path.split("/")[1:], values)
            if route is not None and not (route.precursors and _any_matches(route.precursors, scope)):
                scope["route"] = route
                scope["endpoint"] = route.resource
                names = route.names
                # Most paths have one parameter.
                parameters = {names[0]: values[0]} if len(values) == 1 else dict(zip(names, values, strict=False))
                if "path_params" in scope:  # set by a mount
                    parameters = {**scope["path_params"], **parameters}
                scope["path_params"] = parameters
                return route.resource.dispatch(scope, receive, send)
        return self._starlette(scope, receive, send)

    def find(self, scope: Scope) -> BaseRoute | None:
        """The route for the path and the method of `scope`. If no route has the method, a route for the path."""
        if scope["type"] == "http":
            route = self._root.find(_below(scope["root_path"], scope["path"]).split("/")[1:], [])
            if route is not None and not (route.precursors and _any_matches(route.precursors, scope)):
                return route
        partial_match: BaseRoute | None = None
        for other in self.routes:
            match, _ = other.matches(scope)
            if match is Match.FULL:
                return other
            if match is Match.PARTIAL and partial_match is None:
                partial_match = other
        return partial_match

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path of a named route, for `request.url_for`. Raises Starlette's `NoMatchFound`."""
        for route in self.routes:
            # The routes of a mounted framework may not support `url_path_for`.
            with suppress(NoMatchFound, AttributeError, TypeError):
                return route.url_path_for(name, **path_params)
        raise NoMatchFound(name, path_params)

    def _index(self, route: Route) -> bool:
        """Add `route` to the index. Returns False if only a regular expression can match it."""
        segments = route.path.split("/")[1:]
        node = self._root
        for segment in segments:
            if "{" not in segment:
                node = node.literals.setdefault(segment, _Node())
            elif _is_whole(segment) and isinstance(route.param_convertors[segment[1:-1]], StringConvertor):
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                return False  # a convertor, or a parameter that is only a part of a segment
        if node.route is not None:
            raise SignatureError(
                f"two handlers for one path: {node.route.path} and {route.path}; remove one of them, or merge them"
            )
        node.route = route
        return True


class _Node:
    """A node in the tree of path segments."""

    __slots__ = ("literals", "parameter", "route")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.route: Route | None = None

    def find(self, segments: list[str], values: list[str]) -> Route | None:
        """The route for the segments below this node; `values` gets those of its parameters."""
        node, depth = self, 0
        for segment in segments:
            depth += 1  # `enumerate` takes as long as the rest of the loop
            literal = node.literals.get(segment)
            parameter = node.parameter if segment else None
            if parameter is None:
                if literal is None:
                    return None
                node = literal
                continue
            if literal is not None:  # the literal wins, unless it leads to no route
                count = len(values)
                route = literal.find(segments[depth:], values)
                if route is not None:
                    return route
                del values[count:]
            values.append(segment)
            node = parameter
        return node.route


def _below(root: str, path: str) -> str:
    """The path below a mount. If a proxy has removed the prefix already, the path is unchanged."""
    below = path.removeprefix(root)
    return below if below.startswith("/") or not below else path


def _any_matches(routes: Sequence[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def handler_routes(routes: Sequence[BaseRoute]) -> Iterator[Route]:
    """All routes of handlers in `routes`, including those below mounts."""
    for route in routes:
        if isinstance(route, Route):
            yield route
        elif isinstance(route, Mount):
            inner: object = route.routes
            if isinstance(inner, Sequence):  # another framework's may be of any type
                yield from handler_routes(inner)


def limits_of(router: Router, scope: Scope) -> RouteLimits | None:
    """The limits of the route that `router` finds for a request; None if it is not the route of a handler."""
    route = router.find(scope)
    while isinstance(route, Mount):
        match, child = route.matches(scope)
        scope = {**scope, **child}
        inner: object = route.routes
        routes = inner if isinstance(inner, Sequence) else ()
        matching = [candidate for candidate in routes if candidate.matches(scope)[0] is not Match.NONE]
        if match is Match.NONE or not matching:
            return None
        full = [candidate for candidate in matching if candidate.matches(scope)[0] is Match.FULL]
        route = (full or matching)[0]
    return route.limits if isinstance(route, Route) else None


def has_websockets(routes: Sequence[BaseRoute]) -> bool:
    """Whether a WebSocket may be accepted, by a route or by a mounted application."""
    return any(isinstance(route, WebSocketRoute) or not isinstance(route, StarletteRoute) for route in routes)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to a request without a matching route: 404, or the rejection of a WebSocket handshake."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["path"] == "*":  # OPTIONS for the server, not for a resource (RFC 9110, section 9.3.7)
        await send_response(send, 204, [(b"allow", ALL_METHODS)], b"")
        return
    raise HTTPException(404)


def _is_whole(segment: str) -> bool:
    return segment.startswith("{") and segment.endswith("}") and segment.count("{") == 1 and ":" not in segment


class Described(NamedTuple):
    """An operation, with its path in the OpenAPI document."""

    path: str
    """The path template, including the paths of the mounts above it."""
    names: tuple[str, ...]
    """The names of the parameters of that path."""
    method: str
    operation: Operation
    requirement: Requirement | None
    """What clients need; None if nothing protects the operation."""
    has_rate_limit: bool


def operations_of(routes: Sequence[BaseRoute], path: str = "", names: tuple[str, ...] = ()) -> list[Described]:
    """All operations for the OpenAPI document, in the order of the routes, including those below a `Mount`."""
    operations: list[Described] = []
    for route in routes:
        if isinstance(route, Mount):
            mounted = tuple(name for name in route.param_convertors if name != "path")
            inner: object = route.routes
            if isinstance(inner, Sequence):  # another framework's may be of any type
                operations += operations_of(inner, path + route.path_format.removesuffix("/{path}"), names + mounted)
        elif isinstance(route, Route) and route.include_in_schema:
            operations += [
                Described(
                    path + route.path_format,
                    tuple(dict.fromkeys(names + route.names)),
                    method,
                    operation,
                    route.resource.requirements.get(method),
                    method in route.resource.rate_limits,
                )
                for method, operation in route.resource.operations.items()
            ]
    return operations
