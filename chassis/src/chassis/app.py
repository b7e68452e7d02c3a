"""The application: the owner's routes, middleware, checks and resources, inside the middleware of the chassis."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, time, tzinfo
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from prometheus_client import CollectorRegistry
from starlette.datastructures import State as StarletteState
from starlette.datastructures import URLPath
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from .api.access import AccessControl, Requires
from .api.dependencies import Override
from .api.handler import Handler
from .api.negotiation import Encoder
from .api.rate_limit import RateLimits, RateLimitStore
from .api.rate_limiter import CallerOf
from .api.request_tasks import RequestTasks
from .api.route_list import routes_of
from .api.routing import Route, has_websockets
from .command import Command, add_command
from .configuration.changes import ChangeCallbacks, OnChange
from .groups import Group, RouteTable
from .health import Check, Health, State
from .lifespan import Lifespan, StateMiddleware
from .middleware.load_shedder import LoadShedder
from .operations.admin_router import AdminRouter, check_own_path
from .operations.operations import Operations
from .periodic import OncePer, PeriodicOptions, PeriodicTask, Work, is_done_here
from .ports import Parts, Stacks
from .problem import ProblemOf
from .resources import Resources
from .route_limits import RouteLimits
from .schedules import Daily, Every, Schedule
from .settings import ChassisSettings
from .tasks import BackgroundTask, Tasks
from .telemetry import Telemetry
from .telemetry.loop_watch import LoopWatch
from .threads import Threads
from .wiring import (
    distribution_of,
    installed_version,
    make_faults,
    make_health,
    make_load_shedder,
    make_reloading,
    make_telemetry,
    make_threads,
    use_settings,
)

if TYPE_CHECKING:  # a service that calls no other one does not load them
    from .client.client import Client
    from .client.settings import ClientSettings
    from .faults import Faults

FLUSH_SECONDS = 5.0

Resource = TypeVar("Resource", bound=AbstractAsyncContextManager[Any])


class App(RouteTable):
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
        self.settings: ChassisSettings = settings
        """The settings as they are now: those that are live may change, see `on_settings_change`."""
        self.name: str = name or distribution_of(type(settings))
        self.version: str = version or installed_version(self.name)
        self.description = description
        self.telemetry: Telemetry = telemetry or make_telemetry(settings, service=self.name, version=self.version)
        self.draining: asyncio.Event = asyncio.Event()
        """Set when graceful shutdown begins, at SIGTERM: end streams, and stop taking work from queues."""
        self.tasks: Tasks = Tasks(self.telemetry)
        self.health: Health = make_health(settings, self.telemetry)
        self.threads: Threads = make_threads(settings, self.telemetry)
        self.clients: dict[str, Client] = {}
        """The clients of other services, by their names: see `client`."""
        self.state: StarletteState = StarletteState()
        self.load_shedder: LoadShedder = load_shedder or make_load_shedder(settings, self.telemetry)
        self.faults: Faults | None = make_faults(settings, self.telemetry)
        """The faults that are injected into requests and calls; None unless `APP_FAULT_INJECTION` allows it."""
        self.operations: Operations = Operations(
            self.telemetry,
            self.health,
            settings=lambda: self.settings,
            routes=lambda: routes_of(self),
            faults=self.faults,
            clients=self.clients,
            draining=self.draining,
        )
        """What operators see and change on the admin port."""
        self._parts = Parts(security_headers=dict(security_headers or {}))
        super().__init__(self._parts.routes, self._parts.middleware)
        self.requires: dict[int, Requires] = self._parts.requires
        self.rate_limits: dict[int, RateLimits] = self._parts.rate_limits
        self._resources = Resources()
        self._background: list[BackgroundTask] = []
        self.is_serving: bool = True
        """Whether this process serves. False in a command, so that its resources open no port."""
        self.commands: dict[str, Command] = {}
        """The commands of the service, by their names: see `add_command`."""
        self._stacks: Stacks | None = None
        self.settings_changes: ChangeCallbacks = ChangeCallbacks()
        """The callbacks of `on_settings_change`, for parts of the chassis that are made later than the routes."""
        self._reloading = make_reloading(settings, self._use_settings)
        self._has_own_load_shedder = load_shedder is not None
        self.provide(RequestTasks, lambda: RequestTasks(self.tasks.start))

    # For `create_app`.

    @property
    def registry(self) -> CollectorRegistry:
        """The Prometheus registry for your metrics: `Counter("orders", "…", registry=app.registry)`."""
        return self.telemetry.metrics.registry

    @property
    def parts(self) -> Parts:
        """The providers and problems that were added, for parts of the chassis that are not requests: consumers."""
        return self._parts

    def group(
        self,
        path: str,
        *,
        title: str | None = None,
        version: str | None = None,
        description: str = "",
        requires: Requires | None = None,
        rate_limit: RateLimits | None = None,
    ) -> Group:
        """Add a group of routes below `path` with its own middleware and OpenAPI document, such as an API version.

            v2 = app.group("/v2", version="2")
            v2.add_route("/orders", Orders(store))

        `requires` is what clients need for its routes, unless a route has its own (`add_route`). `rate_limit` is a
        limit for all of its routes together, beside those of the service and of a route.
        """
        self._must_not_be_built()
        info = {"title": title or self.name, "version": version or self.version, "description": description}
        group = Group(path, info, requires, rate_limit)
        self._parts.groups.append(group)
        self.add_routes(group.mounted())
        return group

    def mount(
        self,
        path: str,
        app: ASGIApp,
        *,
        name: str | None = None,
        lifespan: bool = False,
        requires: Requires | None = None,
    ) -> None:
        """Serve another ASGI application, such as a FastAPI app, below a path.

        With `lifespan`, the application starts and stops with the service, as a resource (`add_resource`). The state
        that its lifespan yields is in `request.state`. If the application fails to start, the service fails to start.

        `requires` is what clients need for everything below the path, its 404 and its documentation included.
        """
        middleware = []
        if lifespan:
            resource = self.add_resource(Lifespan(app))
            middleware.append(Middleware(StateMiddleware, resource.state))
        self.add_routes(Mount(path, app, name=name, middleware=middleware), requires=requires)

    def add_problems(self, problems: Mapping[type[Exception], ProblemOf]) -> None:
        """Map exception types, and their subclasses, to the status of a problem document.

        This keeps HTTP out of domain code: a store raises `OrderNotFoundError`, and this table maps it to 404. The text
        of the exception becomes the `detail`, so clients will read it. For more than a status, map the type to a
        function that takes the exception and returns a `Problem`.
        """
        self._must_not_be_built()
        self._parts.problems |= problems

    def provide(self, provided_type: Hashable, provider: Any) -> None:
        """Provide a dependency: an argument for each handler parameter that is annotated with `provided_type`.

            app.provide(AsyncSession, sessions)      # def get(self, order_id: UUID, session: AsyncSession) -> Order

        `provider` is called once for each request that needs it. Its own parameters can be `Request` and other provided
        types. It is a function, an `async def`, a class, or an (async) generator function that yields the value. If
        it returns an (async) context manager, that is entered. Any object that cannot be called is the value itself.

        Generators resume and context managers exit in reverse order, after the handler and before the response is
        sent. They get the exception that the handler raised, so a transaction can be rolled back. If a commit fails
        there, the response is 500.

        A `def` runs on the event loop and must not block. A provider may raise a `Problem`, such as 401. Circular
        dependencies and types without a provider stop the start with `ProviderError` or `SignatureError`.
        """
        self._must_not_be_built()
        self._parts.providers.add(provided_type, provider)

    def override(self, provided_type: Hashable, provider: Any) -> Override:
        """Replace a provider in a test, permanently or for a `with` block. Works while the app runs."""
        return self._parts.providers.override(provided_type, provider)

    def client(
        self, name: str, settings: "ClientSettings | None" = None, *, required: bool = False, **options: object
    ) -> "Client":
        """Add a client for another service; see `Client` for its calls.

            catalogue = app.client("catalogue", settings.catalogue)
            catalogue = app.client("catalogue", base_url="http://catalogue", timeout_seconds=1.0)

        `options` are fields of `ClientSettings`, if you pass no `settings`. The circuit breaker is a check in
        `/readyz`. With `required`, the service is not ready while it is open: then all instances may be out of
        rotation together. Needs the extra `asgi-chassis[client]`.

        Raises `ValueError` for a name that is used already, and for invalid options.
        """
        from .client.client import CALL_PROBLEMS, Client
        from .client.settings import ClientSettings

        self._must_not_be_built()
        if settings is None:
            settings = ClientSettings.model_validate(options)
        elif options:
            raise ValueError(f"the client {name!r} has settings already; pass {', '.join(sorted(options))} there")
        if name in self.clients:
            raise ValueError(f"two clients have the name {name!r}; give one of them another name")
        agent = f"{self.name}/{self.version}"
        client = Client(name, settings, self.telemetry, user_agent=agent, faults=self.faults)
        self.clients[name] = self.add_resource(client)
        self.on_settings_change(client.use_changed)
        self._parts.problems = {**CALL_PROBLEMS, **self._parts.problems}
        self.add_check(f"dependency {name}", client.check, required=required)
        return client

    def set_access_control(self, control: AccessControl) -> None:
        """Protect every route that is not public, for an authentication part such as `chassis.auth`.

        `/openapi.json`, `/docs` and the endpoints for operation stay open. Raises `ValueError` for a second one.
        """
        self._must_not_be_built()
        if self._parts.access_control is not None:
            raise ValueError("the app has authentication already; call add_auth once")
        self._parts.access_control = control

    def configure_rate_limits(self, *, store: RateLimitStore | None = None, caller_of: CallerOf | None = None) -> None:
        """Change how requests are counted for rate limits.

        `store` is shared by the instances of the service; by default, each one counts alone. `caller_of` takes the
        ASGI scope and returns the caller. By default, and if it returns None, the caller is the principal or, without
        authentication, the address of the client. For the limits, see `APP_RATE_LIMIT_REQUESTS` and `add_route`.
        """
        self._must_not_be_built()
        self._parts.rate_limit_store = store
        self._parts.caller_of = caller_of

    def add_encoder(self, media_type: str, encode: Encoder) -> None:
        """Add content negotiation: send results as `media_type` to clients that prefer it to JSON (`Accept`).

        Clients that accept none of the media types get 406. `encode` takes the result as JSON types (dictionaries,
        lists, text, numbers) and returns bytes. It applies to all handlers, unless they return a `Response`.
        """
        self._must_not_be_built()
        self._parts.encoders[media_type] = encode

    def extend_openapi(self, members: Mapping[str, Any]) -> None:
        """Add members to the OpenAPI document, such as `servers`, `security`, or schemes in `components`.

        Objects are merged member by member. Any other value replaces the value in the document.
        """
        self._must_not_be_built()
        self._parts.openapi.append(members)

    def add_check(self, name: str, probe: Callable[[], object], *, timeout: float = 1.0, required: bool = True) -> None:
        """Add a readiness check of a dependency; see `Check`. `timeout` is in seconds."""
        self._must_not_be_built()
        self._add_check(Check(name, probe, timeout=timeout, required=required))

    def _add_check(self, check: Check) -> None:
        self.health.add(check)
        self.telemetry.metrics.checks.labels(check.name).set_function(lambda: self.health.has_passed(check.name))

    def add_resource(self, resource: Resource) -> Resource:
        """Open an async context manager, such as a database pool, at the start, and close it after the last request.

        Resources are opened in the order in which they were added, and closed in reverse. Returns `resource`.
        """
        self._must_not_be_built()
        self._resources.add(resource)
        return resource

    def add_background_task(
        self,
        name: str,
        work: Callable[[], Coroutine[Any, Any, object]],
        *,
        restart: bool = True,
        required: bool = False,
        ends_when_draining: bool = False,
        once_per: OncePer = "worker",
    ) -> None:
        """Run `work()` in the background from the start of the service, when its resources are open, until it stops.

        A failure is logged and counted. Then the work restarts after a growing delay (see `BackgroundTask`), unless
        `restart` is false. Work that returns is complete. With `required`, the service is not ready while the task is
        down. At shutdown the work is cancelled after the last request. With `ends_when_draining` it must end by itself
        when `draining` is set, and is cancelled only at the end of `shutdown_seconds`. With several workers
        (`APP_WORKERS`), every one does the work, or with `once_per="pod"` only one of them.
        """
        self._must_not_be_built()
        if not is_done_here(once_per):
            return
        task = BackgroundTask(name, work, self.telemetry, self.draining, restart, ends_when_draining)
        self._background.append(task)
        if required:
            self._add_check(Check(f"background task {name}", task.check))

    def every(
        self, seconds: float, work: Work, *, first_after: float = 0.0, **options: Unpack[PeriodicOptions]
    ) -> None:
        """Call `work` every `seconds` while the service runs, for the first time `first_after` seconds after the start.

        `work` is an `async def` or a `def`. `options` are the keywords of `PeriodicOptions`. See `PeriodicTask` for
        failures, long runs and leases. Raises `ValueError` for an invalid option.
        """
        self._add_periodic(Every(seconds, first_after=first_after), work, options)

    def daily(
        self, at: time | str, work: Work, *, timezone: tzinfo | str = UTC, **options: Unpack[PeriodicOptions]
    ) -> None:
        """Call `work` once a day at a time of day, such as `"03:30"`. See `every` for options, `Daily` for time zones.

        If the service does not run at that time, the run of that day is skipped.
        """
        self._add_periodic(Daily(at, timezone), work, options)

    def _add_periodic(self, schedule: Schedule, work: Work, options: PeriodicOptions) -> None:
        task = PeriodicTask(schedule, work, self.telemetry, self.draining, options)
        if any(other.name == task.name for other in self._background):
            raise ValueError(f'two background tasks have the name {task.name!r}; pass another name to one: name="…"')
        once_per = options.get("once_per", "worker")
        self.add_background_task(task.name, task.run, ends_when_draining=True, once_per=once_per)
        if options.get("required") and is_done_here(once_per):
            self._add_check(Check(f"periodic task {task.name}", task.check))

    def add_command(self, name: str, function: Callable[..., Any]) -> None:
        """Add a command to the command line: `python -m order_service fill-owners --batch 500`.

            async def fill_owners(database: Database, *, batch: int = 100) -> None: ...

            app.add_command("fill-owners", fill_owners)

        The parameters of the function are its arguments: those with a default, and those behind `*`, are options. Types
        that the app provides are injected, and so are the settings and the `App`. A command runs with the resources of
        the app, without its server and its background tasks. A `def` runs in a thread.

        The exit status is 0, or the `int` that it returns, or 1 if it raises. Raises `ValueError` for an invalid name.
        """
        self._must_not_be_built()
        add_command(self.commands, name, function)

    def on_settings_change(self, callback: OnChange) -> None:
        """Call `callback(before, after)` when live settings have changed in the secret files.

            app.on_settings_change(lambda before, after: greetings.use(after.greeting))

        It gets the settings before and after the change, which is complete: values of several files come together. It
        runs on the event loop, and may be an `async def`. An exception is logged. Mark the setting with `Live`, or else
        its change is only a warning that the service needs a restart.
        """
        self._must_not_be_built()
        self.settings_changes.add(callback)

    def add_admin_route(
        self, path: str, handler: Handler, *, name: str | None = None, deadline_seconds: float | None = None
    ) -> None:
        """Add a route for operators to the admin port, behind its access rule (see `OperatorAccess`).

            app.add_admin_route("/cache", Cache(products))

        It is never on the public port. Each request that is not a read is an audit line. `deadline_seconds` replaces
        the 30 seconds of the admin port. Raises `ValueError` for a path that the chassis uses.
        """
        self._must_not_be_built()
        check_own_path(path)
        limits = RouteLimits(deadline_seconds=deadline_seconds)
        self._parts.admin_routes.append(Route(path, handler, name=name, in_openapi=False, limits=limits))

    def url_path_for(self, name: str, /, **path_params: Any) -> URLPath:
        """The path of a named route, as for `request.url_for`. Raises Starlette's `NoMatchFound`."""
        return self._built().router.url_path_for(name, **path_params)

    # For the server.

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
        for task in self._background:
            task.begin()
            self.tasks.start(task.run(), name=task.name, until_stopped=not task.ends_when_draining)
        if self.faults is not None:
            self.faults.announce()

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
        for task in self._background:
            task.discard()
        await self._resources.exit()

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
                self.begin_draining()
                try:
                    await self.tasks.stop(self.settings.shutdown_seconds)
                finally:
                    await self.close()
        except Exception as error:
            await send({"type": f"lifespan.{stage}.failed", "message": repr(error)})
            raise
        finally:
            await self.telemetry.shutdown(FLUSH_SECONDS)
        await send({"type": "lifespan.shutdown.complete"})
