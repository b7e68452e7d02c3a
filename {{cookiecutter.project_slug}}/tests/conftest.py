"""Fixtures for every test: the event loop of production, and the settings of tests alone."""

import os
import sys
from collections.abc import Iterator

import pytest

from {{ cookiecutter.__package }}.settings import Settings

# Values for your settings without a default, such as: {"database_url": "postgresql://localhost/test"}
SETTINGS: dict[str, str] = {}


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests and fixtures on the event loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def _no_settings() -> Iterator[None]:
    """Hide the settings of whoever runs the tests; the service as a process gets those of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("APP_", "OTEL_")):
                patch.delenv(name)
        for name, value in SETTINGS.items():
            patch.setenv(f"APP_{name.upper()}", value)
        yield


@pytest.fixture
def settings() -> Settings:
    """The settings of the tests, and the defaults."""
    return Settings.from_values(**SETTINGS)
