"""The deadline that a caller hands on in `x-request-timeout-ms`, and the time that a handler sees."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import Handler, Problem, Route, Server, Tasks, request_deadline
from chassis.client import http_client
from chassis.middleware.deadlines import CallerDeadlines
from chassis.middleware.load_shedder import LoadShedder
from chassis.request_info import REQUEST_INFO, RequestInfo
from chassis.response_sender import ResponseSender

from .support.application import make_app
from .support.service import NO_TLS, Service, connect, exchange, observed, serve, until

DEADLINE_SECONDS = 20.0
FIELD = "x-request-timeout-ms"
TIMED_OUT = "http_server_timed_out_requests_total"


class Seen(Handler):
    """Shows the deadline as different kinds of code see it."""

    def __init__(self) -> None:
        self.calls = 0

    async def get(self) -> float | None:
        self.calls += 1
        return request_deadline()

    def put(self) -> float | None:
        return request_deadline()

    async def post(self) -> float | None:
        async def in_a_task() -> float | None:
            return request_deadline()

        return await asyncio.create_task(in_a_task())

    async def delete(self) -> Response:
        async def stream() -> AsyncIterator[str]:
            yield "begun,"
            yield str(request_deadline())

        return StreamingResponse(stream())


class Slow(Handler):
    """Never responds."""

    def __init__(self) -> None:
        self.cleaned = asyncio.Event()

    async def get(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned.set()


class Upload(Handler):
    """Waits for the body."""

    async def post(self, request: Request) -> int:
        return len(await request.body())


seen = Seen()
slow = Slow()
routes = [Route("/seen", seen), Route("/slow", slow), Route("/upload", Upload())]


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(*routes, deadline_seconds=DEADLINE_SECONDS) as service:
        yield service


async def ask(service: Service, path: str, timeout_ms: object = None, method: str = "GET") -> httpx.Response:
    headers = {} if timeout_ms is None else {FIELD: str(timeout_ms)}
    return await service.client.request(method, path, headers=headers)


async def test_request_is_cancelled_when_its_caller_waits_no_longer(service: Service) -> None:
    slow.cleaned.clear()
    response = await ask(service, "/slow", 50)
    assert response.status_code == 504
    assert "x-request-timeout-ms" in response.json()["detail"]
    assert slow.cleaned.is_set()


async def test_caller_cannot_extend_the_deadline() -> None:
    async with serve(Route("/slow", slow), deadline_seconds=0.1) as service:
        response = await ask(service, "/slow", 60_000)
        assert response.json()["detail"] == "The service did not respond before the request's deadline."
        assert await service.sample(TIMED_OUT, reason="deadline") == 1


async def test_request_whose_deadline_has_passed_is_not_begun(service: Service) -> None:
    calls = seen.calls
    before = await service.sample(TIMED_OUT, reason="not_begun")
    response = await ask(service, "/seen", 0)
    assert (response.status_code, response.headers["content-type"]) == (504, "application/problem+json")
    assert seen.calls == calls
    assert await service.sample(TIMED_OUT, reason="not_begun") == before + 1


async def test_middleware_sees_the_response_to_a_request_that_is_not_begun() -> None:
    statuses: list[int] = []

    class Watching:
        """Notes the statuses of responses."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def watch(message: Any) -> None:
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                await send(message)

            await self.app(scope, receive, watch)

    calls = seen.calls
    async with serve(*routes, middleware=[Middleware(Watching)]) as service:
        assert (await ask(service, "/seen", 0)).status_code == 504
    assert (statuses, seen.calls) == ([504], calls)


class Queue(LoadShedder):
    """Lets each request wait as a test says."""

    wait: Callable[[], Awaitable[object]]

    def enter(self, read_at: float | None) -> Awaitable[Problem | None] | None:
        del read_at
        return self._admit()

    async def _admit(self) -> None:
        await self.wait()
        self.in_progress += 1


async def block() -> None:
    """Keep the event loop from running the timer of a deadline."""
    time.sleep(0.1)  # noqa: ASYNC251 - on purpose


@pytest.mark.parametrize("wait", [asyncio.Event().wait, block])
async def test_request_is_not_begun_when_it_has_waited_too_long_for_cpu(wait: Callable[[], Awaitable[object]]) -> None:
    calls = seen.calls
    with observed() as watched:
        app = make_app(watched.telemetry, *routes)
        app.load_shedder = queue = Queue(None, watched.telemetry.metrics)
        queue.wait = wait
        async with Server(app) as server, connect(server.port) as client:
            service = Service(app, server, client, watched)
            assert (await ask(service, "/seen", 50)).status_code == 504
            line = await service.access_line()
    assert (seen.calls, queue.in_progress, line["deadline"]) == (calls, 0, "not_begun")


async def test_request_is_not_begun_when_it_was_read_too_long_ago(service: Service) -> None:
    info = RequestInfo(read_at=time.monotonic() - 1.0)
    info.note(FIELD.encode(), b"999")
    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/seen", "query_string": b"", "headers": [], "root_path": ""}
    calls = seen.calls
    await service.app.public(scope | {"state": {}, REQUEST_INFO: info}, receive, send)
    assert (statuses[0], seen.calls) == (504, calls)


@pytest.mark.parametrize("value", ["-1", "soon", "", "1.5", "1e3", "0" * 19, "9" * 19, "٣", "+5", "0, 0"])
async def test_value_that_is_no_number_of_milliseconds_is_ignored(service: Service, value: str) -> None:
    response = await service.client.get("/seen", headers={FIELD.encode(): value.encode()})
    assert response.json() == pytest.approx(DEADLINE_SECONDS, abs=5)


