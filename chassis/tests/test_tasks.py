"""Background tasks: supervised while they run, and ended in order."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog

from chassis import App, Handler, Route, Server, Tasks

from .support.application import make_app
from .support.service import Service, connect, observed, serve, until


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(shutdown_seconds=5.0) as service:
        yield service


async def test_task_runs_beside_the_requests(service: Service) -> None:
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    service.app.tasks.start(work(), name="work")
    async with asyncio.timeout(5):
        await done.wait()


async def test_tasks_are_counted_by_name(service: Service) -> None:
    gate = asyncio.Event()
    for _ in range(3):
        service.app.tasks.start(gate.wait(), name="waiting")
    assert await service.sample("background_tasks", task="waiting") == 3
    gate.set()
    await asyncio.sleep(0)
    assert await service.sample("background_tasks", task="waiting") == 0


async def test_failure_is_logged_with_traceback_and_counted(service: Service) -> None:
    async def fail() -> None:
        raise RuntimeError("internal detail")

    service.app.tasks.start(fail(), name="failing")
    (line,) = await until(lambda: service.seen.events("background task failed"))
    assert (line["task"], line["level"]) == ("failing", "error")
    assert "RuntimeError: internal detail" in line["exception"]
    assert await service.sample("background_tasks_failed_total", task="failing") == 1


async def test_failures_of_a_task_are_counted_from_0_so_that_the_first_one_is_an_increase(service: Service) -> None:
    gate = asyncio.Event()
    service.app.tasks.start(gate.wait(), name="patient")
    assert await service.sample("background_tasks", task="patient") == 1
    page = (await service.client.get("/metrics")).text
    gate.set()
    assert 'background_tasks_failed_total{task="patient"} 0.0' in page


async def test_failure_of_one_task_does_not_affect_the_others() -> None:
    gate, ended = asyncio.Event(), asyncio.Event()

    async def fail() -> None:
        raise RuntimeError

    async def work() -> None:
        await gate.wait()
        ended.set()

    async with serve() as service:
        service.app.tasks.start(work(), name="work")
        service.app.tasks.start(fail(), name="failing")
        await until(lambda: service.seen.events("background task failed"))
        gate.set()
        await asyncio.wait_for(ended.wait(), 5)


async def test_task_is_awaited_at_the_end() -> None:
    ended = False

    async def work() -> None:
        nonlocal ended
        await asyncio.sleep(0.3)  # longer than the listener takes to close
        ended = True

    async with serve(shutdown_seconds=5.0) as service:
        service.app.tasks.start(work(), name="work")
    assert ended


async def test_task_that_takes_too_long_is_cancelled_and_named() -> None:
    cleaned = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with serve(shutdown_seconds=0.2) as service:
        service.app.tasks.start(work(), name="work")
        service.server.stop()
        (line,) = await until(lambda: service.seen.events("background tasks cancelled at shutdown"), seconds=10)
    assert cleaned.is_set()
    assert (line["tasks"], line["count"]) == (["work"], 1)


async def test_tasks_get_the_time_that_remains_after_the_requests() -> None:
    entered = asyncio.Event()

    class Endless(Handler):
        async def get(self) -> None:
            entered.set()
            await asyncio.Event().wait()

    async with serve(Route("/", Endless()), shutdown_seconds=2.0) as service:
        service.app.tasks.start(asyncio.Event().wait(), name="endless")
        asked = asyncio.create_task(service.client.get("/"))
        await entered.wait()
        async with asyncio.timeout(3.5):
            service.server.stop()
            await until(lambda: service.seen.events("stopped"), seconds=5)
        assert (await asked).status_code == 503
        assert service.seen.events("background tasks cancelled at shutdown")[0]["tasks"] == ["endless"]


async def test_endless_loop_is_cancelled_at_once_without_a_warning() -> None:
    cleaned = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    async with serve(shutdown_seconds=60.0, drain_seconds=0.0) as service:
        service.app.tasks.start(loop(), name="loop", until_stopped=True)
        service.server.stop()
        await until(lambda: service.seen.events("stopped"))
        assert service.seen.events("background tasks cancelled at shutdown") == []
    assert cleaned.is_set()


async def test_endless_loop_may_clean_up_after_the_time_limit() -> None:
    cleaned = asyncio.Event()

    async def loop() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned.set()

    async with serve(shutdown_seconds=0.0) as service:
        service.app.tasks.start(loop(), name="loop", until_stopped=True)
        await asyncio.sleep(0)
        await service.app.tasks.stop(0.0)
        assert cleaned.is_set()
        assert service.seen.events("background tasks cancelled at shutdown") == []


async def test_task_that_ignores_its_cancellation_does_not_delay_the_end() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(10):
        async with serve(shutdown_seconds=0.0) as service:
            service.app.tasks.start(stubborn(), name="stubborn")
    release.set()


async def test_task_may_be_started_in_the_thread_of_a_def_handler(service: Service) -> None:
    done = asyncio.Event()

    class Start(Handler):
        def post(self) -> None:
            service.app.tasks.start(self._work(), name="from a thread")

        async def _work(self) -> None:
            structlog.get_logger().info("worked")
            done.set()

    async with serve(Route("/", Start())) as other:
        response = await other.client.post("/")
        assert response.status_code == 204
        await asyncio.wait_for(done.wait(), 5)
        (line,) = await until(lambda: other.seen.events("worked"))
        assert line["request_id"] == response.headers["x-request-id"]


async def test_task_that_no_event_loop_can_run_is_an_error() -> None:
    async def work() -> None:
        raise AssertionError

    with observed() as seen:
        tasks = Tasks(seen.telemetry)
        with pytest.raises(RuntimeError, match="has not started"):
            await asyncio.to_thread(tasks.start, work(), name="work")


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()])
async def test_any_exception_of_a_task_is_its_failure(service: Service, error: BaseException) -> None:
    async def fail() -> None:
        raise error

    service.app.tasks.start(fail(), name=f"raises {type(error).__name__}")
    (line,) = await until(
        lambda: [line for line in service.seen.events("background task failed") if type(error).__name__ in line["task"]]
    )
    assert type(error).__name__ in line["exception"]


class Consumer:
    """Work that fails a few times, and then goes on."""

    def __init__(self, failures: int) -> None:
        self.begun = 0
        self._failures = failures

    async def work(self) -> None:
        self.begun += 1
        if self.begun <= self._failures:
            raise ConnectionRefusedError("no broker")
        await asyncio.Event().wait()


@asynccontextmanager
async def with_background(work: Callable[[], Coroutine[Any, Any, object]], **options: Any) -> AsyncIterator[Service]:
    """A service with a background task."""
    with observed() as seen:
        app = make_app(seen.telemetry, shutdown_seconds=5.0)
        app.add_background_task("consumer", work, **options)
        async with Server(app) as server, connect(server.port) as client:
            yield Service(app, server, client, seen)


async def test_background_task_that_fails_is_restarted_logged_and_counted() -> None:
    consumer = Consumer(failures=1)
    async with with_background(consumer.work) as service:
        (line,) = await until(lambda: service.seen.events("background task failed"))
        assert 0.5 <= line["restart_in_seconds"] <= 1.0
        assert "no broker" in line["exception"]
        await until(lambda: consumer.begun == 2)
        assert await service.sample("background_tasks_failed_total", task="consumer") == 1
        assert await service.sample("background_tasks_restarted_total", task="consumer") == 1
        assert await service.sample("background_tasks", task="consumer") == 1


async def test_required_background_task_makes_the_service_unready_while_it_is_down() -> None:
    consumer = Consumer(failures=1)
    async with with_background(consumer.work, required=True) as service:
        await until(lambda: service.seen.events("background task failed"))
        response = await service.client.get("/readyz")
        assert response.status_code == 503
        assert response.json()["checks"]["background task consumer"]["status"] == "fail"
        await until(lambda: consumer.begun == 2)
        async with asyncio.timeout(10):
            while (await service.client.get("/readyz")).status_code != 200:
                await asyncio.sleep(0.02)


async def test_background_task_without_restart_stays_down() -> None:
    consumer = Consumer(failures=1)
    async with with_background(consumer.work, restart=False, required=True) as service:
        (line,) = await until(lambda: service.seen.events("background task failed"))
        assert "restart_in_seconds" not in line
        assert (await service.client.get("/readyz")).status_code == 503
        await asyncio.sleep(1.1)
        assert consumer.begun == 1
        assert await service.sample("background_tasks_failed_total", task="consumer") == 1


async def test_background_task_that_returns_is_complete() -> None:
    consumer = Consumer(failures=0)

    async def work() -> None:
        consumer.begun += 1

    async with with_background(work, required=True) as service:
        await until(lambda: consumer.begun)
        assert (await service.client.get("/readyz")).status_code == 200
        await asyncio.sleep(1.1)
    assert consumer.begun == 1


async def test_background_task_that_waits_for_its_restart_does_not_delay_the_shutdown() -> None:
    consumer = Consumer(failures=99)
    async with asyncio.timeout(4):
        async with with_background(consumer.work, ends_when_draining=True) as service:
            await until(lambda: service.seen.events("background task failed"))


async def test_background_task_that_ends_when_draining_finishes_its_item() -> None:
    finished = False

    async def work() -> None:
        nonlocal finished
        while not (app and app[0].draining.is_set()):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        finished = True

    app: list[App] = []
    async with with_background(work, ends_when_draining=True) as service:
        app.append(service.app)
    assert finished
