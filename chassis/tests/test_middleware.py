"""The owner's middleware: it sees every response, and what it raises becomes a problem document."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis import Handler, Problem, Route

from .support.service import Service, connect, serve, until

ORIGIN = {"origin": "https://shop.example"}


class Recording:
    """Adds a header to each response, keeps its status, and waits for something first."""

    def __init__(self, app: ASGIApp, statuses: list[int]) -> None:
        self.app = app
        self.statuses = statuses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.statuses.append(message["status"])
                message["headers"] = [*message["headers"], (b"x-seen", b"yes")]
            await send(message)

        await asyncio.sleep(0)
        await self.app(scope, receive, send_marked)


class Raising:
    """Raises before or after the handler."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if b"x-forbidden" in headers:
            raise Problem(403, "You may not.")
        await self.app(scope, receive, send)
        if b"x-late" in headers:
            raise RuntimeError("too late")
        if b"x-broken" in headers:
            raise RuntimeError("internal detail")


class Items(Handler):
    """Responds in many ways."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.calls = 0

    async def get(self, number: int = 1) -> str:
        self.calls += 1
        return "x" * 5000

    async def post(self, body: str) -> None:
        self.calls += 1

    async def put(self) -> None:
        self.calls += 1
        await self.release.wait()

    async def patch(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            raise Problem(409, "Stopped half way.") from error

    async def delete(self) -> None:
        raise RuntimeError("internal detail")


items = Items()
statuses: list[int] = []


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    middleware = [
        Middleware(Recording, statuses=statuses),
        Middleware(Raising),
        Middleware(CORSMiddleware, allow_origins=[ORIGIN["origin"]]),
        Middleware(GZipMiddleware, minimum_size=100),
    ]
    limits: dict[str, Any] = {"max_requests": 2, "deadline_seconds": 0.2, "max_body_bytes": 1000}
    async with serve(Route("/items", items), middleware=middleware, **limits) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    statuses.clear()
    items.calls = 0
    items.release = asyncio.Event()
    return await running.fresh()


async def chunked() -> AsyncIterator[bytes]:
    """A body that does not declare its size."""
    for _ in range(3):
        yield b"x" * 500


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("GET", "/items", None, 200),
        ("GET", "/nowhere", None, 404),
        ("OPTIONS", "/items", None, 204),
        ("TRACE", "/items", None, 405),
        ("GET", "/items?number=x", None, 422),
        ("DELETE", "/items", None, 500),
        ("PUT", "/items", None, 504),
        ("PATCH", "/items", None, 409),
        ("POST", "/items", b"x" * 1001, 413),
        ("POST", "/items", "chunked", 413),
    ],
)
async def test_middleware_sees_every_response(
    service: Service, method: str, path: str, content: bytes | str | None, status: int
) -> None:
    sent = chunked() if content == "chunked" else content
    response = await service.client.request(
        method, path, content=sent, headers={**ORIGIN, "content-type": "application/json"}
    )
    assert (response.status_code, response.headers["x-seen"]) == (status, "yes")
    assert response.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert statuses == [status]
    if status >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == status
    assert response.headers["x-frame-options"] == "DENY"
    assert (await service.access_line())["status"] == status


async def test_middleware_sees_the_response_to_a_shed_request(service: Service) -> None:
    before = await service.sample("http_server_shed_requests_total", reason="concurrency")
    waiting = [asyncio.create_task(service.client.put("/items")) for _ in range(2)]
    await until(lambda: items.calls == 2)
    response = await service.client.get("/items", headers=ORIGIN)
    items.release.set()
    await asyncio.gather(*waiting)
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.headers["access-control-allow-origin"] == ORIGIN["origin"]
    assert statuses[0] == 503
    assert items.calls == 2  # the rejected request reached no handler
    assert await service.sample("http_server_shed_requests_total", reason="concurrency") == before + 1
    # It has not entered, so it has not left either.
    assert [(await service.client.get("/items")).status_code for _ in range(3)] == [200] * 3


async def test_request_with_a_body_that_is_declared_too_large_reaches_no_handler(service: Service) -> None:
    assert (await service.client.post("/items", content=b"x" * 1001)).status_code == 413
    assert items.calls == 0


async def test_problem_document_is_compressed(service: Service) -> None:
    response = await service.client.delete("/items", headers={"accept-encoding": "gzip"})
    assert (response.status_code, response.headers["content-encoding"]) == (500, "gzip")
    assert response.json()["status"] == 500


async def test_problem_that_middleware_raises_is_the_response(service: Service) -> None:
    response = await service.client.get("/items", headers={"x-forbidden": "1"})
    assert (response.status_code, response.json()["detail"]) == (403, "You may not.")
    assert (await service.access_line())["status"] == 403


async def test_exception_of_middleware_after_the_response_is_logged(service: Service) -> None:
    assert (await service.client.get("/items", headers={"x-late": "1"})).status_code == 200
    access_line = await service.access_line()
    (line,) = await until(lambda: service.seen.events("unhandled exception"))
    assert (line["after_response"], line["request_id"]) == (True, access_line["request_id"])
    assert (access_line["level"], "error" in access_line) == ("info", False)


async def test_exception_of_middleware_without_a_response_is_500_and_logged_once() -> None:
    class Failing:
        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("internal detail")

    async with serve(Route("/items", items), middleware=[Middleware(Failing)]) as service:
        response = await service.client.get("/items")
        assert (response.status_code, response.headers["content-type"]) == (500, "application/problem+json")
        assert "internal detail" not in response.text
        assert (await service.access_line())["status"] == 500
        (line,) = [line for line in service.seen.lines if "exception" in line]
        assert "internal detail" in line["exception"]


async def test_timeouts_are_counted_once(service: Service) -> None:
    before = await service.sample("http_server_timed_out_requests_total")
    await service.client.put("/items")
    assert await service.sample("http_server_timed_out_requests_total") == before + 1


async def test_middleware_may_wait_after_a_timeout(service: Service) -> None:
    class Waiting:
        """Has a time limit of its own around the handler, and work to do after it."""

        def __init__(self, app: ASGIApp) -> None:
            self.app = app

        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async with asyncio.timeout(5):
                await self.app(scope, receive, send)
            await asyncio.sleep(0.01)
            finished.append(scope["path"])

    finished: list[str] = []
    for method, status in (("PUT", 504), ("PATCH", 409)):
        async with serve(Route("/items", items), middleware=[Middleware(Waiting)], deadline_seconds=0.1) as other:
            assert (await other.client.request(method, "/items")).status_code == status
            await other.under_way(0)
    assert finished == ["/items"] * 2


class Timing(BaseHTTPMiddleware):
    """Starlette's kind, which runs the layers inside of it in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = "yes"
        return response


@pytest.mark.parametrize(("method", "status", "seen"), [("GET", 200, "yes"), ("DELETE", 500, "yes"), ("PUT", 504, "")])
async def test_middleware_that_uses_a_task_of_its_own(method: str, status: int, seen: str) -> None:
    items.release = asyncio.Event()
    async with serve(Route("/items", items), middleware=[Middleware(Timing)], deadline_seconds=0.1) as service:
        response = await service.client.request(method, "/items")
        assert (response.status_code, response.headers.get("x-seen", "")) == (status, seen)
        await service.under_way(0)
        errors = [line for line in service.seen.lines if "exception" in line]
        assert len(errors) == (1 if status == 500 else 0)


async def test_client_that_disconnects_is_499_behind_middleware() -> None:
    items.release = asyncio.Event()
    async with serve(Route("/items", items), middleware=[Middleware(Recording, statuses=[])]) as service:
        async with connect(service.server.port) as client:
            asked = asyncio.create_task(client.put("/items"))
            await service.under_way(1)
            asked.cancel()
            await asyncio.wait({asked})
        line = await service.access_line()
        assert (line["status"], line["level"]) == (499, "info")
        assert not [line for line in service.seen.lines if "exception" in line]
