"""The template of the route that a request matched, as metrics, spans and access lines name it."""

from starlette.routing import BaseRoute, Mount
from starlette.types import Scope

UNMATCHED = "unmatched"
REST = "/{path}"  # Starlette's name for the path below a mount


def route_template(scope: Scope) -> str:
    """The template that matched, with the path of its mount; `UNMATCHED` for all that match nothing."""
    route = scope.get("route")
    if route is None:
        return UNMATCHED
    template: str | None = getattr(route, "path_format", None)
    if template is None:
        return UNMATCHED
    root: str = scope.get("root_path", "")
    return template_below(root, scope, route, template) if root else template


def template_below(root: str, scope: Scope, route: BaseRoute, template: str) -> str:
    """The template of a route that is mounted at `root`, where parameters have names instead of values."""
    if isinstance(route, Mount):
        # The mounted application has matched nothing, or has no Starlette routes. Litestar gives its template.
        template = scope.get("path_template") or REST
        if route.path_regex.match(f"{root}/"):
            return route.path_format.removesuffix(REST) + template
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(segment, segment) for segment in root.split("/")) + template
