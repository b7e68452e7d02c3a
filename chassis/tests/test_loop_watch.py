"""Code that holds the event loop is seen, and named."""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncIterator

import pytest
from opentelemetry import context as otel_context

from chassis import Handler, Route
from chassis.context import RequestContext
from chassis.request_info import RequestInfo
from chassis.response_sender import NO_HEADERS
from chassis.telemetry.loop_watch import current_request
from chassis.telemetry.observation import Observation, ObservationRules

from .support.process import PROGRAM, run
from .support.service import Service, serve, until


class Blocking(Handler):
    """Forgets that it shares the loop."""

    async def get(self, seconds: float) -> str:
        work(seconds)
        return "done"

    async def post(self, seconds: float) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(work_later(seconds))
        return "done"


def work(seconds: float) -> None:
    time.sleep(seconds)


async def work_later(seconds: float) -> None:
    work(seconds)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    async with serve(Route("/blocking/{seconds}", Blocking())) as service:
        yield service


async def test_handler_that_blocks_is_warned_of_once_with_its_route(service: Service) -> None:
    # In the same process as the client, so the response comes when the loop is free again.
    answer = await service.client.get("/blocking/1.2")
    assert answer.status_code == 200
    await until(lambda: service.seen.events("request"))
    (warning,) = service.seen.events("event loop is blocked")
    assert (warning["level"], warning["method"], warning["route"]) == ("warning", "GET", "/blocking/{seconds}")
    assert warning["request_id"] == answer.headers["x-request-id"]
    assert warning["at"][0].endswith(" work")
    assert warning["at"][1].endswith(" Blocking.get")
    assert 0.5 <= warning["late_seconds"] < 1.2
    async with asyncio.timeout(5):
        while not await lagged(service):
            await asyncio.sleep(0.02)


async def lagged(service: Service) -> bool:
    """Whether the metric has seen half a second or more."""
    short = await service.sample("event_loop_lag_seconds_bucket", le="0.5")
    return await service.sample("event_loop_lag_seconds_count") > short


async def test_task_of_a_handler_that_blocks_is_warned_of_with_its_route(service: Service) -> None:
    assert (await service.client.post("/blocking/1.0")).status_code == 200
    (warning,) = service.seen.events("event loop is blocked")
    assert warning["at"][1].endswith(" work_later")
    # Python 3.11 does not tell the context variables of another task.
    assert warning.get("route") == ("/blocking/{seconds}" if sys.version_info >= (3, 12) else None)


async def test_request_is_found_however_the_variables_around_it_are_called() -> None:
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    others = [observation_of("/other"), observation_of("/another")]
    found: list[Observation | None] = []

    async def layer(active: set[Observation]) -> Observation:
        x = observation_of("/this")
        active.add(x)
        y = otel_context.attach(x.context)

        def look() -> None:
            found.append(current_request(loop, sys._current_frames()[thread], active))

        looking = threading.Thread(target=look)
        looking.start()
        looking.join()  # which blocks the loop
        otel_context.detach(y)
        return x

    expected = await asyncio.create_task(layer(set(others)))
    assert found == [expected]


async def test_no_request_is_found_outside_of_one() -> None:
    assert current_request(asyncio.get_running_loop(), sys._getframe(), {observation_of("/other")}) is None


def observation_of(path: str) -> Observation:
    """A request in progress."""

    async def send(message: object) -> None: ...

    context = RequestContext("1" * 32, "2" * 16, "", False)
    rules = ObservationRules(lambda observation: None, NO_HEADERS, 0, None)
    return Observation({"path": path}, "GET", RequestInfo(), context, send, rules)


async def test_what_blocks_outside_of_a_request_is_warned_of_as_well(service: Service) -> None:
    await asyncio.sleep(0)
    work(1.0)
    await until(lambda: service.seen.events("event loop is blocked"))
    (warning,) = service.seen.events("event loop is blocked")
    assert "route" not in warning
    assert warning["at"][0].endswith(" work")


async def test_short_work_is_not_warned_of(service: Service) -> None:
    for _ in range(5):
        assert (await service.client.get("/blocking/0.05")).status_code == 200
    assert service.seen.events("event loop is blocked") == []


async def test_thread_that_computes_lets_the_loop_go_on_soon() -> None:
    async with run("-m", PROGRAM) as process:
        client = await process.client()
        assert (await client.get("/switch-interval")).json() < 0.001
