"""A service with several workers that the tests run as a process: `python -m tests.support.workers_program`."""

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import structlog
from prometheus_client import Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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


class Connections(Collector):
    """Fails when the resource is closed, as the pool of a driver does."""

    is_open = True

    def collect(self) -> Iterator[Metric]:
        """The connections of the resource."""
        if not self.is_open:
            raise RuntimeError("the pool is closed")
        yield GaugeMetricFamily("connections", "Connections.", value=1)


@asynccontextmanager
async def resource(connections: Connections) -> AsyncIterator[None]:
    """Starts as the environment says."""
    start = os.environ.get("PROGRAM_START", "")
    if start == "fails" or (start == "second fails" and WorkerSlot.number == 1):
        raise ConnectionRefusedError("no database at 192.0.2.1")
    yield
    connections.is_open = False
    log.info("left")


def create_app(settings: ChassisSettings) -> App:
    """The application."""
    hanging = os.environ.get("PROGRAM_HANGS_WITH")  # a file
    if os.environ.get("PROGRAM_START") == "hangs" or (hanging and Path(hanging).exists()):
        print('{"event": "hanging"}', flush=True)
        threading.Event().wait()
    app = App(settings, name="test-service")
    app.add_route("/orders", Orders(app))
    app.add_route("/memory", Memory())
    connections = Connections()
    app.registry.register(connections)
    app.add_resource(resource(connections))
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
    if seconds := os.environ.get("PROGRAM_RETIRED_SECONDS"):
        supervisor.RETIRED_SECONDS = float(seconds)
    if os.environ.get("PROGRAM_START") == "hangup":
        os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGHUP))
    run("tests.support.workers_program:create_app")
