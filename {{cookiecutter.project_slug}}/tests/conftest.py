"""Fixtures for every test: the service with its client, its settings, and what it has logged."""

import sys
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from chassis import App
from chassis.testing import Records, connect, environment, record

from {{ cookiecutter.__package }}.app import create_app
from {{ cookiecutter.__package }}.settings import Settings

# Values for your settings without a default, such as: {"database_url": "postgresql://localhost/test"}. A variable
# TEST_APP_DATABASE_URL, in CI or a shell, replaces the value here.
SETTINGS: dict[str, str] = {}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests and fixtures on the event loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def variables() -> Iterator[dict[str, str]]:
    """The variables of the tests, in place of those of whoever runs them; the service as a process gets them too."""
    with environment(SETTINGS) as variables:
        yield variables


@pytest.fixture
def settings(variables: dict[str, str]) -> Settings:
    """The settings of the tests, and the defaults."""
    return Settings.from_variables(variables)


@pytest.fixture
def app(settings: Settings) -> App:
    """The service. A test module that replaces collaborators has a fixture of its own with this name."""
    return create_app(settings)


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, which has started. There is no socket; where a test needs one, use `serve(app)`."""
    async with connect(app) as client:
        yield client


@pytest.fixture
def records(app: App) -> Iterator[Records]:
    """The log lines, spans and metrics of the service."""
    with record(app) as records:
        yield records
