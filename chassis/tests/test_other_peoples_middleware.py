"""Middleware of other projects: it takes the app for what it is, and sees what it must."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
import sentry_sdk
from asgiref.compatibility import guarantee_single_callable
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.asgi import SentryAsgiMiddleware
from sentry_sdk.transport import Transport
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import Handler, Problem, Route
from chassis.api.routing import Router
from chassis.health import State

from .support.application import make_app
from .support.service import Service, observed, serve, until


class Items(Handler):
    """Fails in expected and in unexpected ways."""

    async def get(self, number: int = 1) -> str:
        if number == 0:
            raise RuntimeError("internal detail")
        return "item"

    async def post(self) -> None:
        raise Problem(503, "Later.")


class Single:
    """Wraps an application as asgiref's users do."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: ASGIApp = guarantee_single_callable(app)  # type: ignore[no-untyped-call]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Timing(BaseHTTPMiddleware):
    """Starlette's kind, which runs the layers inside of it in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        response.headers["x-seen"] = "yes"
        return response


class Transaction:
    """Keeps what was done, unless it failed."""

    def __init__(self, app: ASGIApp, ends: list[str]) -> None:
        self.app = app
        self.ends = ends

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception:
            self.ends.append("rollback")
            raise
        self.ends.append("commit")


@pytest.fixture
def events() -> Iterator[list[dict[str, Any]]]:
    """The events that Sentry's SDK would send."""
    sent: list[dict[str, Any]] = []

    class Kept(Transport):
        def capture_envelope(self, envelope: Envelope) -> None:
            sent.extend(item.payload.json or {} for item in envelope.items if item.headers.get("type") == "event")

    # Without integrations: they would change Starlette in this process for all tests.
    sentry_sdk.init(
        "http://key@localhost/1", transport=Kept, default_integrations=False, auto_enabling_integrations=False
    )
    yield sent
    sentry_sdk.get_client().close(timeout=0)  # which ends its threads
    sentry_sdk.get_global_scope().set_client(None)


WRAPPERS: list[Callable[[ASGIApp], ASGIApp]] = [SentryAsgiMiddleware, OpenTelemetryMiddleware, Single]


@pytest.mark.parametrize("wrapper", WRAPPERS)
async def test_wrapped_parts_of_the_app_respond(wrapper: Callable[[ASGIApp], ASGIApp]) -> None:
    routes = [
        Route("/items", Items()),
        Mount("/group", routes=[Route("/items", Items())], middleware=[Middleware(wrapper)]),
        Mount("/router", app=wrapper(Router([Route("/items", Items())]))),
        Mount("/endpoint", app=wrapper(Route("/items", Items()).resource)),
    ]
    async with serve(*routes, middleware=[Middleware(wrapper)]) as service:
        for path in ("/items", "/group/items", "/router/items", "/endpoint/items"):
            response = await service.client.get(path)
            assert (response.status_code, response.text) == (200, '"item"')


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("part", ["app", "public", "admin"])
async def test_wrapped_app_responds(part: str, wrapper: Callable[[ASGIApp], ASGIApp]) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/items", Items()))
        app.health.state = State.READY
        wrapped = wrapper(app if part == "app" else getattr(app, part))
        transport = httpx.ASGITransport(app=wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            path = "/healthz" if part == "admin" else "/items"
            assert (await client.get(path)).status_code == 200


MIDDLEWARE = {
    "alone": [Middleware(SentryAsgiMiddleware)],
    "outside of others": [
        Middleware(SentryAsgiMiddleware),
        Middleware(CORSMiddleware, allow_origins=["*"]),
        Middleware(Timing),
        Middleware(GZipMiddleware, minimum_size=10),
        Middleware(OpenTelemetryMiddleware),
    ],
    "inside of others": [
        Middleware(CORSMiddleware, allow_origins=["*"]),
        Middleware(Timing),
        Middleware(GZipMiddleware, minimum_size=10),
        Middleware(SentryAsgiMiddleware),
    ],
}


@pytest.fixture(params=list(MIDDLEWARE))
async def service(request: pytest.FixtureRequest, events: list[dict[str, Any]]) -> AsyncIterator[Service]:
    async with serve(Route("/items", Items()), middleware=MIDDLEWARE[request.param]) as running:
        yield running


async def test_sentry_sees_each_unhandled_exception_once(service: Service, events: list[dict[str, Any]]) -> None:
    for _ in range(2):
        response = await service.client.get("/items?number=0", headers={"origin": "https://shop.example"})
        assert (response.status_code, response.json()["status"]) == (500, 500)
        assert "internal detail" not in response.text
    await until(lambda: len(events) >= 2)  # it is raised after the response
    assert [event["exception"]["values"][-1]["value"] for event in events] == ["internal detail"] * 2
    assert events[0]["transaction"].endswith("test_other_peoples_middleware.Items")


async def test_exception_that_middleware_sees_is_logged_once_and_leaves_the_connection(
    service: Service, events: list[dict[str, Any]]
) -> None:
    for path in ("/items?number=0", "/items"):
        response = await service.client.get(path)
        assert "connection" not in response.headers
    lines = await service.access_lines(2)
    assert [line["status"] for line in lines] == [500, 200]
    assert len([line for line in service.seen.lines if "exception" in line]) == 1


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nowhere", 404), ("GET", "/items?number=x", 422), ("PUT", "/items", 405), ("POST", "/items", 503)],
)
async def test_expected_failure_is_no_event(
    service: Service, events: list[dict[str, Any]], method: str, path: str, status: int
) -> None:
    assert (await service.client.request(method, path)).status_code == status
    assert events == []


async def test_middleware_may_roll_back_what_failed() -> None:
    ends: list[str] = []
    async with serve(Route("/items", Items()), middleware=[Middleware(Transaction, ends=ends)]) as service:
        for path in ("/items", "/items?number=0", "/items?number=x"):
            await service.client.get(path)
    assert ends == ["commit", "rollback", "commit"]


@pytest.mark.parametrize("middleware", [[], [Middleware(Timing)]])
async def test_what_wraps_the_app_behind_another_server_sees_the_exception_after_the_response(
    events: list[dict[str, Any]], middleware: list[Middleware]
) -> None:
    with observed() as seen:
        app = make_app(seen.telemetry, Route("/items", Items()), middleware=middleware)
        app.health.state = State.READY
        transport = httpx.ASGITransport(app=SentryAsgiMiddleware(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            response = await client.get("/items?number=0")
            assert (response.status_code, response.json()["status"]) == (500, 500)
            assert (await client.get("/nowhere")).status_code == 404
        assert [event["exception"]["values"][-1]["value"] for event in events] == ["internal detail"]
        assert len([line for line in seen.lines if "exception" in line]) == 1
