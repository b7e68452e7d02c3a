"""Exactly one line for each request, at its end, with everything on it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime

import pytest
import structlog
from starlette.middleware import Middleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from structlog.typing import EventDict
from websockets.asyncio.client import connect as connect_websocket

from chassis import Check, Handler, Route, annotate

from .support.service import SAMPLED, TRACE_ID, UNSAMPLED, Service, exchange, serve


class Item(Handler):
    """An item."""

    async def get(self, item_id: int) -> dict[str, int]:
        return {"id": item_id}

    async def post(self, item_id: int, body: list[int]) -> None: ...


class Stream(Handler):
    """Sends its parts when the test allows it."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def get(self) -> Response:
        async def stream() -> AsyncIterator[bytes]:
            yield b"12345"
            await self.release.wait()
            yield b"678"

        return StreamingResponse(stream())


stream = Stream()


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    async with serve(Route("/items/{item_id}", Item()), Route("/stream", stream)) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    stream.release = asyncio.Event()
    return await running.fresh()


async def test_line_has_every_fact(service: Service) -> None:
    await service.client.get("/items/7?secret=x", headers={**SAMPLED, "x-request-id": "mine"})
    line = await service.access_line()
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is not None
    assert 0 < line.pop("duration_ms") < 5000
    assert len(line.pop("span_id")) == 16
    assert line == {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/items/{item_id}",
        "path": "/items/7",
        "status": 200,
        "request_bytes": 0,
        "response_bytes": len(b'{"id":7}'),
        "client": "127.0.0.1",
        "request_id": "mine",
        "trace_id": TRACE_ID,
    }


async def test_line_counts_the_bytes_of_the_body(service: Service) -> None:
    await service.client.post("/items/7", json=[1, 2, 3])
    line = await service.access_line()
    assert (line["request_bytes"], line["response_bytes"], line["status"]) == (len(b"[1,2,3]"), 0, 204)


@pytest.mark.parametrize("path", ["/items/7", "/openapi.json", "/none"])
async def test_line_of_head_counts_no_bytes_that_are_not_sent(service: Service, path: str) -> None:
    await service.client.head(path)
    assert (await service.access_line())["response_bytes"] == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "route"),
    [
        ("GET", "/none", 404, "unmatched"),
        ("PUT", "/items/7", 405, "/items/{item_id}"),
        ("POST", "/items/7", 415, "/items/{item_id}"),
        ("GET", "/items/x", 422, "/items/{item_id}"),
        ("OPTIONS", "/items/x", 204, "/items/{item_id}"),
        ("GET", "/openapi.json", 200, "/openapi.json"),
    ],
)
async def test_rejected_request_has_its_line(service: Service, method: str, path: str, status: int, route: str) -> None:
    await service.client.request(method, path, content=b"x")
    line = await service.access_line()
    assert (line["method"], line["status"], line["route"], line["level"]) == (method, status, route, "info")


async def test_line_of_a_stream_is_written_at_its_true_end(service: Service) -> None:
    async with service.client.stream("GET", "/stream") as answer:
        parts = answer.aiter_bytes()
        assert await anext(parts) == b"12345"
        assert service.seen.events("request") == []
        await asyncio.sleep(0.03)  # more than the line must count, since timers may fire a little early
        stream.release.set()
        assert await anext(parts) == b"678"
    line = await service.access_line()
    assert line["response_bytes"] == 8
    assert line["duration_ms"] >= 20


async def test_line_of_a_stream_that_is_not_read_to_its_end(service: Service) -> None:
    async with service.client.stream("GET", "/stream") as answer:
        assert await anext(answer.aiter_raw()) == b"12345"
    line = await service.access_line()
    assert line["status"] == 200


async def test_pipelined_requests_have_a_line_each(service: Service) -> None:
    request = b"GET /items/%d HTTP/1.1\r\nhost: x\r\n%s\r\n"
    sent = b"".join(request % (number, b"connection: close\r\n" if number == 4 else b"") for number in range(5))
    answers = await exchange(service.server.port, sent)
    assert [answers.index(b'{"id":%d}' % number) for number in range(5)] == sorted(
        answers.index(b'{"id":%d}' % number) for number in range(5)
    )
    lines = await service.access_lines(5)
    assert [line["path"] for line in lines] == [f"/items/{number}" for number in range(5)]
    assert len({line["request_id"] for line in lines}) == 5


