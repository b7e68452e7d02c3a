"""The deadline for the start of a response."""

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from starlette.responses import Response, StreamingResponse

from chassis import Handler, Problem, Route

from .support.service import Service, serve

DEADLINE_SECONDS = 0.1


class Slow(Handler):
    """Never responds, but for `released`."""

    def __init__(self) -> None:
        self.cleaned = asyncio.Event()
        self.released = threading.Event()

    async def get(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleanup may await
            self.cleaned.set()

    async def put(self) -> str:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.Event().wait())
        return "never"

    async def patch(self) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise Problem(409, "Stopped half way.") from error
        return "never"

    def delete(self) -> None:
        self.released.wait(5)  # a thread, which nothing can cancel


class Stream(Handler):
    """Begins at once, and takes longer than the deadline."""

    async def get(self) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield "begun,"
            await asyncio.sleep(2 * DEADLINE_SECONDS)
            yield "ended"

        return StreamingResponse(stream())


class Quick(Handler):
    """Responds at once."""

    async def get(self) -> str:
        return "quick"


slow = Slow()


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    routes = [Route("/slow", slow), Route("/stream", Stream()), Route("/quick", Quick())]
    async with serve(*routes, deadline_seconds=DEADLINE_SECONDS) as service:
        yield service
        slow.released.set()


async def test_slow_handler_is_504(service: Service) -> None:
    answer = await service.client.get("/slow")
    assert answer.status_code == 504
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["title"] == "Gateway Timeout"


async def test_cleanup_of_a_slow_handler_runs(service: Service) -> None:
    slow.cleaned.clear()
    assert (await service.client.get("/slow")).status_code == 504
    assert slow.cleaned.is_set()


async def test_task_group_of_a_slow_handler_is_504(service: Service) -> None:
    assert (await service.client.put("/slow")).status_code == 504


async def test_thread_of_a_slow_handler_is_504(service: Service) -> None:
    assert (await service.client.delete("/slow")).status_code == 504


async def test_handler_may_respond_to_its_cancellation_itself(service: Service) -> None:
    assert (await service.client.patch("/slow")).status_code == 409


async def test_stream_may_go_on_past_the_deadline(service: Service) -> None:
    assert (await service.client.get("/stream")).text == "begun,ended"


async def test_connection_is_usable_after_a_timeout(service: Service) -> None:
    for path, status in (("/slow", 504), ("/quick", 200), ("/stream", 200), ("/quick", 200)):
        assert (await service.client.get(path)).status_code == status


async def test_each_request_has_its_own_deadline(service: Service) -> None:
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(service.client.get(path)) for path in ("/slow", "/quick", "/slow", "/stream")]
    assert [one.result().status_code for one in asked] == [504, 200, 504, 200]


async def test_timeouts_are_counted(service: Service) -> None:
    before = await service.sample("http_server_timed_out_requests_total")
    await service.client.get("/slow")
    assert await service.sample("http_server_timed_out_requests_total") == before + 1


async def test_timeout_is_in_the_access_line_without_a_traceback(service: Service) -> None:
    await service.fresh()
    await service.client.get("/slow")
    line = await service.access_line()
    assert (line["status"], line["level"]) == (504, "error")
    assert not any("exception" in one for one in service.seen.lines)