@pytest.mark.parametrize("fields", [["0", "0"], ["5000", "0"], ["0", "x", "0"]])
async def test_several_fields_are_ignored(service: Service, fields: list[str]) -> None:
    response = await service.client.get("/seen", headers=[(FIELD, value) for value in fields])
    assert response.json() == pytest.approx(DEADLINE_SECONDS, abs=5)


async def test_huge_time_leaves_the_deadline_of_the_service(service: Service) -> None:
    assert (await ask(service, "/seen", "9" * 18)).json() == pytest.approx(DEADLINE_SECONDS, abs=5)
    huge = {FIELD: "9" * 18}
    assert (await service.client.post("/upload", content=b"whole", headers=huge)).json() == 5


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_handler_sees_the_seconds_that_remain(service: Service, method: str) -> None:
    assert 0 < (await ask(service, "/seen", 5000, method)).json() <= 5
    assert 5 < (await ask(service, "/seen", method=method)).json() <= DEADLINE_SECONDS


async def test_response_that_has_started_has_no_deadline(service: Service) -> None:
    assert (await ask(service, "/seen", 5000, "DELETE")).text == "begun,None"


def test_there_is_no_deadline_outside_of_a_request() -> None:
    assert request_deadline() is None


class Starting(Handler):
    """Starts a background task, and waits if it has to."""

    def __init__(self) -> None:
        self.tasks: Tasks | None = None
        self.ended = asyncio.Event()
        self.found: list[float | None] = []

    async def get(self, waits: bool = False) -> None:
        assert self.tasks is not None
        self.tasks.start(self._work(), name="work")
        await asyncio.sleep(10 if waits else 0)

    async def _work(self) -> None:
        self.found.append(request_deadline())
        await self.ended.wait()
        self.found.append(request_deadline())


@pytest.mark.parametrize("leaves", [False, True])
async def test_background_task_has_no_deadline_when_its_request_has_ended(leaves: bool) -> None:
    starting = Starting()
    async with serve(Route("/start", starting)) as service:
        starting.tasks = service.app.tasks
        asking = asyncio.create_task(ask(service, "/start?waits=true" if leaves else "/start", 5000))
        await until(lambda: starting.found)
        if leaves:
            asking.cancel()
        await asyncio.wait([asking])
        assert (await service.access_line())["status"] == (499 if leaves else 204)
        starting.ended.set()
        first, second = await until(lambda: starting.found if len(starting.found) == 2 else [])
    assert first is not None
    assert 0 < first <= 5
    assert second is None


async def test_time_of_an_upload_counts_for_the_caller(service: Service) -> None:
    head = f"POST /upload HTTP/1.1\r\nhost: x\r\n{FIELD}: 100\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    assert (await exchange(service.server.port, head.encode())).startswith(b"HTTP/1.1 504 ")


async def test_caller_ends_an_upload_that_defers_the_deadline_of_the_service() -> None:
    head = f"POST /upload HTTP/1.1\r\nhost: x\r\n{FIELD}: 200\r\ncontent-length: 5\r\nconnection: close\r\n\r\n"
    async with serve(*routes, deadline_seconds=0.1) as service:
        assert (await exchange(service.server.port, head.encode())).startswith(b"HTTP/1.1 504 ")
        assert await service.sample(TIMED_OUT, reason="caller") == 1


async def test_access_line_names_the_deadline_of_the_caller_and_is_a_warning(service: Service) -> None:
    for timeout_ms, path, deadline in ((50, "/slow", "caller"), (0, "/seen", "not_begun")):
        await service.fresh()
        await ask(service, path, timeout_ms)
        line = await service.access_line()
        assert (line["status"], line["level"], line["deadline"]) == (504, "warning", deadline)


async def test_many_deadlines_pass_in_their_order(service: Service) -> None:
    ended: list[int] = []

    async def one(timeout_ms: int) -> None:
        assert (await ask(service, "/slow", timeout_ms)).status_code == 504
        ended.append(timeout_ms)

    before = await service.sample(TIMED_OUT, reason="caller")
    await asyncio.gather(*(one(timeout_ms) for timeout_ms in (400, 50, 200)))
    assert ended == [50, 200, 400]
    assert await service.sample(TIMED_OUT, reason="caller") == before + 3


async def test_request_that_ends_in_time_leaves_nothing_behind() -> None:
    async def send(message: Any) -> None: ...

    deadlines = CallerDeadlines()
    task = asyncio.create_task(asyncio.sleep(0.05))
    deadlines.set(task, ResponseSender(send), RequestInfo(), time.monotonic() + 0.01)
    deadlines.clear(task)
    await task
    assert not task.cancelled()


class Gateway(Handler):
    """Calls the service behind it, and returns what is left there."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def get(self, own: str = "") -> Any:
        headers = {FIELD: own} if own else {}
        return (await self._client.get("/seen", headers=headers)).json()


async def test_call_hands_the_remaining_time_on_unless_the_caller_has_set_it(service: Service) -> None:
    client = http_client(base_url=f"http://127.0.0.1:{service.server.port}", verify=NO_TLS, trust_env=False)
    async with serve(Route("/", Gateway(client)), resources=[client]) as gateway:
        assert 0 < (await ask(gateway, "/", 5000)).json() <= 5
        assert 5 < (await ask(gateway, "/?own=8000", 5000)).json() <= 8


async def test_call_outside_of_a_request_hands_no_deadline_on(service: Service) -> None:
    base_url = f"http://127.0.0.1:{service.server.port}"
    async with http_client(base_url=base_url, verify=NO_TLS, trust_env=False) as client:
        response = await client.get("/seen")
    assert FIELD not in response.request.headers
