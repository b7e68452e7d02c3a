"""A service that the tests run as a process: `python -m tests.support.program`."""

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from starlette.requests import Request

from chassis import App, ChassisSettings, Handler, load_settings, run
from chassis.health import State

log = structlog.get_logger()


class Waiting(Handler):
    """Responds when the shutdown has begun, or never."""

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


class Child(Handler):
    """Forks a child process that works for a while, ends it, and tells how it has ended."""

    def get(self) -> int | None:
        child = multiprocessing.get_context("fork").Process(target=self._work)
        child.start()
        child.join(0.5)
        child.terminate()
        child.join(10)
        return child.exitcode

    async def post(self) -> int | None:
        log.info("before the fork")  # not written yet: the lines of one turn are written together
        return self.get()

    def _work(self) -> None:
        log.info("in the child")
        time.sleep(60)


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


def create_app(settings: ChassisSettings) -> App:
    """The application."""
    app = App(settings, name="test-service")
    app.add_route("/waiting", Waiting())
    app.add_route("/switch-interval", SwitchInterval())
    app.add_route("/work", Work())
    app.add_route("/child", Child())
    app.add_resource(resource())
    return app


def asgi() -> App:
    """The application for another ASGI server, such as: uvicorn --factory tests.support.program:asgi."""
    return create_app(load_settings(ChassisSettings))


if __name__ == "__main__":
    run("tests.support.program:create_app")
