"""`/schedules`: periodic work, as operators see it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from chassis import IDLE, App, MemoryLease, Server
from chassis.worker_slot import WorkerSlot

from .support.application import make_app
from .support.service import connect, observed


class Schedules:
    """The admin port of a service with periodic work."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._port = 0

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        async with Server(self.app) as server:
            self._port = server.admin_port or 0
            yield

    async def get(self) -> dict[str, dict[str, Any]]:
        async with connect(self._port) as admin:
            response = await admin.get("/schedules")
        assert response.status_code == 200, response.text
        return {item["name"]: item for item in response.json()}

    async def when(self, name: str, **facts: object) -> dict[str, Any]:
        """The item with this name as soon as it has these facts."""
        async with asyncio.timeout(10):
            while not facts.items() <= (item := (await self.get())[name]).items():
                await asyncio.sleep(0.01)
        return item


@asynccontextmanager
async def schedules(add: Any) -> AsyncIterator[Schedules]:
    with observed() as seen:
        made = Schedules(make_app(seen.telemetry, admin_port=0))
        add(made.app)
        async with made.serve():
            yield made


async def test_work_that_waits_has_its_schedule_and_its_next_start() -> None:
    def add(app: App) -> None:
        app.daily("03:30", lambda: None, name="count letters", timezone="Europe/Berlin", jitter=0)
        app.every(2.5, lambda: None, name="send letters", first_after=3600, once_per="pod")

    async with schedules(add) as served:
        daily, every = (await served.get()).values()
    assert (daily["schedule"], daily["interval_seconds"]) == ("daily at 03:30 Europe/Berlin", 86400)
    assert (daily["state"], daily["last_start"], daily["last_result"]) == ("waiting", None, None)
    at = datetime.fromisoformat(daily["next_start"]).astimezone(ZoneInfo("Europe/Berlin"))
    assert (at.hour, at.minute) == (3, 30)
    assert (every["schedule"], every["once_per"], every["has_lease"]) == ("every 2.5 s", "pod", False)


async def test_failure_has_its_error_without_secrets_and_the_time_of_the_retry() -> None:
    may_fail = asyncio.Event()

    async def fail() -> None:
        await may_fail.wait()
        raise ConnectionRefusedError("no broker at nats://me:hush-hush@broker")

    async with schedules(lambda app: app.every(60, fail, name="work", jitter=0)) as served:
        running = await served.when("work", state="running")
        may_fail.set()
        failed = await served.when("work", state="waiting")
    assert (running["last_result"], running["last_duration_seconds"], running["next_start"]) == (None, None, None)
    assert (failed["last_result"], failed["failures"]) == ("failure", 1)
    assert failed["last_error"] == "ConnectionRefusedError: no broker at nats://me:[redacted]@broker"
    assert failed["last_duration_seconds"] > 0
    assert failed["last_start"] == running["last_start"] < failed["next_start"]


async def test_thread_that_does_not_end_in_time_still_runs() -> None:
    may_end = threading.Event()
    async with schedules(lambda app: app.every(60, may_end.wait, name="work", jitter=0, timeout=0.01)) as served:
        item = await served.when("work", last_result="failure")
        assert (item["state"], item["next_start"]) == ("running", None)
        may_end.set()
        await served.when("work", state="waiting")


async def test_work_with_a_lease_stands_by_while_another_instance_does_it() -> None:
    lease = MemoryLease()
    await lease.acquire("work", "another instance", 3600)
    async with schedules(lambda app: app.every(60, lambda: IDLE, name="work", jitter=0, lease=lease)) as served:
        item = await served.when("work", state="standby")
        assert (item["has_lease"], item["last_start"]) == (True, None)
        await lease.release("work", "another instance")


async def test_work_that_had_nothing_to_do_is_idle() -> None:
    async with schedules(lambda app: app.every(60, lambda: IDLE, name="work", jitter=0)) as served:
        await served.when("work", last_result="idle", failures=0, last_error=None)


async def test_work_of_the_pod_is_listed_by_the_worker_that_does_it() -> None:
    def add(app: App) -> None:
        app.every(60, lambda: None, name="each")
        app.every(60, lambda: None, name="pod", once_per="pod")

    WorkerSlot.number = 1
    try:
        async with schedules(add) as served:
            assert [*await served.get()] == ["each"]
            served.app.begin_pod_work()
            assert [*await served.get()] == ["each", "pod"]
    finally:
        WorkerSlot.number = None
