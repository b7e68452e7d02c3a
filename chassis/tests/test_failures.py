"""Exceptions that escape from a handler: the client gets a general message, and the log the details, once."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import pytest
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from chassis import Handler, Problem, Route

from .support.service import SAMPLED, TRACE_ID, Line, Service, serve, until


async def fail(error: Exception) -> None:
    """Raise, one iteration of the loop later."""
    await asyncio.sleep(0)
    raise error


class Failing(Handler):
    """Fails in many ways."""

    async def get(self) -> None:
        raise RuntimeError("internal detail")

    async def post(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(Problem(409, "No.", headers={"x-why": "because"})))
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(Problem(409, "No.", headers={"x-why": "because"})))

    async def put(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail(Problem(409, "No.")))
            group.create_task(fail(RuntimeError("internal detail")))

    async def patch(self) -> None:
        raise Problem(
            402, "Your balance is 3.", type="https://example.com/credit", title="Out of credit", balance=3, at={1, 2}
        )

    async def delete(self) -> None:
        raise HTTPException(410, "Long gone.", {"x-why": "age"})


class HalfAnswer(Handler):
    """Fails after the response has begun."""

    async def get(self) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield "half"
            raise RuntimeError("internal detail")

        return StreamingResponse(stream(), headers={"content-length": "8"})


class Threaded(Handler):
    """Fails in a thread."""

    def get(self) -> None:
        raise RuntimeError("internal detail")

    def post(self) -> None:
        raise Problem(409, "No.")


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    routes = [Route("/failing", Failing()), Route("/half", HalfAnswer()), Route("/thread", Threaded())]
    async with serve(*routes) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    return await running.fresh()


async def traceback(service: Service) -> Line:
    """The only log line with a traceback, when the request is over."""
    await service.access_line()
    (line,) = [line for line in service.seen.lines if "exception" in line]
    return line


@pytest.mark.parametrize("path", ["/failing", "/thread"])
async def test_unhandled_exception_is_500_that_shows_nothing_internal(service: Service, path: str) -> None:
    response = await service.client.get(path, headers=SAMPLED)
    assert response.json() == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "detail": "The service failed to handle the request; the error is in its log.",
        "trace_id": TRACE_ID,
    }


async def test_unhandled_exception_is_logged_once_with_traceback_and_ids(service: Service) -> None:
    await service.client.get("/failing", headers={**SAMPLED, "x-request-id": "mine"})
    line = await traceback(service)
    assert 'RuntimeError("internal detail")' in line["exception"]
    assert "RuntimeError: internal detail" in line["exception"]
    assert (line["level"], line["request_id"], line["trace_id"]) == ("error", "mine", TRACE_ID)
    assert line["span_id"] == (await service.access_line())["span_id"]


async def test_access_line_of_a_failure_is_an_error(service: Service) -> None:
    await service.client.get("/failing")
    line = await service.access_line()
    assert (line["status"], line["level"]) == (500, "error")


async def test_connection_is_usable_after_a_failure(service: Service) -> None:
    for _ in range(2):
        response = await service.client.get("/failing")
        assert "connection" not in response.headers


async def test_problem_is_sent_unchanged(service: Service) -> None:
    response = await service.client.patch("/failing")
    assert response.status_code == 402
    document = response.json()
    assert {**document, "trace_id": "", "at": ""} == {
        "type": "https://example.com/credit",
        "title": "Out of credit",
        "status": 402,
        "detail": "Your balance is 3.",
        "balance": 3,
        "at": "",
        "trace_id": "",
    }


async def test_expected_failure_has_no_traceback(service: Service) -> None:
    await service.client.patch("/failing")
    await service.access_line()
    assert not [line for line in service.seen.lines if "exception" in line]


async def test_exception_of_starlette_becomes_a_problem(service: Service) -> None:
    response = await service.client.delete("/failing")
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.json()["title"], response.json()["detail"], response.headers["x-why"]) == (
        "Gone",
        "Long gone.",
        "age",
    )


async def test_group_of_problems_is_the_problem(service: Service) -> None:
    response = await service.client.post("/failing")
    assert (response.status_code, response.json()["detail"], response.headers["x-why"]) == (409, "No.", "because")


async def test_group_with_anything_else_is_500(service: Service) -> None:
    assert (await service.client.put("/failing")).status_code == 500
    assert "internal detail" in (await traceback(service))["exception"]


async def test_problem_from_a_thread_is_the_problem(service: Service) -> None:
    assert (await service.client.post("/thread")).status_code == 409


async def test_exception_after_the_response_has_begun_closes_the_connection(service: Service) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(b"GET /half HTTP/1.1\r\nhost: x\r\n\r\n")
    response = await asyncio.wait_for(reader.read(), 5)  # to the end of the connection
    writer.close()
    assert response.endswith(b"half")


async def test_exception_after_the_response_has_begun_is_logged_once(service: Service) -> None:
    with pytest.raises(Exception, match=r"closed connection|incomplete"):
        await service.client.get("/half")
    line = await service.access_line()
    assert (line["status"], line["error"], line["response_bytes"]) == (200, "RuntimeError", 4)
    await until(lambda: [one for one in service.seen.lines if "exception" in one])
    assert "internal detail" in (await traceback(service))["exception"]


async def test_client_that_disconnects_while_sending_is_499(service: Service) -> None:
    class Reading(Handler):
        async def post(self, body: str) -> None: ...

    async with serve(Route("/", Reading())) as other:
        _, writer = await asyncio.open_connection("127.0.0.1", other.server.port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf of it")
        await other.under_way(1)
        writer.close()
        line = await other.access_line()
        assert (line["status"], line["level"], line["request_bytes"]) == (499, "info", 10)
        assert not [one for one in other.seen.lines if "exception" in one]


class Leaving(Handler):
    """The client does not wait for its response."""

    def __init__(self) -> None:
        self.cleaned = asyncio.Event()
        self.finished = asyncio.Event()

    async def get(self) -> str:
        try:
            await asyncio.sleep(20)
        finally:
            await asyncio.sleep(0)  # cleanup may await
            self.cleaned.set()
        return "done"

    async def put(self) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"more"
                    await asyncio.sleep(0.01)
            finally:
                self.cleaned.set()

        return StreamingResponse(stream())

    async def delete(self, request: Request) -> None:
        async def go_on() -> None:
            await self.cleaned.wait()
            self.finished.set()

        request.app.tasks.start(go_on(), name="go on")
        await self.get()

    async def patch(self) -> Response:
        return Response(b"sent", background=BackgroundTask(self.go_on))

    async def go_on(self) -> None:
        await asyncio.sleep(0.2)
        self.finished.set()


async def leave(service: Service, method: str) -> None:
    """Send a request, and disconnect as soon as it is under way."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
    writer.write(f"{method} / HTTP/1.1\r\nhost: x\r\n\r\n".encode())
    await service.under_way(1)
    writer.close()
    await service.under_way(0)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_request_whose_client_disconnects_is_cancelled_and_cleans_up(method: str) -> None:
    leaving = Leaving()
    async with serve(Route("/", leaving)) as service:
        await leave(service, method)
        assert leaving.cleaned.is_set()
        line = await service.access_line()
        assert (line["status"], line["level"], "error" in line) == (499, "info", False)
        assert [one for one in service.seen.lines if one["level"] != "info"] == []
        if method == "DELETE":  # what must be done in any case is a task of its own
            await asyncio.wait_for(leaving.finished.wait(), 5)


