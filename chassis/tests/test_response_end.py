"""How a response ends: completely, with an exception before, in or after it, and when it counts as ended."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import pytest
from opentelemetry.trace import StatusCode
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount
from starlette.routing import Route as StarletteRoute
from starlette.types import Message, Receive, Scope, Send

from chassis import Handler, Route

from .support.listener import listening
from .support.service import SAMPLED, TRACE_ID, Line, Service, exchange, observed, serve, until

GET = b"GET %s HTTP/1.1\r\nhost: x\r\n\r\n"
LAST = b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def of(work: Callable[[], Awaitable[Response]]) -> Handler:
    """A handler that does this for GET and POST."""

    class Working(Handler):
        async def get(self) -> Response:
            return await work()

    return Working()


def start(status: int = 200, *headers: tuple[bytes, bytes]) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(part: bytes, *, more_body: bool = False) -> Message:
    return {"type": "http.response.body", "body": part, "more_body": more_body}


async def fail(seconds: float = 0) -> None:
    """Fail, at once or later."""
    if seconds:
        await asyncio.sleep(seconds)
    raise RuntimeError("internal detail")


async def tracebacks(service: Service) -> list[Line]:
    """The lines with a traceback, once there is one."""
    return await until(lambda: [line for line in service.seen.lines if "exception" in line])


# Exceptions in a response that has started.


async def fails_in_the_stream() -> Response:
    async def parts() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0.01)
        raise RuntimeError("internal detail")

    return StreamingResponse(parts())


async def test_stream_that_fails_is_an_error_everywhere() -> None:
    async with serve(Route("/", of(fails_in_the_stream))) as service:
        with pytest.raises(Exception, match=r"incomplete|closed connection"):
            await service.client.get("/", headers={**SAMPLED, "x-request-id": "mine"})
        line = await service.access_line()
        assert (line["level"], line["status"], line["error"]) == ("error", 200, "RuntimeError")
        (logged,) = await tracebacks(service)
        assert (logged["request_id"], logged["trace_id"]) == ("mine", TRACE_ID)
        assert "internal detail" in logged["exception"]
        (span,) = await service.spans()
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert (span.attributes["error.type"], span.attributes["http.response.status_code"]) == ("RuntimeError", 200)


async def fails_before_the_first_part() -> Response:
    async def parts() -> AsyncIterator[bytes]:
        await fail()
        yield b""

    return StreamingResponse(parts())


async def has_too_long_content() -> Response:
    return Response(b"too long", headers={"content-length": "3"})


async def has_too_short_content() -> Response:
    return Response(b"short", headers={"content-length": "30"})


@pytest.mark.parametrize("work", [fails_before_the_first_part, has_too_long_content, has_too_short_content])
async def test_failure_before_the_first_part_is_500_and_keeps_the_connection(
    work: Callable[[], Awaitable[Response]],
) -> None:
    async with serve(Route("/", of(work))) as service:
        response = await exchange(service.server.port, GET % b"/" + LAST % b"/healthz")
        head, _, content = response.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert (head.count(b"content-type: "), head.count(b"content-length: ")) == (1, 1)
        assert b'"trace_id":"' in content
        assert b"HTTP/1.1 200 OK" in content  # the next request's
        line = await service.access_line()
        assert (line["status"], line["error"], line["level"]) == (500, "RuntimeError", "error")
        assert len(await tracebacks(service)) == 1


@pytest.mark.parametrize("messages", [[], [start()]])
async def test_application_that_returns_without_a_response_is_500_with_a_line(messages: list[Message]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    async with serve(Mount("/none", app)) as service:
        response = await service.client.get("/none/")
        assert (response.status_code, response.json()["status"]) == (500, 500)
        assert (await service.access_line())["status"] == 500


async def test_response_may_not_start_twice() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(start())

    with observed() as seen:
        async with listening(app) as listener:
            assert (await exchange(listener.port, GET % b"/")).startswith(b"HTTP/1.1 500 ")
        (line,) = seen.lines
        assert "got 'http.response.start'" in line["exception"]


async def test_system_exit_in_a_handler_is_500() -> None:
    async def leave() -> Response:
        raise SystemExit(3)

    async with serve(Route("/", of(leave))) as service:
        assert (await service.client.get("/")).status_code == 500
        assert (await service.access_line())["status"] == 500
        assert len(await tracebacks(service)) == 1


# Exceptions after a complete response.


async def fails_in_the_background() -> Response:
    return Response(b"ok", background=BackgroundTask(fail))


async def fails_later_in_the_background() -> Response:
    return Response(b"ok", background=BackgroundTask(fail, 0.02))


@pytest.mark.parametrize("work", [fails_in_the_background, fails_later_in_the_background])
async def test_failing_background_task_is_logged_and_leaves_the_connection_alone(
    work: Callable[[], Awaitable[Response]],
) -> None:
    async with serve(Route("/", of(work))) as service:
        response = await exchange(service.server.port, GET % b"/" + GET % b"/" + LAST % b"/openapi.json")
        assert response.count(b"HTTP/1.1 200 OK") == 3
        lines = await service.access_lines(3)
        assert [(line["status"], line["level"], "error" in line) for line in lines] == [(200, "info", False)] * 3
        logged = await until(lambda: found if len(found := service.seen.events("unhandled exception")) == 2 else [])
        assert sorted(line["request_id"] for line in logged) == sorted(line["request_id"] for line in lines[:2])
        assert all("internal detail" in line["exception"] and line["after_response"] for line in logged)


async def test_mounted_application_that_raises_after_its_own_500_keeps_the_connection() -> None:
    async def broken(_request: Request) -> Response:
        raise RuntimeError("internal detail")

    mounted = Starlette(routes=[StarletteRoute("/", broken)])
    async with serve(Mount("/old", mounted)) as service:
        response = await exchange(service.server.port, GET % b"/old/" + LAST % b"/openapi.json")
        assert response.startswith(b"HTTP/1.1 500 ")
        assert response.count(b"HTTP/1.1 200 OK") == 1
        lines = await service.access_lines(2)
        assert [line["status"] for line in lines] == [500, 200]
        (logged,) = await tracebacks(service)
        assert logged["request_id"] == lines[0]["request_id"]


async def test_exception_after_the_response_is_logged_without_an_app_around() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(204))
        await send(body(b""))
        await fail(0.01)

    with observed() as seen:
        async with listening(app) as listener:
            response = await exchange(listener.port, GET % b"/" + LAST % b"/")
            await until(lambda: len(seen.events("asgi application failed")) == 2)
    assert response.count(b"HTTP/1.1 204 ") == 2


# Work after the response.


async def test_background_task_is_no_part_of_the_request() -> None:
    released = asyncio.Event()

    async def work() -> Response:
        return Response(b"ok", background=BackgroundTask(released.wait))

    async with serve(Route("/", of(work)), max_requests=1) as service:
        for _ in range(3):  # the second would be shed if the first still held its place
            assert (await service.client.get("/", headers=SAMPLED)).status_code == 200
        lines = await service.access_lines(3)
        assert len(await service.spans(3)) == 3
        await service.under_way(0)
        assert await service.sample("http_server_request_duration_seconds_count", http_route="/") == 3
        assert not released.is_set()
        assert all(line["duration_ms"] < 5000 for line in lines)
        released.set()
    assert service.app.load_shedder.in_progress == 0


async def test_background_task_has_the_ids_of_its_request_and_no_deadline() -> None:
    finished = asyncio.Event()

    async def work() -> Response:
        import structlog

        async def go_on() -> None:
            await asyncio.sleep(0.3)
            structlog.get_logger().info("done")
            finished.set()

        return Response(b"ok", background=BackgroundTask(go_on))

    async with serve(Route("/", of(work)), deadline_seconds=0.05) as service:
        await service.client.get("/", headers={**SAMPLED, "x-request-id": "mine"})
        await asyncio.wait_for(finished.wait(), 5)
        (line,) = service.seen.events("done")
        assert (line["request_id"], line["trace_id"]) == ("mine", TRACE_ID)


async def test_request_lasts_until_its_client_has_taken_the_last_part() -> None:
    async def work() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b"x" * 1_000_000

        return StreamingResponse(parts())

    async with serve(Route("/", of(work))) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port, limit=1000)
        writer.write(GET % b"/")
        await reader.readuntil(b"\r\n\r\n")
        await service.under_way(1)
        writer.close()
        line = await service.access_line()
        assert 0 < line["response_bytes"] < 100_000_000  # nothing that was never sent


# Cancellations.


async def awaits_a_cancelled_task() -> Response:
    task = asyncio.create_task(asyncio.sleep(10))
    asyncio.get_running_loop().call_soon(task.cancel)
    await task
    return Response(b"never")


@pytest.mark.parametrize("middleware", [[], [Middleware(BaseHTTPMiddleware, lambda request, go_on: go_on(request))]])
async def test_cancelled_task_of_a_handler_is_500_with_a_traceback(middleware: list[Middleware]) -> None:
    async with serve(Route("/", of(awaits_a_cancelled_task)), middleware=middleware) as service:
        response = await service.client.get("/", headers={"x-request-id": "mine"})
        assert (response.status_code, "connection" in response.headers) == (500, False)
        (logged,) = await tracebacks(service)
        assert (logged["request_id"], logged["level"]) == ("mine", "error")
        assert "CancelledError" in logged["exception"]
        line = await service.access_line()
        assert (line["status"], line["error"]) == (500, "CancelledError")


async def test_cancelled_task_of_a_stream_is_an_error_of_the_stream() -> None:
    async def work() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            await awaits_a_cancelled_task()

        return StreamingResponse(parts())

    async with serve(Route("/", of(work))) as service:
        with pytest.raises(Exception, match=r"incomplete|closed connection"):
            await service.client.get("/")
        line = await service.access_line()
        assert (line["status"], line["level"], line["error"]) == (200, "error", "CancelledError")
        assert len(await tracebacks(service)) == 1


async def in_a_task_group() -> Response:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(20))
    return Response(b"never")


async def in_a_task_group_of_anyio() -> Response:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, 20)
        await anyio.sleep(20)
    return Response(b"never")


async def with_another_cancellation() -> Response:
    try:
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        raise asyncio.CancelledError from None
    return Response(b"never")


async def in_a_stream() -> Response:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"more"
            await in_a_task_group_of_anyio()

    return StreamingResponse(parts())


@pytest.mark.parametrize(
    ("work", "status"),
    [
        (in_a_task_group, 499),
        (in_a_task_group_of_anyio, 499),
        (with_another_cancellation, 499),
        (in_a_stream, 200),
    ],
)
@pytest.mark.parametrize("middleware", [[], [Middleware(BaseHTTPMiddleware, lambda request, go_on: go_on(request))]])
async def test_client_that_leaves_is_no_error_however_the_handler_ends(
    work: Callable[[], Awaitable[Response]], status: int, middleware: list[Middleware]
) -> None:
    async with serve(Route("/", of(work)), middleware=middleware) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET % b"/")
        await service.under_way(1)
        await asyncio.sleep(0.02)
        writer.close()
        line = await service.access_line()
        assert (line["status"], line["level"], "error" in line) == (status, "info", False)
        await until(lambda: not service.server._listeners[0].state.tasks)
        assert [one for one in service.seen.lines if one["level"] != "info"] == []


async def test_failing_cleanup_after_the_client_has_gone_is_logged() -> None:
    async def work() -> Response:
        try:
            await asyncio.sleep(20)
        finally:
            await fail()
        return Response(b"never")

    async with serve(Route("/", of(work))) as service:
        _, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET % b"/")
        await service.under_way(1)
        writer.close()
        assert (await service.access_line())["status"] == 499
        assert len(await tracebacks(service)) == 1


# The head of a stream.


@pytest.mark.parametrize("headers", [{}, {"content-length": "5"}])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_head_of_a_stream_does_not_wait_for_its_first_part(headers: dict[str, str], version: bytes) -> None:
    released = asyncio.Event()

    async def work() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            await released.wait()
            yield b"first"

        return StreamingResponse(parts(), headers=headers)

    async with serve(Route("/", of(work))) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        for method in (b"GET", b"HEAD"):
            released.clear()
            if method == b"HEAD" and version == b"1.0":
                break
            writer.write(b"%b / HTTP/%b\r\nhost: x\r\n\r\n" % (method, version))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert head.startswith(b"HTTP/1.1 200 OK")
            released.set()
            if method == b"GET":
                assert b"first" in await reader.readuntil(b"first")
                if not headers and version == b"1.1":
                    await reader.readuntil(b"0\r\n\r\n")
        writer.close()


async def test_whole_response_leaves_in_one_write() -> None:
    async def work() -> Response:
        return PlainTextResponse("whole")

    async with serve(Route("/", of(work))) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(GET % b"/")
        assert (await reader.read(65_536)).endswith(b"\r\n\r\nwhole")
        writer.close()


# Content that must not be sent.


@pytest.mark.parametrize(
    ("method", "status", "content"), [("GET", 204, None), ("GET", 304, {"a": 1}), ("HEAD", 200, {"a": 1})]
)
async def test_content_that_must_not_be_sent_is_dropped(method: str, status: int, content: object) -> None:
    async def work() -> Response:
        return JSONResponse(content, status_code=status)

    async with serve(Route("/", of(work))) as service:
        sent = f"{method} / HTTP/1.1\r\nhost: x\r\n\r\n".encode() + LAST % b"/openapi.json"
        head, _, rest = (await exchange(service.server.port, sent)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"transfer-encoding" not in head
        assert rest.startswith(b"HTTP/1.1 200 OK")
        lines = await service.access_lines(2)
        assert (lines[0]["response_bytes"], lines[0]["level"]) == (0, "info")


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("header", [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5")])
async def test_framing_of_a_response_without_content_is_corrected(status: int, header: tuple[bytes, bytes]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(status, header))
        await send(body(b"12345", more_body=True))
        await send(body(b"6"))

    async with serve(Mount("/raw", app)) as service:
        response = await exchange(service.server.port, GET % b"/raw/" + LAST % b"/openapi.json")
    head, _, rest = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert (b"content-length" in head or b"transfer-encoding" in head) is (status == 304)
    assert rest.startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("status", [100, 101, 103, 199])
async def test_status_that_is_not_final_is_500(status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(status))
        await send(body(b""))

    async with serve(Mount("/raw", app)) as service:
        assert (await service.client.get("/raw/")).status_code == 500
        assert (await service.client.get("/raw/")).status_code == 500


async def test_endless_stream_for_head_lets_others_run() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        while True:
            await send(body(b"x", more_body=True))

    async with serve(Mount("/endless", app)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port)
        writer.write(b"HEAD /endless/ HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        assert (await service.client.get("/healthz")).status_code == 200
        writer.close()
        assert (await service.access_line())["response_bytes"] == 0


async def test_cleanup_of_an_application_that_knows_of_the_disconnect_is_not_cancelled() -> None:
    client = socket.socket()
    cleaned = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        # A reset, which the next write meets before the event loop does.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await send(start())
        try:
            while True:
                await send(body(bytes(100_000), more_body=True))
        except OSError:
            await asyncio.sleep(0.05)
            cleaned.set()

    async with listening(app) as listener:
        client.connect(("127.0.0.1", listener.port))
        client.sendall(GET % b"/")
        async with asyncio.timeout(5):
            await cleaned.wait()


class Answer(Handler):
    """Responds with JSON."""

    async def get(self) -> dict[str, int]:
        return {"answer": 42}


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
async def test_last_response_of_a_connection_says_that_it_is_closed(version: bytes) -> None:
    async with serve(Route("/", Answer())) as service:
        last = b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % version
        response = await exchange(service.server.port, last)
        head, _, content = response.partition(b"\r\n\r\n")
        assert head.count(b"\r\nconnection: close") == 1
        assert content == b'{"answer":42}'


async def test_response_before_the_last_one_says_nothing_of_closing() -> None:
    async with serve(Route("/", Answer())) as service:
        responses = await exchange(service.server.port, GET % b"/" + LAST % b"/")
        assert responses.count(b"connection: close") == 1
        assert b"connection: close" in responses.rpartition(b"HTTP/1.1")[2]
