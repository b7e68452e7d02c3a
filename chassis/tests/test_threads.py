"""The threads of `def` handlers: bounded, returned when the function ends, and safe for any exception."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from chassis import Handler, Problem, Route
from chassis.threads import Threads

from .support.service import Service, serve, until


class Hanging(Handler):
    """Hangs in its thread until the test releases it."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.entered = 0

    def get(self) -> str:
        self.entered += 1
        self.released.wait(30)
        return "at last"


class Quick(Handler):
    """Responds at once, in a thread."""

    def get(self) -> str:
        return threading.current_thread().name


@asynccontextmanager
async def hanging(**settings: Any) -> AsyncIterator[tuple[Service, Hanging]]:
    """A service whose handler hangs in its thread, until the end."""
    handler = Hanging()
    async with serve(Route("/hanging", handler), Route("/quick", Quick()), **settings) as service:
        try:
            yield service, handler
        finally:
            handler.released.set()


def handler_threads() -> int:
    """The threads of handlers in this process."""
    return sum(thread.name == "handler" for thread in threading.enumerate())


async def leave(service: Service, path: str, count: int) -> None:
    """Ask as many times, and leave without waiting for a response."""
    request = f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()
    writers = []
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(request)
        writers.append(writer)
    await service.under_way(count)
    for writer in writers:
        writer.close()
    await service.under_way(0)


async def test_clients_that_disconnect_use_no_further_threads() -> None:
    before = handler_threads()
    async with hanging(threads=3) as (service, handler):
        for _ in range(3):
            await leave(service, "/hanging", 3)
        assert handler.entered == 3
        assert handler_threads() <= before + 3
        assert await service.sample("handler_threads") == 3
        assert await service.sample("handler_threads_max") == 3
        handler.released.set()
        assert (await service.client.get("/quick")).json() == "handler"
    assert handler.entered == 3  # what waited for a thread was not called any more


async def test_requests_beyond_the_threads_and_as_many_that_wait_are_shed() -> None:
    async with hanging(threads=2) as (service, handler):
        asked = [asyncio.create_task(service.client.get("/hanging")) for _ in range(2)]
        await until(lambda: handler.entered == 2)
        waiting = [asyncio.create_task(service.client.get("/hanging")) for _ in range(2)]
        await service.under_way(4)
        shed = await service.client.get("/quick")
        assert (shed.status_code, shed.headers["retry-after"]) == (503, "1")
        assert shed.json()["detail"] == "All threads of the service are busy; retry later."
        assert await service.sample("http_server_shed_requests_total", reason="threads") == 1
        handler.released.set()
        assert [(await response).json() for response in (*asked, *waiting)] == ["at last"] * 4


async def test_request_that_waits_too_long_for_a_thread_is_shed() -> None:
    async with hanging(threads=1) as (service, handler):
        asked = asyncio.create_task(service.client.get("/hanging"))
        await until(lambda: handler.entered)
        assert (await service.client.get("/quick")).status_code == 503
        assert await service.sample("http_server_shed_requests_total", reason="threads") == 1
        handler.released.set()
        assert (await asked).json() == "at last"


async def test_thread_is_free_after_the_deadline_only_when_its_function_has_ended() -> None:
    async with hanging(threads=1, deadline_seconds=1) as (service, handler):
        assert (await service.client.get("/hanging")).status_code == 504
        assert service.app.threads.in_use == 1
        handler.released.set()
        await until(lambda: service.app.threads.in_use == 0)
        assert (await service.client.get("/quick")).status_code == 200


async def test_checks_do_not_wait_for_the_threads_of_handlers() -> None:
    async with hanging(threads=1) as (service, handler):
        asked = asyncio.create_task(service.client.get("/hanging"))
        await until(lambda: handler.entered)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: True), 5)
        assert (await service.client.get("/readyz")).status_code == 200
        handler.released.set()
        await asked


async def test_function_sees_the_context_variables_of_its_caller() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="none")
    threads = Threads(1)
    variable.set("set")
    assert await threads.run(variable.get) == "set"


async def test_threads_are_used_again_and_are_daemons() -> None:
    threads = Threads(5)
    used = {await threads.run(threading.current_thread) for _ in range(20)}
    assert [thread.daemon for thread in used] == [True]


async def test_many_calls_get_their_own_results() -> None:
    threads = Threads(4)

    async def ask(number: int) -> int:
        while True:
            try:
                return await threads.run(lambda: number)
            except Problem:
                await asyncio.sleep(0.001)

    assert await asyncio.gather(*(ask(number) for number in range(500))) == list(range(500))
    await until(lambda: threads.in_use == 0)


async def test_cancelled_caller_that_waits_gives_its_place_to_others() -> None:
    threads, release = Threads(1), threading.Event()
    running = asyncio.create_task(threads.run(release.wait))
    await until(lambda: threads.in_use)
    for _ in range(3):
        waiting = asyncio.create_task(threads.run(lambda: "unused"))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    last = asyncio.create_task(threads.run(lambda: "last"))
    await asyncio.sleep(0)
    release.set()
    assert (await running, await last) == (True, "last")


RAISED = [StopIteration, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, BaseException]


@pytest.mark.parametrize("error", RAISED)
async def test_anything_that_a_def_handler_raises_is_500_with_a_traceback(error: type[BaseException]) -> None:
    class Raising(Handler):
        def get(self) -> None:
            raise error("internal detail")

    async with serve(Route("/", Raising())) as service:
        response = await service.client.get("/")
        assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
        (line,) = await until(lambda: service.seen.events("unhandled exception"))
        assert f"{error.__name__}: internal detail" in line["exception"]
        assert line["request_id"] == response.headers["x-request-id"]
        assert (await service.access_line())["status"] == 500


@pytest.mark.parametrize("error", [StopIteration, SystemExit, KeyboardInterrupt])
async def test_exception_that_would_end_the_process_is_500_in_an_async_handler_too(error: type[BaseException]) -> None:
    class Raising(Handler):
        async def get(self) -> None:
            raise error("internal detail")

    async with serve(Route("/", Raising())) as service:
        assert (await service.client.get("/")).status_code == 500
        (line,) = await until(lambda: service.seen.events("unhandled exception"))
        assert f"{error.__name__}: internal detail" in line["exception"]
        assert (await service.access_line())["status"] == 500


async def test_access_line_of_any_failure_is_500() -> None:
    class Raising(Handler):
        async def get(self) -> None:
            raise GeneratorExit

    async with serve(Route("/", Raising())) as service:
        assert (await service.client.get("/")).status_code == 500
        assert (await service.access_line())["status"] == 500


@pytest.mark.parametrize("call", [lambda: sys.exit(3), lambda: next(iter(()))])
async def test_error_of_a_thread_is_an_exception_with_its_cause(call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="was raised") as raised:
        await Threads(1).run(call)
    assert isinstance(raised.value.__cause__, (SystemExit, StopIteration))