async def test_request_whose_client_has_gone_before_it_began_has_its_line() -> None:
    leaving = Leaving()
    async with serve(Route("/", leaving)) as service:

        def ask_and_leave() -> None:
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", service.server.port)) as connection:
                    connection.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")

        # While the event loop is held up, so that it reads the request and the end together.
        thread = threading.Thread(target=ask_and_leave)
        thread.start()
        thread.join()
        assert [line["status"] for line in await service.access_lines(20)] == [499] * 20
        await service.under_way(0)


async def test_stream_whose_client_has_gone_is_ended_and_cleans_up() -> None:
    leaving = Leaving()
    async with serve(Route("/", leaving)) as service:
        await leave(service, "PUT")
        await asyncio.wait_for(leaving.cleaned.wait(), 5)
        line = await service.access_line()
        assert (line["status"], "error" in line) == (200, False)
        assert [one for one in service.seen.lines if one["level"] != "info"] == []


async def test_work_after_the_response_is_done_although_the_client_has_disconnected() -> None:
    leaving = Leaving()
    async with serve(Route("/", leaving)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(b"PATCH / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"sent")
        writer.close()
        await asyncio.wait_for(leaving.finished.wait(), 5)


async def test_phrases_are_those_of_the_standard_on_every_python(service: Service) -> None:
    class Statuses(Handler):
        async def get(self, status: int) -> None:
            raise Problem(status)

    async with serve(Route("/{status}", Statuses())) as other:
        titles = {
            status: (await other.client.get(f"/{status}")).json()["title"] for status in (413, 414, 416, 422, 599)
        }
    assert titles == {
        413: "Content Too Large",
        414: "URI Too Long",
        416: "Range Not Satisfiable",
        422: "Unprocessable Content",
        599: "Unknown",
    }
