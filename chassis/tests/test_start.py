"""The modules that a start loads. Each costs time and memory, also those services that do not use it."""

import signal

import pytest

from .support.process import Process, run

# Runs the smallest service, and writes a line with its modules and the dataclasses of the chassis at the end.
PROGRAM = """
import atexit, json, sys
from chassis import App, ChassisSettings, Handler, run

class Greeting(Handler):
    async def get(self) -> dict[str, str]:
        return {"greeting": "Hello"}

def create_app(settings: ChassisSettings) -> App:
    app = App(settings, name="test-service")
    app.add_route("/greeting", Greeting())
    return app

def is_dataclass(value: object, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module and "__dataclass_fields__" in vars(value)

def tell() -> None:
    ours = [module for name, module in sorted(sys.modules.items()) if name.startswith("chassis.")]
    found = [
        f"{module.__name__}.{name}"
        for module in ours
        for name, value in vars(module).items()
        if is_dataclass(value, module.__name__)
    ]
    print(json.dumps({"event": "modules", "modules": sorted(sys.modules), "dataclasses": sorted(found)}))

atexit.register(tell)
run("__main__:create_app", [])
"""
# The parts of the chassis that few services use, or that only operators and tests use.
PARTS = (
    *("api.continuation", "api.idempotent_operation", "api.route_list", "auth", "client", "commands"),
    *("configuration.reloading", "faults", "grpc", "http.websocket", "middleware.faults"),
    *("migrations", "nats", "operations.operator_routes", "postgres", "sqlalchemy", "testing", "workers"),
)
LIBRARIES = (
    *("aiohttp", "asyncpg", "google", "grpc", "httpx", "joserfc", "jsonschema", "nats", "opentelemetry.exporter"),
    *("requests", "sqlalchemy", "starlette.testclient", "uvicorn", "websockets"),
    *("asyncio.__main__", "doctest", "pdb", "sqlite3", "tracemalloc", "unittest", "xml"),
)
# A dataclass takes 0.5 to 1 ms to make, six times as long as a named tuple, and fifty times as long as another class.
# These have a reason: a constructor of their own, values that must not be shown, or values that change.
DATACLASSES = {
    "chassis.api.access.Requirement",
    "chassis.api.rate_limit.RateLimit",
    "chassis.configuration.sources.Variable",
    "chassis.http.response_head.ResponseHead",
}


async def after_a_request(process: Process) -> dict[str, list[str]]:
    """The modules that the service has loaded when it has started, responded and stopped."""
    client = await process.client()
    response = await client.get("/greeting")
    assert response.json() == {"greeting": "Hello"}
    process.send(signal.SIGTERM)
    assert await process.end() == (0, "")
    return process.lines[-1]


@pytest.fixture
async def loaded() -> dict[str, list[str]]:
    """The names of what the smallest service loads: those of modules, and of dataclasses."""
    endpoint = "http://127.0.0.1:1"
    async with run("-c", PROGRAM, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint, APP_DRAIN_SECONDS="0") as process:
        return await after_a_request(process)


async def test_a_service_loads_only_what_it_uses(loaded: dict[str, list[str]]) -> None:
    unused = (*(f"chassis.{part}" for part in PARTS), *LIBRARIES)
    found = [
        name for name in loaded["modules"] if name in unused or name.startswith(tuple(f"{one}." for one in unused))
    ]
    assert "chassis.telemetry.exporter" in loaded["modules"]
    assert found == []


async def test_the_start_makes_few_dataclasses(loaded: dict[str, list[str]]) -> None:
    assert set(loaded["dataclasses"]) == DATACLASSES
