"""Routes that are not of handlers, with another application around theirs."""

import copy
from collections.abc import Callable
from typing import Any

from starlette.routing import BaseRoute, Host, Match, Mount, WebSocketRoute
from starlette.routing import Route as StarletteRoute
from starlette.types import ASGIApp, Receive, Scope, Send

# Routes with one of these methods serve requests with their attribute `app`.
HANDLE = (StarletteRoute.handle, WebSocketRoute.handle, Mount.handle, Host.handle)


def wrapped(route: BaseRoute, wrap: Callable[[ASGIApp], ASGIApp]) -> BaseRoute:
    """A copy of a route whose application is `wrap(app)`. A copy, because others may use the route too."""
    if type(route).handle not in HANDLE:
        return _WrappedRoute(route, wrap(route.handle))
    copied: Any = copy.copy(route)
    copied.app = wrap(copied.app)
    return copied  # type: ignore[no-any-return]


class _WrappedRoute(BaseRoute):
    """A route of a class that is not Starlette's."""

    def __init__(self, route: BaseRoute, app: ASGIApp) -> None:
        self._route = route
        self.app: ASGIApp = app

    def __getattr__(self, name: str) -> Any:
        return getattr(self._route, name)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return self._route.matches(scope)

    def url_path_for(self, name: str, /, **path_params: Any) -> Any:
        return self._route.url_path_for(name, **path_params)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
