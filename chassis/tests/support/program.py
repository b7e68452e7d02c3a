"""A service that the tests run as a process: `python -m tests.chassis.program`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.requests import Request

from chassis import (
    App,
    ChassisSettings,
    Handler,
    Route,
    Server,
    Telemetry,
    load_settings,
)
from chassis.health import State

from .application import make_app

log = structlog.get_logger()


class Waiting(Handler):
    """Answers when the end has begun, or never."""

    async def get(self, request: Request) -> str:
        log.info("waiting")
        while request.app.health.state is not State.DRAINING:
            await asyncio.sleep(0.005)
        return "at last"

    async def post(self) -> None:
        log.info("waiting for ever")
        await asyncio.Event().wait()


class SwitchInterval(Handler):
    """Tells how long a thread may compute while others want to."""

    async def get(self) -> float:
        return sys.getswitchinterval()


class Work(Handler):
    """Starts a task that ends after the requests."""

    async def post(self, request: Request) -> None:
        async def work() -> None:
            while request.app.health.state is not State.DRAINING:
                await asyncio.sleep(0.005)
            await asyncio.sleep(0.3)
            log.info("worked")

        request.app.tasks.start(work(), name="work")


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    """Starts as the environment says."""
    log.info("entering")
    try:
        match os.environ.get("PROGRAM_RESOURCE"):
            case "refused":
                raise ConnectionRefusedError("no database at 192.0.2.1")
            case "hanging":
                await asyncio.Event().wait()
        yield
    finally:
        log.info("left")


def create_app() -> App:
    """The application, as its settings say."""
    telemetry = Telemetry.from_settings(load_settings(ChassisSettings), service="test-program", version="1")
    routes = [Route("/waiting", Waiting()), Route("/switch-interval", SwitchInterval()), Route("/work", Work())]
    return make_app(telemetry, *routes, resources=[resource()])


def main() -> int:
    """Serve until a signal comes."""
    settings = load_settings(ChassisSettings)
    server = Server(
        create_app(),
        host=settings.host,
        port=settings.port,
        admin_port=settings.admin_port,
        drain_seconds=settings.drain_seconds,
        shutdown_seconds=settings.shutdown_seconds,
    )
    return server.run()


if __name__ == "__main__":
    sys.exit(main())
