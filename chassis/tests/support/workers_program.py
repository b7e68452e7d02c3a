"""A service with several workers that the tests run as a process: `python -m tests.support.workers_program`."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from prometheus_client import Counter, Gauge

from chassis import App, ChassisSettings, Handler, run
from chassis.worker_slot import WorkerSlot
from chassis.workers import supervisor

log = structlog.get_logger()


class Orders(Handler):
    """Counts, and tells which worker has counted."""

    def __init__(self, app: App) -> None:
        self._orders = Counter("orders", "Orders.", registry=app.registry)

    async def get(self) -> dict[str, object]:
        self._orders.inc()
        return {"worker": WorkerSlot.number, "pid": os.getpid()}

    async def post(self) -> dict[str, object]:
        """Takes a while."""
        self._orders.inc()
        log.info("begun")
        await asyncio.sleep(0.3)
        return {"worker": WorkerSlot.number}


class Memory(Handler):
    """Keeps so many bytes for ever."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []

    async def post(self, size: int) -> dict[str, int]:
        self._kept.append(b"x" * size)
        return {"pid": os.getpid()}


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    """Starts as the environment says."""
    start = os.environ.get("PROGRAM_START", "")
    if start == "fails" or (start == "second fails" and WorkerSlot.number == 1):
        raise ConnectionRefusedError("no database at 192.0.2.1")
    yield
    log.info("left")


def create_app(settings: ChassisSettings) -> App:
    """The application."""
    app = App(settings, name="test-service")
    app.add_route("/orders", Orders(app))
    app.add_route("/memory", Memory())
    app.add_resource(resource())
    app.add_check("database", lambda: None)
    number = WorkerSlot.number or 0
    for name in ("mine", "largest"):
        Gauge(name, "A gauge of the owner.", registry=app.registry).set(number + 1)
    app.telemetry.metrics.merge("largest", "max")

    async def work() -> None:
        log.info("worked")

    app.every(60, work, name="in the pod", once_per="pod", jitter=0)
    app.every(60, work, name="in each worker", jitter=0)
    return app


if __name__ == "__main__":
    if seconds := os.environ.get("PROGRAM_POLL_SECONDS"):
        supervisor.POLL_SECONDS = float(seconds)
    if seconds := os.environ.get("PROGRAM_HANG_SECONDS"):
        supervisor.HANG_SECONDS = float(seconds)
    run("tests.support.workers_program:create_app")
