"""`Composition`: the parts that `create_app` adds to a service."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import UTC, time, tzinfo
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from prometheus_client import CollectorRegistry
from starlette.middleware import Middleware
from starlette.routing import Mount
from starlette.types import ASGIApp

from .api.access import Requires
from .app_routes import AppRoutes
from .background import BackgroundWork
from .command import Command, add_command
from .configuration.changes import ChangeCallbacks, OnChange
from .health import Check, Health
from .lifespan import Lifespan, StateMiddleware
from .periodic_options import PeriodicOptions, Work
from .resources import Resources
from .schedules import Daily, Every
from .settings import ChassisSettings
from .telemetry import Telemetry
from .wiring import distribution_of, installed_version, make_faults, make_health, make_telemetry
from .worker_slot import OncePer

if TYPE_CHECKING:  # a service without clients and faults does not load them
    from .client.client import Client
    from .client.settings import ClientSettings
    from .faults import Faults

Resource = TypeVar("Resource", bound=AbstractAsyncContextManager[Any])


class Composition(AppRoutes):
    """The parts of a service: routes, clients, checks, resources, background work and commands. `App` runs them."""

    def __init__(
        self,
        settings: ChassisSettings,
        *,
        name: str | None,
        version: str | None,
        telemetry: Telemetry | None,
        security_headers: Mapping[str, str] | None,
    ) -> None:
        name = name or distribution_of(type(settings))
        super().__init__(name=name, version=version or installed_version(name), security_headers=security_headers)
        self.settings: ChassisSettings = settings
        """The settings as they are now: those that are live may change, see `on_settings_change`."""
        self.telemetry: Telemetry = telemetry or make_telemetry(settings, service=self.name, version=self.version)
        self.draining: asyncio.Event = asyncio.Event()
        """Set when graceful shutdown begins, at SIGTERM: end streams, and stop taking work from queues."""
        self.health: Health = make_health(settings, self.telemetry)
        self.faults: Faults | None = make_faults(settings, self.telemetry)
        """The faults that are injected into requests and calls; None unless `APP_FAULT_INJECTION` allows it."""
        self.clients: dict[str, Client] = {}
        """The clients of other services, by their names: see `client`."""
        self.commands: dict[str, Command] = {}
        """The commands of the service, by their names: see `add_command`."""
        self.settings_changes: ChangeCallbacks = ChangeCallbacks()
        """The callbacks of `on_settings_change`, for parts of the chassis that are made later than the routes."""
        self._resources = Resources()
        self._background = BackgroundWork(self.telemetry, self.health, self.draining)

    @property
    def registry(self) -> CollectorRegistry:
        """The Prometheus registry for your metrics: `Counter("orders", "…", registry=app.registry)`."""
        return self.telemetry.metrics.registry

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

    def add_check(self, name: str, probe: Callable[[], object], *, timeout: float = 1.0, required: bool = True) -> None:
        """Add a readiness check of a dependency; see `Check`. `timeout` is in seconds."""
        self._must_not_be_built()
        self.health.add(Check(name, probe, timeout=timeout, required=required))

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
        self._background.add(
            name,
            work,
            restart=restart,
            required=required,
            ends_when_draining=ends_when_draining,
            once_per=once_per,
        )

    def every(
        self, seconds: float, work: Work, *, first_after: float = 0.0, **options: Unpack[PeriodicOptions]
    ) -> None:
        """Call `work` every `seconds` while the service runs, for the first time `first_after` seconds after the start.

        `work` is an `async def` or a `def`. `options` are the keywords of `PeriodicOptions`. See `PeriodicTask` for
        failures, long runs and leases. Raises `ValueError` for an invalid option.
        """
        self._must_not_be_built()
        self._background.add_periodic(Every(seconds, first_after=first_after), work, options)

    def daily(
        self, at: time | str, work: Work, *, timezone: tzinfo | str = UTC, **options: Unpack[PeriodicOptions]
    ) -> None:
        """Call `work` once a day at a time of day, such as `"03:30"`. See `every` for options, `Daily` for time zones.

        If the service does not run at that time, the run of that day is skipped.
        """
        self._must_not_be_built()
        self._background.add_periodic(Daily(at, timezone), work, options)

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
