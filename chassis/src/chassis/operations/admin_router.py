"""The routes of the admin port: some for everybody who reaches it, the others behind the access rule."""

from collections.abc import Coroutine, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from ..api.routing import Route, Router, not_found
from ..response_sender import ResponseSender
from ..route_limits import RouteLimits
from .access import MAX_PATH, client_of
from .operations import Operations

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
RESERVED = frozenset(
    {
        "dependencies",
        "faults",
        "gc",
        "healthz",
        "info",
        "loggers",
        "logs",
        "metrics",
        "profile",
        "readiness",
        "readyz",
        "requests",
        "routes",
        "schedules",
        "settings",
        "spans",
        "tasks",
        "threads",
    }
)
"""The first segments of the paths that the chassis uses. `/` is the console."""


class AdminRouter:
    """Dispatches requests to the admin port.

    The routes of the chassis for operators are made for the first request to them. Most processes never get one, so
    this keeps their imports out of the start.
    """

    def __init__(self, open_routes: Sequence[Route], operations: Operations, own_routes: Sequence[Route]) -> None:
        """`open_routes` need no access. `own_routes` are those that the owner of the service has added."""
        self._open = Router(open_routes)
        self._own = Router(own_routes)  # finds mistakes at the start
        self._operations = operations
        self._operators: Router | None = None

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        """Raises a `Problem` of 401 or 403 if the client may not use the route."""
        if scope["type"] != "http":
            return not_found(scope, receive, send)
        if self._open.find(scope) is not None:
            return self._open.dispatch(scope, receive, send)
        self._operations.access.check(scope)
        if scope["method"] not in SAFE_METHODS and self._own.find(scope) is not None:
            return self._audited(scope, receive, send)
        return self._router.dispatch(scope, receive, send)

    def find(self, scope: Scope) -> BaseRoute | None:
        """The route for a request."""
        return self._open.find(scope) or self._router.find(scope)

    def limits_of(self, scope: Scope) -> RouteLimits | None:
        """The limits of the route for a request; None if it has none."""
        if self._open.find(scope) is not None:
            return None
        route = self._router.find(scope)
        return route.limits if isinstance(route, Route) else None

    @property
    def paths(self) -> list[str]:
        """The paths of all routes."""
        return [route.path for route in (*self._open.routes, *self._router.routes) if isinstance(route, Route)]

    async def _audited(self, scope: Scope, receive: Receive, send: Send) -> None:
        sender = ResponseSender.of(send)
        facts: dict[str, Any] = {}
        try:
            await self._router.dispatch(scope, receive, sender)
            facts = {"status": sender.status}
        except HTTPException as problem:
            facts = {"status": problem.status_code}
            raise
        except BaseException as error:
            facts = {"error": type(error).__qualname__}
            raise
        finally:
            method, path = scope["method"], scope["path"][:MAX_PATH]
            self._operations.audit.changed("the service", by=client_of(scope), method=method, path=path, **facts)

    @property
    def _router(self) -> Router:
        if self._operators is None:
            from .operator_routes import operator_routes

            self._operators = Router([*operator_routes(self._operations), *self._own.routes])
        return self._operators


def check_own_path(path: str) -> None:
    """Raise `ValueError` for a path of an owner's route that the chassis uses, or may use."""
    first = path.split("/")[1] if path.startswith("/") else ""
    if not first or first in RESERVED or first.startswith("{"):
        raise ValueError(
            f"the admin port cannot have the route {path!r}: begin it with a slash and a name of its own; "
            f"those of the chassis are {', '.join(sorted(RESERVED))}"
        )
