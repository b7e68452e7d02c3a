"""The application: what `app.py` beside the chassis lists, put together."""

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.middleware import Middleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .admin import admin_routes
from .api.openapi import Docs, OpenApi, openapi_document
from .api.routing import Route, Router, has_websockets
from .health import Check, Health, State
from .http.rejection import send_rejection
from .middleware import GuardMiddleware, SecurityHeadersMiddleware, TelemetryMiddleware
from .problem import Problem
from .tasks import Tasks
from .telemetry import Telemetry
from .telemetry.loop_watch import LoopWatch

ADMIN_BODY_BYTES = 65_536
ADMIN_DEADLINE_SECONDS = 30.0
FLUSH_SECONDS = 5.0


class App:
    """Routes behind middlewares, and beside them the endpoints that operators ask.

    `middleware` is listed from the outermost to the innermost. `resources` are entered in order when
    the service starts and left in reverse after the last request. `checks` decide readiness.

    An ASGI application with everything on one port; `public` and `admin` are its two parts, for two
    ports. Neither the size and time limits nor a failure of the public part reach the admin part.
    """

    def __init__(
        self,
        *,
        telemetry: Telemetry,
        routes: Sequence[BaseRoute],
        middleware: Sequence[Middleware],
        checks: Sequence[Check] = (),
        resources: Sequence[AbstractAsyncContextManager[Any]] = (),
        tasks: Tasks | None = None,
        readiness_cache_seconds: float = 1.0,
        description: str = "",
    ) -> None:
        self.telemetry = telemetry
        self.tasks = tasks or Tasks(telemetry)
        self.health = Health(checks, cache_seconds=readiness_cache_seconds)
        self._resources = tuple(resources)
        document = openapi_document(routes, title=telemetry.service, version=telemetry.version, description=description)
        self.routes = [
            *routes,
            Route("/openapi.json", OpenApi(document), in_openapi=False),
            Route("/docs", Docs(), in_openapi=False),
        ]
        self.has_websockets = has_websockets(routes)
        self._router = Router(self.routes)
        self.public = self._stack(middleware, self._route)
        admin = admin_routes(self.health, telemetry)
        self._admin_paths = frozenset(route.path for route in admin)
        self.admin = self._stack(
            [
                Middleware(TelemetryMiddleware, telemetry=telemetry, log_success=False),
                Middleware(SecurityHeadersMiddleware),
                Middleware(GuardMiddleware, max_body_bytes=ADMIN_BODY_BYTES, deadline_seconds=ADMIN_DEADLINE_SECONDS),
            ],
            Router(admin),
        )

        # What was refused before it could be dispatched, to be observed like everything else.
        self.rejections = self._stack(
            [Middleware(TelemetryMiddleware, telemetry=telemetry), Middleware(SecurityHeadersMiddleware)],
            send_rejection,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        else:
            await self.dispatch(scope, receive, send)

    # This and `_route` are plain functions that return a coroutine, which saves a coroutine each.
    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Requests and WebSockets of both parts, for a server that needs no lifespan protocol."""
        part = self.admin if scope["path"] in self._admin_paths else self.public
        return part(scope, receive, send)

    @asynccontextmanager
    async def lifespan(self, stop_seconds: Callable[[], float] = lambda: 20.0) -> AsyncIterator[None]:
        """Start and end what requests use; `stop_seconds` tells at the end what time background tasks get."""
        async with AsyncExitStack() as stack:
            for resource in self._resources:
                await stack.enter_async_context(resource)
            watch = LoopWatch(self.telemetry.metrics.loop_lag)
            self.tasks.start(watch.run(), name="event loop watch", until_stopped=True)
            self.health.state = State.READY
            try:
                yield
            finally:
                self.health.state = State.DRAINING
                await self.tasks.stop(stop_seconds())

    def _stack(self, middleware: Sequence[Middleware], innermost: ASGIApp) -> ASGIApp:
        app = innermost
        for cls, args, kwargs in reversed(middleware):
            app = cls(app, *args, **kwargs)
        return app

    def _route(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        if self.health.state is State.STARTING:
            raise Problem(503, "The service is starting.", headers={"retry-after": "1"})
        scope["app"] = self
        return self._router(scope, receive, send)

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        """The ASGI lifespan protocol, for servers other than ours and for tests."""
        await receive()
        self.telemetry.install()
        stage = "startup"
        try:
            async with self.lifespan():
                await send({"type": "lifespan.startup.complete"})
                await receive()
                stage = "shutdown"
        except Exception as error:
            await send({"type": f"lifespan.{stage}.failed", "message": repr(error)})
            raise
        finally:
            await self.telemetry.shutdown(FLUSH_SECONDS)
        await send({"type": "lifespan.shutdown.complete"})
