"""The application: the parts that `create_app` adds, inside the middleware of the chassis, from start to end."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.datastructures import State as StarletteState
from starlette.datastructures import URLPath
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from .api.request_tasks import RequestTasks
from .api.routing import has_websockets
from .composition import Composition
from .health import State
from .middleware.load_shedder import LoadShedder
from .operations.admin_router import AdminRouter
from .operations.operations import Operations
from .ports import Stacks
from .settings import ChassisSettings
from .tasks import Tasks
from .telemetry import Telemetry
from .telemetry.loop_watch import LoopWatch
from .threads import Threads
from .wiring import make_load_shedder, make_reloading, make_threads, use_settings

if TYPE_CHECKING:
    from .api.route_list import ListedRoute

FLUSH_SECONDS = 5.0


class App(Composition):
    """A service: an ASGI application that `create_app` builds.

        def create_app(settings: Settings) -> App:
            app = App(settings)
            app.add_route("/orders", Orders(store))
            app.add_check("order store", store.ping)
            return app

    The settings add telemetry, limits, load shedding and security headers. They also add the endpoints `/healthz`,
    `/readyz`, `/metrics`, `/info`, `/openapi.json` and `/docs`. Creating an `App` opens no connection and no port: a
    server does that. Add routes, middleware, checks and resources before it runs; later calls raise `RuntimeError`.

    `name` and `version` appear in `/info`, metrics, traces and OpenAPI. The default is the distribution of the settings
    class. Pass `telemetry` (see `make_telemetry`) or `load_shedder` to replace these parts. `security_headers` adds or
    changes response headers; an empty value removes one.

    `Composition` has the methods that add parts.

    Handlers can read this object as `request.app`, but pass collaborators to their `__init__` where you can. `state`
    is for code that expects Starlette's `request.app.state`.

    `public` and `admin` are two ASGI applications for two ports; calling the `App` itself serves both on one port. The
    limits and failures of the public application do not affect the admin application.
    """

    def __init__(
        self,
        settings: ChassisSettings,
        *,
        name: str | None = None,
        version: str | None = None,
        description: str = "",
        telemetry: Telemetry | None = None,
        load_shedder: LoadShedder | None = None,
        security_headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(settings, name=name, version=version, telemetry=telemetry, security_headers=security_headers)
        self.description = description
        self.tasks: Tasks = Tasks(self.telemetry)
        self.threads: Threads = make_threads(settings, self.telemetry)
        self.state: StarletteState = StarletteState()
        self.load_shedder: LoadShedder = load_shedder or make_load_shedder(settings, self.telemetry)
        self._has_own_load_shedder = load_shedder is not None
        self.operations: Operations = Operations(
            self.telemetry,
            self.health,
            settings=lambda: self.settings,
            routes=self._listed_routes,
            faults=self.faults,
            clients=self.clients,
            periodic=lambda: self._background.periodic,
            draining=self.draining,
        )
        """What operators see and change on the admin port."""
        self.is_serving: bool = True
        """Whether this process serves. False in a command, so that its resources open no port."""
        self._stacks: Stacks | None = None
        self._reloading = make_reloading(settings, self._use_settings)
        self.provide(RequestTasks, lambda: RequestTasks(self.tasks.start))

    def _listed_routes(self) -> "Sequence[ListedRoute]":
        from .api.route_list import routes_of  # only operators ask for them

        return routes_of(self)

    @property
    def public(self) -> ASGIApp:
        """The application of the public port: the owner's routes inside all middleware."""
        return self._built().public

    @property
    def admin(self) -> ASGIApp:
        """The application of the admin port: health, readiness, metrics and info."""
        return self._built().admin

    @property
    def admin_router(self) -> AdminRouter:
        """The routes of the admin port."""
        return self._built().admin_router

    @property
    def rejections(self) -> ASGIApp:
        """Responds to requests that the server rejects before they reach a route, so that they are observed too."""
        return self._built().rejections

    @property
    def openapi(self) -> dict[str, Any]:
        """The OpenAPI 3.1 document of the handlers, which `/openapi.json` serves."""
        return self._built().openapi

    @property
    def served_routes(self) -> list[BaseRoute]:
        """The routes of the public port, behind their guard and their rate limits."""
        return self._built().router.routes

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path of a named route, as for `request.url_for`. Raises Starlette's `NoMatchFound`."""
        return self._built().router.url_path_for(name, **path_params)

    @property
    def has_websockets(self) -> bool:
        """Whether a route accepts WebSockets, or may do so."""
        return has_websockets(self.routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._serve_lifespan(receive, send)
        else:
            await self.dispatch(scope, receive, send)

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve public and admin requests on one port, for a server that does not use the lifespan protocol."""
        stacks = self._stacks or self._built()
        application = stacks.admin if scope["path"] in stacks.admin_paths else stacks.public
        return application(scope, receive, send)

    async def open(self, *, background: bool = True) -> None:
        """Open the resources, start the background tasks, and become ready.

        If one of them fails to start, the resources that are open are closed, and its exception is raised. Without
        `background`, as for commands, no background tasks are started.
        """
        self._built()
        self.is_serving = background
        self.tasks.use_loop(asyncio.get_running_loop())
        await self.refresh_settings()  # this process may be younger than the settings
        await self._resources.enter()
        if self._reloading is not None:
            self.tasks.start(self._reloading.run(), name="settings watch", until_stopped=True)
        if background:
            try:
                self._begin_background()
            except BaseException:
                await self._resources.exit()
                raise
        self.health.state = State.READY

    def _begin_background(self) -> None:
        watch = LoopWatch(self.telemetry.metrics.loop_lag, self.telemetry.observer.active)
        self.tasks.start(watch.run(), name="event loop watch", until_stopped=True)
        self._background.begin(self.tasks)
        if self.faults is not None:
            self.faults.announce()

    def begin_pod_work(self) -> None:
        """Start the work with `once_per="pod"`. One of several workers (`APP_WORKERS`) does so at a time."""
        self._background.begin_pod_work(self.tasks)

    async def refresh_settings(self) -> None:
        """Read the secret files again if they have changed, as the service does every few seconds."""
        if self._reloading is not None:
            await self._reloading.refresh()

    def begin_draining(self) -> None:
        """Turn readiness to 503 and set `draining`. Called when shutdown begins, and by tests that end a stream."""
        self.health.state = State.DRAINING
        self.draining.set()

    async def close(self) -> None:
        """Close the resources, the last one first. Stop `tasks` before: they may use the resources."""
        self.begin_draining()
        self._background.discard()
        await self._resources.exit()

    async def stop(self) -> None:
        """Shut down without a server: drain at once, finish the tasks within `shutdown_seconds`, and close."""
        self.begin_draining()
        try:
            await self.tasks.stop(self.settings.shutdown_seconds)
        finally:
            await self.close()

    async def _use_settings(self, before: ChassisSettings, after: ChassisSettings) -> None:
        self.settings = after
        self.operations.use_settings(before, after)
        load_shedder = None if self._has_own_load_shedder else self.load_shedder
        use_settings(after, threads=self.threads, load_shedder=load_shedder)
        self._built().use_settings(after)
        await self.settings_changes.call(before, after)

    def _must_not_be_built(self) -> None:
        if self._stacks is not None:
            raise RuntimeError(
                "the application has started; add routes, middleware, checks and resources earlier, in create_app"
            )

    def _built(self) -> Stacks:
        if self._stacks is None:
            self._stacks = Stacks(
                self._parts,
                self.settings,
                self.telemetry,
                self.health,
                self.load_shedder,
                info={"title": self.name, "version": self.version, "description": self.description},
                scope_app=self,
                operations=self.operations,
            )
        return self._stacks

    async def _serve_lifespan(self, receive: Receive, send: Send) -> None:
        """The ASGI lifespan protocol, for servers other than ours and for tests."""
        await receive()
        self.telemetry.install()
        stage = "startup"
        try:
            await self.open()
            try:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            finally:  # a server may also cancel this task to stop it
                stage = "shutdown"
                await self.stop()
        except Exception as error:
            await send({"type": f"lifespan.{stage}.failed", "message": repr(error)})
            raise
        finally:
            await self.telemetry.shutdown(FLUSH_SECONDS)
        await send({"type": "lifespan.shutdown.complete"})
