"""The composition of a service: the parts that the owner adds to an `App`."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from chassis import App, ChassisSettings, Handler, Problem, Route
from chassis.testing import serve as serve_app

from .support.service import serve, until


class NotFoundError(Exception):
    """An error of the domain."""


class SpecialNotFoundError(NotFoundError):
    """A subclass of it."""


class Failing(Handler):
    """Raises errors of the domain."""

    async def get(self) -> None:
        raise NotFoundError("There is no such order.")

    async def put(self) -> None:
        raise SpecialNotFoundError("There is no such special order.")

    async def post(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.get())

    async def delete(self) -> None:
        raise LookupError("secret")


class Naming:
    """Middleware that adds its name to the response."""

    def __init__(self, app: ASGIApp, name: bytes) -> None:
        self._app = app
        self._name = name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_named(message: dict[str, object]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-name", self._name)]  # type: ignore[misc]
            await send(message)

        await self._app(scope, receive, send_named)  # type: ignore[arg-type]


def app_of(**options: str) -> App:
    return App(ChassisSettings.from_values(readiness_cache_seconds=0), **options)  # type: ignore[arg-type]


@pytest.fixture
def failing() -> App:
    app = app_of()
    app.add_problems({NotFoundError: 404})
    app.add_route("/", Failing())
    return app


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
async def test_listed_error_has_its_status_and_its_text(failing: App, method: str) -> None:
    async with serve_app(failing) as client:
        response = await client.request(method, "/")
    assert response.status_code == 404
    assert response.json()["detail"].startswith("There is no such")


async def test_error_that_is_not_listed_is_500_without_its_text(failing: App) -> None:
    async with serve_app(failing) as client:
        response = await client.delete("/")
    assert response.status_code == 500
    assert "secret" not in response.text


async def test_first_middleware_is_the_outermost() -> None:
    naming = [Middleware(Naming, name=b"first"), Middleware(Naming, name=b"second")]
    async with serve(middleware=naming) as service:
        response = await service.client.get("/docs")
    assert response.headers.get_list("x-name") == ["second", "first"]


async def test_nothing_can_be_added_after_the_start() -> None:
    app = app_of()
    async with serve_app(app):
        with pytest.raises(RuntimeError, match="has started"):
            app.add_route("/", Failing())
        with pytest.raises(RuntimeError, match="has started"):
            app.add_check("late", lambda: None)


async def test_background_task_runs_from_the_start_until_the_stop() -> None:
    began, stopped = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    app = app_of()
    app.add_background_task("work", work)
    async with serve_app(app):
        await asyncio.wait_for(began.wait(), 5)
        assert not stopped.is_set()
    assert stopped.is_set()


async def test_resources_are_closed_when_a_background_task_cannot_start() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        entered.append("in")
        try:
            yield
        finally:
            entered.append("out")

    def work() -> Coroutine[Any, Any, None]:
        raise LookupError("no queue")

    app = app_of()
    app.add_resource(pool())
    app.add_background_task("work", work)
    with pytest.raises(LookupError):
        await app.open()
    await app.tasks.stop(0)
    assert entered == ["in", "out"]


async def test_resource_is_returned_and_entered_at_the_start() -> None:
    entered: list[str] = []

    @asynccontextmanager
    async def pool() -> AsyncIterator[None]:
        entered.append("in")
        yield
        entered.append("out")

    app, resource = app_of(), pool()
    assert app.add_resource(resource) is resource
    assert entered == []
    async with serve_app(app):
        assert entered == ["in"]
    assert entered == ["in", "out"]


async def test_failing_check_makes_the_service_unready() -> None:
    def ping() -> None:
        raise ConnectionRefusedError

    app = app_of()
    app.add_check("database", ping)
    async with serve_app(app) as client:
        response = await client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["database"]["status"]) == (503, "fail")


async def test_mounted_application_gets_requests_below_its_path() -> None:
    async def other(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": scope["path"].encode()})

    app = app_of()
    app.mount("/legacy", other)
    async with serve_app(app) as client:
        assert (await client.get("/legacy/things")).text == "/legacy/things"


async def test_name_and_version_are_shown() -> None:
    async with serve_app(app_of(name="order-service", version="7")) as client:
        info = (await client.get("/info")).json()
    assert (info["name"], info["version"]) == ("order-service", "7")


def test_name_is_that_of_the_distribution_of_the_settings() -> None:
    class Settings(ChassisSettings):
        __module__ = "uninstalled_service.settings"

    app = App(Settings.from_values())
    assert (app.name, app.version) == ("uninstalled-service", "unknown")


async def test_limits_of_the_settings_apply() -> None:
    class Slow(Handler):
        async def get(self) -> None:
            await asyncio.Event().wait()

    app = App(ChassisSettings.from_values(deadline_seconds=0.05))
    app.add_route("/", Slow())
    async with serve_app(app) as client:
        assert (await client.get("/")).status_code == 504


def test_second_check_of_the_same_name_is_rejected() -> None:
    app = app_of()
    app.add_check("database", lambda: None)
    with pytest.raises(ValueError, match="two checks have the name 'database'"):
        app.add_check("database", lambda: None)


async def test_requests_in_flight_are_observed_when_a_problem_is_raised_by_the_owners_code() -> None:
    class Teapot(Handler):
        async def get(self) -> None:
            raise Problem(418, "I am a teapot.")

    async with serve(Route("/", Teapot())) as service:
        assert (await service.client.get("/")).status_code == 418
        (line,) = await until(lambda: service.seen.events("request"))
    assert (line["status"], line["route"]) == (418, "/")
