"""`add_grpc`, and `GrpcServer`: a gRPC server as a resource of an `App`."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import grpc
import structlog
from structlog.typing import FilteringBoundLogger

from ..api.access import PUBLIC
from ..app import App
from ..worker_slot import WorkerSlot
from .call_telemetry import CallTelemetry
from .errors import GrpcListenError, GrpcServiceError
from .health import HealthService, add_health
from .interceptor import CallInterceptor, Handlers
from .metrics import CallMetrics
from .running import Policy
from .services import AddService, Method, methods_of, resolved
from .settings import GrpcSettings
from .tls import server_credentials

log: FilteringBoundLogger = structlog.get_logger()

TASK = "gRPC server"
KEEPALIVE_SECONDS = 60  # between two pings
KEEPALIVE_TIMEOUT_SECONDS = 20  # for the response to a ping; then the connection is closed
LAST_RESPONSE_SECONDS = 0.5  # the end of `shutdown_seconds`, in which cancelled calls respond


def add_grpc(
    app: App,
    settings: GrpcSettings,
    *,
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    codes: Mapping[type[Exception], grpc.StatusCode] | None = None,
    options: Sequence[tuple[str, Any]] = (),
) -> "GrpcServer":
    """Add a gRPC server to an application, and return it for services.

        server = add_grpc(app, settings)
        server.add_service(add_OrdersServicer_to_server, OrdersService(store))

    It listens on a port of its own, when all resources are open. Each call has an access line, a span and metrics. The
    table of `app.add_problems` gives the status of exceptions. `codes` are exceptions that have another code than the
    status of their problem. `interceptors` are inside of those of the chassis, the first one outermost. `options` are
    channel arguments of gRPC, which replace those of the chassis.
    """
    server = GrpcServer(app, settings, interceptors=interceptors, codes=codes, options=options)
    app.provide(GrpcServer, server)
    app.add_resource(server)
    app.add_background_task(TASK, server.serve, restart=False, required=True, ends_when_draining=True)
    return server


class GrpcServer:
    """A server of `grpc.aio` with the health service. `port` is its port, when it is open."""

    def __init__(
        self,
        app: App,
        settings: GrpcSettings,
        *,
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
        codes: Mapping[type[Exception], grpc.StatusCode] | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.port: int = settings.grpc_port
        self._app = app
        self._settings = settings
        self._options = options
        self._stopping = asyncio.Event()
        self._methods: dict[str, Method] = {}
        self._health = HealthService(app, self._stopping)
        self._telemetry = CallTelemetry(app.telemetry)
        CallMetrics.of(app.telemetry).max_calls.set(settings.grpc_max_calls)
        policy = Policy(settings.grpc_max_calls, settings.grpc_deadline_seconds, dict(codes or {}))
        self._calls = CallInterceptor(app, self._telemetry, policy)
        self._interceptors = [self._calls, *interceptors]
        self._server: grpc.aio.Server | None = None
        self._add(add_health, self._health, is_probe=True)

    def add_service(self, add: AddService, servicer: object) -> None:
        """Add a service with the function that was generated for it, such as `add_OrdersServicer_to_server`.

        `servicer` has a method for each method of the service. It may inherit from the generated class; then methods
        that it does not have respond `UNIMPLEMENTED`. Each is an `async def`, with the request and the context as
        parameters. Each further parameter is a dependency, by its type (`App.provide`). `@requires` and `@public` are
        for a method or its class, as for handlers.

        Raises `GrpcServiceError` for a method that is missing or not usable.
        """
        if self._server is not None:
            raise RuntimeError("the gRPC server has started; add services earlier, in create_app")
        self._health.services |= {path.split("/")[1] for path in self._add(add, servicer)}

    async def __aenter__(self) -> Self:
        if not self._app.is_serving:
            return self
        providers, control = self._app.parts.providers, self._app.parts.access_control
        self._calls.methods = {
            path: resolved(method, providers, control, self._app) for path, method in self._methods.items()
        }
        self._server = grpc.aio.server(interceptors=self._interceptors, options=self._channel_options())
        self._server.add_generic_rpc_handlers([Handlers(self._calls)])
        self._telemetry.port = self.port = self._bind(self._server)
        log.info("listening for gRPC", host=self._settings.grpc_host, port=self.port)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        try:
            await self._server.stop(None)
        finally:
            self._calls.end_stopped()

    async def serve(self) -> None:
        """Serve until the drain is over, then finish the calls in flight, and cancel the rest."""
        if self._server is None:
            raise RuntimeError("the port of gRPC is not open; add the server to the app with add_grpc")
        await self._server.start()
        await self._app.tasks.stopping.wait()
        self._stopping.set()
        grace = max(0.0, self._app.settings.shutdown_seconds - LAST_RESPONSE_SECONDS)
        # From now on, clients connect to another instance, and new calls on open connections are rejected.
        stopped = asyncio.create_task(self._server.stop(grace + LAST_RESPONSE_SECONDS), name="stop of gRPC")
        await asyncio.wait({stopped}, timeout=grace)
        if not stopped.done():
            calls = list(self._calls.calls)
            log.warning("gRPC calls cancelled at shutdown", count=len(calls))
            self._calls.stop_calls(calls)
            await asyncio.wait({stopped}, timeout=LAST_RESPONSE_SECONDS)
        stopped.cancel()

    def _add(self, add: AddService, servicer: object, *, is_probe: bool = False) -> list[str]:
        methods = methods_of(add, servicer)
        for method in methods:
            if method.path in self._methods:
                raise GrpcServiceError(f"two services have the method {method.path}; add one of them")
            probe = replace(method, is_probe=True, requirement=PUBLIC)
            self._methods[method.path] = probe if is_probe else method
        return [method.path for method in methods]

    def _channel_options(self) -> list[tuple[str, Any]]:
        options: dict[str, Any] = {
            "grpc.max_receive_message_length": self._settings.grpc_max_message_bytes,
            "grpc.max_connection_age_ms": int(self._app.settings.max_connection_age_seconds * 1000),
            "grpc.keepalive_time_ms": KEEPALIVE_SECONDS * 1000,
            "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_SECONDS * 1000,
            # Each of several workers opens the port, and the kernel distributes the connections. Otherwise another
            # process on the port is an error.
            "grpc.so_reuseport": int(WorkerSlot.number is not None),
        }
        return list((options | dict(self._options)).items())

    def _bind(self, server: grpc.aio.Server) -> int:
        """Open the port. Calls wait until the server starts."""
        host = self._settings.grpc_host
        address = f"[{host}]:{self.port}" if ":" in host and not host.startswith("[") else f"{host}:{self.port}"
        try:
            credentials = server_credentials(self._settings)
            if credentials is None:
                return server.add_insecure_port(address)
            return server.add_secure_port(address, credentials)
        except (OSError, RuntimeError) as error:
            raise GrpcListenError(
                f"cannot listen on {address} for gRPC: {error}; check APP_GRPC_HOST, APP_GRPC_PORT and APP_GRPC_TLS_*"
            ) from error
