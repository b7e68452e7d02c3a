"""`App.client`: what a failed call becomes for the client of the service, and what operators see."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from chassis import App, Handler
from chassis.client import DependencyError
from chassis.client.client import Client
from chassis.client.settings import ClientSettings
from chassis.client.transport import ConnectionLostError, NotSentError
from chassis.settings import ChassisSettings
from chassis.testing import Records, connect, environment, record

from .support.network import Network, Replica, fails, hangs, responds


class Offers(Handler):
    """Calls the catalogue."""

    def __init__(self, catalogue: Client) -> None:
        self._catalogue = catalogue

    async def get(self, sku: str) -> dict[str, str]:
        response = await self._catalogue.get("/products/{sku}", path={"sku": sku})
        return {"product": response.text}


@contextmanager
def shop(network: Network, *, required: bool = False, **settings: Any) -> Iterator[tuple[App, Records]]:
    """An app with a client on this network."""
    with environment({}):
        app = App(ChassisSettings.from_values(log_format="json"), name="shop")
    options: dict[str, Any] = {
        "base_url": "http://catalogue",
        "replicas": network.addresses,
        "max_attempts": 1,
        **settings,
    }
    client = app.client("catalogue", required=required, **options)
    client.use(network)
    app.add_route("/offers/{sku}", Offers(client))
    with record(app) as records:
        yield app, records


@pytest.mark.parametrize(
    ("fault", "status", "detail"),
    [
        (responds(500), 502, "The dependency 'catalogue' responded with 500."),
        (responds(404), 502, "The dependency 'catalogue' responded with 404."),
        (responds(503), 503, "The dependency 'catalogue' responded with 503."),
        (responds(429), 503, "The dependency 'catalogue' responded with 429."),
        (responds(504), 504, "The dependency 'catalogue' responded with 504."),
        (fails(NotSentError("10.0.0.1 refused")), 503, "The dependency 'catalogue' could not be reached."),
        (
            fails(ConnectionLostError("10.0.0.1 reset")),
            502,
            "The dependency 'catalogue' closed the connection before its response was complete.",
        ),
        (hangs, 504, "The dependency 'catalogue' did not respond in time."),
    ],
)
async def test_failed_call_is_a_problem_that_names_the_dependency(fault: Replica, status: int, detail: str) -> None:
    with shop(Network(a=fault), timeout_seconds=0.1) as (app, records):
        async with connect(app) as client:
            response = await client.get("/offers/tea")
        problem = response.json()
        assert response.status_code == status
        assert (problem["detail"], problem["dependency"]) == (detail, "catalogue")
        assert response.headers["x-retries-exhausted"] == "1"
        assert not any("exception" in line or "stack" in line for line in records.lines)


async def test_retry_after_of_the_dependency_is_kept() -> None:
    with shop(Network(a=responds(503, headers={"retry-after": "7"}))) as (app, _):
        async with connect(app) as client:
            response = await client.get("/offers/tea")
    assert (response.status_code, response.headers["retry-after"]) == (503, "7")


async def test_failed_call_is_one_log_line() -> None:
    network = Network(a=responds(500), b=responds(500))
    with shop(network, max_attempts=2) as (app, records):
        async with connect(app) as client:
            await client.get("/offers/tea")
        (line,) = records.events("call failed")
        (access,) = await records.access_lines()
    assert (line["dependency"], line["method"], line["route"]) == ("catalogue", "GET", "/products/{sku}")
    assert (line["status"], line["attempts"]) == (500, 2)
    assert line["trace_id"] == access["trace_id"]


async def test_value_that_cannot_be_in_a_path_is_the_fault_of_the_client() -> None:
    with shop(Network(a=responds())) as (app, _):
        async with connect(app) as client:
            response = await client.get("/offers/%2E%2E")
    assert response.status_code == 422


@pytest.mark.parametrize("required", [False, True])
async def test_open_circuit_breaker_is_in_the_readiness(required: bool) -> None:
    with shop(Network(a=responds(500)), required=required) as (app, records):
        async with connect(app) as client:
            for _ in range(50):
                await client.get("/offers/tea")
            rejected = await client.get("/offers/tea")
            readiness = await client.get("/readyz")
        assert records.metric("dependency_breaker_state", dependency="catalogue") == 2
    assert rejected.status_code == 503
    assert int(rejected.headers["retry-after"]) >= 1
    check = readiness.json()["checks"]["dependency catalogue"]
    assert (check["status"], check["required"]) == ("fail", required)
    assert readiness.status_code == (503 if required else 200)


async def test_metrics_tell_about_the_calls() -> None:
    with shop(Network(a=responds())) as (app, records):
        async with connect(app) as client:
            for _ in range(3):
                await client.get("/offers/tea")
        assert records.metric("dependency_call_duration_seconds_count", dependency="catalogue") == 3
        assert records.metric("dependency_attempts_total", dependency="catalogue", kind="first") == 3
        assert records.metric("http_client_request_duration_seconds_count", server_address="catalogue") == 3


async def test_handler_can_fall_back() -> None:
    class Cautious(Offers):
        async def get(self, sku: str) -> dict[str, str]:
            try:
                return await super().get(sku)
            except DependencyError:
                return {"product": "unknown"}

    with shop(Network(a=responds(500))) as (app, _):
        app.add_route("/cautious/{sku}", Cautious(app.clients["catalogue"]))
        async with connect(app) as client:
            response = await client.get("/cautious/tea")
    assert response.json() == {"product": "unknown"}


def test_settings_are_those_of_the_environment() -> None:
    class Settings(ChassisSettings):
        catalogue: ClientSettings = ClientSettings(base_url="http://catalogue")

    settings = Settings.from_variables({"APP_CATALOGUE__TIMEOUT_SECONDS": "0.5"})
    assert (settings.catalogue.timeout_seconds, settings.catalogue.base_url) == (0.5, "http://catalogue")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"base_url": "catalogue"},
        {"base_url": "ftp://catalogue"},
        {"base_url": "http://"},
        {"base_url": "http://a:b@catalogue"},
        {"base_url": "http://catalogue:70000"},
        {"base_url": "http://catalogue?x=1"},
        {"base_url": "http://catalogue", "timeout": 1},
        {"base_url": "http://catalogue", "timeout_seconds": 0},
        {"base_url": "http://catalogue", "replicas": ("10.0.0.1:0",)},
        {"base_url": "http://catalogue", "replicas": ("http://10.0.0.1:80",)},
        {"base_url": "http://catalogue", "near": ("10.0.0.0/33",)},
    ],
)
def test_invalid_options_are_rejected(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        App(ChassisSettings.from_values(), name="shop").client("catalogue", **options)


def test_name_is_used_once() -> None:
    app = App(ChassisSettings.from_values(), name="shop")
    app.client("catalogue", base_url="http://catalogue")
    with pytest.raises(ValueError, match="two clients have the name 'catalogue'"):
        app.client("catalogue", base_url="http://other")


def test_options_go_into_the_settings_if_there_are_any() -> None:
    app = App(ChassisSettings.from_values(), name="shop")
    with pytest.raises(ValueError, match="pass timeout_seconds there"):
        app.client("catalogue", ClientSettings(base_url="http://catalogue"), timeout_seconds=1.0)
