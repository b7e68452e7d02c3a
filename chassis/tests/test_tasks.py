"""Background tasks: supervised while they run, and ended in order."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from chassis import Handler, Route

from .support.service import Service, serve, until


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


async def test_failure_of_one_leaves_the_others() -> None:
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


async def test_tasks_get_what_the_requests_leave_of_the_time() -> None:
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


async def test_endless_loop_is_cancelled_at_once_and_not_complained_of() -> None:
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


async def test_endless_loop_may_clean_up_when_no_time_is_left() -> None:
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


async def test_task_that_ignores_its_cancellation_does_not_hold_up_the_end() -> None:
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
