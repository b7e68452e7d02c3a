"""Fixtures for all tests: the app, its settings, an HTTP client, and its logs, spans and metrics."""

import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from chassis import App
from chassis.testing import Records, connect, environment, record

from {{ cookiecutter.__package }}.app import create_app
from {{ cookiecutter.__package }}.settings import Settings

# Values for settings without a default, for example: {"database_url": "postgresql://localhost/test"}. The environment
# variable TEST_APP_DATABASE_URL overrides the value here.
SETTINGS: dict[str, str] = {}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests and fixtures on the event loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def variables() -> Iterator[dict[str, str]]:
    """The environment variables for the tests. Replaces your `APP_*` variables, also for the service as a process."""
    with environment(SETTINGS) as variables:
        yield variables


@pytest.fixture
def settings(variables: dict[str, str]) -> Settings:
    """The settings for the tests: SETTINGS and the defaults."""
    return Settings.from_variables(variables)


@pytest.fixture
def app(settings: Settings) -> App:
    """The service. To replace collaborators, define a fixture with this name in your test module."""
    return create_app(settings)


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the started service, without a socket. For tests that need a socket, use `serve(app)`."""
    async with connect(app) as client:
        yield client


@pytest.fixture
def records(app: App) -> Iterator[Records]:
    """The log lines, spans and metrics of the service."""
    with record(app) as records:
        yield records
