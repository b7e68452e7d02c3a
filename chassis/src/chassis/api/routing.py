"""Routes of handlers. Finding one takes the same time however many there are."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.convertors import Convertor, StringConvertor
from starlette.datastructures import URLPath
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Mount, NoMatchFound, WebSocketRoute, compile_path
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router as StarletteRouter
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..response_sender import send_response
from ..route_limits import NO_LIMITS, RouteLimits
from .dependencies import Providers
from .errors import SignatureError
from .handler import VERBS, Handler
from .idempotent_operation import IdempotentOperation
from .negotiation import Encoder
from .operation import Operation

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]

ALL_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class Endpoint:
    """A handler on one path: an ASGI application that dispatches by HTTP method."""

    def __init__(self, handler: Handler, convertors: Mapping[str, Convertor[Any]]) -> None:
        self.operations: dict[str, Operation] = {
            verb.upper(): Operation(handler, verb, convertors)
            for verb in VERBS
            if getattr(handler, verb, None) is not None
        }
        # As of a function: Sentry names events by the endpoint in the scope.
        self.__name__: str = type(handler).__name__
        self.__qualname__: str = type(handler).__qualname__
        self.__module__: str = type(handler).__module__
        if not self.operations:
            raise SignatureError(f"{type(handler).__name__} has none of the methods {', '.join(VERBS)}")
        self._by_method = self._applications(Providers())
        self.allow: str = ", ".join([*self._by_method, "OPTIONS"])

    def use(self, providers: Providers, encoders: Mapping[str, Encoder]) -> None:
        """Take what the application has: `providers`, and `encoders` beside JSON.

        Raises `SignatureError` for a type that nobody provides.
        """
        for operation in self.operations.values():
            operation.use(providers, encoders)
        self._by_method = self._applications(providers)

    def _applications(self, providers: Providers) -> dict[str, Application]:
        """What serves each method: its operation, or one around it."""
        found: dict[str, Application] = {}
        for method, operation in self.operations.items():
            options = operation.idempotency
            found[method] = operation if options is None else IdempotentOperation(operation, options, providers)
        if "GET" in found:
            found["HEAD"] = found["GET"]
        return found

    def check(self) -> None:
        """Raise `SignatureError` for an argument that comes from no request and is not provided."""
        for operation in self.operations.values():
            operation.check()

    # What other people's middleware wraps has to be `async def`: see `Router.dispatch`.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatch(scope, receive, send)

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        operation = self._by_method.get(scope["method"])
        if operation is not None:
            return operation(scope, receive, send)
        if scope["method"] == "OPTIONS":
            return send_response(send, 204, [(b"allow", self.allow.encode())], b"")
        raise Problem(405, f"This resource allows {self.allow}.", headers={"allow": self.allow})


class Route(StarletteRoute):
    """Puts a `Handler` on a path such as `/orders/{order_id}`; usable wherever Starlette takes a route.

    Raises `SignatureError` when a method of the handler cannot be bound to this path.
    """

    def __init__(
        self,
        path: str,
        handler: Handler,
        *,
        name: str | None = None,
        in_openapi: bool = True,
        limits: RouteLimits = NO_LIMITS,
    ) -> None:
        """`limits` replace those of the service, inside of an `App`."""
        if not isinstance(handler, Handler):
            raise SignatureError(
                f"{path}: {handler!r} is not an instance of Handler; for a function, use starlette.routing.Route"
            )
        # Routes outside of the index that precede this one in the router's list.
        self.precursors: tuple[BaseRoute, ...] = ()
        convertors = compile_path(path)[2]
        self.names: tuple[str, ...] = tuple(convertors)
        self.limits: RouteLimits = limits
        self.resource: Endpoint = Endpoint(handler, convertors)
        super().__init__(path, self.resource, name=name or type(handler).__name__, include_in_schema=in_openapi)


class Router:
    """An ASGI application: an index of routes in front of Starlette's router.

    Routes of handlers whose parameters are whole segments (`/orders/{order_id}`) are found by one dictionary look-up
    for each segment. Among them a literal segment wins over a parameter, whatever the order of the list. All other
    routes, mounts and WebSockets are tried one after the other by Starlette's router, and come first where they
    precede. A trailing slash is not redirected: that would drop the body of a POST.
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
                raise SignatureError(f"two handlers on one path: {route.path}")

    # What other people's middleware wraps has to be `async def`, or it is taken for ASGI 2.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatch(scope, receive, send)

    # Returns the coroutine of the operation and does not await it: see "Performance" in chassis/README.md.
    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if scope["type"] == "http":
            path = scope["path"]
            if scope["root_path"]:  # inside of a mount, or behind a proxy's prefix
                path = _below(scope["root_path"], path)
            values: list[str] = []
            route = self._root.find(path.split("/"), 1, values)
            if route is not None and not (route.precursors and _any_matches(route.precursors, scope)):
                scope["route"] = route
                scope["endpoint"] = route.resource
                parameters = dict(zip(route.names, values, strict=False))
                if "path_params" in scope:  # of a mount
                    parameters = {**scope["path_params"], **parameters}
                scope["path_params"] = parameters
                return route.resource.dispatch(scope, receive, send)
        return self._starlette(scope, receive, send)

    def find(self, scope: Scope) -> BaseRoute | None:
        """The route for the path and the method of `scope`; for a path alone if no route has the method."""
        if scope["type"] == "http":
            route = self._root.find(_below(scope["root_path"], scope["path"]).split("/"), 1, [])
            if route is not None and not (route.precursors and _any_matches(route.precursors, scope)):
                return route
        found: BaseRoute | None = None
        for other in self.routes:
            match, _ = other.matches(scope)
            if match is Match.FULL:
                return other
            if match is Match.PARTIAL and found is None:
                found = other
        return found

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path of a named route, for `request.url_for`; raises Starlette's `NoMatchFound`."""
        for route in self.routes:
            # A mount of another framework has routes that have no URLs of this kind.
            with suppress(NoMatchFound, AttributeError, TypeError):
                return route.url_path_for(name, **path_params)
        raise NoMatchFound(name, path_params)

    def _index(self, route: Route) -> bool:
        """Put `route` into the index; returns False if only a regular expression can match it."""
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
                return False  # a convertor, or a parameter that is only part of a segment
        if node.route is not None:
            raise SignatureError(f"two handlers on one path: {node.route.path} and {route.path}")
        node.route = route
        return True


