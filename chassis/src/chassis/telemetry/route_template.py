"""The template of the route that a request matched, as metrics, spans and access lines name it.

It never contains values that the client sent: each would make a label of its own.
"""

from collections.abc import Callable, Sequence

from starlette.routing import BaseRoute, Match, Mount
from starlette.types import Scope

UNMATCHED = "unmatched"
REST = "/{path}"  # Starlette's name for the path below a mount
OVERLOADED = 503

FindRoute = Callable[[Scope], BaseRoute | None]
"""Finds the route for the path and the method in a scope, among those of the application."""


def route_template(scope: Scope, path: str, status: int, find: FindRoute | None) -> str:
    """The template of the route, with the templates of its mounts; `UNMATCHED` for all that match nothing.

    A request that did not reach the router, because the owner's middleware responded to it, is looked up by its
    `path`. One with 503 is not: load shedding must not search routes.
    """
    matched: str | None = getattr(scope.get("route"), "path_format", None)
    root: str = scope.get("root_path", "")
    if find is None or (matched is None and status == OVERLOADED):
        return matched or UNMATCHED
    # The mounts have added to the root path what the client sent. This is the root path before that.
    root = scope.get("app_root_path", root)
    if root and not f"{path}/".startswith(f"{root}/"):
        path = root + path
    here: Scope = {
        "type": scope["type"],
        "method": scope.get("method", "GET"),
        "path": path,
        "root_path": root,
        "headers": scope["headers"],
    }
    mounts = ""
    route = find(here)
    while isinstance(route, Mount):
        mounts += route.path_format.removesuffix(REST)
        here = {**here, **route.matches(here)[1]}
        route = first_match(route.routes, here)
    if matched is None or isinstance(scope["route"], Mount):
        # The mounted application has matched nothing, or has no Starlette routes. Litestar gives its template.
        below = REST if mounts else ""
        matched = scope.get("path_template") or getattr(route, "path_format", below)
    return f"{root}{mounts}{matched}" if matched else UNMATCHED


def first_match(routes: object, scope: Scope) -> BaseRoute | None:
    """The first route for the path and the method of `scope`, else the first one for the path.

    The routes of a mounted application may be of other types than Starlette's, and are ignored.
    """
    partial: BaseRoute | None = None
    for route in routes if isinstance(routes, Sequence) else ():
        if not isinstance(route, BaseRoute):
            continue
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route
        if match is Match.PARTIAL and partial is None:
            partial = route
    return partial
