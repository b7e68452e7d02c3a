"""The test helpers for a service: the app without a socket, its settings, and its records."""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import structlog
from opentelemetry import trace
from pydantic import BaseModel, ValidationError

from chassis import App, ChassisSettings, Handler, Problem, Telemetry
from chassis.testing import Records, connect, environment, record, serve


class Things(Handler):
    """Logs, traces and fails."""

    async def get(self) -> str:
        structlog.get_logger().info("thing read")
        with trace.get_tracer(__name__).start_as_current_span("own span"):
            return "thing"

    async def post(self) -> None:
        raise RuntimeError("internal detail")

    async def delete(self) -> None:
        raise Problem(409, "It stays.")


@pytest.fixture(autouse=True)
def variables() -> Iterator[dict[str, str]]:
    with environment({}) as variables:
        yield variables


@pytest.fixture
def app(variables: dict[str, str]) -> App:
    app = App(ChassisSettings.from_variables(variables), name="things", version="1")
    app.add_route("/things", Things())
    return app


@pytest.fixture
def records(app: App) -> Iterator[Records]:
    with record(app) as records:
        yield records


async def test_app_is_called_without_a_server(app: App) -> None:
    async with connect(app) as client:
        assert (await client.get("/things")).json() == "thing"
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.delete("/things")).json()["detail"] == "It stays."


async def test_failure_of_a_handler_is_a_response(app: App, records: Records) -> None:
    async with connect(app) as client:
        assert (await client.post("/things")).status_code == 500
    (line,) = records.events("unhandled exception")
    assert "internal detail" in line["exception"]


async def test_resources_and_tasks_are_those_of_a_running_service(app: App) -> None:
    seen: list[str] = []
    works = asyncio.Event()

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        seen.append("entered")
        yield
        seen.append("left")

    async def work() -> None:
        try:
            seen.append("working")
            works.set()
            await asyncio.Event().wait()
        finally:
            seen.append("stopped")

    app.add_resource(resource())
    app.add_background_task("work", work)
    async with connect(app) as client:
        await client.get("/things")
        await works.wait()
    assert seen == ["entered", "working", "stopped", "left"]


async def test_access_line_is_written_before_the_response_without_a_socket(app: App, records: Records) -> None:
    async with connect(app) as client:
        await client.get("/things")
        assert len(records.events("request")) == 1


@pytest.mark.parametrize("start", [connect, serve])
@pytest.mark.parametrize("turn", ["first", "second"])  # OpenTelemetry keeps the provider of the first app
async def test_records_are_those_of_the_running_service(app: App, records: Records, start: object, turn: str) -> None:
    async with (connect if start is connect else serve)(app) as client:
        response = await client.get("/things", headers={"x-request-id": turn})
        (line,) = await records.access_lines()
        (own,) = await records.wait_for("thing read")
        assert (line["route"], line["status"], line["request_id"]) == ("/things", response.status_code, turn)
        assert own["trace_id"] == line["trace_id"]
        assert records.metric("http_server_request_duration_seconds_count", http_route="/things") == 1
        assert records.metric("http_server_request_duration_seconds_count", http_route="/none") == 0
        assert {span.name for span in records.spans} == {"GET /things", "own span"}


async def test_record_restores_the_process(app: App) -> None:
    root = logging.getLogger()
    before = (root.handlers, root.level, structlog.get_config(), sys.excepthook, Telemetry.installed)
    with record(app):
        assert Telemetry.installed is app.telemetry
    assert (root.handlers, root.level, structlog.get_config(), sys.excepthook, Telemetry.installed) == before


def test_lines_that_are_not_json_are_an_error() -> None:
    app = App(ChassisSettings.from_values(log_format="console"), name="things", version="1")
    with record(app) as records:
        structlog.get_logger().info("readable")
        with pytest.raises(ValueError, match="log_format is 'console'; set log_format='json'"):
            _ = records.lines


async def test_missing_line_is_a_timeout(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chassis.testing.WAIT_SECONDS", 0.01)
    with pytest.raises(TimeoutError):
        await records.access_lines()


class Database(BaseModel):
    """A group of settings."""

    host: str
    port: int = 5432


class Settings(ChassisSettings):
    """Settings of a service."""

    database: Database
    name: str = "none"


def test_environment_has_the_settings_of_the_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "9999")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    monkeypatch.setenv("TEST_APP_DATABASE__PORT", "5433")
    monkeypatch.setenv("TEST_APP_NAME", "replaced")
    before = dict(os.environ)
    with environment({"database__host": "here", "name": "given"}) as variables:
        assert {name: text for name, text in os.environ.items() if name.startswith("APP_")} == variables
        assert "OTEL_SERVICE_NAME" not in os.environ
        settings = Settings.from_variables(variables)
    assert settings.database == Database(host="here", port=5433)
    assert (settings.name, settings.port) == ("replaced", 8000)
    assert dict(os.environ) == before


def test_settings_are_made_from_variables_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_NAME", "of the environment")
    assert Settings.from_variables({"APP_DATABASE__HOST": "here", "APP_NAME": ""}).name == "none"
    with pytest.raises(ValidationError):
        Settings.from_variables({})