class _Node:
    """A node in the tree of path segments."""

    __slots__ = ("literals", "parameter", "route")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.route: Route | None = None

    def find(self, segments: list[str], depth: int, values: list[str]) -> Route | None:
        if depth == len(segments):
            return self.route
        segment = segments[depth]
        literal = self.literals.get(segment)
        if literal is not None:
            route = literal.find(segments, depth + 1, values)
            if route is not None:
                return route
        if self.parameter is None or not segment:
            return None
        values.append(segment)
        route = self.parameter.find(segments, depth + 1, values)
        if route is None:
            values.pop()
        return route


def _below(root: str, path: str) -> str:
    """The path below a mount; a proxy may have removed its prefix already."""
    below = path.removeprefix(root)
    return below if below.startswith("/") or not below else path


def _any_matches(routes: Sequence[BaseRoute], scope: Scope) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def handler_routes(routes: Sequence[BaseRoute]) -> Iterator[Route]:
    """Every route of a handler in `routes`, also below mounts."""
    for route in routes:
        if isinstance(route, Route):
            yield route
        elif isinstance(route, Mount):
            inner: object = route.routes
            if isinstance(inner, Sequence):  # of another framework they may be anything
                yield from handler_routes(inner)


def limits_of(router: Router, scope: Scope) -> RouteLimits | None:
    """The limits of the route that `router` will find for a request; None for a route without a handler."""
    route = router.find(scope)
    while isinstance(route, Mount):
        match, child = route.matches(scope)
        scope = {**scope, **child}
        inner: object = route.routes
        found = [one for one in inner if one.matches(scope)[0] is not Match.NONE] if isinstance(inner, Sequence) else []
        if match is Match.NONE or not found:
            return None
        full = [one for one in found if one.matches(scope)[0] is Match.FULL]
        route = (full or found)[0]
    return route.limits if isinstance(route, Route) else None


def has_websockets(routes: Sequence[BaseRoute]) -> bool:
    """Whether a WebSocket may be accepted: by a route, or by a mounted application that may have one."""
    return any(isinstance(route, WebSocketRoute) or not isinstance(route, StarletteRoute) for route in routes)


async def not_found(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to requests that no route matches: 404, or a rejected WebSocket handshake."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1000})
        return
    if scope["path"] == "*":  # OPTIONS about the server, not about a resource (RFC 9110, section 9.3.7)
        await send_response(send, 204, [(b"allow", ALL_METHODS)], b"")
        return
    raise HTTPException(404)


def _is_whole(segment: str) -> bool:
    return segment.startswith("{") and segment.endswith("}") and segment.count("{") == 1 and ":" not in segment


class Described(NamedTuple):
    """An operation as OpenAPI describes it."""

    path: str
    """The template of its path, with those of the mounts that it is below."""
    names: tuple[str, ...]
    """The parameters of that path."""
    method: str
    operation: Operation


def operations_of(routes: Sequence[BaseRoute], path: str = "", names: tuple[str, ...] = ()) -> list[Described]:
    """Every operation that OpenAPI describes, in the order of the routes; also of handlers below a `Mount`."""
    found: list[Described] = []
    for route in routes:
        if isinstance(route, Mount):
            mounted = tuple(name for name in route.param_convertors if name != "path")
            inner: object = route.routes
            if isinstance(inner, Sequence):  # of another framework they may be anything
                found += operations_of(inner, path + route.path_format.removesuffix("/{path}"), names + mounted)
        elif isinstance(route, Route) and route.include_in_schema:
            found += [
                Described(path + route.path_format, tuple(dict.fromkeys(names + route.names)), method, operation)
                for method, operation in route.resource.operations.items()
            ]
    return found
