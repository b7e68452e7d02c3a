"""The health service of gRPC, `grpc.health.v1.Health`: it follows the readiness of the app."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthServicer, add_HealthServicer_to_server

from ..app import App

OVERALL = ""
LIVENESS = "liveness"
WATCH_SECONDS = 1.0  # between two checks of the readiness, for clients that watch it
Context = grpc.aio.ServicerContext[Any, Any]


class HealthService(HealthServicer):
    """Responds to probes and to clients that balance their load by themselves.

    `""` and each service of the server have the readiness of the app. `liveness` is serving as long as the process
    responds, for liveness probes.
    """

    def __init__(self, app: App, stopping: asyncio.Event) -> None:
        """`stopping` is set when the server begins to stop, which ends the streams of `Watch`."""
        self.services: set[str] = {OVERALL}
        self._app = app
        self._stopping = stopping

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:  # noqa: N802 - a name of gRPC
        """The status of a service."""
        if request.service != LIVENESS and request.service not in self.services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "The server has no such service.")
        return HealthCheckResponse(status=await self._status(request.service))

    async def List(self, _request: Message, _context: Context) -> Message:  # noqa: N802
        """The status of all services. grpcio-health-checking has it from 1.85 on; without it, gRPC never calls this."""
        names = sorted({*self.services, LIVENESS})
        statuses = {name: HealthCheckResponse(status=await self._status(name)) for name in names}
        response: type[Message] = health_pb2.HealthListResponse  # type: ignore[attr-defined] # the stubs are older
        return response(statuses=statuses)

    async def Watch(  # noqa: N802
        self, request: HealthCheckRequest, context: Context
    ) -> AsyncIterator[HealthCheckResponse]:
        """The status of a service, and each later one, until the server stops."""
        last: int | None = None
        draining = self._app.draining
        while True:
            is_last = self._stopping.is_set()
            status = await self._status(request.service)
            if status != last:
                last = status
                yield HealthCheckResponse(status=status)
            if is_last:
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(WATCH_SECONDS):
                    await (self._stopping if draining.is_set() else draining).wait()

    async def _status(self, service: str) -> int:
        if service == LIVENESS:
            return HealthCheckResponse.SERVING
        if service not in self.services:
            return HealthCheckResponse.SERVICE_UNKNOWN
        is_ready, _ = await self._app.health.report()
        return HealthCheckResponse.SERVING if is_ready else HealthCheckResponse.NOT_SERVING


add_health = add_HealthServicer_to_server
