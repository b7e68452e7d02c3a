"""Fixtures for every test: the event loop of production, and an environment without settings."""

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Run async tests and fixtures on the event loop that the server uses."""
    return "asyncio", {"use_uvloop": sys.platform != "win32"}


@pytest.fixture(scope="session", autouse=True)
def _no_settings() -> Iterator[None]:
    """Hide the settings of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith(("APP_", "OTEL_")):
                patch.delenv(name)
        yield
