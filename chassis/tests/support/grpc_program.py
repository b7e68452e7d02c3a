"""A service with gRPC as a process: `python -m tests.support.grpc_program`."""

import asyncio
from contextlib import suppress

import structlog
from google.protobuf.wrappers_pb2 import StringValue

from chassis import App, ChassisSettings, run
from chassis.grpc import GrpcSettings, add_grpc

from .grpc_service import Context, Words, add_words

log = structlog.get_logger()


class Settings(ChassisSettings, GrpcSettings):
    """The settings of this service."""


class Slow(Words):
    """Waits for the drain, and then for a while, or for ever."""

    def __init__(self, app: App) -> None:
        super().__init__()
        self._app = app

    async def One(self, request: StringValue, context: Context) -> StringValue:  # noqa: N802
        log.info("begun", text=request.value)
        if request.value == "quick":
            return request
        if request.value == "hang":
            await asyncio.Event().wait()
        while request.value == "stubborn":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        await self._app.draining.wait()
        await asyncio.sleep(0.3)
        return request


def create_app(settings: Settings) -> App:
    """Create the service."""
    app = App(settings)
    server = add_grpc(app, settings)
    server.add_service(add_words, Slow(app))
    return app


if __name__ == "__main__":
    run(f"{__package__}.grpc_program:create_app")