async def test_concurrent_requests_have_a_line_each(service: Service) -> None:
    await asyncio.gather(*(service.client.get(f"/items/{number}") for number in range(50)))
    lines = await service.access_lines(50)
    assert sorted(int(line["path"].rpartition("/")[2]) for line in lines) == list(range(50))
    assert len({line["trace_id"] for line in lines}) == 50


@pytest.mark.parametrize("path", ["/%0A%22%7B%7D", "/%F0%9F%90%8D", "/%ff%fe", "/a%00b", "/%1b[31m"])
async def test_hostile_path_stays_one_line(service: Service, path: str) -> None:
    await exchange(service.server.port, b"GET %s HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode())
    assert (await service.access_line())["status"] == 404
    assert b"\x1b" not in service.seen.output


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/info"])
async def test_health_and_metrics_calls_are_not_logged(service: Service, path: str) -> None:
    assert (await service.client.get(path)).status_code == 200
    await service.client.get("/items/1")
    assert (await service.access_line())["path"] == "/items/1"


async def test_health_call_that_fails_is_logged() -> None:
    async def fail() -> None:
        raise RuntimeError

    async with serve(checks=[Check("database", fail)]) as service:
        assert (await service.client.get("/readyz")).status_code == 503
        line = await service.access_line()
        assert (line["path"], line["route"], line["status"]) == ("/readyz", "/readyz", 503)


async def test_client_behind_a_trusted_proxy_is_the_one_that_the_proxy_names() -> None:
    async with serve(Route("/items/{item_id}", Item()), trusted_proxies="127.0.0.1") as service:
        await service.client.get("/items/1", headers={"x-forwarded-for": "192.0.2.7"})
        assert (await service.access_line())["client"] == "192.0.2.7"


async def test_client_that_calls_itself_a_proxy_is_not_believed(service: Service) -> None:
    await service.client.get("/items/1", headers={"x-forwarded-for": "192.0.2.7"})
    assert (await service.access_line())["client"] == "127.0.0.1"


async def test_no_line_below_the_level() -> None:
    async with serve(Route("/items/{item_id}", Item()), logs={"level": "ERROR"}) as service:
        await service.client.get("/items/1")
        await service.under_way(0)
        assert service.seen.lines == []


async def test_log_processor_that_fails_does_not_fail_the_request() -> None:
    def broken(_logger: object, _method: str, event: EventDict) -> EventDict:
        if event["event"] == "request":
            raise LookupError("no region")
        return event

    async with serve(Route("/items/{item_id}", Item()), logs={"processors": [broken]}) as service:
        for _ in range(2):
            assert (await service.client.get("/items/1")).status_code == 200
        lines = await service.access_lines(2)
    assert [line["log_processor_error"] for line in lines] == ["LookupError('no region')"] * 2


class Account(Handler):
    """Says who asks, in every way."""

    async def get(self) -> None:
        annotate(user_id=1, plan="free")
        await asyncio.sleep(0)
        annotate(user_id=7)

    def post(self) -> None:
        annotate(user_id=7, plan="free")

    async def put(self) -> None:
        async def work() -> None:
            annotate(user_id=7)
            await asyncio.to_thread(annotate, plan="free")

        await asyncio.gather(work())

    async def delete(self) -> None:
        annotate(user_id=7, plan="free")
        raise RuntimeError("internal detail")


class Odd(Handler):
    """Says what it should not."""

    async def get(self) -> None:
        annotate(status="mine", event="mine", access_token="s3cr3t")  # noqa: S106 - what must not be shown
        annotate(login={"password": "s3cr3t", "user": "ada"})
        annotate(odd=object(), many=[1, "a"], lone="\ud800", **{"user.id": 7})


class Bound(Handler):
    """Binds context as structlog does it."""

    async def get(self, tenant: str) -> None:
        structlog.contextvars.bind_contextvars(tenant=tenant, status="mine", password="s3cr3t")  # noqa: S106
        structlog.get_logger().info("inside")

    async def post(self) -> None:
        structlog.get_logger().info("inside")


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    annotate(user_id=7)
    structlog.contextvars.bind_contextvars(tenant="acme")
    await socket.close()


class Annotating:
    """A middleware that knows the plan."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        annotate(plan="free")
        await self._app(scope, receive, send)


@pytest.fixture(scope="module")
async def knowing() -> AsyncIterator[Service]:
    routes = [
        Route("/account", Account()),
        Route("/odd", Odd()),
        Route("/bound", Bound()),
        WebSocketRoute("/ws", greet),
    ]
    async with serve(*routes) as service:
        yield service


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("headers", [SAMPLED, UNSAMPLED])
async def test_fact_is_on_the_line_and_the_span(knowing: Service, method: str, headers: dict[str, str]) -> None:
    service = await knowing.fresh()
    await service.client.request(method, "/account", headers=headers)
    line = await service.access_line()
    assert (line["user_id"], line["plan"], line["method"]) == (7, "free", method)
    if headers is SAMPLED:
        attributes = (await service.spans())[0].attributes or {}
        assert (attributes["user_id"], attributes["plan"], attributes["http.request.method"]) == (7, "free", method)


async def test_fact_does_not_leak_to_the_next_request_of_a_connection(knowing: Service) -> None:
    service = await knowing.fresh()
    head, last = b" HTTP/1.1\r\nhost: x\r\n", b"connection: close\r\n\r\n"
    requests = [method_and_path + head for method_and_path in (b"GET /account", b"GET /bound?tenant=a", b"POST /bound")]
    for request in requests:
        await exchange(service.server.port, request + last)
    await exchange(service.server.port, b"\r\n".join(requests) + last)
    lines = await service.access_lines(6)
    assert [line.get("user_id") for line in lines] == [7, None, None] * 2
    assert [line.get("tenant") for line in lines] == [None, "a", None] * 2
    assert [line.get("tenant") for line in service.seen.events("inside")] == ["a", None] * 2


async def test_fact_takes_no_field_of_the_line_and_shows_no_secret(knowing: Service) -> None:
    service = await knowing.fresh()
    await service.client.get("/odd", headers=SAMPLED)
    line = await service.access_line()
    assert (line["status"], line["status_"], line["event"], line["event_"]) == (204, "mine", "request", "mine")
    assert (line["access_token"], line["login"]) == ("[redacted]", {"password": "[redacted]", "user": "ada"})
    assert (line["many"], line["lone"], line["user.id"]) == ([1, "a"], "\\ud800", 7)
    (span,) = await service.spans()
    assert "s3cr3t" not in str(span.attributes)
    assert (span.attributes or {})["user.id"] == 7


async def test_bound_context_is_on_the_line(knowing: Service) -> None:
    service = await knowing.fresh()
    await service.client.get("/bound?tenant=acme")
    line = await service.access_line()
    assert (line["tenant"], line["status"], line["password"]) == ("acme", 204, "[redacted]")
    assert list(line)[:3] == ["timestamp", "level", "event"]


async def test_facts_of_a_websocket_are_on_its_line(knowing: Service) -> None:
    service = await knowing.fresh()
    async with connect_websocket(f"ws://127.0.0.1:{service.server.port}/ws", proxy=None) as socket:
        await socket.wait_closed()
    line = await service.access_line()
    assert (line["user_id"], line["tenant"], line["status"]) == (7, "acme", 101)


async def test_middleware_can_put_a_fact_on_the_line() -> None:
    async with serve(Route("/account", Account()), middleware=[Middleware(Annotating)]) as service:
        await service.client.get("/account")
        line = await service.access_line()
    assert (line["user_id"], line["plan"]) == (7, "free")


def test_fact_outside_of_a_request_does_nothing() -> None:
    annotate(user_id=7)


async def test_level_that_changes_holds_for_access_lines() -> None:
    async with serve(Route("/account", Account())) as service:

        async def statuses(level: str) -> list[int]:
            service.app.telemetry.logs.set_level(level)
            await service.fresh()
            await service.client.get("/account")
            await service.client.delete("/account")
            await service.under_way(0)
            await asyncio.sleep(0)
            return [line["status"] for line in service.seen.events("request")]

        assert await statuses("INFO") == [204, 500]
        assert await statuses("WARNING") == [500]
        assert await statuses("CRITICAL") == []
        assert await statuses("DEBUG") == [204, 500]


async def test_access_line_of_503_is_a_warning() -> None:
    async def fail() -> None:
        raise RuntimeError

    async with serve(checks=[Check("database", fail)], logs={"level": "ERROR"}) as service:
        await service.client.get("/readyz")
        await service.under_way(0)
        assert service.seen.events("request") == []
